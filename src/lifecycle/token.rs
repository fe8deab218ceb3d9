//! The stop token: how whatever runs sees the stop, and shows life.
//!
//! The level only rises. A token knows nothing of phases or deadlines; a worker that runs past its
//! bound isn't told, it is left behind.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::pending::SignalSource;
use crate::{Error, Result};

/// How far the stop has come, as a worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// No stop: work on.
    Running,
    /// Finish the work at hand and return.
    Stopping,
    /// Asked a second time: return as soon as it can be done.
    Hurried,
}

/// What a worker, or anything else that runs, sees of the stop. Cheap to clone.
#[derive(Clone)]
pub struct StopToken {
    stop: Arc<Stop>,
    beat: Option<Arc<Beat>>,
    /// Signals sent to the thread that waits are passed on to the signals thread.
    signals: Option<Arc<SignalSource>>,
}

impl StopToken {
    /// How far the stop has come. A load, cheap enough for an inner loop.
    pub fn level(&self) -> StopLevel {
        self.stop.level()
    }

    /// Waits until the level is above Running, at most `timeout`; returns the level. A thread that
    /// waits here counts as alive for as long as it does.
    pub fn wait(&self, timeout: Duration) -> StopLevel {
        let until = Instant::now().checked_add(timeout);
        if let Some(beat) = &self.beat {
            beat.idle();
        }
        while self.level() == StopLevel::Running {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            self.wait_for_something(left);
        }
        self.beat();
        self.level()
    }

    /// Shows life to the watchdog. A store; may be called as often as one likes.
    pub fn beat(&self) {
        if let Some(beat) = &self.beat {
            beat.now();
        }
    }

    /// The longest time that this worker may go without a [`beat`](Self::beat): a quarter of
    /// WATCHDOG_USEC. None without a watchdog.
    pub fn beat_interval(&self) -> Option<Duration> {
        self.beat.as_ref().and(self.stop.watchdog).map(|interval| interval / 4)
    }

    fn wait_for_something(&self, left: Option<Duration>) {
        let mut fds = vec![PollFd::new(self.stop.raised.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.signals.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        // An error is EINTR, or a kernel out of memory for an instant: the caller looks again.
        let _ = ppoll(&mut fds, left.map(Into::into), None);
        if let Some((signals, fd)) = self.signals.as_ref().zip(fds.get(1))
            && fd.any() == Some(true)
        {
            signals.pass_on();
        }
    }
}

impl AsFd for StopToken {
    /// An eventfd for the worker's own epoll: readable from Stopping on, never to be read. Written
    /// again when the level rises, so that an edge-triggered watcher sees each rise.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stop.raised.as_fd()
    }
}

/// The other end of stop tokens. [`Lifecycle`](super::Lifecycle) has its own; this one is for
/// trying out a worker by itself.
pub struct StopSwitch(Arc<Stop>);

impl StopSwitch {
    /// A switch at [`StopLevel::Running`]. An error says that there is no file descriptor left.
    pub fn new() -> Result<StopSwitch> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let raised =
            EventFd::from_flags(flags).map_err(|e| Error::system("make an eventfd for the stop token", e))?;
        let watchdog = crate::systemd::notify::watchdog_interval();
        Ok(StopSwitch(Arc::new(Stop { level: AtomicU8::new(0), raised, watchdog })))
    }

    /// A token that this switch fires.
    pub fn token(&self) -> StopToken {
        StopToken { stop: self.0.clone(), beat: None, signals: None }
    }

    /// Raises the level; a lower one than it is changes nothing.
    pub fn raise(&self, level: StopLevel) {
        if self.0.level.fetch_max(level as u8, Ordering::SeqCst) < level as u8 {
            // It can't be full: it is written twice at most.
            let _ = self.0.raised.write(1);
        }
    }

    pub(super) fn token_for(&self, beat: Option<Arc<Beat>>, signals: Arc<SignalSource>) -> StopToken {
        StopToken { stop: self.0.clone(), beat, signals: Some(signals) }
    }
}

struct Stop {
    level: AtomicU8,
    raised: EventFd,
    watchdog: Option<Duration>,
}

impl Stop {
    fn level(&self) -> StopLevel {
        match self.level.load(Ordering::SeqCst) {
            0 => StopLevel::Running,
            1 => StopLevel::Stopping,
            _ => StopLevel::Hurried,
        }
    }
}

/// When a thread has last shown life.
pub(super) struct Beat {
    epoch: Instant,
    /// Microseconds since `epoch`, or [`IDLE`].
    at: AtomicU64,
}

/// In a wait of the library, from which it will come back: a beat in the far future.
const IDLE: u64 = u64::MAX;

impl Beat {
    pub(super) fn new() -> Beat {
        Beat { epoch: Instant::now(), at: AtomicU64::new(0) }
    }

    pub(super) fn now(&self) {
        self.at.store(self.epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    fn idle(&self) {
        self.at.store(IDLE, Ordering::Relaxed);
    }

    /// Whether the thread has shown life within `interval` before now.
    pub(super) fn is_within(&self, interval: Duration) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        self.epoch.elapsed().saturating_sub(Duration::from_micros(at)) <= interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_only_rises_and_ends_a_wait() {
        let switch = StopSwitch::new().unwrap();
        let token = switch.token();
        assert_eq!(token.wait(Duration::from_millis(1)), StopLevel::Running);
        let waiter = std::thread::spawn({
            let token = token.clone();
            move || (token.wait(Duration::MAX), Instant::now())
        });
        let raised = Instant::now();
        switch.raise(StopLevel::Hurried);
        let (level, woken) = waiter.join().unwrap();
        assert_eq!(level, StopLevel::Hurried);
        assert!(woken.saturating_duration_since(raised) < Duration::from_secs(1));
        switch.raise(StopLevel::Stopping);
        assert_eq!(token.level(), StopLevel::Hurried);
    }

    #[test]
    fn the_file_descriptor_is_readable_from_the_stop_on_and_written_at_each_rise() {
        let switch = StopSwitch::new().unwrap();
        let token = switch.token();
        let readable = || {
            let mut fds = [PollFd::new(token.as_fd(), PollFlags::POLLIN)];
            ppoll(&mut fds, Some(Duration::ZERO.into()), None).unwrap() == 1
        };
        assert!(!readable());
        switch.raise(StopLevel::Stopping);
        switch.raise(StopLevel::Stopping);
        switch.raise(StopLevel::Hurried);
        assert!(readable());
        assert_eq!(switch.0.raised.read(), Ok(2));
    }

    #[test]
    fn a_beat_grows_old_unless_its_thread_waits_in_the_library() {
        let mut beat = Beat::new();
        beat.epoch -= Duration::from_secs(10);
        assert!(!beat.is_within(Duration::from_secs(9)));
        beat.now();
        assert!(beat.is_within(Duration::from_secs(1)));
        beat.epoch -= Duration::from_secs(10);
        assert!(!beat.is_within(Duration::from_secs(9)));
        beat.idle();
        assert!(beat.is_within(Duration::ZERO));
    }
}
