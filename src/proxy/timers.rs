//! A worker's timers: when to look at which connection again.
//!
//! A timer only says "look again"; whoever is woken asks the connection what is due and arms the
//! next one. So nothing is ever cancelled: a timer of a connection that is gone is passed over by its
//! generation, and when most are such the heap is cleared of them. Times are milliseconds of CLOCK_MONOTONIC.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::Key;

#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, Key)>>,
}

impl Timers {
    pub fn arm(&mut self, at: u64, key: Key) {
        self.heap.push(Reverse((at, key)));
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Forgets those that nobody waits for any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(u64, Key) -> bool) {
        self.heap.retain(|Reverse((at, key))| wanted(*at, *key));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one that is due, with the time that it was armed for.
    pub fn due(&mut self, now: u64) -> Option<(u64, Key)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_order_of_time() {
        let mut timers = Timers::default();
        let key = |slot| Key { slot, generation: 1 };
        for (at, slot) in [(30, 1), (10, 2), (20, 3)] {
            timers.arm(at, key(slot));
        }
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.due(9), None);
        assert_eq!(timers.due(25), Some((10, key(2))));
        assert_eq!(timers.due(25), Some((20, key(3))));
        assert_eq!(timers.due(25), None);
    }
}
