//! What a connection costs, and that no byte of a peer stays in the daemon's memory.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::support::drained::{Drained, Setup, alone, raise_descriptors, until};
use crate::support::peers::{Listener, connect, stuff, talk};

const CONNECTIONS: usize = 4_000;

fn open(drained: &Drained, upstream: &Listener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let address = drained.address();
    let pair = |_| {
        let (client, server) = (connect(&address), upstream.accept());
        talk(&client, &server);
        (client, server)
    };
    (0..count).map(pair).collect()
}

#[test]
fn an_idle_connection_owns_no_pipe_and_at_most_512_bytes() {
    let _alone = alone();
    raise_descriptors();
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let sockets = drained.descriptors("socket:");
    drop(open(&drained, &upstream, 200));
    until("the release of all connections", || drained.descriptors("socket:") == sockets);
    let before = drained.memory("Anonymous");
    let held = open(&drained, &upstream, CONNECTIONS);
    let after = drained.memory("Anonymous");
    let each = after.saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes a connection");
    assert!(each <= 512, "{each} bytes a connection");
    assert_eq!(drained.descriptors("socket:"), sockets + 2 * CONNECTIONS);
    // Standard input, output and error, and for each worker the pipe in use and the last one.
    assert!(drained.descriptors("pipe:") <= 3 + 2 * 4, "{} pipes", drained.descriptors("pipe:"));
    drop(held);
    until("the release of all connections", || drained.descriptors("socket:") == sockets);
    // The next crowds find the room of the first, though each worker may now meet the greater part.
    for _ in 0..2 {
        let held = open(&drained, &upstream, CONNECTIONS);
        let again = drained.memory("Anonymous");
        let most = after + (after - before) + (128 << 10);
        assert!(again <= most, "{before} before, {after} with {CONNECTIONS}, {again} again");
        drop(held);
        until("the release of all connections", || drained.descriptors("socket:") == sockets);
    }
    drained.stop();
}

/// Whether `needle` stands anywhere in the memory that the daemon can write.
fn is_in_memory(drained: &Drained, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", drained.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", drained.pid())).unwrap();
    maps.lines().filter(|line| line.split(' ').nth(1).unwrap().contains('w')).any(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (mut at, end) = (number(start), number(end));
        let mut piece = vec![0; 1 << 20];
        while at < end {
            let want = ((end - at) as usize).min(piece.len());
            // A guard page, or one that went away meanwhile.
            let Ok(n) = memory.read_at(&mut piece[..want], at) else { break };
            if piece[..n].windows(needle.len()).any(|window| window == needle) {
                return true;
            }
            // Pieces overlap, so that none is missed at a seam.
            at += n.saturating_sub(needle.len()).max(1).min(n) as u64;
            if n < needle.len() || at + needle.len() as u64 >= end {
                break;
            }
        }
        false
    })
}

#[test]
fn no_byte_of_a_peer_stays_in_the_memory_of_the_daemon() {
    let _alone = alone();
    let upstream = Listener::new();
    let config = format!(
        "[proxy.a-name-to-be-found]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        upstream.address
    );
    let drained = Setup::new(&config).start();
    let address = drained.address_of("a-name-to-be-found");
    let (client, server) = (connect(&address), upstream.accept());
    let secret = b"kq8-Zw2-payload-of-a-peer-Vy7-mN3";
    for _ in 0..100 {
        crate::support::peers::send(&client, &server, secret);
        crate::support::peers::send(&server, &client, secret);
    }
    // The worker may still be about to overwrite the last one, which has arrived.
    until("the last one is forgotten", || !is_in_memory(&drained, secret));
    // And while a pipe is full of it.
    (&server).write_all(&secret.repeat(1_000)).unwrap();
    stuff(&server, Duration::from_millis(100));
    assert!(is_in_memory(&drained, b"a-name-to-be-found"), "the search finds what is there");
    until("the last one is forgotten", || !is_in_memory(&drained, secret));
}
