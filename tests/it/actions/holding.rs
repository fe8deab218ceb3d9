//! Clients that are held: in which order they go through, for how long they wait, and that they may leave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::{ctl, ok, proxy, upstream_state, wait_held};
use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, reset, talk};
use crate::support::steady::steady;

/// So many clients that have each said their number, and are held in its order.
fn numbered(drained: &crate::support::drained::Drained, count: u8) -> Vec<TcpStream> {
    let client = |n: u8| {
        let mut client = connect(&drained.address());
        client.write_all(&[n]).unwrap();
        wait_held(drained, u64::from(n) + 1);
        client
    };
    (0..count).map(client).collect()
}

/// The numbers of the clients that come, in the order in which they do.
fn arrivals(upstream: &Listener, count: u8) -> Vec<u8> {
    let mut numbers = Vec::new();
    while numbers.len() < usize::from(count) {
        let mut number = [0];
        let mut server = upstream.accept();
        // The try whether it is there says nothing.
        if server.read_exact(&mut number).is_ok() {
            server.write_all(&number).unwrap();
            numbers.push(number[0]);
        }
    }
    numbers
}

#[test]
fn they_go_through_in_the_order_in_which_they_came() {
    // A worker that is kept from running for a second is one that hangs: nobody gives way to it.
    steady(|| {
        for workers in [1, 2, 5] {
            let upstream = Listener::refusing("127.0.0.1:0");
            let drained = Setup::proxy(&upstream.address, "").workers(workers).start();
            let clients = numbered(&drained, 100);
            assert_eq!(proxy(&drained)["connections"]["failed"], 0);
            upstream.listen(128);
            assert_eq!(arrivals(&upstream, 100), (0..100).collect::<Vec<_>>(), "{workers} workers");
            for (mut client, number) in clients.into_iter().zip(0..) {
                let mut answer = [0xff];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [number]);
            }
            until("nobody waits", || proxy(&drained)["connections"]["held"] == 0);
            let end = drained.stop();
            assert_eq!(end.count("does not take connections"), 1, "{:#?}", end.lines);
        }
    });
}

#[test]
fn so_they_do_where_a_unix_upstream_has_a_short_backlog() {
    // A worker that is kept from running for a second is one that hangs: nobody gives way to it.
    steady(|| {
        for workers in [1, 2, 5] {
            let scratch = crate::support::scratch::Scratch::new();
            let upstream = Listener::refusing(&format!("unix:{}", scratch.path("up").display()));
            let drained = Setup::proxy(&upstream.address, "").workers(workers).start();
            let clients = numbered(&drained, 20);
            upstream.listen(2);
            assert_eq!(arrivals(&upstream, 20), (0..20).collect::<Vec<_>>(), "{workers} workers");
            drop(clients);
        }
    });
}

#[test]
fn a_worker_that_hangs_keeps_those_of_the_others_waiting_for_a_moment_only() {
    let upstream = Listener::refusing("127.0.0.1:0");
    let fault = ("DRAINED_TEST_FAULT", "worker-hang:3");
    let drained = Setup::proxy(&upstream.address, "").workers(2).env(fault.0, fault.1).start();
    let mut clients = numbered(&drained, 2);
    // The one that takes in the third hangs, and has at least one of the first two. Which of these is the third may
    // depend on who takes them in.
    for number in [2, 3] {
        let mut client = connect(&drained.address());
        client.write_all(&[number]).unwrap();
        clients.push(client);
    }
    wait_held(&drained, 3);
    upstream.listen(128);
    until("the fourth", || arrivals(&upstream, 1)[0] >= 2);
}

#[test]
fn who_waited_for_as_long_as_hold_says_is_let_go_and_counted() {
    steady(|| {
        let upstream = Listener::refusing("127.0.0.1:0");
        let drained = Setup::proxy(&upstream.address, "hold = \"400ms\"").start();
        let began = Instant::now();
        let clients: Vec<_> = (0..30).map(|_| connect(&drained.address())).collect();
        wait_held(&drained, 30);
        assert!(clients.iter().all(|client| end_of(client) == Ended::Fin));
        let took = began.elapsed();
        assert!((Duration::from_millis(390)..Duration::from_secs(2)).contains(&took), "{took:?}");
        let connections = proxy(&drained)["connections"].clone();
        assert_eq!((&connections["failed"], &connections["held"]), (&30.into(), &0.into()));
        let end = drained.stop();
        // Ten a second and worker have an entry.
        let said = end.count("no upstream took the connection");
        assert!((10..30).contains(&said), "{said} entries");
    });
}

