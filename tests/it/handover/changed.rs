//! The next incarnation has another configuration.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::{ALWAYS, Port, adopted, pair, proxy, setup};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, end_of, talk, try_connect};
use crate::support::store::{LISTENER, LOT, Store};

fn two(ports: &[Port], upstream: &str, second: &str) -> Setup {
    let second =
        if second.is_empty() { String::new() } else { proxy(second, &[ports[1].address()], upstream) };
    Setup::new(&(ALWAYS.to_owned() + &proxy("p", &[ports[0].address()], upstream) + &second))
}

#[test]
fn connections_of_a_proxy_that_is_gone_are_drained() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let mut store = Store::start(two(&ports, &upstream.address, "q"));
    store.wait_count(LISTENER, 2);
    let stays = pair(ports[0].address(), &upstream);
    let quiet = pair(ports[1].address(), &upstream);
    let (mut client, mut server) = pair(ports[1].address(), &upstream);
    client.write_all(b"a question").unwrap();
    store.restart(two(&ports, &upstream.address, ""));
    // Nobody listens for it any more.
    store.wait_count(LISTENER, 1);
    until("refusal", || try_connect(ports[1].address()).is_err());
    // The one that waits for an answer gets it, the quiet one is ended.
    server.read_exact(&mut [0; 10]).unwrap();
    server.write_all(b"an answer").unwrap();
    client.read_exact(&mut [0; 9]).unwrap();
    drop(server);
    assert_eq!(end_of(&client), Ended::Fin);
    assert_eq!((end_of(&quiet.0), end_of(&quiet.1)), (Ended::Fin, Ended::Fin));
    talk(&stays.0, &stays.1);
    drop(pair(ports[0].address(), &upstream));
}

#[test]
fn a_listener_may_be_added_and_taken_away() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let config = |listen: &[&str]| Setup::new(&(ALWAYS.to_owned() + &proxy("p", listen, &upstream.address)));
    let both = [ports[0].address(), ports[1].address()];
    let mut store = Store::start(config(&both[..1]));
    store.wait_count(LISTENER, 1);
    let first = pair(both[0], &upstream);
    store.restart(config(&both));
    store.wait_count(LISTENER, 2);
    assert_eq!(adopted(&store), (1, 1));
    let second = pair(both[1], &upstream);
    store.restart(config(&both[1..]));
    store.wait_count(LISTENER, 1);
    until("refusal", || try_connect(both[0]).is_err());
    drop(pair(both[1], &upstream));
    // Connections belong to the proxy, not to the listener.
    for (client, server) in [&first, &second] {
        talk(client, server);
    }
}

#[test]
fn a_listener_may_become_one_that_overlaps_it() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let everywhere = format!("0.0.0.0:{}", port.address().rsplit_once(':').unwrap().1);
    let config = |listen| Setup::new(&(ALWAYS.to_owned() + &proxy("p", &[listen], &upstream.address)));
    let mut store = Store::start(config(&everywhere));
    store.wait_count(LISTENER, 1);
    let held = pair(port.address(), &upstream);
    for listen in [port.address(), &everywhere, port.address()] {
        store.restart(config(listen));
        drop(pair(port.address(), &upstream));
        store.wait_count(LISTENER, 1);
        talk(&held.0, &held.1);
    }
}

#[test]
fn a_listener_may_change_its_proxy() {
    let (ports, upstreams) = ([Port::reserve(), Port::reserve()], [Listener::new(), Listener::new()]);
    let config = |first: usize, second: usize| {
        let one = proxy("p", &[ports[first].address()], &upstreams[0].address);
        let other = proxy("q", &[ports[second].address()], &upstreams[1].address);
        Setup::new(&(ALWAYS.to_owned() + &one + &other))
    };
    let mut store = Store::start(config(0, 1));
    store.wait_count(LISTENER, 2);
    let held = [pair(ports[0].address(), &upstreams[0]), pair(ports[1].address(), &upstreams[1])];
    store.restart(config(1, 0));
    drop(pair(ports[1].address(), &upstreams[0]));
    drop(pair(ports[0].address(), &upstreams[1]));
    for (client, server) in &held {
        talk(client, server);
    }
}

#[test]
fn connections_to_an_upstream_that_is_gone_go_on() {
    let (port, upstreams) = (Port::reserve(), [Listener::new(), Listener::new()]);
    let mut store = Store::start(setup(port.address(), &upstreams[0].address));
    store.wait_count(LISTENER, 1);
    let held = pair(port.address(), &upstreams[0]);
    store.restart(setup(port.address(), &upstreams[1].address));
    talk(&held.0, &held.1);
    drop(pair(port.address(), &upstreams[1]));
    store.restart(setup(port.address(), &upstreams[1].address));
    talk(&held.0, &held.1);
}

