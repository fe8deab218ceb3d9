//! Who waits first on each worker, so that clients go through in the order in which they came, whichever has them.
//!
//! A worker writes its own entry alone, and before it reads the others'. So where two change at once at least one sees
//! what the other wrote, and whoever sees that the first of all is another worker's tells that worker.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The number of nobody: after everybody's.
pub const NOBODY: u64 = u64::MAX;

/// The first client that waits for one proxy, of each worker.
pub struct Fronts(Box<[AtomicU64]>);

impl Fronts {
    /// Nobody waits.
    pub fn new(workers: usize) -> Fronts {
        Fronts((0..workers).map(|_| AtomicU64::new(NOBODY)).collect())
    }

    /// The number of the first one on `worker`, or [`NOBODY`].
    pub fn of(&self, worker: usize) -> u64 {
        self.0[worker].load(SeqCst)
    }

    pub fn set(&self, worker: usize, first: u64) {
        self.0[worker].store(first, SeqCst);
    }

    /// One that waits on `worker` before any of its own does.
    pub fn set_earlier(&self, worker: usize, first: u64) {
        self.0[worker].fetch_min(first, SeqCst);
    }

    /// The worker that has the first of all, and who that is.
    pub fn first(&self) -> Option<(usize, u64)> {
        self.all().min_by_key(|(_, first)| *first).filter(|(_, first)| *first != NOBODY)
    }

    /// The same of the other workers than `worker`, where that one came before the client `id`.
    pub fn before(&self, worker: usize, id: u64) -> Option<(usize, u64)> {
        let others = self.all().filter(|(owner, _)| *owner != worker);
        others.min_by_key(|(_, first)| *first).filter(|(_, first)| *first < id)
    }

    fn all(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|front| front.load(SeqCst)).enumerate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_all_has_its_turn() {
        let fronts = Fronts::new(3);
        assert_eq!(fronts.first(), None);
        fronts.set(2, 5);
        fronts.set(0, 7);
        assert_eq!(fronts.first(), Some((2, 5)));
        assert_eq!(
            (fronts.before(0, 7), fronts.before(2, 5), fronts.before(1, 3)),
            (Some((2, 5)), None, None)
        );
        // What a worker has told of itself may be of a while ago.
        assert_eq!(fronts.before(2, 9), Some((0, 7)));
        fronts.set_earlier(0, 4);
        fronts.set_earlier(0, 9);
        assert_eq!((fronts.of(0), fronts.before(2, 5)), (4, Some((0, 4))));
        fronts.set(0, NOBODY);
        assert_eq!(fronts.first(), Some((2, 5)));
    }
}
