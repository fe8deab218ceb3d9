//! What systemd is told: the whole of sd_notify(3), and nobody waits for it.
//!
//! A call on a [`Notifier`] sends its message to `$NOTIFY_SOCKET` if the socket takes it; otherwise the message waits in
//! a queue, and a thread of its own sends it as soon as it can be sent. So nobody ever waits for PID 1
//! ([`Notifier::barrier`] and [`Notifier::flush`] say that they wait, and how long), and what was said before a SIGKILL
//! arrives all the same. Messages arrive in the order of the calls; STATUS= is the exception, of it only the latest
//! counts. Without `$NOTIFY_SOCKET` every call does nothing.
//!
//! The environment is left as it is, since taking a variable out of it is unsound once there are
//! threads. Every file descriptor here is close-on-exec; a daemon that starts children takes
//! NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of their environment with `Command::env_remove`.

mod message;
mod outbox;
mod queue;
mod socket;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use sd_notify::NotifyState;
use slog::Logger;

use crate::{Error, Exit, Result};
use message::Message;
pub use outbox::Tick;
use outbox::{Outbox, Repeat};
use queue::Queue;
use socket::Socket;

/// File descriptors in one message, at most: the kernel's SCM_MAX_FD, see unix(7).
const MAX_FDS: usize = 253;

/// A handle on the way to the service manager. Cheap to clone; no call blocks unless it says so.
#[derive(Clone)]
pub struct Notifier {
    /// None without `$NOTIFY_SOCKET`.
    outbox: Option<Arc<Outbox>>,
}

