//! Transfers through a proxy, with an upstream at its end: each byte of both directions is checked
//! against its position, and each stream must end with a clean FIN at exactly its length.
//!
//! A transfer stands still in its midst, at the [`Gate`], until the test opens it; what it is then
//! seen to do is what its [`Shape`] says. Everything here runs in the network of its caller.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, listen};

/// No read or write of either end may wait longer.
const PATIENCE: Duration = Duration::from_secs(150);
/// Each thread here has little on its stack, and there are thousands.
const STACK: usize = 128 << 10;
/// A paced sender sends a piece each time; shorter than what a proxy may take for silence.
const PACE: Duration = Duration::from_millis(150);

/// How a transfer goes, and where it waits at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The client sends all, then the upstream answers. Waits with half of the request sent.
    Request,
    /// As Request, with a half-close in place of a length. Waits after the half-close.
    HalfClose,
    /// The upstream sends from the start. The client waits with half of it read.
    Download,
    /// Both send at the same time, in pieces with a pause after each. Does not wait.
    Duplex,
}

/// One transfer: bytes to the upstream, bytes to the client.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub shape: Shape,
    pub up: u64,
    pub down: u64,
    /// Pieces that Duplex sends in each direction.
    pub pieces: u64,
    /// Where in the pattern its bytes begin.
    pub seed: u64,
}

/// Where transfers wait until the test lets them go on.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Waits until `count` transfers have arrived. The bound is a failure of the test.
    pub fn wait_arrived(&self, count: usize, bound: Duration) {
        let state = self.state.lock().unwrap();
        let (state, late) =
            self.changed.wait_timeout_while(state, bound, |(arrived, _)| *arrived < count).unwrap();
        assert!(!late.timed_out(), "{} of {count} transfers are under way after {bound:?}", state.0);
    }

    /// Lets all go on, now and later.
    pub fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn arrive(&self) {
        self.state.lock().unwrap().0 += 1;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let state = self.state.lock().unwrap();
        let (_state, late) = self.changed.wait_timeout_while(state, PATIENCE, |(_, open)| !*open).unwrap();
        assert!(!late.timed_out(), "the gate was never opened");
    }
}

/// The upstream. It serves until its test ends, and remembers what went wrong.
pub struct Upstream {
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Listens on a free port of the loopback.
    pub fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // std's backlog of 128 is too short for all at once: the kernel then sends SYN cookies, and resets
        // a connection whose first segment it had dropped.
        listen(&listener, Backlog::MAXALLOWABLE).unwrap();
        let address = listener.local_addr().unwrap();
        let (gate, errors) = (Arc::new(Gate::default()), Arc::new(Mutex::default()));
        let upstream = Upstream { address, gate: Arc::clone(&gate), errors: Arc::clone(&errors) };
        spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (gate, errors) = (Arc::clone(&gate), Arc::clone(&errors));
                spawn(move || {
                    if let Err(error) = serve(&stream, &gate) {
                        errors.lock().unwrap().push(error);
                    }
                });
            }
        });
        upstream
    }

    /// What went wrong on the upstream's side so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }

    /// Starts the transfer against the proxy.
    pub fn transfer(&self, proxy: SocketAddr, transfer: Transfer) -> JoinHandle<Result<Instant, String>> {
        let gate = Arc::clone(&self.gate);
        spawn(move || {
            let told = |error: String| format!("{transfer:?}: {error}");
            run(proxy, transfer, &gate).map(|()| Instant::now()).map_err(told)
        })
    }
}

/// The client's side of a transfer.
fn run(proxy: SocketAddr, transfer: Transfer, gate: &Gate) -> Result<(), String> {
    let stream = TcpStream::connect_timeout(&proxy, PATIENCE).map_err(|e| format!("connect: {e}"))?;
    patient(&stream)?;
    let Transfer { shape, up, down, pieces, seed } = transfer;
    let header = [up, down, pieces, seed, shape as u64].map(u64::to_be_bytes).concat();
    (&stream).write_all(&header).map_err(|e| format!("header: {e}"))?;
    match shape {
        Shape::Request => {
            send(&stream, seed, 0, up / 2)?;
            gate.arrive();
            gate.pass();
            send(&stream, seed, up / 2, up)?;
            receive(&stream, seed, 0, down)?;
        }
        Shape::HalfClose => {
            send(&stream, seed, 0, up)?;
            stream.shutdown(Shutdown::Write).map_err(|e| format!("half-close: {e}"))?;
            gate.arrive();
            receive(&stream, seed, 0, down)?;
        }
        Shape::Download => {
            receive(&stream, seed, 0, down / 2)?;
            gate.arrive();
            gate.pass();
            receive(&stream, seed, down / 2, down)?;
        }
        Shape::Duplex => {
            gate.arrive();
            both_ways(&stream, (seed, up, pieces), down)?;
        }
    }
    receive_end(&stream)
}

