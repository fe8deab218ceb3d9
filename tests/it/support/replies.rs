//! Requests and replies on many connections at once, and how long the longest reply took.
//!
//! One thread is all the clients and one all the servers, each with an epoll, so that hundreds of
//! connections measure what is between them and not the scheduler.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::crowd::Pair;
use super::peers::Pattern;

/// From a reply to the next request.
const EACH: Duration = Duration::from_millis(10);
/// A reply that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(30);
const SIZE: usize = 100;

/// The connections, at work.
pub struct Replies {
    shared: Arc<Shared>,
    connections: u64,
    clients: JoinHandle<Vec<String>>,
    servers: JoinHandle<Vec<String>>,
}

#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    replies: AtomicU64,
    longest_us: AtomicU64,
}

struct Client {
    stream: TcpStream,
    asked: u64,
    at: Instant,
    got: usize,
    waits: bool,
    failed: bool,
}

impl Replies {
    pub fn start(pairs: Vec<Pair>) -> Replies {
        let shared = Arc::new(Shared::default());
        let connections = pairs.len() as u64;
        let (clients, servers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let ask = Arc::clone(&shared);
        Replies {
            shared,
            connections,
            clients: thread::spawn(move || ask_all(clients, &ask)),
            servers: thread::spawn(move || answer_all(servers)),
        }
    }

    /// The longest time from a request to its reply since the last call. Waits first until each
    /// connection could have had another two replies.
    pub fn longest(&self) -> Duration {
        let enough = self.shared.replies.load(Ordering::Relaxed) + 2 * self.connections;
        let until = Instant::now() + PATIENCE;
        while self.shared.replies.load(Ordering::Relaxed) < enough && Instant::now() < until {
            assert!(!self.clients.is_finished() && !self.servers.is_finished(), "no client is left");
            thread::sleep(Duration::from_millis(1));
        }
        let replies = self.shared.replies.load(Ordering::Relaxed);
        assert!(replies >= enough, "{} replies are missing", enough - replies);
        Duration::from_micros(self.shared.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Ends all; returns how many replies there were and what went wrong.
    pub fn finish(self) -> (u64, Vec<String>) {
        self.shared.ending.store(true, Ordering::Relaxed);
        let mut errors = self.clients.join().unwrap();
        errors.extend(self.servers.join().unwrap());
        (self.shared.replies.load(Ordering::Relaxed), errors)
    }
}

fn watch(streams: impl Iterator<Item = impl std::os::fd::AsFd>) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (n, stream) in streams.enumerate() {
        epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64)).unwrap();
    }
    epoll
}

fn wait(epoll: &Epoll, bound: Duration) -> Vec<usize> {
    let mut events = [EpollEvent::empty(); 256];
    let bound = EpollTimeout::try_from(bound).unwrap();
    let count = epoll.wait(&mut events, bound).unwrap();
    events[..count].iter().map(|event| event.data() as usize).collect()
}

fn ask_all(streams: Vec<TcpStream>, shared: &Shared) -> Vec<String> {
    let epoll = watch(streams.iter());
    let now = Instant::now();
    let mut clients: Vec<_> = streams.into_iter().map(|stream| Client::new(stream, now)).collect();
    let mut due: VecDeque<_> = (0..clients.len()).map(|n| (now, n)).collect();
    let mut errors = Vec::new();
    loop {
        let ending = shared.ending.load(Ordering::Relaxed);
        while due.front().is_some_and(|(at, _)| ending || *at <= Instant::now()) {
            let (_, n) = due.pop_front().expect("looked at above");
            if !ending {
                clients[n].ask(n).unwrap_or_else(|e| errors.push(clients[n].fail(n, &e)));
            }
        }
        if clients.iter().all(|client| client.failed || (ending && !client.waits)) {
            break;
        }
        for n in wait(&epoll, Duration::from_millis(1)) {
            match clients[n].hear(n) {
                Ok(false) => {}
                Ok(true) => {
                    let took = clients[n].at.elapsed().as_micros() as u64;
                    shared.longest_us.fetch_max(took, Ordering::Relaxed);
                    shared.replies.fetch_add(1, Ordering::Relaxed);
                    due.push_back((Instant::now() + EACH, n));
                }
                Err(e) => {
                    let _ = epoll.delete(&clients[n].stream);
                    errors.push(clients[n].fail(n, &e));
                }
            }
        }
        for (n, client) in clients.iter_mut().enumerate() {
            if client.waits && !client.failed && client.at.elapsed() > PATIENCE {
                errors.push(client.fail(n, "no reply"));
            }
        }
    }
    for (n, client) in clients.iter_mut().enumerate().filter(|(_, client)| !client.failed) {
        if let Err(e) = client.end() {
            errors.push(format!("client {n}: ending: {e}"));
        }
    }
    errors
}

impl Client {
    fn new(stream: TcpStream, at: Instant) -> Client {
        Client { stream, asked: 0, at, got: 0, waits: false, failed: false }
    }

    fn ask(&mut self, n: usize) -> Result<(), String> {
        (self.at, self.got, self.waits) = (Instant::now(), 0, true);
        // So little goes at once or never.
        self.stream.write_all(&self.words(n)).map_err(|e| format!("asking: {e}"))
    }

    /// No two requests of a crowd are the same.
    fn words(&self, n: usize) -> Vec<u8> {
        let mut words = [n as u64, self.asked].map(u64::to_le_bytes).concat();
        words.resize(SIZE, 0);
        Pattern::new(n as u64 ^ self.asked << 20).fill(&mut words[16..]);
        words
    }

    /// Reads what is there; true once the reply is whole.
    fn hear(&mut self, n: usize) -> Result<bool, String> {
        let mut heard = [0; SIZE];
        let length = match self.stream.read(&mut heard[self.got..]) {
            Ok(0) => return Err("a FIN".to_owned()),
            Ok(length) => length,
            Err(e) => return Err(format!("hearing: {e}")),
        };
        if !self.waits || self.words(n)[self.got..][..length] != heard[self.got..][..length] {
            return Err("WRONG BYTES".to_owned());
        }
        self.got += length;
        if self.got < SIZE {
            return Ok(false);
        }
        (self.waits, self.asked) = (false, self.asked + 1);
        Ok(true)
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn fail(&mut self, n: usize, why: &str) -> String {
        self.failed = true;
        format!("client {n}, request {}: {why}", self.asked)
    }
}

/// Echoes on each connection until it ends.
fn answer_all(streams: Vec<TcpStream>) -> Vec<String> {
    let epoll = watch(streams.iter());
    let mut streams: Vec<_> = streams.into_iter().map(Some).collect();
    let (mut open, mut errors) = (streams.len(), Vec::new());
    let mut buffer = [0; 4096];
    let mut heard = Instant::now();
    while open > 0 {
        for n in wait(&epoll, Duration::from_secs(1)) {
            heard = Instant::now();
            // Closed, it is watched on for as long as a child that is just being forked has it too.
            let Some(mut stream) = streams[n].as_ref() else { continue };
            match stream
                .read(&mut buffer)
                .and_then(|length| Ok((length, stream.write_all(&buffer[..length])?)))
            {
                Ok((1.., ())) => continue,
                Ok((0, ())) => {}
                Err(e) => errors.push(format!("server {n}: {e}")),
            }
            streams[n] = None;
            open -= 1;
        }
        if heard.elapsed() > 2 * PATIENCE {
            errors.push(format!("{open} servers never saw an end"));
            break;
        }
    }
    errors
}
