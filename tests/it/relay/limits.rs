//! idle_timeout, max_connections, and file descriptors that run out.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::drained::{Drained, Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, serve_all, stuff, talk};
use crate::support::steady::steady;

#[test]
fn a_connection_without_a_byte_for_idle_timeout_is_closed() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "idle_timeout = \"500ms\"").start();
        let client = connect(&drained.address());
        let server = upstream.accept();
        // Bytes keep it alive for more than twice that time.
        let began = Instant::now();
        let mut last = began;
        while began.elapsed() < Duration::from_millis(1_100) {
            talk(&client, &server);
            last = Instant::now();
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(end_of(&client), Ended::Fin);
        let silent = last.elapsed();
        assert!((400..1_500).contains(&silent.as_millis()), "{silent:?}");
        assert_eq!(end_of(&server), Ended::Fin);
        drained.daemon.wait_line("idle");
    });
}

#[test]
fn idle_with_bytes_under_way_is_reset_for_the_end_would_pass_for_the_whole() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "idle_timeout = \"700ms\"").start();
    let client = connect(&drained.address());
    let server = upstream.accept();
    let sent = stuff(&server, Duration::from_millis(200));
    until("the reset", || server.take_error().unwrap().is_some());
    let (bytes, ended) = read_to_end(&client);
    assert!(bytes.len() < sent);
    assert_eq!(ended, Ended::Reset);
}

/// Clients that connect one after the other; the upstream's end of those that are served.
fn clients(
    drained: &Drained,
    upstream: &Listener,
    served: usize,
    waiting: usize,
) -> (Vec<(TcpStream, TcpStream)>, Vec<TcpStream>) {
    let address = drained.address();
    let pairs = (0..served).map(|_| (connect(&address), upstream.accept())).collect();
    let waiting = (0..waiting).map(|_| connect(&address)).collect();
    assert!(upstream.accept_within(Duration::from_millis(200)).is_none(), "one too many is served");
    (pairs, waiting)
}

#[test]
fn over_max_connections_clients_wait_in_the_backlog() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "max_connections = 10").start();
    let idle = drained.descriptors("socket:");
    let (mut pairs, waiting) = clients(&drained, &upstream, 10, 4);
    let cpu = drained.cpu();
    thread::sleep(Duration::from_millis(300));
    assert!(drained.cpu() - cpu < Duration::from_millis(100), "waiting costs little");
    let paused = "waits in the backlog";
    assert_eq!(drained.daemon.count(paused), 1);
    for client in waiting {
        pairs.remove(0);
        let server = upstream.accept();
        talk(&client, &server);
        pairs.push((client, server));
    }
    assert_eq!(drained.daemon.count(paused), 1, "said once");
    // Well below the mark the next one shows that it is over, and the next time is said again.
    pairs.clear();
    until("the end of all", || drained.descriptors("socket:") == idle);
    let mut pairs: Vec<_> = (0..2).map(|_| (connect(&drained.address()), upstream.accept())).collect();
    drained.daemon.wait_line("takes in connections again");
    let (more, _waiting) = clients(&drained, &upstream, 8, 1);
    pairs.extend(more);
    until("the second pause", || drained.daemon.count(paused) == 2);
    assert_eq!(drained.daemon.count("takes in connections again"), 1);
}

#[test]
fn without_file_descriptors_clients_wait_and_nothing_spins() {
    let upstream = Listener::new();
    let idle = Setup::proxy(&upstream.address, "").start();
    until("the workers' pipes", || idle.pipes().len() == 4);
    let limit = idle.limit_that_leaves(13);
    drop(idle);
    // Room for six connections and a half, fewer than the daemon would grant itself.
    let drained = Setup::proxy(&upstream.address, "connect_timeout = \"60s\"").descriptors(limit).start();
    // The seventh is accepted and finds no descriptor for its upstream.
    let (mut pairs, waiting) = clients(&drained, &upstream, 6, 4);
    let cpu = drained.cpu();
    thread::sleep(Duration::from_millis(500));
    let spent = drained.cpu() - cpu;
    assert!(spent < Duration::from_millis(100), "waiting costs {spent:?}");
    drained.daemon.wait_line("file descriptors ran out");
    assert_eq!(drained.daemon.count("waits in the backlog"), 1);
    // Those who are in are served.
    pairs.iter().for_each(|(client, server)| talk(client, server));
    pairs.clear();
    drop(serve_all(&waiting, &upstream));
    drop(waiting);
    drained.stop();
}

#[test]
fn what_the_limit_allows_is_kept_to() {
    let upstream = Listener::new();
    // Sixteen connections is what the least limit grants.
    let drained = Setup::proxy(&upstream.address, "").descriptors(96).start();
    let (mut pairs, waiting) = clients(&drained, &upstream, 16, 2);
    drained.daemon.wait_line("max_connections or the file descriptor limit is reached");
    for client in &waiting {
        pairs.pop();
        talk(client, &upstream.accept());
    }
    drop((pairs, waiting));
    drained.stop();
}
