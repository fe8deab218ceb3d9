//! Listeners: bound here or passed by systemd, shared by all workers.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use crate::config::{self, ListenAddress, UnixPath, UpstreamAddress};
use crate::sys::ends;
use crate::sys::socket::{self, Address};
use crate::systemd::listen_fds::PassedFd;
use crate::{Error, Exit, Result};

/// A listening socket. Dropping the last reference closes it and removes the socket file that
/// `open` made.
pub struct Listener {
    fd: OwnedFd,
    /// The address that it is bound to.
    pub name: String,
    /// As the configuration has it.
    pub(super) address: ListenAddress,
    /// It belongs to a .socket unit: systemd keeps it open and its backlog waits for the next start.
    pub passed: bool,
    /// In its backlog may be clients from before it had our options, which they lack.
    pub(super) has_early_clients: AtomicBool,
    file: Option<SocketFile>,
    keep_file: AtomicBool,
    /// Fields are dropped in their order: when this one is, the socket is closed and its file removed.
    open: Arc<()>,
}

/// Knows when a listener is closed. Not by the count of its references: that is 0 before the last one has closed it.
pub(super) struct Closed(Weak<()>);

impl Closed {
    /// Its socket is closed here and its file removed.
    pub(super) fn is_so(&self) -> bool {
        self.0.strong_count() == 0
    }
}

struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    fn new(address: ListenAddress, fd: OwnedFd, passed: bool, file: Option<SocketFile>) -> Listener {
        let name = socket::local_name(fd.as_fd());
        let (has_early_clients, keep_file) = (AtomicBool::new(passed), AtomicBool::new(false));
        Listener { fd, name, address, passed, has_early_clients, file, keep_file, open: Arc::new(()) }
    }

    /// What knows when this one is closed, and doesn't keep it open.
    pub(super) fn closed(&self) -> Closed {
        Closed(Arc::downgrade(&self.open))
    }

    /// Clients that connect to the address come here. A socket whose file is gone, or is another's, is found by
    /// nobody.
    pub(super) fn is_reachable(&self) -> bool {
        self.file.as_ref().is_none_or(|file| identity(&file.path) == Some(file.identity))
    }
}

impl Listener {
    /// It is ours to close from here on, with its socket file.
    pub fn own_file(&self) {
        self.keep_file.store(false, Relaxed);
    }

