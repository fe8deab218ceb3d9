//! Sockets: accept, connect, and what the kernel says of their queues.
//!
//! All sockets made here are non-blocking and close-on-exec.

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind,
    connect, getpeername, getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};

use super::option;

/// An address that a socket can be bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A path, or with a leading `@` a name in the abstract namespace.
    Unix(UnixAddr),
}

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// The process id at the time of connect(2), 0 where it is unknown, see SO_PEERCRED.
    Unix(i32),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix(pid) => write!(f, "unix:pid={pid}"),
        }
    }
}

/// What a non-blocking connect came to.
#[derive(Debug)]
pub enum Connecting {
    /// It is connected.
    Done(OwnedFd),
    /// Becomes writable when it is decided; [`take_error`] then tells how.
    Pending(OwnedFd),
}

/// What to know of an error of [`listen_on`], to be written behind the address; empty where there is nothing.
pub fn hint(error: Errno) -> &'static str {
    match error {
        Errno::EADDRINUSE => " (another program listens there)",
        Errno::EACCES => " (ports below 1024 need CAP_NET_BIND_SERVICE, socket files a writable directory)",
        Errno::EADDRNOTAVAIL => " (no interface of this machine has that address)",
        Errno::ENOENT => " (its directory does not exist)",
        Errno::EROFS => {
            " (drained.service may make sockets in /run/drained; elsewhere it needs ReadWritePaths=)"
        }
        _ => "",
    }
}

/// A listening socket on `address`. IPv6 sockets take IPv6 only. Accepted connections inherit
/// TCP_NODELAY, SO_KEEPALIVE and SO_OOBINLINE.
///
/// # Errors
/// EADDRINUSE, EACCES, EADDRNOTAVAIL, ... as of bind(2) and listen(2).
pub fn listen_on(address: &Address) -> Result<OwnedFd, Errno> {
    let fd = stream_socket(address)?;
    match address {
        Address::Tcp(tcp) => {
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            if tcp.is_ipv6() {
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            }
            bind(fd.as_raw_fd(), &SockaddrStorage::from(*tcp))?;
        }
        Address::Unix(unix) => bind(fd.as_raw_fd(), unix)?,
    }
    prepare_listener(&fd)?;
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(fd)
}

/// Gives a listener that somebody else made the options that [`listen_on`] gives.
pub fn prepare_listener(listener: &OwnedFd) -> Result<(), Errno> {
    set_nonblocking(listener)?;
    if is_tcp(listener.as_fd())? {
        tune(listener)?;
    }
    Ok(())
}

/// Gives a client the options that those have who came to a listener of ours.
pub fn prepare_client(client: &OwnedFd) -> Result<(), Errno> {
    tune(client)
}

/// True for a stream socket that listens, whatever its family.
pub fn is_listening_stream(fd: BorrowedFd<'_>) -> bool {
    matches!(getsockopt(&fd, sockopt::SockType), Ok(SockType::Stream))
        && getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false)
}

/// The address that a socket is bound to, as text.
pub fn local_name(fd: BorrowedFd<'_>) -> String {
    match local_address(fd) {
        Some(address) => address.to_string(),
        None => match getsockname::<UnixAddr>(fd.as_raw_fd()) {
            Ok(unix) => match (unix.path(), unix.as_abstract()) {
                (Some(path), _) => format!("unix:{}", path.display()),
                (_, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
                _ => "unix:".to_owned(),
            },
            Err(_) => "unknown".to_owned(),
        },
    }
}

/// The IP address and port that a socket is bound to; None for other families.
pub fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    to_ip(&getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?)
}

/// What every TCP connection has: no delay of small messages, probes for peers that vanished, and
/// urgent data in its place in the stream (RFC 6093, section 6).
fn tune(fd: &OwnedFd) -> Result<(), Errno> {
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    setsockopt(fd, sockopt::OobInline, &true)
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Whether it is a TCP socket, of those that drained has.
///
/// # Errors
/// It is no socket.
pub fn is_tcp(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd())?;
    Ok(matches!(name.family(), Some(AddressFamily::Inet | AddressFamily::Inet6)))
}

