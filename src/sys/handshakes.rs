//! TCP handshakes that have begun and not ended, as the kernel lists them.
//!
//! It is asked by sock_diag(7) for these alone, which takes a millisecond however many connections
//! the machine has. A sandbox may forbid AF_NETLINK: then /proc/self/net/tcp and tcp6 are read,
//! where they stand among all others, the closed ones that linger included.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// TCP_SYN_RECV in the kernel's include/net/tcp_states.h.
const SYN_RECEIVED: u32 = 3;

/// Whether somebody is in the midst of a handshake with one of these local ports. False where the
/// kernel doesn't tell, or not by `until`: where sock_diag(7) is forbidden the tables in /proc are
/// read, which list every socket of the network namespace.
pub fn pending(ports: &[u16], until: Instant) -> bool {
    if ports.is_empty() {
        return false;
    }
    ask(ports).unwrap_or_else(|_| {
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().any(|table| lists(table, ports, until))
    })
}

/// Lengths and types of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

fn ask(ports: &[u16]) -> Result<bool, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let diag = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers within the call that sends; should it not, nobody waits for long.
    setsockopt(&diag, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100))?;
    let mut answer = vec![0; 1 << 15];
    for family in [libc::AF_INET, libc::AF_INET6] {
        send(diag.as_raw_fd(), &request(family as u8), MsgFlags::empty())?;
        let mut more = true;
        while more {
            let n = recv(diag.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let (found, unfinished) = read(&answer[..n], ports)?;
            if found {
                return Ok(true);
            }
            more = unfinished;
        }
    }
    Ok(false)
}

/// A dump of all sockets of one family that are in the midst of a handshake.
fn request(family: u8) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER] = family;
    request[HEADER + 1] = libc::IPPROTO_TCP as u8;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&(1_u32 << SYN_RECEIVED).to_ne_bytes());
    request
}

/// Whether a part of the answer names one of the ports, and whether more is to come.
fn read(mut part: &[u8], ports: &[u16]) -> Result<(bool, bool), Errno> {
    while part.len() >= HEADER {
        let length = u32::from_ne_bytes([part[0], part[1], part[2], part[3]]) as usize;
        match i32::from(u16::from_ne_bytes([part[4], part[5]])) {
            libc::NLMSG_DONE => return Ok((false, false)),
            libc::NLMSG_ERROR => return Err(Errno::EOPNOTSUPP),
            _ => {}
        }
        // struct inet_diag_msg: four bytes, then the local port in network order.
        let port = part.get(HEADER + 4..HEADER + 6).map(|p| u16::from_be_bytes([p[0], p[1]]));
        if port.is_some_and(|port| ports.contains(&port)) {
            return Ok((true, false));
        }
        part = part.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
    }
    Ok((false, true))
}

fn lists(table: &str, ports: &[u16], until: Instant) -> bool {
    let Ok(file) = File::open(table) else { return false };
    let lines = BufReader::with_capacity(1 << 16, file).lines().map_while(Result::ok);
    let in_time = |(number, _): &(usize, String)| number % 1024 != 0 || Instant::now() < until;
    lines.enumerate().take_while(in_time).any(|(_, line)| is_pending(&line, ports))
}

/// `sl local_address rem_address st ...`, addresses as hexadecimal IP:PORT.
fn is_pending(line: &str, ports: &[u16]) -> bool {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, state) = (columns.next(), columns.nth(1));
    let port = local.and_then(|l| u16::from_str_radix(l.rsplit(':').next()?, 16).ok());
    state.and_then(|s| u32::from_str_radix(s, 16).ok()) == Some(SYN_RECEIVED)
        && port.is_some_and(|p| ports.contains(&p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn finds_half_open_connections_of_our_ports_only() {
        let line = "   1: 0100007F:1F90 0200007F:C350 03 00000000:00000000 01:0000 0 0 0 0 0";
        assert!(is_pending(line, &[80, 8080]));
        assert!(!is_pending(line, &[80]));
        assert!(!is_pending(&line.replace(" 03 ", " 01 "), &[8080]));
        assert!(!is_pending("  sl  local_address rem_address   st", &[8080]));
        assert!(!pending(&[1], Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn reads_the_kernels_answer() {
        let mut answer = Vec::new();
        for port in [80_u16, 8080] {
            let mut message = [0_u8; HEADER + 72];
            message[..4].copy_from_slice(&(HEADER as u32 + 72).to_ne_bytes());
            message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            message[HEADER + 4..HEADER + 6].copy_from_slice(&port.to_be_bytes());
            answer.extend(message);
        }
        assert_eq!(read(&answer, &[8080]), Ok((true, false)));
        assert_eq!(read(&answer, &[443]), Ok((false, true)));
        let mut done = [0_u8; HEADER + 4];
        done[..4].copy_from_slice(&(HEADER as u32 + 4).to_ne_bytes());
        done[4..6].copy_from_slice(&(libc::NLMSG_DONE as u16).to_ne_bytes());
        answer.extend(done);
        assert_eq!(read(&answer, &[443]), Ok((false, false)));
        assert_eq!(read(&[1, 2, 3], &[443]), Ok((false, true)));
    }

    #[test]
    fn the_kernel_tells_of_a_handshake_that_has_begun() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // For the kernel a handshake then ends with the first byte, see TCP_DEFER_ACCEPT in tcp(7).
        defer_accept(&listener);
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let (ports, soon) = ([address.port()], Instant::now() + Duration::from_secs(10));
        assert_eq!(ask(&ports), Ok(true));
        assert!(lists("/proc/self/net/tcp", &ports, soon));
        std::io::Write::write_all(&mut client, b"x").unwrap();
        listener.accept().unwrap();
        assert_eq!(ask(&ports), Ok(false));
        assert!(!lists("/proc/self/net/tcp", &ports, soon));
    }

    fn defer_accept(listener: &std::net::TcpListener) {
        let seconds: libc::c_int = 5;
        // SAFETY: the kernel reads one int, to which the pointer points for the whole call. nix has
        // no such option.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const seconds).cast(),
                size_of_val(&seconds) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0);
    }
}
