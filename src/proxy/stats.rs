//! Counters of one proxy, one set a worker so that no two cores write the same cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What one worker counts for one proxy.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    pub accepted: Counter,
    /// Ended in an orderly way while the proxy drained.
    pub drained: Counter,
    /// Cut at the deadline.
    pub cut: Counter,
    /// Let go because no upstream took them.
    pub failed: Counter,
    pub bytes_to_upstream: Counter,
    pub bytes_to_client: Counter,
}

/// A sum that one worker writes and anybody reads.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Taken off a backlog.
    pub accepted: u64,
    /// Ended in an orderly way while the proxy drained.
    pub drained: u64,
    /// Cut at the deadline.
    pub cut: u64,
    /// Let go because no upstream took them.
    pub failed: u64,
    /// Payload that went to upstreams.
    pub bytes_to_upstream: u64,
    /// Payload that went to clients.
    pub bytes_to_client: u64,
}

impl Totals {
    /// Adds up what the workers counted.
    pub fn of(workers: &[Counters]) -> Totals {
        let sum = |field: fn(&Counters) -> &Counter| workers.iter().map(|w| field(w).get()).sum();
        Totals {
            accepted: sum(|w| &w.accepted),
            drained: sum(|w| &w.drained),
            cut: sum(|w| &w.cut),
            failed: sum(|w| &w.failed),
            bytes_to_upstream: sum(|w| &w.bytes_to_upstream),
            bytes_to_client: sum(|w| &w.bytes_to_client),
        }
    }
}