#[test]
fn who_leaves_is_noticed() {
    let upstream = Listener::refusing("127.0.0.1:0");
    let drained = Setup::proxy(&upstream.address, "").start();
    let clients: Vec<_> = (0..3).map(|_| connect(&drained.address())).collect();
    let asking = connect(&drained.address());
    (&asking).write_all(b"one question").unwrap();
    wait_held(&drained, 4);
    let mut clients = clients.into_iter();
    drop(clients.next());
    wait_held(&drained, 3);
    clients.next().into_iter().for_each(reset);
    wait_held(&drained, 2);
    // One that has asked may wait for the answer with its own side closed.
    asking.shutdown(Shutdown::Write).unwrap();
    drop(clients);
    wait_held(&drained, 1);
    upstream.listen(16);
    let server = std::iter::repeat_with(|| upstream.accept()).find_map(|server| {
        let (bytes, ended) = read_to_end(&server);
        assert_eq!(ended, Ended::Fin);
        (!bytes.is_empty()).then_some((server, bytes))
    });
    let (mut server, question) = server.unwrap();
    assert_eq!(question, b"one question");
    server.write_all(b"its answer").unwrap();
    drop(server);
    assert_eq!(read_to_end(&asking).0, b"its answer");
    until("the end", || proxy(&drained)["connections"]["active"] == 0);
    assert_eq!(proxy(&drained)["connections"]["failed"], 0);
}

#[test]
fn they_are_no_more_than_max_connections() {
    let upstream = Listener::refusing("127.0.0.1:0");
    let drained = Setup::proxy(&upstream.address, "max_connections = 3").start();
    let clients: Vec<_> = (0..6).map(|_| connect(&drained.address())).collect();
    clients.iter().for_each(|mut client| client.write_all(&[7]).unwrap());
    drained.daemon.wait_line("waits in the backlog: max_connections");
    wait_held(&drained, 3);
    upstream.listen(128);
    // Each leaves when it was served, and makes room.
    let leave = |client: TcpStream| std::thread::spawn(move || assert_eq!(read_to_end(&client).0, [7]));
    let leaving: Vec<_> = clients.into_iter().map(leave).collect();
    assert_eq!(arrivals(&upstream, 6), [7; 6]);
    leaving.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_proxy_holds_by_hand_though_its_upstream_is_up() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").workers(1).start();
    let (client, server) = pair(&drained, &upstream);
    let said = ok(&drained, &["hold", "p"]);
    assert!(said.contains("held until: drainctl resume p"), "{said}");
    assert!(ok(&drained, &["hold", "p"]).contains("held on"));
    let _clients = numbered(&drained, 5);
    // Who is there goes on.
    talk(&client, &server);
    assert_eq!(upstream_state(&drained), "up");
    // To resume one upstream ends no hold.
    ok(&drained, &["resume", "p", "--upstream", &upstream.address]);
    wait_held(&drained, 5);
    ok(&drained, &["resume", "p"]);
    assert_eq!(arrivals(&upstream, 5), [0, 1, 2, 3, 4]);
    wait_held(&drained, 0);
}

#[test]
fn a_hold_by_hand_ends_by_itself() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let began = Instant::now();
        ok(&drained, &["hold", "p", "--timeout", "600ms"]);
        let held = connect(&drained.address());
        let server = upstream.accept();
        assert!(began.elapsed() >= Duration::from_millis(590), "{:?}", began.elapsed());
        talk(&held, &server);
        drop(pair(&drained, &upstream));
    });
}

#[test]
fn a_proxy_that_holds_nobody_lets_go_at_once() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "hold = \"0s\"").start();
    let ended = ctl(&drained, &["hold", "p"]);
    assert!(ended.code == Some(65) && ended.err.contains("hold = \"0s\""), "{ended:?}");
    ok(&drained, &["drain", "p", "--wait"]);
    assert_eq!(end_of(&connect(&drained.address())), Ended::Fin);
    assert_eq!(proxy(&drained)["connections"]["failed"], 1);
}

/// An upstream whose backlog is full neither takes connections nor refuses them. Those that were let through to it
/// go to the next one, and nobody waits until it counts as down.
#[test]
fn who_was_let_through_to_those_that_are_stuck_goes_to_the_other() {
    for count in [1, 2] {
        steady(|| {
            let stuck: Vec<_> = (0..count).map(|_| Listener::refusing("127.0.0.1:0")).collect();
            let other = Listener::new();
            let upstreams: Vec<_> = stuck.iter().chain([&other]).map(|upstream| &upstream.address).collect();
            let config = format!("[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = {upstreams:?}\n");
            let drained = Setup::new(&config).start();
            ok(&drained, &["hold", "p"]);
            let clients = numbered(&drained, 40);
            let _filling: Vec<_> = stuck.iter().map(Listener::fill).collect();
            let began = Instant::now();
            ok(&drained, &["resume", "p"]);
            let servers: Vec<_> = clients.iter().map(|_| other.accept()).collect();
            assert!(began.elapsed() < Duration::from_secs(2), "{count} stuck: it took {:?}", began.elapsed());
            drop(servers);
        });
    }
}