/// The upstream's side of a transfer.
fn serve(stream: &TcpStream, gate: &Gate) -> Result<(), String> {
    patient(stream)?;
    let mut header = [0; 40];
    (&*stream).read_exact(&mut header).map_err(|e| format!("upstream: header: {e}"))?;
    let field = |n: usize| u64::from_be_bytes(header[n * 8..][..8].try_into().unwrap());
    let (up, down, pieces, seed) = (field(0), field(1), field(2), field(3));
    let told = |error: String| format!("upstream: {error}, shape {}, up {up}, down {down}", field(4));
    match field(4) {
        n if n == Shape::Duplex as u64 => both_ways(stream, (seed, down, pieces), up).map_err(told)?,
        n if n == Shape::HalfClose as u64 => {
            receive(stream, seed, 0, up).and_then(|()| receive_end(stream)).map_err(told)?;
            gate.pass();
            send(stream, seed, 0, down).map_err(told)?;
            return stream.shutdown(Shutdown::Write).map_err(|e| told(e.to_string()));
        }
        _ => receive(stream, seed, 0, up).and_then(|()| send(stream, seed, 0, down)).map_err(told)?,
    }
    stream.shutdown(Shutdown::Write).map_err(|e| told(format!("end: {e}")))?;
    receive_end(stream).map_err(told)
}

/// Sends in paced pieces and receives at the same time.
fn both_ways(
    stream: &TcpStream,
    (seed, length, pieces): (u64, u64, u64),
    expected: u64,
) -> Result<(), String> {
    thread::scope(|scope| {
        let sender = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            (0..pieces).try_for_each(|piece| {
                send(stream, seed, length * piece / pieces, length * (piece + 1) / pieces)?;
                thread::sleep(PACE);
                Ok::<(), String>(())
            })
        });
        let received = receive(stream, seed, 0, expected);
        sender.unwrap().join().unwrap().and(received)
    })
}

/// Bytes in which no two near positions look alike. Its length is a prime, so that no buffer's
/// size hides a shift.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..65_537).map(|_| next()).collect()
});

/// What stands at the position, up to the pattern's end.
pub fn pattern(seed: u64, position: u64) -> &'static [u8] {
    &PATTERN[((seed.wrapping_mul(7_919) % 65_537 + position) % 65_537) as usize..]
}

fn send(mut stream: &TcpStream, seed: u64, from: u64, to: u64) -> Result<(), String> {
    let mut position = from;
    while position < to {
        let bytes = pattern(seed, position);
        let bytes = &bytes[..bytes.len().min((to - position) as usize)];
        stream.write_all(bytes).map_err(|e| format!("send at {position} of {to}: {e}"))?;
        position += bytes.len() as u64;
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, seed: u64, from: u64, to: u64) -> Result<(), String> {
    let mut buffer = vec![0; 64 << 10];
    let mut position = from;
    while position < to {
        let expected = pattern(seed, position);
        let wanted = expected.len().min(buffer.len()).min((to - position) as usize);
        let length = match stream.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(format!("ended at {position} of {to}")),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("receive at {position} of {to}: {e}")),
        };
        if buffer[..length] != expected[..length] {
            return Err(format!("wrong bytes at {position} of {to}"));
        }
        position += length as u64;
    }
    Ok(())
}

fn receive_end(mut stream: &TcpStream) -> Result<(), String> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("more bytes than were sent".to_owned()),
        Err(e) => Err(format!("waiting for the end: {e}")),
    }
}

fn patient(stream: &TcpStream) -> Result<(), String> {
    let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    set.map_err(|e| e.to_string())
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(f).expect("a thread starts")
}
