//! Which upstream takes a connection, and what happens when one or all don't.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::drained::{Drained, Setup, until};
use crate::support::peers::{Ended, Listener, accept_any, connect, end_of, read_to_end, talk};
use crate::support::scratch::Scratch;
use crate::support::steady::steady;

fn start(upstreams: &[Listener], more: &str) -> Drained {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| &upstream.address).collect();
    let config = format!("[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = {addresses:?}\n{more}\n");
    Setup::new(&config).start()
}

/// Connects; whose upstream took it, and both ends.
fn served(drained: &Drained, upstreams: &[Listener]) -> (usize, TcpStream, TcpStream) {
    let client = connect(&drained.address());
    let (index, server) = accept_any(upstreams);
    talk(&client, &server);
    (index, client, server)
}

#[test]
fn the_one_with_the_fewest_connections_takes_the_next() {
    let upstreams = [Listener::new(), Listener::new(), Listener::new()];
    let drained = start(&upstreams, "");
    let mut held: Vec<_> = (0..9).map(|_| served(&drained, &upstreams)).collect();
    let count = |held: &[(usize, _, _)], index| held.iter().filter(|(i, ..)| *i == index).count();
    assert_eq!([0, 1, 2].map(|index| count(&held, index)), [3, 3, 3]);
    let sockets = drained.descriptors("socket:");
    held.retain(|(index, ..)| *index != 1);
    until("the end of three connections", || drained.descriptors("socket:") == sockets - 6);
    held.extend((0..3).map(|_| served(&drained, &upstreams)));
    assert_eq!([0, 1, 2].map(|index| count(&held, index)), [3, 3, 3]);
}

#[test]
fn one_that_refuses_is_passed_over_and_comes_back() {
    let upstreams = [Listener::refusing("127.0.0.1:0"), Listener::new()];
    let drained = start(&upstreams, "");
    // The rotation begins with either; two clients meet both.
    let held: Vec<_> = (0..6)
        .map(|_| {
            let client = connect(&drained.address());
            let server = upstreams[1].accept();
            talk(&client, &server);
            (client, server)
        })
        .collect();
    let down = format!("upstream {} does not take connections", upstreams[0].address);
    drained.daemon.wait_line(&down);
    upstreams[0].listen(16);
    drained.daemon.wait_line(&format!("upstream {} takes connections again", upstreams[0].address));
    // The background try: a connection that ends at once.
    assert_eq!(end_of(&upstreams[0].accept()), Ended::Fin);
    assert_eq!(served(&drained, &upstreams).0, 0, "it has fewer connections");
    drop(held);
    let end = drained.stop();
    assert_eq!((end.count(&down), end.count("takes connections again")), (1, 1), "{:#?}", end.lines);
}

#[test]
fn one_that_does_not_answer_is_passed_over_after_connect_timeout() {
    steady(|| {
        let upstreams = [Listener::new(), Listener::new()];
        let filling = upstreams[0].fill();
        let drained = start(&upstreams, "connect_timeout = \"400ms\"");
        let live = &upstreams[1..];
        let times: Vec<_> = (0..4)
            .map(|_| {
                let began = Instant::now();
                drop(served(&drained, live));
                began.elapsed()
            })
            .collect();
        let slow = times.iter().filter(|time| **time >= Duration::from_millis(400)).count();
        assert_eq!(slow, 1, "the others know: {times:?}");
        drained.daemon.wait_line("no answer within connect_timeout");
        drop(filling);
    });
}

#[test]
fn while_all_are_down_clients_are_let_go_and_each_change_is_said_once() {
    let upstreams = [Listener::refusing("127.0.0.1:0"), Listener::refusing("[::1]:0")];
    let drained = start(&upstreams, "hold = \"0s\"");
    for _ in 0..5 {
        assert_eq!(end_of(&connect(&drained.address())), Ended::Fin);
    }
    upstreams.iter().for_each(|upstream| upstream.listen(16));
    for upstream in &upstreams {
        drained.daemon.wait_line(&format!("upstream {} takes connections again", upstream.address));
        assert_eq!(end_of(&upstream.accept()), Ended::Fin, "the background try");
    }
    drop(served(&drained, &upstreams));
    let end = drained.stop();
    assert_eq!(end.count("does not take connections"), 2, "{:#?}", end.lines);
    assert_eq!(end.count("takes connections again"), 2, "{:#?}", end.lines);
    assert_eq!(end.count("no upstream took the connection"), 5, "{:#?}", end.lines);
}

#[test]
fn known_to_be_down_it_is_tried_all_the_same_when_there_is_no_other() {
    let upstream = Listener::refusing("127.0.0.1:0");
    let drained = Setup::proxy(&upstream.address, "hold = \"0s\"").start();
    // The background tries come less and less often: a client must not wait for the next.
    for _ in 0..3 {
        assert_eq!(end_of(&connect(&drained.address())), Ended::Fin);
    }
    upstream.listen(16);
    let client = connect(&drained.address());
    (&client).write_all(b"x").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    // Before or after it the background try may have come.
    until("the client's byte", || read_to_end(&upstream.accept()).0 == b"x");
}

#[test]
fn a_crowded_unix_upstream_is_passed_over_for_another_and_waited_for_when_alone() {
    let scratch = Scratch::new();
    let crowded = Listener::on(&format!("unix:{}", scratch.path("up").display()));
    let filling = crowded.fill();
    let free = [Listener::new()];
    let config = format!(
        "[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = [\"{}\", \"{}\"]\n[proxy.q]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        crowded.address, free[0].address, crowded.address
    );
    let drained = Setup::new(&config).start();
    for _ in 0..4 {
        drop(served(&drained, &free));
    }
    let client = connect(&drained.address_of("q"));
    // Room for it is made by taking out what fills the backlog.
    drop(filling);
    let server = std::iter::repeat_with(|| crowded.accept()).find(|server| {
        (&client).write_all(b"!").unwrap();
        crate::support::peers::wait(server, nix::poll::PollFlags::POLLIN, Duration::from_millis(200))
            && server.peek(&mut [0]).is_ok_and(|n| n == 1)
    });
    drop(server);
    let end = drained.stop();
    assert_eq!(end.count("does not take connections"), 0, "{:#?}", end.lines);
}
