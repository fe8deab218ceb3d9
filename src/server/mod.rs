//! A thread that serves clients of a small kind, and never waits for one of them.
//!
//! One poll(2) loop over a listener and at most [`MOST_CLIENTS`] clients; others wait in the backlog.
//! What a client is, and what is done for it, is the [`Service`]'s; each has a deadline, and is closed
//! when that passes. Where all places are taken, whoever has asked for nothing makes room for the next one.
//!
//! The thread works through the whole drain and ends when its [`Running`] says so.

mod answer;
mod socket;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
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

use self::socket::SocketFile;
use crate::sys::socket::{self as sys_socket, Address, Peer};
use crate::{Error, Result};

pub use answer::Answer;

/// Clients that are served at the same time.
pub const MOST_CLIENTS: usize = 64;

/// How long a client may take for its whole request, and then for taking the whole answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long accepting rests when the system has no room.
const REST: Duration = Duration::from_secs(1);

/// What is served.
pub trait Service: Send + 'static {
    /// Who is served.
    type Client: Client;

    /// Takes in who has connected.
    fn welcome(&self, stream: OwnedFd, turn: &Turn<'_>) -> Self::Client;

    /// Does for a client what can be done without blocking.
    fn work(&self, client: &mut Self::Client, turn: &Turn<'_>) -> Next;
}

/// One who is served.
pub trait Client: AsFd {
    /// When it is closed, whatever it does.
    fn deadline(&self) -> Instant;

    /// For what of its socket there is work.
    fn wants(&self) -> PollFlags;

    /// True if there is work of which nothing on the socket tells.
    fn has_work(&mut self) -> bool;

    /// True while nothing is done for it, since it has not sent the whole of a request.
    fn asks_nothing(&self) -> bool;
}

/// What a service needs to work for a client.
pub struct Turn<'a> {
    /// The time.
    pub now: Instant,
    /// How long a client may take for each part of what it does.
    pub patience: Duration,
    /// Has the thread look up when there is more.
    pub wake: &'a Wake,
}

impl Turn<'_> {
    /// When the patience with who begins something now has ended.
    pub fn deadline(&self) -> Instant {
        self.now + self.patience
    }
}

/// What becomes of a client after it was worked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has more to say, or to take.
    Wait,
    /// It is done with.
    Close,
}

impl From<io::Result<Next>> for Next {
    /// A socket that is not ready is waited for; any other error ends the client.
    fn from(done: io::Result<Next>) -> Next {
        match done {
            Ok(next) => next,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Next::Wait,
            Err(_) => Next::Close,
        }
    }
}

/// A listener with what a thread needs to serve it. The file of a UNIX socket goes away with it.
pub struct Server {
    /// The name of the thread, and of the setting of [daemon] that the address comes from.
    name: &'static str,
    listener: OwnedFd,
    patience: Duration,
    wake: Wake,
    _file: Option<SocketFile>,
}

/// A server on a thread of its own.
pub struct Running {
    wake: Wake,
    ended: Receiver<Result<()>>,
}

/// Has the thread look up: an answer is there, or it is to end.
#[derive(Clone)]
pub struct Wake {
    event: Arc<EventFd>,
    closed: Arc<AtomicBool>,
}

impl Wake {
    fn new(name: &str) -> Result<Wake> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::system(format!("cannot make an eventfd for the {name} socket"), e))?;
        Ok(Wake { event: Arc::new(event), closed: Arc::default() })
    }

    /// Does so.
    pub fn tell(&self) {
        // Fails only where the counter is full, and then the thread has been told.
        let _ = self.event.write(1);
    }
}

