//! The clients of the demo's second part, whose connections last until the show is over: how many
//! of each kind, what they tell together and what they are told. What each does is in `staying`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::staying::Staying;
use super::upstream::Count;
use super::visitors::Visits;

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

    /// Of its stream, in bytes a second.
    pub fn rate(self) -> u64 {
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

    /// All moments that clients are asked for have a lower number than this.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    /// A client has shown that it lives in the last of the `asked` moments.
    pub fn show(&self, asked: usize) {
        self.alive[asked - 1].fetch_add(1, Relaxed);
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
        let kinds = Kind::ALL.into_iter().enumerate();
        let cast = kinds.flat_map(|(index, (kind, number))| (0..number).map(move |_| (index, kind)));
        for (stream, (index, kind)) in cast.enumerate() {
            let client = Staying::new(kind, index, stream, &shared, count);
            let tell = tell.clone();
            // One that can't be started is missed when the fates are asked for.
            let _ = thread::Builder::new().name("client".into()).spawn(move || client.run(address, &tell));
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