#[test]
fn the_number_of_workers_may_change() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let config = |workers| setup(port.address(), &upstream.address).workers(workers);
    let mut store = Store::start(config(2));
    store.wait_count(LISTENER, 1);
    let pairs: Vec<_> = (0..20).map(|_| pair(port.address(), &upstream)).collect();
    for workers in [1, 5, 1, 2] {
        store.restart(config(workers));
        assert_eq!(adopted(&store), (1, 20));
        for (client, server) in &pairs {
            talk(client, server);
        }
    }
    drop(pairs);
    until("no connection", || store.status()["proxies"]["p"]["connections"]["active"] == 0);
}

#[test]
fn a_unix_listener_that_is_gone_takes_its_path_along() {
    let scratch = crate::support::scratch::Scratch::new();
    let (path, port, upstream) = (scratch.path("in"), Port::reserve(), Listener::new());
    let listen = format!("unix:{}", path.display());
    let config = |listen: &[&str]| Setup::new(&(ALWAYS.to_owned() + &proxy("p", listen, &upstream.address)));
    let mut store = Store::start(config(&[port.address(), &listen]));
    store.wait_count(LISTENER, 2);
    let held = pair(&listen, &upstream);
    store.restart(config(&[port.address()]));
    store.wait_count(LISTENER, 1);
    until("refusal", || try_connect(&listen).is_err());
    talk(&held.0, &held.1);
    // A file that nobody listens on is in nobody's way.
    store.restart(config(&[port.address(), &listen]));
    drop(pair(&listen, &upstream));
    assert_eq!(adopted(&store), (1, 1));
}

#[test]
fn a_port_of_the_kernels_choice_takes_no_other_listener() {
    let (port, upstreams) = (Port::reserve(), [Listener::new(), Listener::new()]);
    let config = || {
        let any = proxy("a", &["127.0.0.1:0"], &upstreams[0].address);
        Setup::new(&(ALWAYS.to_owned() + &any + &proxy("b", &[port.address()], &upstreams[1].address)))
    };
    let mut store = Store::start(config());
    store.wait_count(LISTENER, 2);
    // In whatever order they come back.
    for _ in 0..6 {
        store.restart(config());
        store.wait_count(LISTENER, 2);
        assert_eq!(adopted(&store).0, 2);
        drop(pair(port.address(), &upstreams[1]));
    }
}

#[test]
fn workers_come_and_go_and_the_store_does_not_grow() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let handover = format!("{ALWAYS}crash_after = \"0s\"\n");
    let config = handover + &proxy("p", &[port.address()], &upstream.address);
    let setup = |workers| Setup::new(&config).workers(workers);
    let mut store = Store::start(setup(4));
    store.wait_count(LISTENER, 1);
    let mut pairs = Vec::new();
    for (round, workers) in [1, 4, 2, 4, 3, 1, 4].into_iter().enumerate() {
        pairs.extend((0..4).map(|_| pair(port.address(), &upstream)));
        match round % 2 {
            0 => _ = store.kill(setup(workers)),
            _ => _ = store.restart(setup(workers)),
        }
        assert_eq!(adopted(&store), (1, pairs.len() as u64));
        // Both ends of one for each of the four.
        assert_eq!(store.count(LOT), 8);
        pairs.iter().for_each(|(client, server)| talk(client, server));
    }
}

#[test]
fn what_does_not_fit_a_lower_limit_is_let_go_of_and_the_rest_goes_on() {
    const ALL: usize = 300;
    let (port, upstream) = (Port::reserve(), Listener::new());
    let one = |more: &str| {
        let config = format!("{ALWAYS}{}{more}", proxy("p", &[port.address()], &upstream.address));
        Setup::new(&config)
    };
    let mut store = Store::start(one(""));
    store.wait_count(LISTENER, 1);
    let pairs: Vec<_> = (0..ALL).map(|_| pair(port.address(), &upstream)).collect();
    // A listener more, too.
    let second = Port::reserve();
    let more = proxy("q", &[second.address()], &upstream.address);
    store.restart(one(&more).descriptors(1_100));
    let (_, kept) = adopted(&store);
    // 512 and 128 for each worker are not for connections: 166 fit.
    assert!((150..=166).contains(&kept), "{kept}");
    let is_over = |client: &TcpStream| {
        client.set_nonblocking(true).unwrap();
        let peeked = client.peek(&mut [0]);
        client.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    let over = || pairs.iter().filter(|(client, _)| is_over(client)).count();
    until("the others' end", || over() == ALL - kept as usize);
    for (client, server) in pairs {
        match is_over(&client) {
            true => assert_eq!(end_of(&server), Ended::Reset),
            false => talk(&client, &server),
        }
    }
    // All room was taken until now.
    drop(pair(port.address(), &upstream));
    drop(pair(second.address(), &upstream));
}
