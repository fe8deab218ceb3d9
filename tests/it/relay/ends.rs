//! How the ends of one side reach the other: half-close, resets, and peers that never read.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, reset, send, stuff, talk};
use crate::support::scratch::Scratch;

#[test]
fn after_a_half_close_the_other_direction_goes_on() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&server), Ended::Fin);
    send(&server, &client, b"much later");
    drop(server);
    assert_eq!(end_of(&client), Ended::Fin);

    let (client, server) = pair(&drained, &upstream);
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&client), Ended::Fin);
    send(&client, &server, b"much later");
    drop(client);
    assert_eq!(end_of(&server), Ended::Fin);
    until("the release of both connections", || drained.descriptors("socket:") == idle_sockets());
}

/// What a daemon without connections has: listener, control socket, notify socket, ...
fn idle_sockets() -> usize {
    let drained = Setup::proxy("127.0.0.1:9", "").start();
    drained.descriptors("socket:")
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    reset(client);
    assert_eq!(end_of(&server), Ended::Reset);
    let (client, server) = pair(&drained, &upstream);
    reset(server);
    assert_eq!(end_of(&client), Ended::Reset);
}

#[test]
fn a_reset_after_a_half_close_is_passed_on() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&server), Ended::Fin);
    reset(client);
    // The upstream says nothing and is told all the same.
    until("the reset", || server.take_error().unwrap().is_some());
}

#[test]
fn a_reset_reaches_an_upstream_that_does_not_read() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    stuff(&client, Duration::from_millis(200));
    reset(client);
    until("the reset", || server.take_error().unwrap().is_some());
}

#[test]
fn what_an_upstream_sent_before_its_reset_arrives() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    (&client).write_all(b"an upload that nobody wants").unwrap();
    until("its arrival", || server.peek(&mut [0; 64]).unwrap() == 27);
    // Closed with unread bytes: the answer is followed by a reset.
    (&server).write_all(b"no, thank you").unwrap();
    let mut answer = [0; 13];
    (&client).read_exact(&mut answer).unwrap();
    drop(server);
    assert_eq!(&answer, b"no, thank you");
    assert_eq!(end_of(&client), Ended::Reset);
}

#[test]
fn a_client_that_never_reads_stops_its_upstream_and_costs_no_memory() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    let before = drained.memory("Anonymous");
    let sent = stuff(&server, Duration::from_millis(300));
    // What the buffers of four sockets and a pipe take, far from endless.
    assert!(sent < 64 << 20, "{sent} bytes");
    assert!(drained.memory("Anonymous") < before + (1 << 20));
    let cpu = drained.cpu();
    std::thread::sleep(Duration::from_millis(300));
    assert!(drained.cpu() - cpu < Duration::from_millis(50), "waiting costs nothing");
    // Once it reads, all of it comes.
    server.shutdown(Shutdown::Write).unwrap();
    let (bytes, ended) = read_to_end(&client);
    assert_eq!((bytes.len(), ended), (sent, Ended::Fin));
    assert!(bytes.iter().all(|byte| *byte == b'x'));
}

#[test]
fn an_upstream_that_never_reads_stops_its_client_and_nobody_else() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    let sent = stuff(&client, Duration::from_millis(300));
    assert!(sent < 64 << 20, "{sent} bytes");
    // The other direction, and others, go on.
    send(&server, &client, b"still here");
    drop(pair(&drained, &upstream));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&server).0.len(), sent);
}

#[test]
fn a_unix_client_that_sends_and_closes_at_once_is_served() {
    let scratch = Scratch::new();
    let upstream = Listener::new();
    let listen = format!("unix:{}", scratch.path("in").display());
    let config = format!("[proxy.p]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address);
    let drained = Setup::new(&config).start();
    for _ in 0..100 {
        let mut client = connect(&listen);
        client.write_all(b"fire and forget").unwrap();
        drop(client);
        let server = upstream.accept();
        assert_eq!(read_to_end(&server), (b"fire and forget".to_vec(), Ended::Fin));
    }
    drained.stop();
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let address = drained.address();
    let (sockets, pipes) = (drained.descriptors("socket:"), drained.descriptors("pipe:"));
    for round in 0..2_000 {
        let client = connect(&address);
        let server = upstream.accept();
        match round % 5 {
            0 => send(&client, &server, b"hello"),
            1 => reset(client),
            2 => drop(server),
            3 => client.shutdown(Shutdown::Both).unwrap(),
            _ => talk(&client, &server),
        }
    }
    until("the release of all connections", || drained.descriptors("socket:") == sockets);
    // Each worker keeps the pipe that it uses.
    assert!(drained.descriptors("pipe:") <= pipes + 4);
}
