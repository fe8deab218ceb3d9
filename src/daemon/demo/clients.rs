//! The twenty clients of the stop: a thread each, of several kinds, all in the midst of something
//! when it comes. Each tells its fate when its connection has ended.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Exit, Result};

use super::pattern::{self, CHUNK, Request};

/// No client waits longer for a byte.
const PATIENCE: Duration = Duration::from_secs(15);
const MB: u64 = 1_000_000;

/// What a client does. In the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asked once, and keeps its connection for later.
    Idle,
    /// Asks again and again until some time after the stop began, then leaves.
    Talking,
    /// Its answer takes its time, and the stop comes meanwhile.
    Waiting,
    FastDownload,
    SlowDownload,
    /// Says that it is done sending, and still takes its download.
    HalfClosed,
    Upload,
    /// Asked for a download and never reads it.
    Hung,
}

impl Kind {
    /// The cast.
    const ALL: [(Kind, usize); 8] = [
        (Kind::Idle, 5),
        (Kind::Talking, 4),
        (Kind::Waiting, 2),
        (Kind::FastDownload, 2),
        (Kind::SlowDownload, 3),
        (Kind::HalfClosed, 1),
        (Kind::Upload, 2),
        (Kind::Hung, 1),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Idle => "idle, kept alive",
            Kind::Talking => "request and reply",
            Kind::Waiting => "waits for an answer",
            Kind::FastDownload => "download, fast",
            Kind::SlowDownload => "download, slow",
            Kind::HalfClosed => "download, half-closed",
            Kind::Upload => "upload",
            Kind::Hung => "never reads",
        }
    }

    /// How its connection should end.
    pub fn expected(self) -> End {
        match self {
            Kind::Idle | Kind::Waiting => End::Goodbye,
            Kind::Hung => End::Cut,
            _ => End::Finished,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client had all that it wanted and left.
    Finished,
    /// The daemon closed it between two requests (FIN).
    Goodbye,
    /// Reset.
    Cut,
    /// In no way that should be.
    Failed(String),
}

/// What became of a client.
#[derive(Clone, Debug)]
pub struct Fate {
    pub kind: Kind,
    pub to_client: u64,
    pub to_upstream: u64,
    /// Every byte that came was the right one.
    pub intact: bool,
    pub end: End,
    pub at: Instant,
}

#[derive(Default)]
struct Figures {
    connected: AtomicU64,
    bytes: AtomicU64,
    answers: AtomicU64,
}

pub struct Clients {
    figures: Arc<Figures>,
    fates: Receiver<Fate>,
    count: usize,
}

impl Clients {
    /// Starts them all. They are in the midst of their work at `stop`.
    pub fn start(address: SocketAddr, stop: Instant) -> Clients {
        let figures = Arc::new(Figures::default());
        let (tell, fates) = mpsc::channel();
        let cast = Kind::ALL.into_iter().flat_map(|(kind, count)| (0..count).map(move |n| (kind, n)));
        let mut count = 0;
        for (kind, number) in cast {
            count += 1;
            let (figures, tell) = (figures.clone(), tell.clone());
            // One that can't be started is missed when the fates are asked for.
            let _ = thread::Builder::new().name("client".into()).spawn(move || {
                let mut client = Client {
                    kind,
                    number: number as u32,
                    stop,
                    to_client: 0,
                    to_upstream: 0,
                    intact: true,
                    figures,
                };
                let end = client.live(address).unwrap_or_else(|e| match e.kind() {
                    ErrorKind::ConnectionReset => End::Cut,
                    _ => End::Failed(e.to_string()),
                });
                let Client { to_client, to_upstream, intact, .. } = client;
                let _ = tell.send(Fate { kind, to_client, to_upstream, intact, end, at: Instant::now() });
            });
        }
        Clients { figures, fates, count }
    }

    /// What they have done so far.
    pub fn figures(&self) -> String {
        let Figures { connected, bytes, answers } = &*self.figures;
        let (connected, bytes, answers) =
            (connected.load(Relaxed), bytes.load(Relaxed), answers.load(Relaxed));
        format!("{connected} connected, {} relayed, {answers} requests answered", super::table::bytes(bytes))
    }

    /// What became of each, in the order of the cast. Waits for the last one at most `bound`.
    pub fn fates(self, bound: Duration) -> Result<Vec<Fate>> {
        let until = Instant::now() + bound;
        let mut fates: Vec<_> = (0..self.count)
            .map_while(|_| self.fates.recv_timeout(until - Instant::now().min(until)).ok())
            .collect();
        if fates.len() < self.count {
            let missing = self.count - fates.len();
            return Err(Error::new(
                Exit::Software,
                format!("demo: {missing} clients wait though the daemon is gone"),
            ));
        }
        fates.sort_by_key(|fate| (Kind::ALL.iter().position(|(kind, _)| *kind == fate.kind), fate.at));
        Ok(fates)
    }
}

struct Client {
    kind: Kind,
    number: u32,
    stop: Instant,
    to_client: u64,
    to_upstream: u64,
    intact: bool,
    figures: Arc<Figures>,
}

impl Client {
    fn live(&mut self, address: SocketAddr) -> io::Result<End> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.figures.connected.fetch_add(1, Relaxed);
        match self.kind {
            Kind::Idle => {
                self.ask(&mut stream, 0)?;
                self.wait_for_goodbye(&mut stream)
            }
            Kind::Talking => {
                let until = self.stop + Duration::from_millis(500) * (self.number + 1);
                while Instant::now() < until {
                    self.ask(&mut stream, 0)?;
                    thread::sleep(Duration::from_millis(20));
                }
                self.leave(&mut stream)
            }
            Kind::Waiting => {
                thread::sleep(self.stop.saturating_duration_since(Instant::now()) / 2);
                let rest = self.stop.saturating_duration_since(Instant::now()).as_millis() as u64;
                self.ask(&mut stream, rest + 1000 * (1 + u64::from(self.number)))?;
                self.wait_for_goodbye(&mut stream)
            }
            Kind::FastDownload => self.download(&mut stream, 50 * MB, Duration::from_millis(2500)),
            Kind::SlowDownload => self.download(&mut stream, MB, Duration::from_millis(2500)),
            Kind::HalfClosed => self.download(&mut stream, 5 * MB, Duration::from_millis(3000)),
            Kind::Upload => self.upload(&mut stream, 20 * MB, Duration::from_millis(2000)),
            Kind::Hung => self.hang(&mut stream),
        }
    }

    fn request(&mut self, stream: &mut TcpStream, request: Request) -> io::Result<()> {
        self.to_upstream += Request::SIZE;
        request.write(stream)
    }

    fn ask(&mut self, stream: &mut TcpStream, delay_ms: u64) -> io::Result<()> {
        self.request(stream, Request::Ask { delay_ms })?;
        self.take(stream, Request::ANSWER)?;
        self.figures.answers.fetch_add(1, Relaxed);
        Ok(())
    }

    fn take(&mut self, stream: &mut TcpStream, total: u64) -> io::Result<()> {
        let (figures, to_client) = (&self.figures, &mut self.to_client);
        self.intact &= pattern::receive(stream, total, |n| {
            figures.bytes.fetch_add(n, Relaxed);
            *to_client += n;
        })?;
        Ok(())
    }

    /// How many bytes keep a stream of this rate busy until so long after the stop.
    fn total(&self, rate: u64, after: Duration) -> u64 {
        let busy = self.stop.saturating_duration_since(Instant::now()) + after * (self.number + 2) / 3;
        (busy.as_secs_f64() * rate as f64) as u64
    }

    fn download(&mut self, stream: &mut TcpStream, rate: u64, after: Duration) -> io::Result<End> {
        let total = self.total(rate, after);
        self.request(stream, Request::Download { total, rate })?;
        if self.kind == Kind::HalfClosed {
            stream.shutdown(Shutdown::Write)?;
        }
        self.take(stream, total)?;
        self.leave(stream)
    }

    fn upload(&mut self, stream: &mut TcpStream, rate: u64, after: Duration) -> io::Result<End> {
        let total = self.total(rate, after);
        self.request(stream, Request::Upload { total })?;
        let (figures, to_upstream) = (&self.figures, &mut self.to_upstream);
        pattern::send(stream, total, rate, |n| {
            figures.bytes.fetch_add(n, Relaxed);
            *to_upstream += n;
        })?;
        // The service answers only if all that it took was right.
        self.take(stream, Request::ANSWER)?;
        self.leave(stream)
    }

    fn hang(&mut self, stream: &mut TcpStream) -> io::Result<End> {
        self.request(stream, Request::Download { total: 1 << 40, rate: 50 * MB })?;
        self.take(stream, CHUNK as u64)?;
        // Nothing is asked for, so only a reset ends the wait: the bytes that came stay unread.
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, patience)? == 0 {
            return Ok(End::Failed("was not reset".into()));
        }
        Err(stream.take_error()?.unwrap_or(ErrorKind::ConnectionReset.into()))
    }

    /// The last words of a client that has all that it wanted.
    fn leave(&mut self, stream: &mut TcpStream) -> io::Result<End> {
        match stream.shutdown(Shutdown::Write) {
            Err(e) if e.raw_os_error() != Some(Errno::ENOTCONN as i32) => return Err(e),
            _ => {}
        }
        self.end_of_stream(stream).map(|()| End::Finished)
    }

    fn wait_for_goodbye(&mut self, stream: &mut TcpStream) -> io::Result<End> {
        self.end_of_stream(stream).map(|()| End::Goodbye)
    }

    /// Waits for the peer's end; a byte before it is one too many.
    fn end_of_stream(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        if stream.read(&mut [0])? != 0 {
            self.intact = false;
        }
        Ok(())
    }
}
