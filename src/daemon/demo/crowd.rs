//! The clients of the demo's second part: a thread each, of several kinds, whose connections last
//! until the show is over, whatever becomes of the daemon meanwhile.
//!
//! Each measures how long it ever waited: for an answer, for the next bytes of a stream, or to be rid
//! of its own. When asked to, each shows that it lives: by a question that is answered from then on,
//! or by bytes that move. Every byte is checked against its position, and at the end each stream must
//! end with a clean FIN.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::pattern::{self, Request};
use super::upstream::Count;
use super::visitors::Visits;

/// No client waits longer for a byte.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// From an answer to the next question.
const EACH: Duration = Duration::from_millis(10);
/// How soon an idle client sees that it is asked for something.
const LOOK_MS: u16 = 25;
const MB: u64 = 1_000_000;

/// What happens to the daemon, in this order. Waits are put down to the one in which they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Work,
    Restart,
    Kill,
}

pub const MOMENTS: usize = 3;

/// What a client does. In the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keeps its connection, and asks only to show that it lives.
    Idle,
    Talking,
    Download,
    /// Takes less than the service has to send, so that bytes stand in the daemon's pipes.
    SlowDownload,
    /// Has said that it is done sending.
    HalfClosed,
    Upload,
}

impl Kind {
    /// The cast.
    pub const ALL: [(Kind, usize); 6] = [
        (Kind::Idle, 15),
        (Kind::Talking, 15),
        (Kind::Download, 6),
        (Kind::SlowDownload, 5),
        (Kind::HalfClosed, 4),
        (Kind::Upload, 5),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Idle => "idle, kept alive",
            Kind::Talking => "request and reply",
            Kind::Download => "download, fast",
            Kind::SlowDownload => "download, slow",
            Kind::HalfClosed => "download, half-closed",
            Kind::Upload => "upload",
        }
    }

    fn rate(self) -> u64 {
        match self {
            Kind::SlowDownload => u64::MAX,
            Kind::HalfClosed => MB,
            _ => 5 * MB,
        }
    }
}

/// How many clients there are.
pub fn size() -> usize {
    Kind::ALL.iter().map(|(_, count)| count).sum()
}

/// What all clients tell, and what they are told.
#[derive(Default)]
pub struct Shared {
    moment: AtomicUsize,
    /// Clients have shown that they live in the moments before this number.
    asked: AtomicUsize,
    alive: [AtomicUsize; MOMENTS],
    /// The daemon that is to be killed is gone.
    pub gone: AtomicBool,
    pub kinds: [Figures; Kind::ALL.len()],
    pub visits: Visits,
}

/// Of one kind.
#[derive(Default)]
pub struct Figures {
    pub to_client: AtomicU64,
    pub to_upstream: AtomicU64,
    pub pauses: Pauses,
}

/// The longest pause in each moment.
#[derive(Default)]
pub struct Pauses([AtomicU64; MOMENTS]);

impl Pauses {
    pub fn note(&self, moment: usize, pause: Duration) {
        self.0[moment].fetch_max(pause.as_micros() as u64, Relaxed);
    }

    pub fn longest(&self, moment: Moment) -> Duration {
        Duration::from_micros(self.0[moment as usize].load(Relaxed))
    }
}

impl Shared {
    pub fn moment(&self) -> usize {
        self.moment.load(Relaxed)
    }

    /// A moment begins.
    pub fn begin(&self, moment: Moment) {
        self.moment.store(moment as usize, Relaxed);
    }

    /// Has all clients show, from now on, that they live in this moment.
    pub fn ask(&self, moment: Moment) {
        self.asked.store(moment as usize + 1, Relaxed);
    }

    /// How many have shown that they live in this moment.
    pub fn alive(&self, moment: Moment) -> usize {
        self.alive[moment as usize].load(Relaxed)
    }

    /// The longest that any client waited, those that come and go included.
    pub fn longest(&self, moment: Moment) -> Duration {
        let kinds = self.kinds.iter().map(|figures| figures.pauses.longest(moment));
        kinds.chain([self.visits.pauses.longest(moment)]).max().unwrap_or_default()
    }

    /// What has been relayed for them.
    pub fn bytes(&self) -> u64 {
        self.kinds.iter().map(|f| f.to_client.load(Relaxed) + f.to_upstream.load(Relaxed)).sum()
    }
}

/// What became of a client: why it ended other than it should, if it did.
pub struct Fate {
    pub kind: Kind,
    pub intact: bool,
    pub fault: Option<String>,
}

pub struct Crowd {
    pub shared: Arc<Shared>,
    pub count: Arc<Count>,
    fates: Receiver<Fate>,
}

impl Crowd {
    /// Starts them all, and those that come and go.
    pub fn start(address: SocketAddr, count: &Arc<Count>) -> Crowd {
        let (tell, fates) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        shared.ask(Moment::Work);
        for (index, (kind, number)) in Kind::ALL.into_iter().enumerate() {
            for _ in 0..number {
                let (shared, count, tell) = (shared.clone(), count.clone(), tell.clone());
                let client = Client { kind, index, intact: true, shown: 0, shared, count };
                // One that can't be started is missed when the fates are asked for.
                let _ =
                    thread::Builder::new().name("client".into()).spawn(move || client.run(address, &tell));
            }
        }
        super::visitors::start(address, &shared, count);
        Crowd { shared, count: count.clone(), fates }
    }

