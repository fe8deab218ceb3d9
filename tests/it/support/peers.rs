//! Clients and upstreams that a test owns, over TCP and UNIX sockets alike.
//!
//! A [`TcpStream`] stands for a stream of any family: std asks nothing of the kernel here that a
//! UNIX socket does not know. No wait is without a bound.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind,
    connect as connect_to, getsockname, listen, setsockopt, socket, sockopt,
};

use super::SOON;

/// A socket's address as the configuration writes it, and as the system calls want it.
fn parse(address: &str) -> (AddressFamily, Box<dyn SockaddrLike>) {
    match address.strip_prefix("unix:") {
        Some(name) => {
            let unix = match name.strip_prefix('@') {
                Some(name) => UnixAddr::new_abstract(name.as_bytes()),
                None => UnixAddr::new(name),
            };
            (AddressFamily::Unix, Box::new(unix.unwrap()))
        }
        None => {
            let ip: SocketAddr = address.parse().unwrap();
            let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            (family, Box::new(SockaddrStorage::from(ip)))
        }
    }
}

/// Bounds what is read from and written to a stream.
fn bounded(fd: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// A connected stream.
pub fn connect(address: &str) -> TcpStream {
    try_connect(address).unwrap_or_else(|e| panic!("connecting to {address}: {e}"))
}

/// A connected stream, or why there is none.
pub fn try_connect(address: &str) -> nix::Result<TcpStream> {
    let (family, to) = parse(address);
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Bounds the connect too.
    let stream = bounded(fd);
    connect_to(stream.as_raw_fd(), &*to as &dyn SockaddrLike)?;
    Ok(stream)
}

/// A listener that the test accepts from.
pub struct Listener {
    pub fd: OwnedFd,
    pub address: String,
}

/// A port that is this test's while nobody listens on it: bound, so that no other program is given it, and free
/// for a listener of the daemon.
pub struct Port(Listener);

impl Port {
    pub fn reserve() -> Port {
        Port(Listener::refusing("127.0.0.1:0"))
    }

    pub fn address(&self) -> &str {
        &self.0.address
    }
}

impl Listener {
    /// On 127.0.0.1, a port that the kernel chooses.
    pub fn new() -> Listener {
        super::tell_failures();
        Listener::on("127.0.0.1:0")
    }

    pub fn on(address: &str) -> Listener {
        Listener::with_backlog(address, 4096)
    }

    /// With room for so many connections that nobody accepts, and one.
    pub fn with_backlog(address: &str, backlog: i32) -> Listener {
        let listener = Listener::refusing(address);
        listener.listen(backlog);
        listener
    }

    /// One that refuses connections until it is told to [`listen`](Self::listen).
    pub fn refusing(address: &str) -> Listener {
        let (family, at) = parse(address);
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
        bind(fd.as_raw_fd(), &*at as &dyn SockaddrLike).unwrap_or_else(|e| panic!("binding {address}: {e}"));
        let address = match family {
            AddressFamily::Unix => address.to_owned(),
            _ => getsockname::<SockaddrStorage>(fd.as_raw_fd()).unwrap().to_string(),
        };
        Listener { fd, address }
    }

    pub fn listen(&self, backlog: i32) {
        listen(&self.fd, Backlog::new(backlog).unwrap()).unwrap();
    }

    /// Fills its backlog, so that it neither takes connections nor refuses them. What fills it is
    /// returned.
    pub fn fill(&self) -> Vec<TcpStream> {
        self.listen(0);
        let mut filling = Vec::new();
        loop {
            let (family, to) = parse(&self.address);
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let stream = bounded(socket(family, SockType::Stream, flags, None).unwrap());
            let connected = connect_to(stream.as_raw_fd(), &*to as &dyn SockaddrLike);
            let full = connected == Err(Errno::EAGAIN)
                || (connected.is_err() && !wait(&stream, PollFlags::POLLOUT, Duration::from_millis(100)));
            filling.push(stream);
            if full {
                return filling;
            }
        }
    }

    /// The next connection.
    pub fn accept(&self) -> TcpStream {
        self.accept_within(SOON).unwrap_or_else(|| panic!("nobody connected to {}", self.address))
    }

    pub fn accept_within(&self, bound: Duration) -> Option<TcpStream> {
        if !wait(&self.fd, PollFlags::POLLIN, bound) {
            return None;
        }
        let listener = self.fd.try_clone().unwrap();
        Some(match self.address.starts_with("unix:") {
            true => bounded(UnixListener::from(listener).accept().unwrap().0.into()),
            false => bounded(TcpListener::from(listener).accept().unwrap().0.into()),
        })
    }
}

/// The next connection of any of these, and whose it is.
pub fn accept_any(listeners: &[Listener]) -> (usize, TcpStream) {
    let mut fds: Vec<_> = listeners.iter().map(|l| PollFd::new(l.fd.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap();
    let index = fds.iter().position(|fd| fd.any() == Some(true)).expect("nobody connected");
    (index, listeners[index].accept())
}

/// Whether `flags` (or an error, or a hangup) come about within `bound`.
pub fn wait(fd: &impl AsFd, flags: PollFlags, bound: Duration) -> bool {
    let until = Instant::now() + bound;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(fd.as_fd(), flags)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap()) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            result => return result.unwrap() > 0,
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Fin,
    Reset,
}

/// Reads to the end.
pub fn read_to_end(mut stream: &TcpStream) -> (Vec<u8>, Ended) {
    let mut bytes = Vec::new();
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => Ended::Fin,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ended::Reset,
        Err(e) => panic!("after {} bytes: {e}", bytes.len()),
    };
    (bytes, ended)
}

/// The end of a stream that has nothing more to say.
pub fn end_of(stream: &TcpStream) -> Ended {
    let (bytes, ended) = read_to_end(stream);
    assert!(bytes.is_empty(), "{} bytes before the end", bytes.len());
    ended
}

/// Sends `bytes` on one stream and reads them from the other.
pub fn send(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert!(got == bytes, "other bytes arrived");
}

/// Says something both ways.
pub fn talk(client: &TcpStream, server: &TcpStream) {
    send(client, server, b"a question");
    send(server, client, b"an answer");
}

/// Has each client served that stands or has yet to stand in the upstream's backlog: an answer each.
/// Returns the upstream's ends, in the order of the clients.
pub fn serve_all(clients: &[TcpStream], upstream: &Listener) -> Vec<TcpStream> {
    for (n, mut client) in clients.iter().enumerate() {
        client.write_all(&(n as u32).to_le_bytes()).unwrap();
    }
    let mut servers: Vec<_> = clients.iter().map(|_| None).collect();
    for _ in clients {
        let mut server = upstream.accept();
        let mut number = [0; 4];
        server.read_exact(&mut number).unwrap();
        server.write_all(&number).unwrap();
        assert!(servers[u32::from_le_bytes(number) as usize].replace(server).is_none());
    }
    for (n, mut client) in clients.iter().enumerate() {
        let mut number = [0; 4];
        client.read_exact(&mut number).unwrap();
        assert_eq!(u32::from_le_bytes(number) as usize, n);
    }
    servers.into_iter().map(|server| server.expect("each client has its own number")).collect()
}

/// Ends a connection by a reset.
pub fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Writes until nothing has gone out for `pause`: how many bytes a peer who does not read takes.
pub fn stuff(mut stream: &TcpStream, pause: Duration) -> usize {
    let piece = vec![b'x'; 1 << 16];
    let mut sent = 0;
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.write(&piece) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if !wait(stream, PollFlags::POLLOUT, pause) {
                    break;
                }
            }
            Err(e) => panic!("after {sent} bytes: {e}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Bytes that tell their position: no two stretches of a stream are alike.
pub struct Pattern(u64);

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        Pattern(seed | 1)
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            // A xorshift generator (Marsaglia 2003): it needs not be good, only never the same.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

const PIECE: usize = 1 << 16;

/// Sends `total` bytes of the pattern `seed`.
pub fn send_pattern(mut stream: &TcpStream, seed: u64, total: usize) {
    let (mut pattern, mut piece, mut left) = (Pattern::new(seed), vec![0; PIECE], total);
    while left > 0 {
        let n = left.min(PIECE);
        pattern.fill(&mut piece[..n]);
        stream.write_all(&piece[..n]).unwrap_or_else(|e| panic!("with {left} of {total} bytes left: {e}"));
        left -= n;
    }
}

/// Reads `total` bytes, each of which must be the pattern's.
pub fn expect_pattern(mut stream: &TcpStream, seed: u64, total: usize) {
    let (mut pattern, mut piece, mut left) = (Pattern::new(seed), vec![0; PIECE], total);
    let mut got = vec![0; PIECE];
    while left > 0 {
        let n = left.min(PIECE);
        pattern.fill(&mut piece[..n]);
        stream.read_exact(&mut got[..n]).unwrap_or_else(|e| panic!("with {left} of {total} bytes left: {e}"));
        assert!(got[..n] == piece[..n], "other bytes within the last {left} of {total}");
        left -= n;
    }
}
