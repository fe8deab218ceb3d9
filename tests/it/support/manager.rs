//! A fake service manager: a datagram socket that the test owns, and all that was said to it.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::PassCred};

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    /// The process that sent it.
    pub pid: i32,
    pub text: String,
    /// How many file descriptors came with it. They are closed, unless somebody keeps them.
    pub fds: usize,
}

impl Received {
    /// Whether the message has this line.
    pub fn says(&self, line: &str) -> bool {
        self.text.lines().any(|l| l == line)
    }

    /// Whether it stores a listener.
    pub fn stores_listener(&self) -> bool {
        self.value("FDNAME") == Some("drained-listener") && self.says("FDSTORE=1")
    }

    /// What stands after `NAME=`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A file descriptor of this process, closed when dropped.
///
/// A number in place of an `OwnedFd`, which nothing safe makes of what a message brings.
#[derive(Debug)]
pub struct Fd(RawFd);

impl Fd {
    pub fn number(&self) -> RawFd {
        self.0
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(fd.into_raw_fd())
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = nix::unistd::close(self.0);
    }
}

/// What a manager says to itself when it is dropped.
const DROPPED: &str = "X_DROPPED=1";

/// The messages so far, collected by a thread.
pub struct Manager {
    address: String,
    collected: Arc<(Mutex<Vec<Received>>, Condvar)>,
}

impl Manager {
    /// One that listens at an abstract name.
    pub fn new() -> Manager {
        super::tell_failures();
        Manager::keeping(|_, _| ())
    }

    /// One that hands each message with its file descriptors to `keep`, before anybody who waits
    /// for the message sees it.
    pub fn keeping(mut keep: impl FnMut(&Received, Vec<Fd>) + Send + 'static) -> Manager {
        let (socket, address) = abstract_socket();
        setsockopt(&socket, PassCred, &true).unwrap();
        let collected = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let collector = collected.clone();
        std::thread::spawn(move || {
            loop {
                let (received, fds) = receive(&socket);
                if received.says(DROPPED) {
                    break;
                }
                keep(&received, fds);
                collector.0.lock().unwrap().push(received);
                collector.1.notify_all();
            }
        });
        Manager { address, collected }
    }

    /// What `$NOTIFY_SOCKET` is to be.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The first message so far or from now on that `wanted` is true of. Panics after `bound`.
    pub fn wait_for(&self, bound: Duration, wanted: impl Fn(&Received) -> bool) -> Received {
        self.wait_after(0, bound, wanted).1
    }

    /// Like [`wait_for`](Self::wait_for), leaving out the first `seen` messages; also returns how
    /// many were there up to and including the one found.
    pub fn wait_after(
        &self,
        seen: usize,
        bound: Duration,
        wanted: impl Fn(&Received) -> bool,
    ) -> (usize, Received) {
        let until = Instant::now() + bound;
        let mut messages = self.collected.0.lock().unwrap();
        loop {
            let rest = messages.iter().enumerate().skip(seen);
            if let Some((index, found)) = rest.into_iter().find(|(_, m)| wanted(m)) {
                return (index + 1, found.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such message within {bound:?} among {messages:#?}");
            messages = self.collected.1.wait_timeout(messages, left).unwrap().0;
        }
    }

    /// Returns once all that was sent before has been collected.
    pub fn settle(&self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let line = format!("X_SETTLED={}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.say(&line).unwrap();
        self.wait_for(super::SOON, |message| message.says(&line));
    }

    fn say(&self, line: &str) -> std::io::Result<usize> {
        let to = SocketAddr::from_abstract_name(&self.address[1..])?;
        UnixDatagram::unbound()?.send_to_addr(line.as_bytes(), &to)
    }

    /// Whether one of the messages after the first `seen` is such.
    pub fn has(&self, seen: usize, wanted: impl Fn(&Received) -> bool) -> bool {
        self.collected.0.lock().unwrap().iter().skip(seen).any(wanted)
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<Received> {
        self.collected.0.lock().unwrap().clone()
    }
}

impl Drop for Manager {
    /// What is kept by it is let go of.
    fn drop(&mut self) {
        let _ = self.say(DROPPED);
    }
}

/// A datagram socket that nobody reads, stuffed full, with its address.
pub fn stuffed_socket() -> (UnixDatagram, String) {
    let (socket, address) = abstract_socket();
    let stuffer = UnixDatagram::unbound().unwrap();
    stuffer.set_nonblocking(true).unwrap();
    let to = socket.local_addr().unwrap();
    while stuffer.send_to_addr(b"X=1\n", &to).is_ok() {}
    (socket, address)
}

fn abstract_socket() -> (UnixDatagram, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("drained-it-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
}

fn receive(socket: &UnixDatagram) -> (Received, Vec<Fd>) {
    let mut text = [0; 4096];
    let mut control = nix::cmsg_space!([i32; 253], nix::sys::socket::UnixCredentials);
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags).unwrap();
    let (mut pid, mut fds) = (0, Vec::new());
    for item in message.cmsgs().unwrap() {
        match item {
            ControlMessageOwned::ScmCredentials(credentials) => pid = credentials.pid(),
            ControlMessageOwned::ScmRights(rights) => fds.extend(rights.into_iter().map(Fd)),
            _ => {}
        }
    }
    let length = message.bytes;
    let text = String::from_utf8(text[..length].to_vec()).unwrap();
    (Received { at: Instant::now(), pid, text, fds: fds.len() }, fds)
}