    /// Ends the show; what became of each that told so within `bound`.
    pub fn end(&self, bound: Duration) -> Vec<Fate> {
        self.count.over.store(true, Relaxed);
        let until = Instant::now() + bound;
        let next = |_| self.fates.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
        (0..size()).map_while(next).collect()
    }
}

struct Client {
    kind: Kind,
    index: usize,
    intact: bool,
    /// It has shown that it lives in the moments before this number.
    shown: usize,
    shared: Arc<Shared>,
    count: Arc<Count>,
}

impl Client {
    fn run(mut self, address: SocketAddr, tell: &Sender<Fate>) {
        let fault = self.live(address).err().map(|e| e.to_string());
        let _ = tell.send(Fate { kind: self.kind, intact: self.intact, fault });
    }

    fn live(&mut self, address: SocketAddr) -> io::Result<()> {
        let stream = connect(address)?;
        match self.kind {
            Kind::Idle => self.idle(&stream).and_then(|()| leave(&stream)),
            Kind::Talking => self.talk(&stream).and_then(|()| leave(&stream)),
            Kind::Download | Kind::SlowDownload | Kind::HalfClosed => self.download(&stream),
            Kind::Upload => self.upload(&stream),
        }
    }

    fn idle(&mut self, stream: &TcpStream) -> io::Result<()> {
        while !self.is_over() {
            if self.shared.asked.load(Relaxed) > self.shown {
                self.ask(stream)?;
            }
            if poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], LOOK_MS)? > 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.ask(stream)
    }

    fn talk(&mut self, stream: &TcpStream) -> io::Result<()> {
        while !self.is_over() {
            self.ask(stream)?;
            thread::sleep(EACH);
        }
        Ok(())
    }

    fn ask(&mut self, stream: &TcpStream) -> io::Result<()> {
        let asked = self.shared.asked.load(Relaxed);
        let shared = self.shared.clone();
        let mut stream = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        self.intact &= ask(&mut stream)?;
        self.figures().to_upstream.fetch_add(Request::SIZE, Relaxed);
        self.figures().to_client.fetch_add(Request::ANSWER, Relaxed);
        self.show(asked);
        Ok(())
    }

    fn download(&mut self, stream: &TcpStream) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut timed = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        Request::Listen { rate: self.kind.rate() }.write(&mut timed)?;
        if self.kind == Kind::HalfClosed {
            stream.shutdown(Shutdown::Write)?;
        }
        let intact = pattern::receive_to_end(&mut timed, |n| {
            self.figures().to_client.fetch_add(n, Relaxed);
            self.show(shared.asked.load(Relaxed));
            if self.kind == Kind::SlowDownload && !self.is_over() {
                thread::sleep(Duration::from_micros(n / 2));
            }
        })?;
        self.intact &= intact;
        // It ends when the show is over, and not before.
        if self.is_over() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn upload(&mut self, stream: &TcpStream) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut timed = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        Request::Tell.write(&mut timed)?;
        pattern::send_while(&mut timed, u64::MAX, self.kind.rate(), |n| {
            self.figures().to_upstream.fetch_add(n, Relaxed);
            self.show(shared.asked.load(Relaxed));
            !self.is_over()
        })?;
        stream.shutdown(Shutdown::Write)?;
        // The service answers only if all that it took was right.
        self.intact &= pattern::receive(&mut timed, Request::ANSWER, |_| ())?;
        end_of_stream(stream)
    }

    /// It has done something since it was `asked` to show that it lives.
    fn show(&mut self, asked: usize) {
        if asked > self.shown {
            self.shown = asked;
            self.shared.alive[asked - 1].fetch_add(1, Relaxed);
        }
    }

    fn figures(&self) -> &Figures {
        &self.shared.kinds[self.index]
    }

    fn is_over(&self) -> bool {
        self.count.over.load(Relaxed)
    }
}

pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A question and its answer. `false` if a byte of it was wrong.
pub fn ask(stream: &mut (impl Read + Write)) -> io::Result<bool> {
    Request::Ask { delay_ms: 0 }.write(stream)?;
    pattern::receive(stream, Request::ANSWER, |_| ())
}

/// The last words of a client that has all that it wanted: a FIN, and one for it.
pub fn leave(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    end_of_stream(stream)
}

fn end_of_stream(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// A connection whose every wait is noted.
struct Timed<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    pauses: &'a Pauses,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a TcpStream, shared: &'a Shared, pauses: &'a Pauses) -> Timed<'a> {
        Timed { stream, shared, pauses }
    }

    fn timed<T>(&mut self, mut wait: impl FnMut(&TcpStream) -> T) -> T {
        let began = Instant::now();
        let result = wait(self.stream);
        self.pauses.note(self.shared.moment(), began.elapsed());
        result
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.timed(|mut stream| stream.read(buffer))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timed(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
