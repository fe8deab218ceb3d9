//! The control thread: answers drainctl, and never waits for it.
//!
//! A client that says nothing, or takes nothing, is closed after a while; what it sends is bounded by
//! [`LONGEST_REQUEST`], and it is answered one request at a time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use slog::Logger;

use super::connection::Connection;
use super::operator::Operator;
use crate::Result;
use crate::server::{Next, Server, Service, Turn};

pub use crate::server::{MOST_CLIENTS, PATIENCE, Running};

#[cfg(doc)]
use super::protocol::LONGEST_REQUEST;

/// Who may use the socket: the daemon's user and group.
pub const MODE: u32 = 0o660;

/// The bound control socket. Its file goes away with it.
pub struct ControlServer(Server);

impl ControlServer {
    /// Listens on `path`, an absolute path of at most 107 bytes, with the permissions `mode`
    /// ([`MODE`] in the daemon). A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind(path: &Path, mode: u32) -> Result<ControlServer> {
        Server::bind_path("control", path, mode).map(ControlServer)
    }

    /// Another patience than [`PATIENCE`].
    pub fn patience(self, patience: Duration) -> ControlServer {
        ControlServer(self.0.patience(patience))
    }

    /// Serves on a thread of its own until [`Running::close`].
    ///
    /// # Errors
    /// Where the system refuses a thread: exit 71.
    pub fn start(self, log: Logger, operator: impl Operator) -> Result<Running> {
        self.0.start(log, Control(operator))
    }
}

struct Control<O>(O);

impl<O: Operator> Service for Control<O> {
    type Client = Connection;

    fn welcome(&self, stream: OwnedFd, turn: &Turn<'_>) -> Connection {
        Connection::new(stream.into(), turn)
    }

    fn work(&self, client: &mut Connection, turn: &Turn<'_>) -> Next {
        client.work(&self.0, turn)
    }
}
