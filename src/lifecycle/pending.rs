//! Where signals are read: sent to the process, or to a single one of its threads.
//!
//! A blocked signal that was sent to one thread (tgkill(2), pthread_kill(3)) is pending for that
//! thread alone: a signalfd that another thread reads doesn't show it. So
//! - a thread in [`StopToken::wait`](super::StopToken::wait) watches the signalfd too, takes what is
//!   pending for it, and passes it on at once;
//! - for all other threads, whatever they do, the signals thread looks into /proc/self/task twice a
//!   second. It cannot take such a signal away, so it remembers that it has seen it.
//!
//! Invariant: each pending signal is handed out once. `inbox` is locked from taking a signal to
//! passing it on, and while /proc is read, so that none is seen in both ways.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::gettid;

use crate::{Error, Result};

/// How often /proc/self/task is read.
const SCAN: Duration = Duration::from_millis(500);

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caught {
    pub(super) signal: i32,
    /// The process that sent it; None where it was the kernel, or isn't known.
    pub(super) sender: Option<u32>,
}

/// The signalfd, and what other threads have read from it.
pub(super) struct SignalSource {
    fd: SignalFd,
    handled: Vec<i32>,
    wake: EventFd,
    inbox: Mutex<VecDeque<(i32, Caught)>>,
}

impl SignalSource {
    pub(super) fn new(mask: &SigSet) -> Result<SignalSource> {
        let fd = SignalFd::with_flags(mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| Error::system("make a signalfd", e))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::system("make an eventfd for the signals thread", e))?;
        let handled = mask.iter().map(|signal| signal as i32).collect();
        Ok(SignalSource { fd, handled, wake, inbox: Mutex::new(VecDeque::new()) })
    }

    /// Takes what is pending for the calling thread and hands it to the signals thread.
    pub(super) fn pass_on(&self) {
        let thread = gettid().as_raw();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.extend(self.take().map(|caught| (thread, caught)));
        drop(inbox);
        self.wake();
    }

    /// Ends a wait of the signals thread.
    pub(super) fn wake(&self) {
        // It can only be full when the signals thread is about to wake anyway.
        let _ = self.wake.write(1);
    }

    /// Waits until something came, at most until the next look into /proc; returns what came.
    pub(super) fn wait(&self, scan: &mut Scan) -> Vec<Caught> {
        let left = scan.due.saturating_duration_since(Instant::now());
        let mut fds = [self.fd.as_fd(), self.wake.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if let Err(error) = ppoll(&mut fds, Some(left.into()), None)
            && error != nix::errno::Errno::EINTR
        {
            // The kernel is out of memory: look again in a while.
            std::thread::sleep(SCAN);
        }
        let _ = self.wake.read();
        let own = gettid().as_raw();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = inbox.drain(..).chain(self.take().map(|caught| (own, caught)));
        let new = taken.filter(|(thread, caught)| scan.is_new(*thread, caught.signal));
        let mut caught: Vec<Caught> = new.map(|(_, caught)| caught).collect();
        if scan.due <= Instant::now() {
            let signals = scan.run(&self.handled, pending_for_threads());
            caught.extend(signals.into_iter().map(|signal| Caught { signal, sender: None }));
            scan.due = Instant::now() + SCAN;
        }
        caught
    }

    /// What is pending for the calling thread or for the process.
    fn take(&self) -> impl Iterator<Item = Caught> {
        std::iter::from_fn(|| self.fd.read_signal().ok().flatten()).map(|info| Caught {
            signal: info.ssi_signo as i32,
            sender: (info.ssi_pid != 0).then_some(info.ssi_pid),
        })
    }
}

impl AsFd for SignalSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What was seen pending for single threads.
pub(super) struct Scan {
    due: Instant,
    /// (thread, signal): reported, and still pending when last looked.
    seen: HashSet<(i32, i32)>,
}

impl Scan {
    pub(super) fn new() -> Scan {
        Scan { due: Instant::now() + SCAN, seen: HashSet::new() }
    }

