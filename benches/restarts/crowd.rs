//! Clients that live while what is between them and their server is restarted, and new ones all the while.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A client that asks does so this long after each reply, and so often comes a new one.
const EACH: Duration = Duration::from_millis(10);
/// Before and after the restart.
const AROUND: Duration = Duration::from_millis(500);
/// Who has no reply by then will get none.
const PATIENCE: Duration = Duration::from_secs(5);
const MESSAGE: usize = 100;

/// What the clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Connections that ended though nobody wanted it.
    pub lost: usize,
    /// Requests without a reply.
    pub failed: usize,
    /// New clients, and those among them who were refused or got no reply.
    pub fresh: usize,
    pub refused: usize,
    /// The longest time from a request to its reply, in milliseconds.
    pub longest: f64,
}

pub struct Crowd {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

struct Client {
    stream: Option<TcpStream>,
    asked: Option<Instant>,
    got: usize,
    is_fresh: bool,
}

struct Hall {
    address: SocketAddr,
    epoll: Epoll,
    clients: Vec<Client>,
    /// Who asks when, in the order of time.
    due: VecDeque<(Instant, usize)>,
    seen: Seen,
}

/// One in four.
fn is_asking(n: usize) -> bool {
    n.is_multiple_of(4)
}

impl Crowd {
    /// So many, of whom one in four asks again and again. They have all been served once.
    pub fn gather(address: SocketAddr, count: usize) -> Crowd {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut hall =
            Hall { address, epoll, clients: Vec::new(), due: VecDeque::new(), seen: Seen::default() };
        for n in 0..count {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&[0; MESSAGE]).unwrap();
            stream.read_exact(&mut [0; MESSAGE]).unwrap();
            hall.add(stream, false);
            if is_asking(n) {
                hall.due.push_back((Instant::now(), n));
            }
        }
        let over = Arc::new(AtomicBool::new(false));
        let watched = over.clone();
        Crowd { over, thread: thread::spawn(move || hall.live(count, &watched)) }
    }

    /// What they see of `restart`.
    pub fn watch(self, restart: impl FnOnce()) -> Seen {
        thread::sleep(AROUND);
        restart();
        thread::sleep(AROUND);
        self.over.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

impl Hall {
    fn add(&mut self, stream: TcpStream, is_fresh: bool) {
        stream.set_nonblocking(true).unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.clients.len() as u64);
        self.epoll.add(stream.as_fd(), event).unwrap();
        self.clients.push(Client { stream: Some(stream), asked: None, got: 0, is_fresh });
    }

    fn live(mut self, count: usize, over: &AtomicBool) -> Seen {
        let mut next = Instant::now();
        while !over.load(Relaxed) {
            self.turn();
            let now = Instant::now();
            while let Some((at, n)) = self.due.front().copied()
                && at <= now
            {
                self.due.pop_front();
                self.ask(n);
            }
            if next <= now {
                next += EACH;
                self.greet();
            }
        }
        // In the end everybody who is left is asked.
        let answered = |client: &Client| client.stream.is_none() || client.asked.is_none();
        self.due.clear();
        let bound = Instant::now() + PATIENCE;
        while !self.clients.iter().all(answered) && Instant::now() < bound {
            self.turn();
        }
        (0..count).for_each(|n| self.ask(n));
        while !self.clients.iter().all(answered) && Instant::now() < bound {
            self.turn();
        }
        for n in 0..self.clients.len() {
            if !answered(&self.clients[n]) {
                self.lose(n);
            }
        }
        self.seen
    }

    fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); 256];
        let ready = self.epoll.wait(&mut events, EpollTimeout::from(1_u8)).unwrap_or(0);
        events[..ready].iter().for_each(|event| self.hear(event.data() as usize));
    }

    /// A new client, who asks once.
    fn greet(&mut self) {
        self.seen.fresh += 1;
        match TcpStream::connect_timeout(&self.address, PATIENCE) {
            Ok(stream) => {
                self.add(stream, true);
                self.ask(self.clients.len() - 1);
            }
            Err(_) => self.seen.refused += 1,
        }
    }

    fn ask(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Some(stream) = &mut client.stream else { return };
        (client.asked, client.got) = (Some(Instant::now()), 0);
        if stream.write_all(&[0; MESSAGE]).is_err() {
            self.lose(n);
        }
    }

    fn hear(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Some(stream) = &mut client.stream else { return };
        match stream.read(&mut [0; MESSAGE]) {
            Ok(0) => return self.lose(n),
            Ok(length) => client.got += length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.lose(n),
        }
        if client.got < MESSAGE {
            return;
        }
        let Some(asked) = client.asked.take() else { return };
        self.seen.longest = self.seen.longest.max(asked.elapsed().as_secs_f64() * 1e3);
        if client.is_fresh {
            client.stream = None;
        } else if is_asking(n) {
            self.due.push_back((Instant::now() + EACH, n));
        }
    }

    fn lose(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.stream = None;
        let was_asked = client.asked.take().is_some();
        if client.is_fresh {
            self.seen.refused += 1;
        } else {
            self.seen.lost += 1;
            self.seen.failed += usize::from(was_asked);
        }
    }
}
