//! Receivers that take nothing while more comes for them.

use std::fs;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};

use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Ended, Listener, end_of, talk};

const STEP: usize = 64 << 10;
/// So many small pieces come while the receiver takes nothing.
const PIECES: usize = 50;

/// How many bytes the other end of a connection over IPv4 has not acknowledged, and not read: tx_queue and
/// rx_queue, proc_net_tcp(5).
fn queues(stream: &TcpStream) -> (usize, usize) {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => panic!("{address} is no IPv4"),
    };
    let (own, other) = (hex(stream.local_addr().unwrap()), hex(stream.peer_addr().unwrap()));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let row = |local: &str, remote: &str| {
        let of_it = |line: &&str| line.contains(&format!(" {local} {remote} "));
        let line = table.lines().find(of_it).unwrap_or_else(|| panic!("no {local} {remote}"));
        line.split_whitespace().nth(4).unwrap().split_once(':').unwrap()
    };
    let number = |digits| usize::from_str_radix(digits, 16).unwrap();
    (number(row(&own, &other).0), number(row(&other, &own).1))
}

/// Sends `bytes`, which there is room for.
fn put(stream: &TcpStream, bytes: &[u8], flags: MsgFlags) {
    assert_eq!(send(stream.as_raw_fd(), bytes, flags), Ok(bytes.len()));
}

/// Sends until the relay reads no more, and tells how many bytes that took.
fn fill(source: &TcpStream) -> usize {
    // What its pipe takes.
    put(source, &[b'x'; 1 << 20], MsgFlags::empty());
    let (mut sent, mut unread) = (1 << 20, 0);
    loop {
        put(source, &[b'x'; STEP], MsgFlags::empty());
        sent += STEP;
        until("what is sent is there", || queues(source).0 == 0);
        let before = std::mem::replace(&mut unread, queues(source).1);
        // Nobody read meanwhile, nor before.
        if before > 0 && unread == before + STEP {
            return sent;
        }
        assert!(sent < 64 << 20, "somebody reads on and on");
    }
}

/// Each would have a worker of its own woken, on a processor that sleeps, to do nothing.
#[test]
fn what_comes_for_a_receiver_that_takes_nothing_wakes_no_worker() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").workers(1).start();
    let worker = drained.daemon.wait_thread("worker-0");
    let sleeps =
        || -> usize { drained.daemon.thread_status(worker, "voluntary_ctxt_switches").parse().unwrap() };
    for from_client in [true, false] {
        let (client, server) = pair(&drained, &upstream);
        let (source, sink) = if from_client { (&client, &server) } else { (&server, &client) };
        let filled = fill(source);
        let before = sleeps();
        for _ in 0..PIECES {
            put(source, b"y", MsgFlags::empty());
            // It takes long enough for a worker that was woken to sleep again.
            until("what is sent is there", || queues(source).0 == 0);
        }
        let woken = sleeps() - before;
        assert!(woken <= PIECES / 10, "{woken} times for {PIECES} pieces");
        // What else happened meanwhile is not lost: urgent data has its place, and so has what comes later.
        put(source, b"!", MsgFlags::MSG_OOB);
        put(source, b"z", MsgFlags::empty());
        let mut bytes = vec![0; filled + PIECES + 2];
        (&*sink).read_exact(&mut bytes).unwrap();
        let (xs, rest) = bytes.split_at(filled);
        assert!(xs.iter().all(|byte| *byte == b'x') && rest[..PIECES].iter().all(|byte| *byte == b'y'));
        assert_eq!(rest[PIECES..], *b"!z");
        talk(&client, &server);
        source.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(sink), Ended::Fin);
    }
    drained.stop();
}
