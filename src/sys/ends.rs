//! Ends of connections: how they are said, and how those of others look.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::option;
use super::socket::{is_tcp, not_sent, take_error, unread};

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
/// AF_UNSPEC. UNIX sockets know no reset and are hung up, and so is one that [`is_all_said`].
pub fn reset(fd: BorrowedFd<'_>) {
    let is_tcp = is_tcp(fd).unwrap_or(false);
    if !is_tcp || is_all_said(fd) {
        if is_tcp {
            finish_on_close(fd);
        }
        let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
        return;
    }
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads the address, which outlives the call. nix has no address without a
    // family. An error leaves a connection that is none any more.
    let _ =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
}

/// Both ends of a TCP connection are said, and ours has left with all before it. Linux sends no reset any more then, but
/// would repeat nothing of it either that gets lost on its way (tcp_disconnect(), for SO_LINGER too): only an ordinary
/// close sees that the peer learns of our end.
pub fn is_all_said(fd: BorrowedFd<'_>) -> bool {
    matches!(tcp_state(fd), Some(TCP_LAST_ACK | TCP_CLOSING)) && not_sent(fd) == 0
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

/// A TCP connection that is none any more: nothing can be written to it.
pub fn is_closed(fd: BorrowedFd<'_>) -> bool {
    is_tcp(fd).unwrap_or(false) && tcp_state(fd) == Some(TCP_CLOSE)
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

/// States of a TCP connection, see TCP_INFO in tcp(7): it is closed; both have said their ends, and the last one is not
/// acknowledged; the same where both said it at once.
const TCP_CLOSE: u8 = 7;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// The first byte of struct tcp_info.
fn tcp_state(fd: BorrowedFd<'_>) -> Option<u8> {
    option::get(fd, (libc::IPPROTO_TCP, libc::TCP_INFO)).ok()
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

/// Has the network lose all that comes for this socket, or none any more.
#[cfg(test)]
pub fn lose(socket: BorrowedFd<'_>, all: bool) {
    let option = if all { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
    let mut nothing = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: nothing.as_mut_ptr() };
    let (value, length) = (&raw const filter, size_of_val(&filter) as libc::socklen_t);
    // SAFETY: the kernel copies one instruction from the array, which outlives the call, or looks at nothing.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), length) };
    Errno::result(result).unwrap();
}

/// Says our end to a peer that has said its own, and the network loses it, and all that comes for `peer` after it.
#[cfg(test)]
pub fn finish_in_vain(fd: BorrowedFd<'_>, peer: BorrowedFd<'_>) {
    const TCP_FIN_WAIT2: u8 = 5;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while tcp_state(peer) != Some(TCP_FIN_WAIT2) {
        assert!(std::time::Instant::now() < until, "the peer's end was not acknowledged");
        std::thread::yield_now();
    }
    lose(peer, true);
    finish_writing(fd).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{Peer, accept};
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, poll};

    /// A connection of a client with a socket of ours.
    fn tcp_pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (accept(listener.as_fd()).unwrap().0, client)
    }

    /// Waits for the peer's end.
    fn until_said(fd: BorrowedFd<'_>) {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000_u16), Ok(1));
    }

    /// Linux has nothing to reset then, and would forget the FIN that was lost.
    #[test]
    fn an_end_that_was_lost_is_said_again_whatever_comes_after_it() {
        for duplicated in [false, true] {
            let (fd, mut client) = tcp_pair();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            finish_in_vain(fd.as_fd(), client.as_fd());
            assert!(is_all_said(fd.as_fd()));
            let duplicate = duplicated.then(|| fd.try_clone().unwrap());
            // What was parked has it.
            reset_on_close(fd.as_fd());
            reset(fd.as_fd());
            drop((fd, duplicate));
            lose(client.as_fd(), false);
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }

    #[test]
    fn not_all_is_said_while_bytes_wait_or_the_peer_goes_on() {
        let (fd, client) = tcp_pair();
        assert!(!is_all_said(fd.as_fd()));
        finish_writing(fd.as_fd()).unwrap();
        assert!(!is_all_said(fd.as_fd()), "the client may go on");
        drop(client);
        let (fd, client) = tcp_pair();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        until_said(fd.as_fd());
        let chunk = [0; 1 << 16];
        while nix::unistd::write(&fd, &chunk).is_ok() {}
        finish_writing(fd.as_fd()).unwrap();
        assert!(!is_all_said(fd.as_fd()), "the client reads none of it");
        reset(fd.as_fd());
        let ended = io::copy(&mut &client, &mut io::sink());
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
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
