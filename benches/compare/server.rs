//! The servers behind the proxies: one thread and one epoll for each kind.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};

use crate::meter;

/// What is read or written at once.
pub const PIECE: usize = 256 << 10;

/// Addresses of the echo server, of the one that sends without end, and of the one that swallows everything.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub echo: SocketAddr,
    pub source: SocketAddr,
    pub sink: SocketAddr,
}

pub struct Servers {
    pub addresses: Addresses,
}

#[derive(Clone, Copy)]
enum Job {
    Echo,
    Source,
    Sink,
}

impl Servers {
    /// All on this processor, if one is named.
    pub fn start(processor: Option<usize>) -> io::Result<Servers> {
        let one = |job| {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            // More than the 128 of the standard library: a crowd connects at once.
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
            let address = listener.local_addr()?;
            thread::spawn(move || {
                let pinned = processor.map_or(Ok(()), meter::pin);
                pinned.and_then(|()| serve(&listener, job)).expect("the server goes on");
            });
            io::Result::Ok(address)
        };
        let (echo, source, sink) = (one(Job::Echo)?, one(Job::Source)?, one(Job::Sink)?);
        Ok(Servers { addresses: Addresses { echo, source, sink } })
    }
}

const DOOR: u64 = u64::MAX;

fn serve(listener: &TcpListener, job: Job) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, DOOR))?;
    let wanted = match job {
        Job::Source => EpollFlags::EPOLLOUT,
        Job::Echo | Job::Sink => EpollFlags::EPOLLIN,
    };
    let mut streams: HashMap<u64, TcpStream> = HashMap::new();
    let mut buffer = vec![0; PIECE];
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in &events[..count] {
            if event.data() == DOOR {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let key = stream.as_raw_fd() as u64;
                    epoll.add(&stream, EpollEvent::new(wanted, key))?;
                    streams.insert(key, stream);
                }
                continue;
            }
            let Some(stream) = streams.get(&event.data()) else { continue };
            if !work(stream, job, &mut buffer) {
                streams.remove(&event.data());
            }
        }
    }
}

/// False: it is over.
fn work(mut stream: &TcpStream, job: Job, buffer: &mut [u8]) -> bool {
    let moved = match job {
        // Requests are small, and clients wait for the reply: it fits.
        Job::Echo => stream.read(buffer).and_then(|n| stream.write_all(&buffer[..n]).map(|()| n)),
        Job::Source => stream.write(buffer),
        Job::Sink => swallow(stream, buffer),
    };
    match moved {
        Ok(n) => n > 0,
        Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// Takes bytes off the queue without copying them: MSG_TRUNC, tcp(7).
pub fn swallow(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT)?)
}
