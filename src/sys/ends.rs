//! Ends of connections: how they are said, and how those of others look.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::socket::{is_tcp, take_error, unread};

/// Sends the FIN: nothing more will be written. An error means that the peer is gone already.
pub fn finish_writing(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    shutdown(fd.as_raw_fd(), Shutdown::Write)
}

/// Makes the close of a TCP connection a reset, see SO_LINGER in socket(7). UNIX sockets know none.
pub fn reset_on_close(fd: BorrowedFd<'_>) {
    // A failure leaves an ordinary close, which is all that can be had then.
    let _ = setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Undoes [`reset_on_close`].
pub fn finish_on_close(fd: BorrowedFd<'_>) {
    let _ = setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
}

/// Ends both directions at once, though duplicates of the socket are elsewhere: close(2) would say
/// nothing to the peer as long as those are open. An error means that the connection is gone already.
/// What is unread then makes it a reset, as close(2) would.
pub fn hang_up(fd: BorrowedFd<'_>) {
    if is_tcp(fd).unwrap_or(false) {
        if unread(fd) > 0 {
            return reset(fd);
        }
        finish_on_close(fd);
    }
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
}

/// Resets a TCP connection at once, though duplicates of the socket are elsewhere: connect(2) with
/// AF_UNSPEC. UNIX sockets know no reset and are hung up.
pub fn reset(fd: BorrowedFd<'_>) {
    if !is_tcp(fd).unwrap_or(false) {
        let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
        return;
    }
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads the address, which outlives the call. nix has no address without a
    // family. An error leaves a connection that is none any more.
    let _ =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
}

/// Both directions of the connection are over, or there never was one.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    look(fd).hung_up
}

/// The peer has said its end, read or not, and no error waits to be told.
pub fn is_said(fd: BorrowedFd<'_>) -> bool {
    let found = look(fd);
    found.fin && !found.error
}

/// The connection is closed and has no error to tell: that was told already, if there was one.
pub fn is_closed_without_error(fd: BorrowedFd<'_>) -> bool {
    let found = look(fd);
    let is_closed = match is_tcp(fd) {
        // A clean end leaves other states, as long as both sides have not said theirs.
        Ok(true) => tcp_state(fd) == Some(TCP_CLOSE),
        _ => found.hung_up,
    };
    is_closed && !found.error
}

/// What poll(2) tells of both ends. nix has no POLLRDHUP, and nothing to tell where it is set.
fn look(fd: BorrowedFd<'_>) -> Look {
    let mut fd = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the kernel writes to this one structure, which outlives the call. With an error nothing is told.
    let _ = unsafe { libc::poll(&raw mut fd, 1, 0) };
    let has = |flag| fd.revents & flag != 0;
    Look { fin: has(libc::POLLRDHUP), hung_up: has(libc::POLLHUP), error: has(libc::POLLERR) }
}

struct Look {
    fin: bool,
    hung_up: bool,
    error: bool,
}

/// The state of a closed TCP connection, see TCP_INFO in tcp(7).
const TCP_CLOSE: u8 = 7;

fn tcp_state(fd: BorrowedFd<'_>) -> Option<u8> {
    let mut state = 0_u8;
    let mut len = size_of::<u8>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the first of struct tcp_info, to which the pointer
    // points. nix has no such option.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &mut len)
    };
    (result == 0).then_some(state)
}

/// How the stream of a connection ended, if nothing is left to be read before its end.
pub fn ended(fd: BorrowedFd<'_>) -> Option<Result<(), Errno>> {
    let found = look(fd);
    match take_error(fd) {
        Err(errno) => Some(Err(errno)),
        Ok(()) if (found.fin || found.hung_up) && unread(fd) == 0 => Some(Ok(())),
        Ok(()) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{Peer, accept};
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};

    /// A connection of a client with a socket of ours.
    fn tcp_pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (accept(listener.as_fd()).unwrap().0, client)
    }

    #[test]
    fn what_others_hold_is_hung_up_and_reset_all_the_same() {
        let (fd, mut client) = tcp_pair();
        let _duplicate = fd.try_clone().unwrap();
        assert!(!is_hung_up(fd.as_fd()));
        hang_up(fd.as_fd());
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        assert!(is_hung_up(fd.as_fd()));
        let (fd, mut client) = tcp_pair();
        let duplicate = fd.try_clone().unwrap();
        reset(fd.as_fd());
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(is_hung_up(duplicate.as_fd()));
    }

    #[test]
    fn a_reset_that_was_told_is_seen_as_a_close_without_error() {
        let (fd, client) = tcp_pair();
        assert!(!is_closed_without_error(fd.as_fd()));
        reset_on_close(client.as_fd());
        drop(client);
        assert!(!is_closed_without_error(fd.as_fd()), "it is not told yet");
        assert_eq!(take_error(fd.as_fd()), Err(Errno::ECONNRESET));
        assert!(is_closed_without_error(fd.as_fd()));
        let (fd, client) = tcp_pair();
        drop(client);
        assert!(!is_closed_without_error(fd.as_fd()), "a clean end");
    }

    #[test]
    fn an_end_is_seen_before_and_after_our_own() {
        let (fd, mut client) = tcp_pair();
        assert_eq!((ended(fd.as_fd()), is_said(fd.as_fd())), (None, false));
        client.write_all(b"!").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!((ended(fd.as_fd()), is_said(fd.as_fd())), (None, true), "a byte is left");
        assert_eq!(nix::unistd::read(&fd, &mut [0; 2]), Ok(1));
        assert_eq!((ended(fd.as_fd()), is_said(fd.as_fd())), (Some(Ok(())), true));
        finish_writing(fd.as_fd()).unwrap();
        assert_eq!((ended(fd.as_fd()), is_said(fd.as_fd())), (Some(Ok(())), true));
        let (fd, client) = tcp_pair();
        reset_on_close(client.as_fd());
        drop(client);
        assert!(!is_said(fd.as_fd()), "a reset is no end");
        assert_eq!(ended(fd.as_fd()), Some(Err(Errno::ECONNRESET)));
    }

    #[test]
    fn reset_on_close_resets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (fd, peer) = accept(listener.as_fd()).unwrap();
        assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
        reset_on_close(fd.as_fd());
        drop(fd);
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
