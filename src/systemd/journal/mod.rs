//! The log: slog, a bounded queue, and one thread that writes to journald or to standard error.
//!
//! A write to journald's socket or to standard error may block for as long as journald is stopped
//! or the terminal is held. So no thread but the log thread ever writes there: [`Logger`] calls put
//! a record into a queue of [`QUEUE`] records, and where it is full the record is dropped and
//! counted. The count is reported by one line once the queue is empty again.
//!
//! Where the words go is decided once, at [`open`]: to journald's native protocol if standard error
//! is the journal (`$JOURNAL_STREAM`, systemd.exec(5)), else as readable lines to standard error.
//! docs/journal.md documents the fields. This module knows no event: they are in [`crate::event`].

mod journald;
mod lines;
mod queue;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::sys::stat::fstat;
use slog::{Discard, Drain, Level, LevelFilter, Logger, Never, o};

use journald::Journald;
use lines::{Colour, Lines};
use queue::{Counts, Entry, QueueEnd, QueueFront};

/// How many records may wait for the log thread: room for an entry each when ten thousand
/// connections are cut at once.
pub const QUEUE: usize = 16_384;

/// How long a log that is dropped without [`LogThread::flush`] is waited for.
const FLUSH_ON_DROP: Duration = Duration::from_secs(1);

/// Opens the log: journald where standard error is the journal ($JOURNAL_STREAM), else lines on
/// stderr. Records below `level` are not even queued.
///
/// Call it once, after the signals are blocked: the log thread inherits the mask.
///
/// # Panics
/// If no thread can be started.
pub fn open(level: Level) -> (Logger, LogThread) {
    if stderr_is_journal() {
        open_with(level, QUEUE, Journald::default())
    } else {
        open_with(level, QUEUE, Lines::new(io::stderr(), Colour::for_terminal(io::stderr().is_terminal())))
    }
}

fn open_with<D>(level: Level, queue: usize, drain: D) -> (Logger, LogThread)
where
    D: Drain<Ok = (), Err = Never> + Send + 'static,
{
    let counts = Arc::new(Counts::default());
    let (front, entries) = QueueFront::new(queue, counts.clone());
    let (last, (done, ended)) = (front.sender(), mpsc::channel());
    let end = QueueEnd::new(drain, counts.clone());
    let run = move || {
        end.write_all(&entries);
        // Nobody waits for it any more if the bound has passed.
        let _ = done.send(());
    };
    thread::Builder::new().name("log".into()).spawn(run).expect("a thread for the log");
    let front = LevelFilter::new(front, level);
    (Logger::root(front.fuse(), o!()), LogThread { last: Some(last), ended, stats: LogStats(counts) })
}

/// A log that goes nowhere, for callers that want none.
pub fn discard() -> Logger {
    Logger::root(Discard, o!())
}

/// The log thread's owner: ends it with [`flush`](Self::flush). Dropped without, it is waited for
/// at most one second.
pub struct LogThread {
    last: Option<Sender<Entry>>,
    ended: Receiver<()>,
    stats: LogStats,
}

impl LogThread {
    /// Waits until everything logged so far is written, at most `bound`. True if it was. What is
    /// logged from then on is dropped and counted.
    pub fn flush(mut self, bound: Duration) -> bool {
        self.end(bound)
    }

    /// What the log did so far. Usable after the flush too.
    pub fn stats(&self) -> LogStats {
        self.stats.clone()
    }

    fn end(&mut self, bound: Duration) -> bool {
        let Some(last) = self.last.take() else { return true };
        // It fails only where the thread has ended already.
        let _ = last.send(Entry::Last);
        self.ended.recv_timeout(bound).is_ok()
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end(FLUSH_ON_DROP);
    }
}

/// Counts of the log. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct LogStats(Arc<Counts>);

impl LogStats {
    /// Records that were dropped because the queue was full or the log had ended.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    /// Records that were written, to wherever the log goes.
    pub fn written(&self) -> u64 {
        self.0.written()
    }
}

/// Whether standard error leads into the journal: $JOURNAL_STREAM names it, see systemd.exec(5).
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| names_stream(&stream, stat.st_dev, stat.st_ino))
}

/// Whether `stream`, `DEVICE:INODE` in decimal, names this file.
fn names_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Instant;

    use slog::{OwnedKVList, Record, debug, info};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A drain whose every write waits for a permit, as journald's socket does when it is full.
    struct Gate {
        permits: Receiver<()>,
        written: SyncSender<String>,
    }

    impl Drain for Gate {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            // An error is a gate that was taken away: open.
            let _ = self.permits.recv();
            let _ = self.written.send(format!("{} {}", record.level().as_short_str(), record.msg()));
            Ok(())
        }
    }

    fn gated(queue: usize) -> (Logger, LogThread, SyncSender<()>, Receiver<String>) {
        let (permit, permits) = sync_channel(100);
        let (written, lines) = sync_channel(100);
        let (log, thread) = open_with(Level::Info, queue, Gate { permits, written });
        (log, thread, permit, lines)
    }

    #[test]
    fn a_blocked_log_blocks_nobody_and_its_flush_ends_at_the_bound() {
        let (log, thread, _permit, _lines) = gated(4);
        let stats = thread.stats();
        for n in 0..1000 {
            info!(log, "line {n}");
        }
        // One record may be in the log thread's hands, four in the queue.
        assert!(stats.dropped() >= 995, "{}", stats.dropped());
        assert_eq!(stats.written(), 0);
        let start = Instant::now();
        assert!(!thread.flush(Duration::from_millis(50)));
        assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < LONG);
    }

    #[test]
    fn what_was_dropped_is_reported_by_one_line_once_the_queue_is_empty() {
        let (log, thread, permit, lines) = gated(2);
        let stats = thread.stats();
        while stats.dropped() < 7 {
            info!(log, "line");
        }
        drop(permit);
        assert!(thread.flush(LONG));
        let lines: Vec<_> = lines.iter().collect();
        assert!(lines.len() == 3 || lines.len() == 4, "{lines:?}");
        let report = "WARN 7 log messages were dropped: the log was not written as fast as they came";
        assert_eq!(lines.iter().filter(|l| l.contains("dropped")).collect::<Vec<_>>(), [report]);
        assert_eq!(lines.last().map(String::as_str), Some(report));
    }

    #[test]
    fn a_flush_writes_all_and_what_comes_later_is_counted() {
        let (log, thread, permit, lines) = gated(50);
        drop(permit);
        let stats = thread.stats();
        for n in 0..50 {
            info!(log, "line {n}");
        }
        debug!(log, "below the level");
        assert!(thread.flush(LONG));
        assert_eq!(lines.iter().count(), 50);
        assert_eq!((stats.written(), stats.dropped()), (50, 0));
        info!(log, "too late");
        assert_eq!((stats.written(), stats.dropped()), (50, 1));
    }

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        assert!(names_stream("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", ":", "8:1234:5", "a:b"] {
            assert!(!names_stream(other, 8, 1234), "{other}");
        }
    }
}
