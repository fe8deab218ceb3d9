//! How many held clients may be on their way to one upstream at a time, and how long each may take.
//!
//! What one upstream takes says nothing of another: a near one beside a far one, a good one beside one that is stuck.

use super::slab::Key;

/// Connects that are under way at the same time while clients wait, at first.
const WINDOW: usize = 16;
/// As many they may become where connects take time and succeed. With fewer a far upstream would get fewer clients
/// than come, and the queue never end: so many each time that a packet goes there and back.
const WINDOW_FAR: usize = 1024;
/// A connect that takes longer than this, in milliseconds, is taken back and tried anew, as long as none has told how
/// long they take.
const PATIENCE: u64 = 50;
/// The least that it may take where they take no time.
const PATIENCE_NEAR: u64 = 5;
/// So many times what the last connect took is waited for the next.
const SLACK: u64 = 4;

/// The way to one upstream, for the clients of one proxy that wait on one worker.
pub(super) struct Lane {
    /// Those that were let through and are not connected yet, with the time in milliseconds.
    pub under_way: Vec<(u64, Key)>,
    /// How many these may be.
    window: usize,
    /// How long each may take, in milliseconds.
    patience: u64,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane { under_way: Vec::new(), window: WINDOW, patience: PATIENCE }
    }
}

impl Lane {
    /// One more may go.
    pub fn has_room(&self) -> bool {
        self.under_way.len() < self.window
    }

    /// Who went at `at` has not arrived in time.
    pub fn is_late(&self, at: u64, now: u64) -> bool {
        at + self.patience <= now
    }

    /// When the next one is late.
    pub fn due(&self) -> Option<u64> {
        self.under_way.iter().map(|(at, _)| at + self.patience).min()
    }

    /// A connect succeeded, after so many milliseconds.
    pub fn grow(&mut self, took: u64) {
        let most = if took > 0 { WINDOW_FAR } else { WINDOW };
        self.window += usize::from(self.window < most);
        self.patience = PATIENCE_NEAR.max(took * SLACK);
    }

    /// One did not in time: `most` is as long as it may take by the configuration.
    pub fn shrink(&mut self, most: u64) {
        self.window = (self.window / 2).max(1);
        self.patience = (self.patience * 2).min(most);
    }

    /// Who waits the next time waits for an upstream that has just started again.
    pub fn begin_anew(&mut self) {
        self.window = self.window.min(WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_upstream_is_asked_by_fewer_and_a_far_one_with_patience() {
        let mut lane = Lane::default();
        for _ in 0..20 {
            lane.shrink(5_000);
        }
        assert_eq!((lane.window, lane.patience), (1, 5_000));
        lane.grow(200);
        assert_eq!((lane.window, lane.patience), (2, 800));
        (0..20).for_each(|_| lane.grow(0));
        assert_eq!((lane.window, lane.patience), (WINDOW, PATIENCE_NEAR));
        (0..2_000).for_each(|_| lane.grow(100));
        assert_eq!((lane.window, lane.patience), (WINDOW_FAR, 400));
        lane.grow(0);
        assert_eq!(lane.window, WINDOW_FAR);
        lane.begin_anew();
        assert_eq!(lane.window, WINDOW);
    }

    #[test]
    fn who_is_late_is_known_at_the_time_that_was_told() {
        let (mut lane, key) = (Lane::default(), Key { slot: 0, generation: 0 });
        assert_eq!(lane.due(), None);
        lane.under_way = vec![(200, key), (100, key)];
        assert_eq!(lane.due(), Some(100 + PATIENCE));
        assert!(lane.is_late(100, 100 + PATIENCE) && !lane.is_late(100, 99 + PATIENCE));
    }
}