impl Notifier {
    /// A notifier for `$NOTIFY_SOCKET`. What is said before [`start`](Self::start) waits for it.
    pub fn from_env(log: Logger) -> Notifier {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(address) if !address.is_empty() => Notifier::to(Socket::open(&address), log),
            _ => Notifier { outbox: None },
        }
    }

    fn to(socket: Socket, log: Logger) -> Notifier {
        Notifier { outbox: Some(Arc::new(Outbox::new(socket, log))) }
    }

    /// Sends what was said before, and starts the notify thread, once. An error says that the system refused a thread.
    pub fn start(&self) -> Result<()> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        if !outbox.open() {
            return Ok(());
        }
        let thread = outbox.clone();
        std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || thread.serve())
            .map(drop)
            .map_err(|e| Error::system("start the thread notify", e))
    }

    /// True if there is a service manager to talk to.
    pub fn is_connected(&self) -> bool {
        self.outbox.is_some()
    }

    /// READY=1.
    pub fn ready(&self) {
        self.push(&[NotifyState::Ready]);
    }

    /// RELOADING=1 with MONOTONIC_USEC= in one message, as Type=notify-reload asks. A [`ready`](Self::ready)
    /// follows when the reload is over.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.push(&[NotifyState::Reloading, now]),
            Err(_) => self.push(&[NotifyState::Reloading]),
        }
    }

    /// STOPPING=1 with the first EXTEND_TIMEOUT_USEC= and a STATUS= in one message: by itself
    /// STOPPING=1 would start the clock of TimeoutStopSec=.
    pub fn stopping(&self, extend: Duration, status: &str) {
        let status = message::one_line(status);
        let text = message::text(&[NotifyState::Stopping, extend_by(extend), NotifyState::Status(&status)]);
        self.say(|queue| {
            queue.status_is(status);
            queue.push(Message::new(text));
        });
    }

    /// STATUS=, sent when the text changes, at most 5 a second, the last one always. Control
    /// characters become spaces.
    pub fn status(&self, text: impl Into<String>) {
        self.say(|queue| queue.set_status(message::one_line(&text.into())));
    }

    /// WATCHDOG=1, now. One that still waits in the queue is not doubled.
    pub fn watchdog(&self) {
        self.say(|queue| queue.push_unless_waiting(watchdog()));
    }

    /// EXTEND_TIMEOUT_USEC=: the service manager waits at least `time` from now on, at most 4294 s.
    pub fn extend_timeout(&self, time: Duration) {
        self.say(|queue| queue.push_unless_waiting(extension(time)));
    }

    /// ERRNO=: the error number that the daemon fails with, see errno(3).
    pub fn errno(&self, errno: i32) {
        self.push(&[NotifyState::Errno(errno.unsigned_abs())]);
    }

    /// Puts duplicates of `fds` into the unit's file descriptor store under `name`, without having
    /// systemd watch them (FDPOLL=0). More than 253 go in several messages.
    ///
    /// An error says that `name` isn't one for FDNAME= (1 to 255 ASCII characters, no control
    /// character, no `:`) or that a file descriptor could not be duplicated.
    pub fn fdstore(&self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.store(name, fds, None)
    }

    /// Has the store keep duplicates of `fds` under `name`, and nothing else of that name. The removal of what was
    /// there and the first 253 leave in one system call, so that no end of this process comes between where the
    /// socket has room for both. For errors see [`fdstore`](Self::fdstore).
    pub fn fdstore_only(&self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match fds {
            [] => self.fdstore_remove(name),
            fds => self.store(name, fds, Some(removal(name))),
        }
    }

    fn store(&self, name: &str, fds: &[BorrowedFd<'_>], mut before: Option<String>) -> Result<()> {
        check_fd_name(name)?;
        let Some(outbox) = &self.outbox else { return Ok(()) };
        for chunk in fds.chunks(MAX_FDS) {
            let copies: std::io::Result<Vec<OwnedFd>> =
                chunk.iter().map(BorrowedFd::try_clone_to_owned).collect();
            let copies = copies.map_err(|e| {
                Error::system(format!("duplicate a file descriptor for the store as {name}"), e)
            })?;
            let message = Message::new(format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n")).with_fds(copies);
            let message = match before.take() {
                Some(before) => message.behind(before),
                None => message,
            };
            outbox.say(|queue| queue.push(message));
        }
        Ok(())
    }

    /// Takes every file descriptor of that name out of the store. For errors see [`fdstore`](Self::fdstore).
    pub fn fdstore_remove(&self, name: &str) -> Result<()> {
        check_fd_name(name)?;
        self.say(|queue| queue.push(Message::new(removal(name))));
        Ok(())
    }

    /// Waits until the service manager has processed all that was said before, at most `timeout`
    /// (BARRIER=1, see sd_notify_barrier(3)). Nothing to wait for without a service manager.
    pub fn barrier(&self, timeout: Duration) -> Result<()> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let until = Instant::now() + timeout;
        let (end, passed) = std::io::pipe().map_err(|e| Error::system("make a pipe for BARRIER=1", e))?;
        let (message, lost) = Message::new("BARRIER=1\n".into()).with_fds(vec![passed.into()]).watched();
        outbox.say(|queue| queue.push(message));
        wait_for_hangup(end, until)?;
        if lost.load(Ordering::SeqCst) {
            return Err(Error::new(
                Exit::Unavailable,
                "wait for the service manager: the notify socket is not usable",
            ));
        }
        Ok(())
    }

    /// Waits until all that was said so far has left for the service manager, at most `bound`. True
    /// if it has.
    pub fn flush(&self, bound: Duration) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.flush(bound))
    }

    /// Has the notify thread ask `tick` each `every` what to send. For signs of life: they cease
    /// when the process is stopped or `tick` says so, and one that waits isn't doubled.
    pub fn repeat(&self, every: Duration, tick: impl FnMut() -> Tick + Send + 'static) {
        if let Some(outbox) = &self.outbox {
            outbox.add_repeat(Repeat { every, next: Instant::now() + every, tick: Box::new(tick) });
        }
    }

    fn push(&self, states: &[NotifyState<'_>]) {
        self.say(|queue| queue.push(Message::new(message::text(states))));
    }

    fn say(&self, put: impl FnOnce(&mut Queue)) {
        if let Some(outbox) = &self.outbox {
            outbox.say(put);
        }
    }
}

/// The interval within which the service manager wants a WATCHDOG=1 of this process: WATCHDOG_USEC,
/// where WATCHDOG_PID, if set, is this process. See sd_watchdog_enabled(3).
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn watchdog() -> String {
    message::text(&[NotifyState::Watchdog])
}

fn extension(time: Duration) -> String {
    message::text(&[extend_by(time)])
}

fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}\n")
}

fn extend_by(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

fn check_fd_name(name: &str) -> Result<()> {
    let fits = (1..=255).contains(&name.len());
    if fits && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b':') {
        return Ok(());
    }
    Err(Error::new(Exit::Software, format!("{name:?} is not a name for the file descriptor store")))
}

/// Waits until the last duplicate of the pipe's other end is closed.
fn wait_for_hangup(mut end: std::io::PipeReader, until: Instant) -> Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        match nix::poll::ppoll(&mut fds, Some(left.into()), None) {
            Ok(0) if left.is_zero() => {
                return Err(Error::new(Exit::Unavailable, "wait for the service manager: it took too long"));
            }
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) if matches!(end.read(&mut [0]), Ok(0)) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(Error::system("wait for the service manager", e)),
        }
    }
}

#[cfg(test)]
mod tests;
