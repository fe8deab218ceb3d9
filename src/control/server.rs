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
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use slog::{Logger, debug, error, warn};

use super::Status;
use super::connection::{Connection, Next};
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
    closed: Arc<EventFd>,
    patience: Duration,
    _file: SocketFile,
}

/// A server on a thread of its own.
pub struct Running {
    closed: Arc<EventFd>,
    ended: Receiver<Result<()>>,
}

impl ControlServer {
    /// Listens on `path`, an absolute path of at most 107 bytes, with the permissions `mode`
    /// ([`MODE`] in the daemon). A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind(path: &Path, mode: u32) -> Result<ControlServer> {
        let (listener, file) = socket::listen(path, mode)?;
        let closed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::system("cannot make an eventfd for the control socket", e))?;
        Ok(ControlServer { listener, closed: Arc::new(closed), patience: PATIENCE, _file: file })
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
    pub fn start(self, log: Logger, status: impl Fn() -> Status + Send + 'static) -> Result<Running> {
        let closed = Arc::clone(&self.closed);
        let (tell, ended) = mpsc::channel();
        thread::Builder::new()
            .name("control".to_string())
            .spawn(move || {
                let result = self.run(&log, &status);
                if let Err(error) = &result {
                    error!(log, "drainctl is not answered any more: {error}");
                }
                // The socket's file is gone when the end is told.
                drop(self);
                // Nobody listens where Running was dropped.
                let _ = tell.send(result);
            })
            .map_err(|e| Error::system("cannot start the control thread", e))?;
        Ok(Running { closed, ended })
    }

    fn run(&self, log: &Logger, status: &dyn Fn() -> Status) -> Result<()> {
        let mut clients: Vec<Connection> = Vec::new();
        let mut rests_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            rests_until = rests_until.filter(|until| *until > now);
            let accepting = rests_until.is_none() && clients.len() < MOST_CLIENTS;
            let nearest = clients.iter().map(Connection::deadline).chain(rests_until).min();
            let wait = nearest.map(|at| at.saturating_duration_since(now));
            let at_once = clients.iter().any(Connection::has_request);
            let wait = if at_once { Some(Duration::ZERO) } else { wait };
            let ready = wait_for(&self.closed, accepting.then_some(&self.listener), &clients, wait)?;
            if ready.closed {
                return Ok(());
            }
            let now = Instant::now();
            let mut ready_clients = ready.clients.into_iter();
            clients.retain_mut(|client| {
                let ready = ready_clients.next().unwrap_or(false) || client.has_request();
                let next = if ready { client.work(now, status) } else { Next::Wait };
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
        // Fails only where the counter is full, and then the thread has been told.
        let _ = self.closed.write(1);
        self.ended.recv_timeout(bound).ok()
    }
}

struct Ready {
    closed: bool,
    listener: bool,
    /// In the order of the clients.
    clients: Vec<bool>,
}

fn wait_for(
    closed: &EventFd,
    listener: Option<&UnixListener>,
    clients: &[Connection],
    wait: Option<Duration>,
) -> Result<Ready> {
    let watch = |fd, flags| PollFd::new(fd, flags);
    let mut fds = vec![watch(closed.as_fd(), PollFlags::POLLIN)];
    fds.extend(clients.iter().map(|client| watch(client.as_fd(), client.wants())));
    fds.extend(listener.map(|listener| watch(listener.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout(wait)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(Error::system("cannot wait on the control socket", e)),
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    let (of_clients, of_listener) = fds[1..].split_at(clients.len());
    Ok(Ready {
        closed: ready(&fds[0]),
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
