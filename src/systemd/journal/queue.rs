//! The two ends of the log's queue, and the counts that they share.
//!
//! The front runs on every thread that logs and never blocks; the end runs on the log thread alone.
//! A record is counted exactly once, as written or as dropped.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record};
use slog_async::AsyncCore;

use crate::event::Event;

/// While records are dropped without end the loss is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Counts {
    queued: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Where records go in: drops and counts what finds no room.
pub struct QueueFront {
    core: AsyncCore,
    counts: Arc<Counts>,
}

impl QueueFront {
    pub fn new(core: AsyncCore, counts: Arc<Counts>) -> QueueFront {
        QueueFront { core, counts }
    }
}

impl Drain for QueueFront {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Counted before it is sent, so that the end never sees more written than queued.
        self.counts.queued.fetch_add(1, Relaxed);
        if self.core.log(record, values).is_err() {
            self.counts.queued.fetch_sub(1, Relaxed);
            self.counts.dropped.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

/// Where records come out: writes them, and reports what was dropped.
pub struct QueueEnd<D> {
    drain: D,
    counts: Arc<Counts>,
    /// How many dropped records are reported, and since when there are more.
    reported: Cell<(u64, Option<Instant>)>,
}

impl<D: Drain<Ok = (), Err = Never>> QueueEnd<D> {
    pub fn new(drain: D, counts: Arc<Counts>) -> QueueEnd<D> {
        QueueEnd { drain, counts, reported: Cell::new((0, None)) }
    }

    fn report_dropped(&self) {
        let dropped = self.counts.dropped();
        let (reported, seen) = self.reported.get();
        if dropped == reported {
            return;
        }
        let seen = seen.unwrap_or_else(Instant::now);
        // Where the queue was full, more records follow: one of them finds it empty.
        let empty = self.counts.written() == self.counts.queued.load(Relaxed);
        if !empty && seen.elapsed() < REPORT_INTERVAL {
            self.reported.set((reported, Some(seen)));
            return;
        }
        self.reported.set((dropped, None));
        let count = dropped - reported;
        let (messages, were) = if count == 1 { ("message", "was") } else { ("messages", "were") };
        let _ = self.drain.log(
            &record!(
                Level::Warning,
                "",
                &format_args!(
                    "{count} log {messages} {were} dropped: the log was not written as fast as they came"
                ),
                b!(Event::LogDropped, "DRAINED_DROPPED" => count)
            ),
            &o!().into(),
        );
    }
}

impl<D: Drain<Ok = (), Err = Never>> Drain for QueueEnd<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.drain.log(record, values)?;
        self.counts.written.fetch_add(1, Relaxed);
        self.report_dropped();
        Ok(())
    }
}
