//! Connections of all kinds that live until the test ends them, over restarts of what is between.
//!
//! Each byte is checked against its position, and at the end each stream must end with a clean FIN
//! at exactly its length. A failure is collected, not panicked on, so that the count of those that
//! failed is told. Sockets are made by the thread that calls; the rest works in any network.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::load::pattern;
use super::peers::{Ended, Listener, connect, end_of, serve_all, talk, try_connect};
use super::replies::Replies;

/// A stream's flows move a piece each tick.
const TICK: Duration = Duration::from_millis(20);
/// Of a paced sender, and of a slow receiver.
const PIECE: usize = 4 << 10;
/// Kernel memory for each side of a stream that stands still, so that hundreds of them fit.
const BUFFER: usize = 32 << 10;
/// So many streams fill all that is between their ends, megabytes each. More would have the kernel run
/// out of memory for TCP (tcp_mem in tcp(7)): it then drops what arrives and tries again after minutes.
const UNBOUNDED: usize = 64;
/// What the others have under way at the most.
const LEAD: u64 = 256 << 10;
/// All that was under way must arrive within this time once the senders have ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client's socket and its upstream's.
pub type Pair = (TcpStream, TcpStream);

/// How many connections of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Say nothing until the end, and then something.
    pub idle: usize,
    /// A request each 10 ms, and its reply.
    pub replies: usize,
    /// Stream in one or both directions, from paced or hasty senders to slow or fast receivers.
    pub streams: usize,
    /// One side has said its FIN; the other goes on at the end.
    pub halves: usize,
}

/// The connections.
pub struct Crowd {
    idle: Vec<Pair>,
    halves: Vec<Pair>,
    streams: Streams,
    pub replies: Replies,
}

/// Connects so many clients to `address`, served by `upstream`.
pub fn pairs(address: &str, upstream: &Listener, count: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    // No more at once than the backlogs hold.
    while pairs.len() < count {
        let clients: Vec<_> = (pairs.len()..count).take(100).map(|_| connect(address)).collect();
        let servers = serve_all(&clients, upstream);
        pairs.extend(clients.into_iter().zip(servers));
    }
    pairs
}

impl Crowd {
    pub fn gather(address: &str, upstream: &Listener, mix: Mix) -> Crowd {
        let gather = |count| pairs(address, upstream, count);
        let halves = gather(mix.halves);
        for (n, (client, server)) in halves.iter().enumerate() {
            let (ends, sees) = if n % 2 == 0 { (client, server) } else { (server, client) };
            ends.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(sees), Ended::Fin);
        }
        Crowd {
            idle: gather(mix.idle),
            halves,
            streams: Streams::start(gather(mix.streams)),
            replies: Replies::start(gather(mix.replies)),
        }
    }

    /// Ends all, in order. Panics with what went wrong, if anything did.
    pub fn finish(self) {
        let (requests, mut errors) = self.replies.finish();
        let (bytes, more) = self.streams.finish();
        errors.extend(more);
        // What is said late must arrive, and the ends of it.
        for (n, (client, server)) in self.halves.into_iter().enumerate() {
            let (says, hears) = if n % 2 == 0 { (server, client) } else { (client, server) };
            errors.extend(last_words(says, hears).err().map(|e| format!("half-closed {n}: {e}")));
        }
        for (n, (client, server)) in self.idle.into_iter().enumerate() {
            let last = caught(|| talk(&client, &server)).and_then(|()| {
                client.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
                last_words(server, client)
            });
            errors.extend(last.err().map(|e| format!("idle {n}: {e}")));
        }
        println!("{requests} requests, {bytes} bytes streamed");
        assert!(errors.is_empty(), "{} failed: {:#?}", errors.len(), &errors[..errors.len().min(20)]);
    }
}

/// The only side that still may speak does so and ends.
fn last_words(mut says: TcpStream, mut hears: TcpStream) -> Result<(), String> {
    const WORDS: &[u8] = b"and a last word";
    says.write_all(WORDS).map_err(|e| format!("saying: {e}"))?;
    says.shutdown(Shutdown::Write).map_err(|e| format!("ending: {e}"))?;
    let mut heard = Vec::new();
    hears.read_to_end(&mut heard).map_err(|e| format!("hearing: {e}"))?;
    if heard != WORDS {
        return Err(format!("{} bytes arrived", heard.len()));
    }
    Ok(())
}

