//! The configuration: what the file, or the command line without one, says, checked whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub daemon: Daemon,
    /// In the order of their names.
    pub proxies: Vec<Proxy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// None: one a core.
    pub workers: Option<usize>,
    /// None: $RUNTIME_DIRECTORY/control.sock, and no control socket where that is not set.
    pub control: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub name: String,
    pub listen: Vec<ListenAddress>,
    pub upstream: Vec<UpstreamAddress>,
    pub protocol: Protocol,
    pub connect_timeout: Duration,
    /// None: no limit.
    pub idle_timeout: Option<Duration>,
    /// None: what the file descriptor limit allows.
    pub max_connections: Option<u32>,
    pub send_proxy: SendProxy,
    pub drain: Drain,
}

/// Durations of a drain; [drain] gives the defaults, a proxy's own `drain = {}` overrides them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    pub lame_duck: Duration,
    pub deadline: Duration,
    pub deadline_on_shutdown: Duration,
    pub spread: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(UnixPath),
    /// `systemd:NAME`: a listener passed by a .socket unit with FileDescriptorName=NAME.
    Systemd(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    Tcp(SocketAddr),
    Unix(UnixPath),
}

/// `unix:/path`, or `unix:@name` in the abstract namespace, see unix(7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixPath {
    Path(PathBuf),
    Abstract(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    Off,
    V1,
    V2,
}

/// All that is wrong with a configuration, each a line `FILE:LINE:COLUMN: message`.
#[derive(Debug)]
pub struct Errors(pub Vec<String>);

/// Reads FILE and conf.d/*.toml beside it, and checks the whole.
pub fn load(_file: &Path) -> Result<Config, Errors> {
    todo!()
}
