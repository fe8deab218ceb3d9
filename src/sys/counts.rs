//! How many bytes went through a TCP connection, as the kernel counts them: whoever takes it over learns from that
//! what its last owner came to.

use std::os::fd::BorrowedFd;

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};

use super::{option, socket};

/// How many bytes were ever read from a TCP connection, but for a constant and modulo 2^32. None: it is no TCP
/// connection with urgent data in its place, one that is over, or one to which our end was said.
pub fn bytes_read(fd: BorrowedFd<'_>) -> Option<u32> {
    settled(fd, |info| info.received, |received| received.wrapping_sub(socket::unread(fd)))
}

/// How many bytes were ever written to a TCP connection, in the same way.
pub fn bytes_written(fd: BorrowedFd<'_>) -> Option<u32> {
    settled(fd, |info| info.acked, |acked| acked.wrapping_add(socket::unsent(fd)))
}

/// How often the network may interfere between two questions.
const TRIES: u32 = 1_000;

/// A count that does not change by what the network does, out of one that does and the length of a queue.
fn settled(fd: BorrowedFd<'_>, which: fn(Info) -> u32, settle: impl Fn(u32) -> u32) -> Option<u32> {
    if !is_countable(fd) {
        return None;
    }
    let mut before = which(Info::of(fd)?);
    for _ in 0..TRIES {
        let count = settle(before);
        let after = which(Info::of(fd)?);
        if after == before {
            return Some(count);
        }
        before = after;
    }
    None
}

/// Multipath TCP tells the counts of one of its paths, and urgent data out of its place is in no count.
fn is_countable(fd: BorrowedFd<'_>) -> bool {
    option::get(fd, (libc::SOL_SOCKET, libc::SO_PROTOCOL)) == Ok(libc::IPPROTO_TCP)
        && getsockopt(&fd, sockopt::OobInline) == Ok(true)
}

/// What TCP_INFO tells, see tcp(7) and linux/tcp.h.
struct Info {
    /// Bytes that the peer has acknowledged (tcpi_bytes_acked).
    acked: u32,
    /// Bytes that have come (tcpi_bytes_received), the FIN not counted.
    received: u32,
}

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

impl Info {
    fn of(fd: BorrowedFd<'_>) -> Option<Info> {
        let info: libc::tcp_info = option::get(fd, (libc::IPPROTO_TCP, libc::TCP_INFO)).ok()?;
        // Linux counts the FIN of the peer as a byte that has come, and not as one that waits to be read.
        let fin = match info.tcpi_state {
            TCP_ESTABLISHED => 0,
            TCP_CLOSE_WAIT => 1,
            // Our own FIN is counted elsewhere, and after a reset queues are not what they were.
            _ => return None,
        };
        let received = (info.tcpi_bytes_received as u32).wrapping_sub(fin);
        Some(Info { acked: info.tcpi_bytes_acked as u32, received })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ends;
    use nix::sys::socket::setsockopt;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    fn until(is_so: impl Fn() -> bool) {
        let bound = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < bound, "it never came");
            std::thread::yield_now();
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        for end in [&near, &far] {
            setsockopt(end, sockopt::OobInline, &true).unwrap();
        }
        (near, far)
    }

    #[test]
    fn what_was_read_and_written_is_told_whatever_waits_or_is_not_acknowledged() {
        for (mut near, mut far) in [pair(), {
            let (a, b) = pair();
            (b, a)
        }] {
            let counts = |fd: &TcpStream| Some((bytes_read(fd.as_fd())?, bytes_written(fd.as_fd())?));
            let (read, written) = counts(&near).unwrap();
            far.write_all(&[1; 300]).unwrap();
            near.read_exact(&mut [0; 100]).unwrap();
            near.set_nonblocking(true).unwrap();
            // As much as there is room for: of it some is never acknowledged, for nobody reads.
            let mut sent = 0;
            while let Ok(n) = near.write(&[2; 100_000]) {
                sent += n as u32;
            }
            let expected = Some((read.wrapping_add(100), written.wrapping_add(sent)));
            assert_eq!(counts(&near), expected);
            far.shutdown(Shutdown::Write).unwrap();
            until(|| ends::is_said(near.as_fd()));
            assert_eq!(counts(&near), expected, "after the peer's end");
            near.read_exact(&mut [0; 200]).unwrap();
            assert_eq!(near.read(&mut [0]).unwrap(), 0);
            assert_eq!(counts(&near).unwrap().0, read.wrapping_add(300), "after the end was read");
        }
    }

    #[test]
    fn they_hold_while_bytes_come_and_go() {
        let (near, far) = pair();
        let (read, is_over) = (bytes_read(near.as_fd()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                far.set_nonblocking(true).unwrap();
                while !is_over.load(Relaxed) {
                    let _ = (&far).write(&[3; 10]);
                }
            });
            let told: Vec<_> = (0..200).map(|_| bytes_read(near.as_fd())).collect();
            is_over.store(true, Relaxed);
            assert!(told.iter().all(|told| *told == read), "{read:?}: {told:?}");
        });
    }

    #[test]
    fn what_is_over_or_no_tcp_tells_nothing() {
        let told = |fd: BorrowedFd<'_>| (bytes_read(fd), bytes_written(fd));
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(told(near.as_fd()), (None, None));
        let (near, far) = pair();
        setsockopt(&near, sockopt::OobInline, &false).unwrap();
        assert_eq!(told(near.as_fd()), (None, None));
        setsockopt(&near, sockopt::OobInline, &true).unwrap();
        assert!(told(near.as_fd()).0.is_some() && told(near.as_fd()).1.is_some());
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(told(near.as_fd()), (None, None));
        let (near, reset) = pair();
        ends::reset(reset.as_fd());
        until(|| told(near.as_fd()) == (None, None));
        drop(far);
    }
}
