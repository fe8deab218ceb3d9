//! The control thread: answers drainctl, and never waits for it.
//!
//! A client that says nothing, or takes nothing, is closed after a while; what it sends is bounded by
//! [`LONGEST_REQUEST`], and it is answered one request at a time.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use slog::Logger;

use super::connection::Connection;
use super::operator::Operator;
use crate::Result;
use crate::server::{Next, Server, Service, Wake};

pub use crate::server::{MOST_CLIENTS, Running};

#[cfg(doc)]
use super::protocol::LONGEST_REQUEST;

/// How long a client may be silent, and how long it may take to receive an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who may use the socket: the daemon's user and group.
pub const MODE: u32 = 0o660;

/// The bound control socket. Its file goes away with it.
pub struct ControlServer {
    server: Server,
    patience: Duration,
}

impl ControlServer {
    /// Listens on `path`, an absolute path of at most 107 bytes, with the permissions `mode`
    /// ([`MODE`] in the daemon). A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind(path: &Path, mode: u32) -> Result<ControlServer> {
        Ok(ControlServer { server: Server::bind_path("control", path, mode)?, patience: PATIENCE })
    }

    /// Another patience than [`PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> ControlServer {
        self.patience = patience;
        self
    }

    /// Serves on a thread of its own until [`Running::close`].
    ///
    /// # Errors
    /// Where the system refuses a thread: exit 71.
    pub fn start(self, log: Logger, operator: impl Operator) -> Result<Running> {
        self.server.start(log, Control { operator, patience: self.patience })
    }
}

struct Control<O> {
    operator: O,
    patience: Duration,
}

impl<O: Operator> Service for Control<O> {
    type Client = Connection;

    fn welcome(&self, stream: OwnedFd, now: Instant) -> Connection {
        Connection::new(UnixStream::from(stream), self.patience, now)
    }

    fn work(&self, client: &mut Connection, now: Instant, wake: &Wake) -> Next {
        client.work(now, &self.operator, wake)
    }
}