    /// Whether a signal that a thread took was not seen pending before.
    fn is_new(&mut self, thread: i32, signal: i32) -> bool {
        !self.seen.remove(&(thread, signal))
    }

    /// The signals that are pending now and were not before. `pending` gives a bit a signal, from 1 on.
    fn run(&mut self, handled: &[i32], pending: Vec<(i32, u64)>) -> Vec<i32> {
        let now: HashSet<(i32, i32)> = pending
            .into_iter()
            .flat_map(|(thread, set)| {
                handled.iter().filter(move |&&s| set & (1 << (s - 1)) != 0).map(move |&s| (thread, s))
            })
            .collect();
        let mut new: Vec<i32> = now.difference(&self.seen).map(|&(_, signal)| signal).collect();
        new.sort_unstable();
        self.seen = now;
        new
    }
}

/// Each thread's own pending signals. Empty where there is no /proc.
fn pending_for_threads() -> Vec<(i32, u64)> {
    if status("/proc/self/status").is_some_and(|status| none_is_queued(&status)) {
        return Vec::new();
    }
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let thread = task.file_name().to_str()?.parse().ok()?;
            // A thread that has just ended has no status: nothing is pending for it.
            Some((thread, pending_in(&status(task.path().join("status"))?)?))
        })
        .collect()
}

/// A status file, by a single read: it has some 1,500 bytes.
fn status(path: impl AsRef<Path>) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let length = File::open(path).and_then(|mut file| file.read(&mut bytes)).ok()?;
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

/// Whether SigQ says that no signal at all is queued for this user, as it is most of the time. Then
/// nothing is pending anywhere, and the threads need not be looked at one by one.
fn none_is_queued(status: &str) -> bool {
    status
        .lines()
        .any(|line| line.strip_prefix("SigQ:").is_some_and(|queued| queued.trim().starts_with("0/")))
}

/// SigPnd out of /proc/PID/task/TID/status, see proc_pid_status(5): the thread's own, not the process's.
fn pending_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn the_pending_set_of_a_thread_is_read_from_its_status() {
        let status = "Name:\tx\nSigQ:\t1/63448\nSigPnd:\t0000000000004002\nShdPnd:\t0000000000000001\n";
        assert_eq!(pending_in(status), Some(1 << 14 | 1 << 1));
        assert_eq!(pending_in("Name:\tx\n"), None);
        assert!(!none_is_queued(status) && none_is_queued("SigQ:\t0/63448\n") && !none_is_queued(""));
    }

    #[test]
    fn a_signal_to_one_thread_is_found_by_another() {
        let before = pending_for_threads();
        let waiter = std::thread::spawn(|| {
            SigSet::from(Signal::SIGURG).thread_block().unwrap();
            raise(Signal::SIGURG).unwrap();
            let own = gettid().as_raw();
            let found = std::thread::spawn(pending_for_threads).join().unwrap();
            (own, found)
        });
        let (thread, found) = waiter.join().unwrap();
        assert!(found.contains(&(thread, 1 << (Signal::SIGURG as u64 - 1))), "{found:?}, before {before:?}");
    }

    #[test]
    fn a_signal_that_stays_pending_is_reported_once_and_again_after_it_was_taken() {
        let mut scan = Scan::new();
        let term = vec![(7, 1 << 14)];
        assert_eq!(scan.run(&[2, 15], term.clone()), [15]);
        assert_eq!(scan.run(&[2, 15], term.clone()), Vec::<i32>::new());
        assert!(!scan.is_new(7, 15), "its thread takes what was already reported");
        assert!(scan.is_new(7, 15));
        assert_eq!(scan.run(&[2, 15], term), [15]);
        assert_eq!(scan.run(&[2, 15], vec![]), Vec::<i32>::new());
        assert!(scan.is_new(7, 15));
        assert_eq!(scan.run(&[2, 15], vec![(7, 1 << 8)]), Vec::<i32>::new(), "a signal that is not handled");
    }
}
