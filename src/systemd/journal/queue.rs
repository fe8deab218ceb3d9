//! The two ends of the log's queue, and the counts that they share.
//!
//! The front runs on every thread that logs and never blocks; the end runs on the log thread alone.
//! A record is counted exactly once, as written or as dropped.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record};
use slog_async::AsyncRecord;

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

/// What goes through the queue.
pub enum Entry {
    Record(AsyncRecord),
    /// Nothing after it is written.
    Last,
}

/// Where records go in: drops and counts what finds no room.
pub struct QueueFront {
    entries: Sender<Entry>,
    room: u64,
    counts: Arc<Counts>,
}

impl QueueFront {
    /// A queue for `room` records. Its memory is taken as they come: an empty one has next to none.
    pub fn new(room: usize, counts: Arc<Counts>) -> (QueueFront, Receiver<Entry>) {
        let (entries, end) = channel();
        (QueueFront { entries, room: room as u64, counts }, end)
    }

    /// For the entry that ends it.
    pub fn sender(&self) -> Sender<Entry> {
        self.entries.clone()
    }
}

impl Drain for QueueFront {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Counted before it is sent, so that the end never sees more written than queued.
        let before = self.counts.queued.fetch_add(1, Relaxed);
        let has_room = before.saturating_sub(self.counts.written()) < self.room;
        let entry = || Entry::Record(AsyncRecord::from(record, values));
        if !has_room || self.entries.send(entry()).is_err() {
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

    /// Writes what comes until the queue is ended.
    pub fn write_all(&self, entries: &Receiver<Entry>) {
        while let Ok(Entry::Record(record)) = entries.recv() {
            let Ok(()) = record.log_to(self);
        }
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