    /// The next incarnation takes it over: its socket file stays.
    pub fn keep_file(&self) {
        self.keep_file.store(true, Relaxed);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && !self.keep_file.load(Relaxed)
            && identity(&file.path) == Some(file.identity)
        {
            // Left in place it does no harm: the next start finds nobody behind it and replaces it.
            let _ = fs::remove_file(&file.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Opens the listeners of one address: takes it out of what the last incarnation `left`, or those of
/// its name out of `passed`, or binds it.
///
/// # Errors
/// Exit 71: the system refused, the message names the address. Exit 78: no such name was passed, or
/// what was passed is no listening stream socket.
pub fn open(
    proxy: &str,
    address: &ListenAddress,
    passed: &mut Vec<PassedFd>,
    left: &mut Left,
) -> Result<Vec<Listener>> {
    if let Some(index) = left.listeners.iter().position(|fd| left.is_meant(fd, address)) {
        return reopen(proxy, left.listeners.swap_remove(index), address).map(|listener| vec![listener]);
    }
    match address {
        ListenAddress::Tcp(tcp) => {
            let listen = || socket::listen_on(&Address::Tcp(*tcp));
            let fd = match listen() {
                Err(Errno::EADDRINUSE) if left.make_way(tcp.port()) => listen(),
                result => result,
            };
            let fd = fd.map_err(|e| refused(proxy, &tcp.to_string(), e))?;
            Ok(vec![Listener::new(address.clone(), fd, false, None)])
        }
        ListenAddress::Unix(unix) => Ok(vec![open_unix(proxy, unix)?]),
        ListenAddress::Systemd(name) => take_passed(proxy, name, passed),
    }
}

/// The listeners of the last incarnation, and the addresses that the configuration names with a port.
pub struct Left {
    /// Those that are not taken yet.
    pub listeners: Vec<OwnedFd>,
    named: Vec<SocketAddr>,
}

impl Left {
    /// What is left for `proxies` to take.
    pub fn new(listeners: Vec<OwnedFd>, proxies: &[config::Proxy]) -> Left {
        let all = proxies.iter().flat_map(|proxy| &proxy.listen);
        let named = all.filter_map(|address| match address {
            ListenAddress::Tcp(tcp) if tcp.port() != 0 => Some(*tcp),
            _ => None,
        });
        Left { listeners, named: named.collect() }
    }

    /// Whether a listener is the one that the configuration means. Port 0 is any that no other names.
    fn is_meant(&self, fd: &OwnedFd, address: &ListenAddress) -> bool {
        let is_any = |a: &SocketAddr| !self.named.contains(a);
        match address {
            _ if !socket::is_listening_stream(fd.as_fd()) => false,
            ListenAddress::Tcp(wanted) => socket::local_address(fd.as_fd())
                .is_some_and(|a| a == *wanted || (wanted.port() == 0 && a.ip() == wanted.ip() && is_any(&a))),
            // Without its file nobody finds it, and no file can be made for it.
            ListenAddress::Unix(UnixPath::Path(path)) if identity(path).is_none() => false,
            ListenAddress::Unix(unix) => socket::local_name(fd.as_fd()) == unix.to_string(),
            ListenAddress::Systemd(_) => false,
        }
    }
}

impl Left {
    /// Has those of a port listen no more that nobody wants: one of 0.0.0.0:80 would keep 192.0.2.10:80 from
    /// being bound, for the store has it open. True if there were such.
    fn make_way(&self, port: u16) -> bool {
        let is_in_the_way = |fd: &&OwnedFd| {
            let address = socket::local_address(fd.as_fd());
            let unwanted = address.is_some_and(|a| a.port() == port && !self.named.contains(&a));
            unwanted && socket::is_listening_stream(fd.as_fd())
        };
        let in_the_way: Vec<_> = self.listeners.iter().filter(is_in_the_way).collect();
        in_the_way.iter().for_each(|fd| ends::hang_up(fd.as_fd()));
        !in_the_way.is_empty()
    }
}

fn reopen(proxy: &str, fd: OwnedFd, address: &ListenAddress) -> Result<Listener> {
    socket::prepare_listener(&fd)
        .and_then(|()| socket::let_in(fd.as_fd()))
        .map_err(|e| Error::system(format!("proxy {proxy}: taking over the listener {address}"), e))?;
    let file = match address {
        ListenAddress::Unix(UnixPath::Path(path)) => {
            identity(path).map(|identity| SocketFile { path: path.clone(), identity })
        }
        _ => None,
    };
    let listener = Listener::new(address.clone(), fd, false, file);
    // Should this start fail, the next one shall find it as it was.
    listener.keep_file();
    Ok(listener)
}

fn refused(proxy: &str, address: &str, errno: Errno) -> Error {
    let hint = socket::hint(errno);
    Error::system(format!("proxy {proxy}: listening on {address}{hint}"), errno)
}

fn open_unix(proxy: &str, unix: &UnixPath) -> Result<Listener> {
    let address = Address::Unix(unix_address(unix)?);
    let failed = |e| refused(proxy, &unix.to_string(), e);
    let UnixPath::Path(path) = unix else {
        return Ok(Listener::new(
            ListenAddress::Unix(unix.clone()),
            socket::listen_on(&address).map_err(failed)?,
            false,
            None,
        ));
    };
    let fd = match socket::listen_on(&address) {
        Err(Errno::EADDRINUSE) if is_stale(path, &address) => {
            fs::remove_file(path).map_err(|e| {
                Error::system(format!("proxy {proxy}: removing the stale {}", path.display()), e)
            })?;
            socket::listen_on(&address)
        }
        result => result,
    }
    .map_err(failed)?;
    // Like a TCP port: whoever may enter the directory may connect. A .socket unit can do it finer.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .map_err(|e| Error::system(format!("proxy {proxy}: setting the mode of {}", path.display()), e))?;
    let file = identity(path).map(|identity| SocketFile { path: path.clone(), identity });
    Ok(Listener::new(ListenAddress::Unix(unix.clone()), fd, false, file))
}

/// A socket file that nobody listens on any more: left behind by a process that was killed.
fn is_stale(path: &Path, address: &Address) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket && matches!(socket::start_connect(address), Err(Errno::ECONNREFUSED))
}

fn take_passed(proxy: &str, name: &str, passed: &mut Vec<PassedFd>) -> Result<Vec<Listener>> {
    let (ours, others) = std::mem::take(passed).into_iter().partition(|p| p.name == name);
    *passed = others;
    let ours: Vec<PassedFd> = ours;
    if ours.is_empty() {
        let hint = "a .socket unit with FileDescriptorName= of that name, started before the service";
        return Err(Error::new(
            Exit::Config,
            format!("proxy {proxy}: systemd passed no socket named {name}: it needs {hint}"),
        ));
    }
    ours.into_iter().map(|PassedFd { fd, .. }| adopt(proxy, name, fd)).collect()
}

fn adopt(proxy: &str, name: &str, fd: OwnedFd) -> Result<Listener> {
    if !socket::is_listening_stream(fd.as_fd()) {
        let message = format!(
            "proxy {proxy}: the socket {name} that systemd passed is not a listening stream socket: it needs ListenStream= and Accept=no"
        );
        return Err(Error::new(Exit::Config, message));
    }
    socket::prepare_listener(&fd)
        .map_err(|e| Error::system(format!("proxy {proxy}: preparing the passed socket {name}"), e))?;
    Ok(Listener::new(ListenAddress::Systemd(name.to_owned()), fd, true, None))
}

/// An upstream's address as the system calls want it.
pub fn upstream_address(address: &UpstreamAddress) -> Result<Address> {
    match address {
        UpstreamAddress::Tcp(tcp) => Ok(Address::Tcp(*tcp)),
        UpstreamAddress::Unix(unix) => unix_address(unix).map(Address::Unix),
    }
}

fn unix_address(unix: &UnixPath) -> Result<UnixAddr> {
    let made = match unix {
        UnixPath::Path(path) => UnixAddr::new(path),
        UnixPath::Abstract(name) => UnixAddr::new_abstract(name.as_bytes()),
    };
    made.map_err(|e| Error::new(Exit::Config, format!("the address {unix}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_is_said_to_be_closed_is_and_its_file_is_gone() {
        let path = std::env::temp_dir().join(format!("drained-listener-{}", std::process::id()));
        let address = ListenAddress::Unix(UnixPath::Path(path.clone()));
        for _ in 0..300 {
            let none = &mut Left::new(Vec::new(), &[]);
            let mut opened =
                open("p", &address, &mut Vec::new(), none).expect("opens").into_iter().map(Arc::new);
            let (listener, None) = (opened.next().expect("is one"), opened.next()) else { panic!("is one") };
            let closed = listener.closed();
            assert!(!closed.is_so());
            // Two workers have it: one of them closes it.
            std::thread::scope(|scope| {
                for listener in [listener.clone(), listener] {
                    scope.spawn(move || drop(listener));
                }
                let until = Instant::now() + Duration::from_secs(10);
                while !closed.is_so() {
                    assert!(Instant::now() < until, "is closed within ten seconds");
                    std::hint::spin_loop();
                }
                assert!(!path.exists(), "its file is gone once it is closed");
            });
        }
    }
}