fn stream_socket(address: &Address) -> Result<OwnedFd, Errno> {
    let family = match address {
        Address::Tcp(SocketAddr::V4(_)) => AddressFamily::Inet,
        Address::Tcp(SocketAddr::V6(_)) => AddressFamily::Inet6,
        Address::Unix(_) => AddressFamily::Unix,
    };
    socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

/// Takes the next connection off the backlog.
///
/// # Errors
/// EAGAIN: the backlog is empty. EMFILE, ENFILE, ENOBUFS, ENOMEM: it stays there. Errors of a connection that died in the backlog
/// (accept(2), "Error handling") are passed over.
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Peer), Errno> {
    loop {
        // SAFETY: an all-zero sockaddr_storage is a valid value of that plain C structure.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut len = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into `storage`, which outlives the call.
        // nix's accept4 drops the address, which would cost a getpeername a connection.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                (&raw mut storage).cast(),
                &mut len,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            match Errno::last() {
                Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO | Errno::ENETDOWN | Errno::EHOSTDOWN => {
                    continue;
                }
                Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENONET | Errno::ENOPROTOOPT => continue,
                errno => return Err(errno),
            }
        }
        // SAFETY: accept4 just returned this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the kernel filled `len` bytes of a valid address.
        let address = unsafe { SockaddrStorage::from_raw((&raw const storage).cast(), Some(len)) };
        let peer = match address.as_ref().and_then(to_ip) {
            Some(ip) => Peer::Tcp(ip),
            None => Peer::Unix(getsockopt(&fd, sockopt::PeerCredentials).map_or(0, |c| c.pid())),
        };
        return Ok((fd, peer));
    }
}

fn to_ip(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

/// Whether something can be taken from a socket at once: a connection from a listener.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, PollFlags::POLLIN)
}

/// Whether a good part of the send buffer is free: a third of it for TCP.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, PollFlags::POLLOUT)
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd, flags)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Starts to connect. TCP sockets get TCP_NODELAY, SO_KEEPALIVE and SO_OOBINLINE.
///
/// # Errors
/// EMFILE, ENFILE; ECONNREFUSED, EAGAIN (the backlog of a UNIX listener is full), ENOENT, EACCES,
/// ENETUNREACH, ... as of connect(2).
pub fn start_connect(address: &Address) -> Result<Connecting, Errno> {
    let fd = stream_socket(address)?;
    let result = match address {
        Address::Tcp(tcp) => {
            tune(&fd)?;
            connect(fd.as_raw_fd(), &SockaddrStorage::from(*tcp))
        }
        Address::Unix(unix) => connect(fd.as_raw_fd(), unix),
    };
    match result {
        Ok(()) => Ok(Connecting::Done(fd)),
        Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(Connecting::Pending(fd)),
        Err(errno) => Err(errno),
    }
}

/// SO_ERROR, taken and cleared: how a pending connect ended, or what broke a connection.
pub fn take_error(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// How a connect has ended; None while it is pending. SO_ERROR alone does not say that it has: it is 0 until then, too.
pub fn connect_result(fd: BorrowedFd<'_>) -> Option<Result<(), Errno>> {
    match getpeername::<SockaddrStorage>(fd.as_raw_fd()) {
        // It is pending, or it has failed.
        Err(Errno::ENOTCONN) => take_error(fd).err().map(Err),
        _ => Some(Ok(())),
    }
}

/// Writes a short header to a connection that was just made; its empty send buffer takes it whole.
///
/// # Errors
/// That of send(2), or EMSGSIZE if it was not taken whole.
pub fn send_whole(fd: BorrowedFd<'_>, header: &[u8]) -> Result<(), Errno> {
    use nix::sys::socket::{MsgFlags, send};
    match send(fd.as_raw_fd(), header, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)? {
        n if n == header.len() => Ok(()),
        _ => Err(Errno::EMSGSIZE),
    }
}

/// A number that no other socket of this machine has had or will have: SO_COOKIE, socket(7).
pub fn cookie(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    option::get(fd, (libc::SOL_SOCKET, libc::SO_COOKIE))
}

/// How many bytes stand in the send queue, unsent or not acknowledged: SIOCOUTQ, tcp(7), unix(7).
pub fn unsent(fd: BorrowedFd<'_>) -> u32 {
    queue(fd, libc::TIOCOUTQ)
}

/// How many bytes of the send queue have not been sent yet, the FIN as one: SIOCOUTQNSD of Linux.
pub fn not_sent(fd: BorrowedFd<'_>) -> u32 {
    const SIOCOUTQNSD: libc::Ioctl = libc::SIOCOUTQNSD;
    queue(fd, SIOCOUTQNSD)
}

/// How many bytes can be read: FIONREAD.
pub fn unread(fd: BorrowedFd<'_>) -> u32 {
    queue(fd, libc::FIONREAD)
}

fn queue(fd: BorrowedFd<'_>, request: libc::Ioctl) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: these requests write one int, to which the pointer points for the whole call. nix has
    // no safe wrapper.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut bytes) } {
        0 => bytes.max(0) as u32,
        _ => 0,
    }
}