impl Server {
    /// Listens on a UNIX socket at `path`, absolute and of at most 107 bytes, with the permissions `mode`.
    /// A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind_path(name: &'static str, path: &Path, mode: u32) -> Result<Server> {
        let (listener, file) = socket::listen(name, path, mode)?;
        Ok(Server { name, listener, patience: PATIENCE, wake: Wake::new(name)?, _file: Some(file) })
    }

    /// Listens on an address that has no file.
    ///
    /// # Errors
    /// Where the address is in use, or the system refuses: exit 71.
    pub fn bind(name: &'static str, address: &Address, shown: &str) -> Result<Server> {
        let listener = sys_socket::listen_on(address).map_err(|e| {
            let hint = sys_socket::hint(e);
            Error::system(format!("cannot listen on the {name} address {shown}{hint}"), e)
        })?;
        Ok(Server { name, listener, patience: PATIENCE, wake: Wake::new(name)?, _file: None })
    }

    /// Another patience than [`PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> Server {
        self.patience = patience;
        self
    }

    /// The address that it is bound to, as the configuration writes it.
    pub fn address(&self) -> String {
        sys_socket::local_name(self.listener.as_fd())
    }

    /// Serves on a thread of its own until [`Running::close`]: it is no worker that the stop joins
    /// in the phase Drain, since a draining daemon wants to be asked how far it is.
    ///
    /// # Errors
    /// Where the system refuses a thread: exit 71.
    pub fn start(self, log: Logger, service: impl Service) -> Result<Running> {
        let (wake, name) = (self.wake.clone(), self.name);
        let (tell, ended) = mpsc::channel();
        thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                let result = self.run(&log, &service);
                if let Err(error) = &result {
                    error!(log, "nobody is answered on the {name} socket any more: {error}");
                }
                // The socket's file is gone when the end is told.
                drop(self);
                // Nobody listens where Running was dropped.
                let _ = tell.send(result);
            })
            .map_err(|e| Error::system(format!("cannot start the {name} thread"), e))?;
        Ok(Running { wake, ended })
    }

    fn run<S: Service>(&self, log: &Logger, service: &S) -> Result<()> {
        let mut clients: Vec<S::Client> = Vec::new();
        let mut rests_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            rests_until = rests_until.filter(|until| *until > now);
            let has_room = clients.len() < MOST_CLIENTS || clients.iter().any(Client::asks_nothing);
            let accepting = rests_until.is_none() && has_room;
            let nearest = clients.iter().map(Client::deadline).chain(rests_until).min();
            let wait = nearest.map(|at| at.saturating_duration_since(now));
            let at_once = clients.iter_mut().any(Client::has_work);
            let wait = if at_once { Some(Duration::ZERO) } else { wait };
            let ready = self.wait_for(accepting, &clients, wait)?;
            if ready.woken {
                // Empties the counter; EAGAIN says that it was empty.
                let _ = self.wake.event.read();
            }
            if self.wake.closed.load(SeqCst) {
                return Ok(());
            }
            let turn = Turn { now: Instant::now(), patience: self.patience, wake: &self.wake };
            let mut ready_clients = ready.clients.into_iter();
            clients.retain_mut(|client| {
                let ready = ready_clients.next().unwrap_or(false) || client.has_work();
                let next = if ready { service.work(client, &turn) } else { Next::Wait };
                next == Next::Wait && client.deadline() > turn.now
            });
            if ready.listener {
                rests_until = self.accept(&mut clients, service, &turn, log);
            }
        }
    }

    /// Takes in who waits, while there is room, but never more than there are places: those who were there
    /// get their turn. Returns until when to rest where the system has no room.
    fn accept<S: Service>(
        &self,
        clients: &mut Vec<S::Client>,
        service: &S,
        turn: &Turn<'_>,
        log: &Logger,
    ) -> Option<Instant> {
        for _ in 0..MOST_CLIENTS {
            if clients.len() >= MOST_CLIENTS {
                // Nobody goes where nobody comes.
                if !self.somebody_waits() {
                    return None;
                }
                if !make_room(clients, service, turn) {
                    break;
                }
            }
            let accepted: Result<(OwnedFd, Peer), Errno> = sys_socket::accept(self.listener.as_fd());
            match accepted {
                Ok((stream, _)) => clients.push(service.welcome(stream, turn)),
                Err(Errno::EAGAIN) => return None,
                Err(e) => {
                    warn!(log, "the {} socket takes in nobody for a second: {}", self.name, e.desc());
                    return Some(turn.now + REST);
                }
            }
        }
        debug!(log, "the {} socket has {} clients, others wait", self.name, clients.len());
        None
    }

    fn somebody_waits(&self) -> bool {
        let mut listener = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut listener, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn wait_for(&self, accepting: bool, clients: &[impl Client], wait: Option<Duration>) -> Result<Ready> {
        let watch = |fd, flags| PollFd::new(fd, flags);
        let mut fds = vec![watch(self.wake.event.as_fd(), PollFlags::POLLIN)];
        fds.extend(clients.iter().map(|client| watch(client.as_fd(), client.wants())));
        fds.extend(accepting.then(|| watch(self.listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::system(format!("cannot wait on the {} socket", self.name), e)),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let (of_clients, of_listener) = fds[1..].split_at(clients.len());
        Ok(Ready {
            woken: ready(&fds[0]),
            listener: of_listener.first().is_some_and(ready),
            clients: of_clients.iter().map(ready).collect(),
        })
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

/// Has a place free: lets go who has asked for nothing for longest, if that is so when its socket is looked at
/// once more, for a request may have come meanwhile. False if nobody is to go.
fn make_room<S: Service>(clients: &mut Vec<S::Client>, service: &S, turn: &Turn<'_>) -> bool {
    while clients.len() >= MOST_CLIENTS {
        let idle = clients.iter().enumerate().filter(|(_, client)| client.asks_nothing());
        let Some((longest, _)) = idle.min_by_key(|(_, client)| client.deadline()) else { return false };
        let client = &mut clients[longest];
        let since = client.deadline();
        let next = service.work(client, turn);
        if next == Next::Close || client.asks_nothing() && client.deadline() == since {
            clients.remove(longest);
        }
    }
    true
}

struct Ready {
    woken: bool,
    listener: bool,
    /// In the order of the clients.
    clients: Vec<bool>,
}

/// Rounded up, so that a deadline has passed when the wait for it ends.
fn timeout(wait: Option<Duration>) -> PollTimeout {
    let Some(wait) = wait else { return PollTimeout::NONE };
    let ms = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
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
