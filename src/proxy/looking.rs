//! Looking at connections: each worker tells of its own, as rows of plain data.
//!
//! A worker looks through its table a stretch of [`SLOTS_PER_TURN`] slots a turn of its loop, so that
//! relaying goes on in between, and waits for nobody: a channel takes the rows, and whoever asked puts them
//! together on a thread of his own. A connection that lives all the while is told of exactly once.

use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::drain::{Doing, doing};
use super::fleet::{Fleet, lock};
use super::worker::{Entry, Worker};
use crate::sys::clock::monotonic_ms;
use crate::sys::socket::Peer;

/// At up to four ioctl(2) a quiet connection these take a tenth of a millisecond.
const SLOTS_PER_TURN: u32 = 64;
/// Requests that a worker has not begun with. While it hangs the oldest are dropped: nobody waits so long.
const MOST_REQUESTS: usize = 16;

/// One connection, at the instant at which its worker came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Unique in this process: journal field DRAINED_CONNECTION.
    pub id: u64,
    /// Its place in the fleet.
    pub proxy: u16,
    /// Who connected.
    pub client: Peer,
    /// Its place in the proxy; None where none is chosen, or where it is no longer configured.
    pub upstream: Option<u16>,
    /// What the drain policy would see.
    pub doing: Doing,
    /// Since it was accepted, also by an earlier process.
    pub age: Duration,
    /// Since the last byte.
    pub idle: Duration,
    /// Payload relayed so far.
    pub to_upstream: u64,
    /// Payload relayed so far.
    pub to_client: u64,
    /// It would outlive a crash.
    pub parked: bool,
}

/// What the workers told.
#[derive(Debug, Default)]
pub struct Looked {
    /// In no order.
    pub rows: Vec<Row>,
    /// Workers that had not told all in time: their rows are missing, or some of them.
    pub silent: usize,
}

/// Rows of one turn. The last are none.
type Part = Vec<Row>;

/// A request that a worker works on.
pub(super) struct Look {
    to: Sender<Part>,
    next: u32,
    /// When it was asked, in milliseconds: ages of all workers are those of one instant.
    asked: u64,
}

/// New requests to one worker.
#[derive(Default)]
pub(super) struct Requests(Mutex<Inbox>);

#[derive(Default)]
struct Inbox {
    /// The worker has ended, and its connections with it.
    closed: bool,
    waiting: Vec<Look>,
}

impl Requests {
    /// False where there is no worker any more.
    fn ask(&self, to: Sender<Part>, asked: u64) -> bool {
        let mut inbox = lock(&self.0);
        if inbox.closed {
            return false;
        }
        if inbox.waiting.len() == MOST_REQUESTS {
            inbox.waiting.remove(0);
        }
        inbox.waiting.push(Look { to, next: 0, asked });
        true
    }

    pub fn take(&self) -> Vec<Look> {
        std::mem::take(&mut lock(&self.0).waiting)
    }

    pub fn close(&self) {
        *lock(&self.0) = Inbox { closed: true, waiting: Vec::new() };
    }
}

impl Fleet {
    /// All connections, asked of all workers at once. Waits for those that tell slowly, at most until
    /// `until`: not on a thread that has other things to do.
    pub fn look(&self, until: Instant) -> Looked {
        let ((to, parts), now) = (mpsc::channel(), monotonic_ms());
        let asked = self.mailboxes.iter().filter(|mailbox| {
            let asked = mailbox.looks.ask(to.clone(), now);
            // Fails only when the counter is full, and then it is readable.
            let _ = mailbox.wake.write(1);
            asked
        });
        let asked = asked.count();
        drop(to);
        gather(&parts, asked, until)
    }
}

/// Until all have told all, or ended.
fn gather(parts: &Receiver<Part>, asked: usize, until: Instant) -> Looked {
    let mut looked = Looked { rows: Vec::new(), silent: asked };
    loop {
        match parts.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(part) if part.is_empty() => looked.silent -= 1,
            Ok(part) => looked.rows.extend(part),
            // A worker that ended in the midst of it has no connections left that could be missing.
            Err(RecvTimeoutError::Disconnected) => return Looked { silent: 0, ..looked },
            Err(RecvTimeoutError::Timeout) => return looked,
        }
    }
}

impl Worker {
    /// Tells the one who waits longest of the next connections.
    pub(super) fn look_on(&mut self) {
        let Some(mut look) = self.looks.pop_front() else { return };
        let end = self.table.slots().min(look.next.saturating_add(SLOTS_PER_TURN));
        let mut rows = Vec::with_capacity(SLOTS_PER_TURN as usize);
        for slot in look.next..end {
            if let Some(Entry::Connection(connection)) = self.table.at(slot) {
                rows.push(row(connection, look.asked, self.now));
            }
        }
        look.next = end;
        // Where it fails nobody waits any more.
        let is_heard = rows.is_empty() || look.to.send(rows).is_ok();
        if end < self.table.slots() && is_heard {
            self.looks.push_back(look);
        } else {
            let _ = look.to.send(Vec::new());
        }
    }
}

fn row(connection: &Connection, asked: u64, now: u64) -> Row {
    let since = |then: u64| Duration::from_millis(asked.saturating_sub(then));
    Row {
        id: connection.id,
        proxy: connection.proxy,
        client: connection.peer,
        upstream: connection.upstream,
        doing: doing(&connection.view(now, false), now),
        age: since(connection.opened),
        idle: since(connection.last),
        to_upstream: connection.to_upstream.flow.bytes,
        to_client: connection.to_client.flow.bytes,
        parked: connection.is_whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_row(id: u64) -> Row {
        Row {
            id,
            proxy: 0,
            client: Peer::Unix(1),
            upstream: None,
            doing: Doing::Quiet,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            to_upstream: 0,
            to_client: 0,
            parked: false,
        }
    }

    #[test]
    fn a_worker_that_hangs_is_counted_and_one_that_ends_is_not_waited_for() {
        let requests: [Requests; 3] = Default::default();
        let (to, parts) = mpsc::channel();
        assert!(requests.iter().all(|requests| requests.ask(to.clone(), 0)));
        drop(to);
        let look = |n: usize| requests[n].take().pop().expect("was asked");
        let told = look(0);
        told.to.send(vec![a_row(7)]).expect("somebody waits");
        told.to.send(Vec::new()).expect("somebody waits");
        let _hangs = look(1);
        requests[2].close();
        let looked = gather(&parts, 3, Instant::now());
        assert_eq!((looked.rows, looked.silent), (vec![a_row(7)], 2));

        requests[1].close();
        drop((told, _hangs));
        let looked = gather(&parts, 3, Instant::now() + Duration::from_secs(60));
        assert_eq!((looked.rows, looked.silent), (vec![], 0));
        assert!(!requests[1].ask(mpsc::channel().0, 0), "nobody is there");
    }

    #[test]
    fn requests_to_a_worker_that_hangs_do_not_pile_up() {
        let requests = Requests::default();
        let receivers: Vec<_> = (0..MOST_REQUESTS + 3)
            .map(|_| {
                let (to, parts) = mpsc::channel();
                requests.ask(to, 0);
                parts
            })
            .collect();
        assert_eq!(requests.take().len(), MOST_REQUESTS);
        assert_eq!(receivers.len(), MOST_REQUESTS + 3);
    }
}