/// Lets no new connection into the backlog of a listener, and leaves those that stand in it, or
/// are in the midst of their handshake, untouched.
///
/// TCP: a socket filter drops each SYN; its sender tries again and is refused once the listener is
/// closed. Closing without it would reset whoever arrives between the last accept and the close.
/// UNIX: shutdown(2) for reading refuses new ones and keeps the queue.
pub fn refuse_new(listener: BorrowedFd<'_>) -> io::Result<()> {
    if !is_tcp(listener)? {
        return Ok(shutdown(listener.as_raw_fd(), Shutdown::Read)?);
    }
    const FLAGS_BYTE: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_AND_ACK: u32 = 0x12;
    let code = |c: u32| c as u16;
    // A filter on a TCP socket sees the packet from the TCP header on (RFC 9293, section 3.1).
    let mut program = [
        instruction(code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS), 0, 0, FLAGS_BYTE),
        instruction(code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K), 0, 0, SYN_AND_ACK),
        instruction(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, SYN),
        instruction(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        instruction(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from the array, which outlives the call. nix has
    // no wrapper for SO_ATTACH_FILTER.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// Takes back what [`refuse_new`] did to a TCP listener: another process may have begun to close it and died. A
/// UNIX listener stays as it is.
pub fn let_in(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    if !is_tcp(listener)? {
        return Ok(());
    }
    let nothing: libc::c_int = 0;
    // SAFETY: the kernel reads the four bytes of an integer, whose value it passes over. nix has no such option.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const nothing).cast(),
            size_of_val(&nothing) as libc::socklen_t,
        )
    };
    match Errno::result(result) {
        Err(Errno::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn refuse_new_keeps_the_backlog_and_lets_nobody_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _early = TcpStream::connect(address).unwrap();
        refuse_new(listener.as_fd()).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(150));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        listener.set_nonblocking(true).unwrap();
        accept(listener.as_fd()).unwrap();
        assert_eq!(accept(listener.as_fd()).unwrap_err(), Errno::EAGAIN);
        let_in(listener.as_fd()).unwrap();
        let_in(listener.as_fd()).unwrap();
        TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_connect_that_is_pending_has_no_result() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (Connecting::Done(fd) | Connecting::Pending(fd)) = start_connect(&address).unwrap();
        listener.accept().unwrap();
        assert_eq!(connect_result(fd.as_fd()), Some(Ok(())));
        refuse_new(listener.as_fd()).unwrap();
        let Ok(Connecting::Pending(fd)) = start_connect(&address) else { panic!("nobody is let in") };
        assert_eq!((take_error(fd.as_fd()), connect_result(fd.as_fd())), (Ok(()), None));
    }

    #[test]
    fn refuse_new_on_unix_keeps_the_backlog() {
        let name = UnixAddr::new_abstract(format!("drained-test-{}", std::process::id()).as_bytes()).unwrap();
        let listener = listen_on(&Address::Unix(name)).unwrap();
        assert!(matches!(start_connect(&Address::Unix(name)), Ok(Connecting::Done(_))));
        refuse_new(listener.as_fd()).unwrap();
        assert_eq!(start_connect(&Address::Unix(name)).unwrap_err(), Errno::ECONNREFUSED);
        assert!(matches!(accept(listener.as_fd()).unwrap().1, Peer::Unix(pid) if pid > 0));
        assert_eq!(accept(listener.as_fd()).unwrap_err(), Errno::EAGAIN);
    }
}