fn caught(f: impl FnOnce()) -> Result<(), String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|_| "went wrong, see above".to_owned())
}

/// Streams, all of them moved by one thread.
struct Streams {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Vec<String>)>,
}

/// One direction of a stream.
struct Flow {
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    seed: u64,
    /// What is sent and read in a tick; all that goes where it is MAX.
    hurry: usize,
    appetite: usize,
    /// What may be under way.
    lead: u64,
    sent: u64,
    got: u64,
    said_end: bool,
    saw_end: bool,
}

impl Streams {
    fn start(pairs: Vec<Pair>) -> Streams {
        let mut flows = Vec::new();
        for (n, (client, server)) in pairs.into_iter().enumerate() {
            for stream in [&client, &server] {
                stream.set_nonblocking(true).unwrap();
                setsockopt(stream, sockopt::SndBuf, &BUFFER).unwrap();
                setsockopt(stream, sockopt::RcvBuf, &BUFFER).unwrap();
            }
            let (client, server) = (Arc::new(client), Arc::new(server));
            let mut flow = |from: &Arc<_>, to: &Arc<_>, hurry, appetite, sends| {
                let (from, to, seed) = (Arc::clone(from), Arc::clone(to), flows.len() as u64);
                // A direction that is not streamed ends at once, or with the other one.
                let (sent, got, said_end, saw_end) = (0, 0, false, false);
                let hurry = if sends { hurry } else { 0 };
                let lead = if n < UNBOUNDED { u64::MAX } else { LEAD };
                flows.push(Flow { from, to, seed, hurry, appetite, lead, sent, got, said_end, saw_end });
            };
            // A hasty sender before a slow receiver fills all that is between; before a fast one
            // there would be no end to it, so that sender is paced.
            let (hurry, appetite) = if n % 2 == 0 { (usize::MAX, PIECE) } else { (PIECE, usize::MAX) };
            flow(&client, &server, hurry, appetite, n % 3 != 0);
            flow(&server, &client, hurry, appetite, n % 3 != 1);
        }
        let ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ending);
        Streams { ending, thread: thread::spawn(move || run(flows, &end)) }
    }

    /// Has the senders end; returns the bytes that arrived and what went wrong.
    fn finish(self) -> (u64, Vec<String>) {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn run(mut flows: Vec<Flow>, ending: &AtomicBool) -> (u64, Vec<String>) {
    let (mut errors, mut bytes) = (Vec::new(), 0);
    let mut late = None;
    while !flows.is_empty() {
        let next = Instant::now() + TICK;
        let ends = ending.load(Ordering::Relaxed);
        if ends && Instant::now() > *late.get_or_insert_with(|| Instant::now() + PATIENCE) {
            errors.extend(flows.iter().map(|f| format!("stream {}: {} of {} bytes", f.seed, f.got, f.sent)));
            break;
        }
        flows.retain_mut(|flow| match flow.tick(ends) {
            Ok(true) => {
                bytes += flow.got;
                false
            }
            Ok(false) => true,
            Err(error) => {
                errors.push(format!("stream {} at {} of {}: {error}", flow.seed, flow.got, flow.sent));
                false
            }
        });
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (bytes, errors)
}

impl Flow {
    /// Moves what may be moved. True once the flow has ended as it should.
    fn tick(&mut self, ends: bool) -> Result<bool, String> {
        if ends && !self.said_end {
            self.from.shutdown(Shutdown::Write).map_err(|e| format!("ending: {e}"))?;
            self.said_end = true;
        }
        if !self.said_end {
            self.send()?;
        }
        // In the end everybody is hungry.
        self.receive(if ends { usize::MAX } else { self.appetite })?;
        match self.saw_end {
            true if !self.said_end => Err("an end that nobody said".to_owned()),
            true if self.got != self.sent => Err("the end came early".to_owned()),
            ended => Ok(ended),
        }
    }

    fn send(&mut self) -> Result<(), String> {
        let under_way = self.sent - self.got;
        let mut left = self.hurry.min(self.lead.saturating_sub(under_way) as usize);
        while left > 0 {
            let bytes = pattern(self.seed, self.sent);
            match (&*self.from).write(&bytes[..bytes.len().min(left)]) {
                Ok(n) => (self.sent, left) = (self.sent + n as u64, left - n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("sending: {e}")),
            }
        }
        Ok(())
    }

    fn receive(&mut self, appetite: usize) -> Result<(), String> {
        let mut buffer = [0; 64 << 10];
        let mut left = appetite;
        while left > 0 && !self.saw_end {
            let expected = pattern(self.seed, self.got);
            let wanted = expected.len().min(buffer.len()).min(left);
            match (&*self.to).read(&mut buffer[..wanted]) {
                Ok(0) => self.saw_end = true,
                Ok(n) if buffer[..n] == expected[..n] => (self.got, left) = (self.got + n as u64, left - n),
                Ok(_) => return Err("WRONG BYTES".to_owned()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("receiving: {e}")),
            }
        }
        Ok(())
    }
}

/// New clients, one after the other, each of which says something and is answered.
pub struct Knocking {
    client: (Arc<AtomicBool>, JoinHandle<()>),
    server: (Arc<AtomicBool>, JoinHandle<()>),
    served: Arc<AtomicU64>,
    /// Connections to the upstream that ended before a byte came.
    repeated: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Knocking {
    /// In the network of the caller. The upstream is served from now on: an echo for each.
    pub fn start(address: &str, upstream: Listener) -> Knocking {
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (served, errors) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (ends, fails) = (Arc::clone(&flags[1]), Arc::clone(&errors));
        let repeated = Arc::new(AtomicU64::new(0));
        let again = Arc::clone(&repeated);
        let server = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let Some(mut stream) = upstream.accept_within(Duration::from_millis(100)) else { continue };
                let mut word = [0; 8];
                // An attempt that a restart broke off before its client was served is made again.
                if matches!(stream.peek(&mut word), Ok(0)) {
                    again.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let echo = stream.read_exact(&mut word).and_then(|()| stream.write_all(&word));
                if let Err(e) = echo.and_then(|()| stream.read(&mut word)) {
                    fails.lock().unwrap().push(format!("serving a new client: {e}, heard {word:?}"));
                }
            }
        });
        let (ends, fails) = (Arc::clone(&flags[0]), Arc::clone(&errors));
        let (address, count) = (address.to_owned(), Arc::clone(&served));
        let client = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match knock(&address, count.load(Ordering::Relaxed)) {
                    Ok(()) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(e) => fails.lock().unwrap().push(e),
                }
            }
        });
        let [asks, answers] = flags;
        Knocking { client: (asks, client), server: (answers, server), served, repeated, errors }
    }

    /// Ends; returns how many were served. Panics where one was not.
    pub fn finish(self) -> u64 {
        let Knocking { client, server, served, repeated, errors } = self;
        // The server is needed until the client has ended.
        for (ending, thread) in [client, server] {
            ending.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
        let errors = errors.lock().unwrap();
        let served = served.load(Ordering::Relaxed);
        assert!(
            errors.is_empty(),
            "{} of {served} new clients failed: {:#?}",
            errors.len(),
            &errors[..errors.len().min(20)]
        );
        println!("{served} new clients, {} attempts repeated", repeated.load(Ordering::Relaxed));
        assert!(served > 0);
        served
    }
}

fn knock(address: &str, number: u64) -> Result<(), String> {
    let mut stream = try_connect(address).map_err(|e| format!("connecting: {e}"))?;
    let word = number.to_le_bytes();
    stream.write_all(&word).map_err(|e| format!("new client: writing: {e}"))?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).map_err(|e| format!("new client: reading: {e}"))?;
    if answer != word {
        return Err("new client: WRONG BYTES".to_owned());
    }
    Ok(())
}
