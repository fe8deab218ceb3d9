//! The HTTP endpoint: a thread that answers whoever scrapes metrics or asks for health.
//!
//! GET and HEAD, one request a connection, nothing that a client sends is kept. It knows nothing of
//! what it tells: it is given a [`Site`] that has the pages.

mod connection;
mod request;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use slog::Logger;

use self::connection::Connection;
use crate::Result;
use crate::server::{Next, Server, Service, Turn};
use crate::sys::socket::Address;

pub use crate::server::{MOST_CLIENTS, PATIENCE, Running};
pub use request::LONGEST_REQUEST;

/// Who may use a UNIX socket: everybody who may enter its directory, as with a port.
const MODE: u32 = 0o666;

/// The name of the thread, and of the setting that the address comes from.
const NAME: &str = "metrics";

/// The pages that there are.
pub trait Site: Send + 'static {
    /// The page at `path`, which begins with a slash and has no query; None where there is none. It is
    /// called on the thread that serves everybody: so it never waits.
    fn page(&self, path: &str) -> Option<Page>;
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 200, or what else there is to say.
    pub status: Status,
    /// As the header Content-Type has it.
    pub content_type: &'static str,
    /// The whole.
    pub body: String,
}

/// The statuses that are used, see RFC 9110, section 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200.
    Ok,
    /// 400.
    BadRequest,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 431.
    TooLarge,
    /// 503.
    Unavailable,
}

/// The bound endpoint.
pub struct HttpServer(Server);

impl HttpServer {
    /// Listens on an address that has no file; `shown` is what the configuration calls it.
    ///
    /// # Errors
    /// Where the address is in use, or the system refuses: exit 71.
    pub fn bind(address: &Address, shown: &str) -> Result<HttpServer> {
        Server::bind(NAME, address, shown).map(HttpServer)
    }

    /// Listens on a UNIX socket at `path`, absolute and of at most 107 bytes.
    ///
    /// # Errors
    /// Where another daemon answers there, or the system refuses: exit 71.
    pub fn bind_path(path: &Path) -> Result<HttpServer> {
        Server::bind_path(NAME, path, MODE).map(HttpServer)
    }

    /// Another patience than [`PATIENCE`].
    pub fn patience(self, patience: Duration) -> HttpServer {
        HttpServer(self.0.patience(patience))
    }

    /// The address that it is bound to, as the configuration writes it.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// Serves on a thread of its own until [`Running::close`].
    ///
    /// # Errors
    /// Where the system refuses a thread: exit 71.
    pub fn start(self, log: Logger, site: impl Site) -> Result<Running> {
        self.0.start(log, Http(site))
    }
}

impl Page {
    /// A line of text.
    pub fn text(status: Status, line: &str) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n") }
    }
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

struct Http<S>(S);

impl<S: Site> Service for Http<S> {
    type Client = Connection;

    fn welcome(&self, stream: OwnedFd, turn: &Turn<'_>) -> Connection {
        Connection::new(stream, turn)
    }

    fn work(&self, client: &mut Connection, turn: &Turn<'_>) -> Next {
        client.work(&self.0, turn)
    }
}
