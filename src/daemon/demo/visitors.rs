//! Clients that come and go during the demo's second part: connect, ask once, leave, again and again.
//! None of them may be refused, also while no daemon runs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::crowd::{MOMENTS, Moment, Pauses, Shared};
use super::staying;
use super::upstream::Count;

/// How many threads of them.
const THREADS: usize = 2;
/// From one's leaving to the next one's coming.
const EACH: Duration = Duration::from_millis(10);

/// What became of them, in each moment.
#[derive(Default)]
pub struct Visits {
    served: [AtomicU64; MOMENTS],
    refused: [AtomicU64; MOMENTS],
    /// Cut by the SIGKILL, in the first moments of their connections: no promise was broken.
    young: AtomicU64,
    pub pauses: Pauses,
}

impl Visits {
    pub fn served(&self, moment: Moment) -> u64 {
        self.served[moment as usize].load(Relaxed)
    }

    /// Refused, cut, or answered wrongly.
    pub fn refused(&self, moment: Moment) -> u64 {
        self.refused[moment as usize].load(Relaxed)
    }

    pub fn young(&self) -> u64 {
        self.young.load(Relaxed)
    }
}

/// Starts them. They end when the show is over.
pub fn start(address: SocketAddr, shared: &Arc<Shared>, count: &Arc<Count>) {
    for _ in 0..THREADS {
        let (shared, count) = (shared.clone(), count.clone());
        // Without them none is served, and that is a fault.
        let _ = thread::Builder::new().name("visitor".into()).spawn(move || {
            while !count.over.load(Relaxed) {
                visit(address, &shared);
                thread::sleep(EACH);
            }
        });
    }
}

fn visit(address: SocketAddr, shared: &Shared) {
    let (began, gone) = (Instant::now(), shared.gone.load(Relaxed));
    let (mut connected, visits) = (false, &shared.visits);
    let served = served(address, &mut connected);
    let moment = shared.moment();
    match served {
        Ok(true) => {
            visits.served[moment].fetch_add(1, Relaxed);
            visits.pauses.note(moment, began.elapsed());
        }
        // The daemon may have taken it in just before it was killed.
        Err(_) if connected && !gone && moment == Moment::Kill as usize => {
            visits.young.fetch_add(1, Relaxed);
        }
        Ok(false) | Err(_) => _ = visits.refused[moment].fetch_add(1, Relaxed),
    }
}

fn served(address: SocketAddr, connected: &mut bool) -> io::Result<bool> {
    let mut stream = staying::connect(address)?;
    *connected = true;
    let intact = staying::ask(&mut stream)?;
    staying::leave(&stream)?;
    Ok(intact)
}
