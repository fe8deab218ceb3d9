//! The configuration: what the file, or the command line without one, says, checked whole.
//!
//! A [`Config`] that exists is valid: every check that needs no look at the system is done. All
//! errors are found in one pass, each told with its place and with what would be right. Only
//! [`load`] touches the file system; addresses are not bound and names are not resolved here.
//!
//! ```text
//! files -> document (TOML with places) -> drafts -> merge and check -> Config
//! ```

mod address;
mod check;
mod command_line;
mod difference;
mod document;
mod draft;
mod duration;
mod files;
mod health;
mod place;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use difference::Difference;
pub use duration::{parse as parse_duration, render as render_duration};

/// The most upstreams that one proxy takes.
pub const MOST_UPSTREAMS: usize = 64;

/// The file that is read where no other is named.
pub const DEFAULT_FILE: &str = "/etc/drained/drained.toml";

/// The control socket of the packaged unit, where the configuration names no other.
pub const DEFAULT_CONTROL: &str = "/run/drained/control.sock";

/// Reads FILE and conf.d/*.toml beside it, in the order of their names, and checks the whole.
///
/// # Errors
/// Everything that is wrong, a line each: `FILE:LINE:COLUMN: message`, lines and columns counted
/// from 1, columns in characters; `FILE: message` for a file that cannot be read.
pub fn load(file: &Path) -> Result<Config, Errors> {
    draft::build(&files::read(file))
}

/// A checked configuration. The default is the empty one: no proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What concerns the process.
    pub daemon: Daemon,
    /// What outlives the process.
    pub handover: Handover,
    /// In the order of their names.
    pub proxies: Vec<Proxy>,
}

/// `[daemon]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// 1 to 1024. None: one a core.
    pub workers: Option<usize>,
    /// None: $RUNTIME_DIRECTORY/control.sock, and no control socket where that is not set.
    pub control: Option<PathBuf>,
    /// Where metrics and health are told. None: nowhere.
    pub metrics: Option<MetricsAddress>,
}

/// [proxy.NAME].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// 1 to 64 characters of A-Z a-z 0-9 _ and -.
    pub name: String,
    /// At least one; no two of a configuration overlap.
    pub listen: Vec<ListenAddress>,
    /// At least one, each once.
    pub upstream: Vec<UpstreamAddress>,
    /// What its connections speak.
    pub protocol: Protocol,
    /// 1 ms to 24 h.
    pub connect_timeout: Duration,
    /// Up to 24 h. None: no limit.
    pub idle_timeout: Option<Duration>,
    /// None: what the file descriptor limit allows.
    pub max_connections: Option<u32>,
    /// How long a client waits while no upstream takes connections, counted from its accept; up to 24 h.
    pub hold: Duration,
    /// Whether upstreams are told the client's address.
    pub send_proxy: SendProxy,
    /// How its upstreams are looked at, beside the connections of clients. None: they are not.
    pub check: Option<Check>,
    /// How a stop of it goes.
    pub drain: Drain,
}

impl Proxy {
    /// What is left of a proxy that the configuration no longer has: nothing listens, and what the last
    /// incarnation handed over for it is drained as by default.
    pub fn departed(name: &str) -> Proxy {
        Proxy {
            name: name.to_owned(),
            listen: Vec::new(),
            upstream: Vec::new(),
            protocol: Protocol::Tcp,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: None,
            max_connections: None,
            hold: Duration::ZERO,
            send_proxy: SendProxy::Off,
            check: None,
            drain: Drain::default(),
        }
    }
}

/// `[handover]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// What a stop is.
    pub on_restart: OnRestart,
    /// The age from which on connections outlive a crash, up to 24 h. None: they don't.
    pub crash_after: Option<Duration>,
}

impl Default for Handover {
    fn default() -> Self {
        Handover { on_restart: OnRestart::Auto, crash_after: Some(Duration::from_secs(1)) }
    }
}

/// What a stop of the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRestart {
    /// Systemd is asked whether a stop is one for a restart.
    #[default]
    Auto,
    /// Every stop hands over.
    Always,
    /// Every stop drains.
    Never,
}

/// Durations of a drain; `[drain]` gives the defaults, a proxy's own `drain = {}` overrides them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// 0 to 24 h.
    pub lame_duck: Duration,
    /// 1 ms to 24 h.
    pub deadline: Duration,
    /// 1 ms to 24 h.
    pub deadline_on_shutdown: Duration,
    /// 0 to `deadline`.
    pub spread: Duration,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain {
            lame_duck: Duration::ZERO,
            deadline: Duration::from_secs(30),
            deadline_on_shutdown: Duration::from_secs(10),
            spread: Duration::ZERO,
        }
    }
}

/// Where clients connect to. A TCP port of 0 lets the kernel choose one. `[::]` means IPv6 alone:
/// `0.0.0.0:80` and `[::]:80` stand side by side (IPV6_V6ONLY, see ipv6(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:/path` or `unix:@name`.
    Unix(UnixPath),
    /// `systemd:NAME`: a listener passed by a .socket unit with FileDescriptorName=NAME.
    Systemd(String),
}

/// Where the connections of clients go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:/path` or `unix:@name`.
    Unix(UnixPath),
}

/// Where metrics and health are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MetricsAddress {
    /// `IP:PORT`. With a port of 0 the kernel chooses one.
    Tcp(SocketAddr),
    /// `unix:/path` or `unix:@name`.
    Unix(UnixPath),
}

/// How the upstreams of a proxy are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// From one to the next, 100 ms to 24 h.
    pub interval: Duration,
    /// How long one may take, 1 ms to `interval`.
    pub timeout: Duration,
    /// So many good ones in a row and it is up, 1 to 100.
    pub rise: u32,
    /// So many bad ones in a row and it is down, 1 to 100.
    pub fall: u32,
    /// What is asked for once it is connected. None: nothing.
    pub http: Option<HttpCheck>,
}

/// A GET of HTTP, good with an answer of 2xx or 3xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// From the slash on: printable ASCII without blanks.
    pub path: String,
    /// The same. None: the upstream's address.
    pub host: Option<String>,
}

/// `unix:/path`, or `unix:@name` in the abstract namespace, see unix(7). At most 107 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixPath {
    /// Absolute.
    Path(PathBuf),
    /// Without the `@`.
    Abstract(String),
}

/// What the connections of a proxy speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Anything: bytes are not looked at.
    Tcp,
}

/// The PROXY protocol header that an upstream is told the client's address with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// None is sent.
    Off,
    /// As text.
    V1,
    /// As binary.
    V2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
        })
    }
}

/// All that is wrong with a configuration, each a line `FILE:LINE:COLUMN: message`.
#[derive(Debug)]
pub struct Errors(pub Vec<String>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests;
