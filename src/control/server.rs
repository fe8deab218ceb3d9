//! The control thread: answers drainctl, and never waits for it.
//!
//! One poll(2) loop over the listener and at most [`MOST_CLIENTS`] clients; others wait in the
//! backlog. A client that says nothing, or takes nothing, is closed after a while; what it sends
//! is bounded by [`LONGEST_REQUEST`], and it is answered one request at a time.
//!
//! The thread works through the whole drain and ends when its [`Running`] says so.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use slog::{Logger, debug, error, warn};

use super::connection::{Connection, Next};
use super::operator::Operator;
use super::socket::{self, SocketFile};
use crate::{Error, Result};

#[cfg(doc)]
use super::protocol::LONGEST_REQUEST;

/// Clients that are served at the same time.
pub const MOST_CLIENTS: usize = 64;

/// How long a client may be silent, and how long it may take to receive an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who may use the socket: the daemon's user and group.
pub const MODE: u32 = 0o660;

/// How long accepting rests when the system has no room.
const REST: Duration = Duration::from_secs(1);

/// The bound control socket. Its file goes away with it.
pub struct ControlServer {
    listener: UnixListener,
    wake: Wake,
    patience: Duration,
    _file: SocketFile,
}

/// A server on a thread of its own.
pub struct Running {
    wake: Wake,
    ended: Receiver<Result<()>>,
}

/// Has the thread look up: an answer is there, or it is to end.
#[derive(Clone)]
pub(super) struct Wake {
    event: Arc<EventFd>,
    closed: Arc<AtomicBool>,
}

impl Wake {
    fn new() -> Result<Wake> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::system("cannot make an eventfd for the control socket", e))?;
        Ok(Wake { event: Arc::new(event), closed: Arc::default() })
    }

    pub(super) fn tell(&self) {
        // Fails only where the counter is full, and then the thread has been told.
        let _ = self.event.write(1);
    }
}

impl ControlServer {
    /// Listens on `path`, an absolute path of at most 107 bytes, with the permissions `mode`
    /// ([`MODE`] in the daemon). A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind(path: &Path, mode: u32) -> Result<ControlServer> {
        let (listener, file) = socket::listen(path, mode)?;
        Ok(ControlServer { listener, wake: Wake::new()?, patience: PATIENCE, _file: file })
    }

    /// Another patience than [`PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> ControlServer {
        self.patience = patience;
        self
    }

    /// Serves on a thread of its own until [`Running::close`]: it is no worker that the stop joins
    /// in the phase Drain, since a draining daemon wants to be asked how far it is.
    ///
    /// # Errors
    /// Where the system refuses a thread: exit 71.
    pub fn start(self, log: Logger, operator: impl Operator) -> Result<Running> {
        let wake = self.wake.clone();
        let (tell, ended) = mpsc::channel();
        thread::Builder::new()
            .name("control".to_string())
            .spawn(move || {
                let result = self.run(&log, &operator);
                if let Err(error) = &result {
                    error!(log, "drainctl is not answered any more: {error}");
                }
                // The socket's file is gone when the end is told.
                drop(self);
                // Nobody listens where Running was dropped.
                let _ = tell.send(result);
            })
            .map_err(|e| Error::system("cannot start the control thread", e))?;
        Ok(Running { wake, ended })
    }

    fn run(&self, log: &Logger, operator: &dyn Operator) -> Result<()> {
        let mut clients: Vec<Connection> = Vec::new();
        let mut rests_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            rests_until = rests_until.filter(|until| *until > now);
            let accepting = rests_until.is_none() && clients.len() < MOST_CLIENTS;
            let nearest = clients.iter().map(Connection::deadline).chain(rests_until).min();
            let wait = nearest.map(|at| at.saturating_duration_since(now));
            let at_once = clients.iter_mut().any(Connection::has_work);
            let wait = if at_once { Some(Duration::ZERO) } else { wait };
            let ready = wait_for(&self.wake.event, accepting.then_some(&self.listener), &clients, wait)?;
            if ready.woken {
                // Empties the counter; EAGAIN says that it was empty.
                let _ = self.wake.event.read();
            }
            if self.wake.closed.load(SeqCst) {
                return Ok(());
            }
            let now = Instant::now();
            let mut ready_clients = ready.clients.into_iter();
            clients.retain_mut(|client| {
                let ready = ready_clients.next().unwrap_or(false) || client.has_work();
                let next = if ready { client.work(now, operator, &self.wake) } else { Next::Wait };
                next == Next::Wait && client.deadline() > now
            });
            if ready.listener {
                rests_until = self.accept(&mut clients, now, log);
            }
        }
    }

    /// Takes in who waits, while there is room. Returns until when to rest where the system has none.
    fn accept(&self, clients: &mut Vec<Connection>, now: Instant, log: &Logger) -> Option<Instant> {
        while clients.len() < MOST_CLIENTS {
            let accepted = self.listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            match accepted {
                Ok(stream) => clients.push(Connection::new(stream, self.patience, now)),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(e) if e.raw_os_error() == Some(Errno::ECONNABORTED as i32) => {}
                Err(e) => {
                    warn!(log, "the control socket takes in nobody for a second: {}", e);
                    return Some(now + REST);
                }
            }
        }
        debug!(log, "the control socket has {} clients, others wait", clients.len());
        None
    }
}

impl Running {
    /// Ends the thread, whatever its clients do, and waits for it, at most `bound`. None if it is
    /// left behind.
    pub fn close(self, bound: Duration) -> Option<Result<()>> {
        self.wake.closed.store(true, SeqCst);
        self.wake.tell();
        self.ended.recv_timeout(bound).ok()
    }
}

struct Ready {
    woken: bool,
    listener: bool,
    /// In the order of the clients.
    clients: Vec<bool>,
}

fn wait_for(
    wake: &EventFd,
    listener: Option<&UnixListener>,
    clients: &[Connection],
    wait: Option<Duration>,
) -> Result<Ready> {
    let watch = |fd, flags| PollFd::new(fd, flags);
    let mut fds = vec![watch(wake.as_fd(), PollFlags::POLLIN)];
    fds.extend(clients.iter().map(|client| watch(client.as_fd(), client.wants())));
    fds.extend(listener.map(|listener| watch(listener.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout(wait)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(Error::system("cannot wait on the control socket", e)),
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    let (of_clients, of_listener) = fds[1..].split_at(clients.len());
    Ok(Ready {
        woken: ready(&fds[0]),
        listener: of_listener.first().is_some_and(ready),
        clients: of_clients.iter().map(ready).collect(),
    })
}

/// Rounded up, so that a deadline has passed when the wait for it ends.
fn timeout(wait: Option<Duration>) -> PollTimeout {
    let Some(wait) = wait else { return PollTimeout::NONE };
    let ms = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up() {
        for (wait, ms) in [
            (Duration::ZERO, Some(0)),
            (Duration::from_micros(1), Some(1)),
            (Duration::MAX, Some(u32::MAX / 2)),
        ] {
            assert_eq!(timeout(Some(wait)).as_millis(), ms, "{wait:?}");
        }
        assert_eq!(timeout(None), PollTimeout::NONE);
    }
}
