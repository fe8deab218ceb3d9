//! What was set by hand, and who waits, over restarts and kills of the daemon.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{command, run};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, Port, connect, end_of, read_to_end};
use crate::support::steady::steady;
use crate::support::store::{LISTENER, Store};

/// A daemon on that port.
fn setup(port: &Port, upstream: &Listener, more: &str) -> Setup {
    let (listen, upstream) = (port.address(), &upstream.address);
    let handover = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";
    let proxy = format!("[proxy.p]\nlisten = \"{listen}\"\nupstream = \"{upstream}\"\n{more}\n");
    Setup::new(&format!("{handover}{proxy}")).workers(2)
}

fn ctl(store: &Store, words: &[&str]) -> String {
    let ended = run(command(store.scratch.path("control.sock"), words));
    assert_eq!(ended.code, Some(0), "{words:?}: {ended:?}");
    ended.out
}

fn state(store: &Store) -> String {
    store.status()["proxies"]["p"]["upstreams"][0]["state"].as_str().unwrap().to_owned()
}

fn held(store: &Store) -> u64 {
    store.status()["proxies"]["p"]["connections"]["held"].as_u64().unwrap()
}

fn numbered(store: &Store, port: &Port, count: u8) -> Vec<TcpStream> {
    let client = |n: u8| {
        let mut client = connect(port.address());
        client.write_all(&[n]).unwrap();
        until("it is held", || held(store) == u64::from(n) + 1);
        client
    };
    (0..count).map(client).collect()
}

fn arrive_in_order(upstream: &Listener, clients: Vec<TcpStream>) {
    let mut next = 0;
    while usize::from(next) < clients.len() {
        let (mut server, mut number) = (upstream.accept(), [0]);
        // The try whether it is there says nothing.
        if server.read_exact(&mut number).is_ok() {
            assert_eq!(number, [next]);
            server.write_all(&number).unwrap();
            next += 1;
        }
    }
    for (client, number) in clients.iter().zip(0..) {
        assert_eq!(read_to_end(client), (vec![number], Ended::Fin));
    }
}

#[test]
fn a_drained_upstream_stays_so_until_it_is_resumed() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(&port, &upstream, ""));
    store.wait_count(LISTENER, 1);
    let file = store.scratch.path("control.sock.by-hand");
    assert!(!file.exists());
    ctl(&store, &["drain", "p", "--wait"]);
    store.restart(setup(&port, &upstream, ""));
    assert_eq!(state(&store), "drained");
    store.daemon().wait_line("what was set by hand is set again");
    store.kill(setup(&port, &upstream, ""));
    assert_eq!(state(&store), "drained");
    let clients = numbered(&store, &port, 3);
    ctl(&store, &["resume", "p", "--wait"]);
    arrive_in_order(&upstream, clients);
    assert!(!file.exists());
    store.kill(setup(&port, &upstream, ""));
    assert_eq!(state(&store), "up");
}

#[test]
fn a_drain_goes_on_to_its_deadline() {
    steady(|| {
        let (port, upstream) = (Port::reserve(), Listener::new());
        let mut store = Store::start(setup(&port, &upstream, ""));
        store.wait_count(LISTENER, 1);
        let (client, mut server) = (connect(port.address()), upstream.accept());
        (&client).write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let began = Instant::now();
        let drain = ["drain", "p", "--wait", "--timeout", "3s"];
        let mut waiting = command(store.scratch.path("control.sock"), &drain);
        let waiting = std::thread::spawn(move || waiting.output().unwrap());
        until("the drain", || state(&store) == "draining");
        store.restart(setup(&port, &upstream, ""));
        assert_eq!(state(&store), "draining");
        // Who waits for it hardly notices.
        let ended = waiting.join().unwrap();
        let took = began.elapsed();
        assert_eq!(ended.status.code(), Some(75), "{ended:?}");
        assert!((Duration::from_millis(2_990)..Duration::from_secs(8)).contains(&took), "{took:?}");
        assert_eq!((end_of(&client), end_of(&server)), (Ended::Reset, Ended::Reset));
    });
}

/// Who asks in the first milliseconds is told of connections that no worker has taken up yet.
#[test]
fn nothing_counts_as_drained_that_is_about_to_be_adopted() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(&port, &upstream, ""));
    store.wait_count(LISTENER, 1);
    let (client, mut server) = (connect(port.address()), upstream.accept());
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    ctl(&store, &["drain", "p", "--timeout", "1h"]);
    store.kill(setup(&port, &upstream, "").env("DRAINED_TEST_FAULT", "adopt-hang"));
    let upstream = store.status()["proxies"]["p"]["upstreams"][0].clone();
    assert_eq!((&upstream["state"], &upstream["connections"]), (&"draining".into(), &1.into()));
}

#[test]
fn who_waits_goes_on_waiting_in_the_same_order() {
    // A worker that is kept from running for a second is one that hangs: nobody gives way to it.
    steady(|| {
        let (port, upstream) = (Port::reserve(), Listener::refusing("127.0.0.1:0"));
        let mut store = Store::start(setup(&port, &upstream, ""));
        store.wait_count(LISTENER, 1);
        let clients = numbered(&store, &port, 20);
        store.restart(setup(&port, &upstream, ""));
        until("all are held", || held(&store) == 20);
        store.kill(setup(&port, &upstream, ""));
        until("all are held", || held(&store) == 20);
        upstream.listen(128);
        arrive_in_order(&upstream, clients);
        assert_eq!(store.status()["proxies"]["p"]["connections"]["failed"], 0);
    });
}

#[test]
fn who_waits_has_what_is_left_of_its_time() {
    steady(|| {
        let (port, upstream) = (Port::reserve(), Listener::refusing("127.0.0.1:0"));
        let setup = || setup(&port, &upstream, "hold = \"2s\"");
        let mut store = Store::start(setup());
        store.wait_count(LISTENER, 1);
        let began = Instant::now();
        let client = connect(port.address());
        until("it is held", || held(&store) == 1);
        while began.elapsed() < Duration::from_millis(1_500) {
            store.restart(setup());
        }
        assert_eq!(end_of(&client), Ended::Fin);
        let took = began.elapsed();
        assert!((Duration::from_millis(1_990)..Duration::from_secs(3)).contains(&took), "{took:?}");
    });
}

#[test]
fn a_hold_by_hand_goes_on() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(&port, &upstream, ""));
    store.wait_count(LISTENER, 1);
    ctl(&store, &["hold", "p"]);
    let clients = numbered(&store, &port, 3);
    store.kill(setup(&port, &upstream, ""));
    until("all are held", || held(&store) == 3);
    ctl(&store, &["resume", "p"]);
    arrive_in_order(&upstream, clients);
}

#[test]
fn a_damaged_file_never_stops_a_start() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(&port, &upstream, ""));
    store.wait_count(LISTENER, 1);
    let file = store.scratch.path("control.sock.by-hand");
    let address = &upstream.address;
    for (damaged, said) in [
        (String::new(), "EOF"),
        ("\u{0}\u{1}junk".to_owned(), "expected value"),
        ("[".repeat(100_000), "invalid type"),
        ("{\"version\":2,\"proxies\":[]}".to_owned(), "of version 2"),
        ("{\"version\":1,\"proxies\":[{\"name\":7}]}".to_owned(), "invalid type"),
    ] {
        fs::write(&file, damaged).unwrap();
        store.restart(setup(&port, &upstream, ""));
        let line = store.daemon().wait_line("let go of what was set by hand");
        assert!(line.contains(said), "{line}");
        assert_eq!(state(&store), "up");
    }
    // What was configured then may not be any more, and times of another boot are far away.
    let kept = format!(
        "{{\"version\":1,\"proxies\":[{{\"name\":\"gone\",\"hold_until\":null,\"drained\":[]}},\
         {{\"name\":\"p\",\"hold_until\":9007199254740991,\"drained\":[[\"127.0.0.1:1\",0,0],\
         [\"{address}\",9007199254740991,9007199254740991]]}}]}}"
    );
    fs::write(&file, kept).unwrap();
    store.restart(setup(&port, &upstream, ""));
    assert_eq!(state(&store), "drained");
    ctl(&store, &["resume", "p", "--upstream", address, "--wait"]);
    // A directory in its place cannot be written: it is said, and the call is done.
    fs::create_dir(&file).unwrap();
    store.restart(setup(&port, &upstream, ""));
    ctl(&store, &["drain", "p", "--wait"]);
    store.daemon().wait_line("would not outlive this process");
}

#[test]
fn an_orderly_stop_is_the_end_of_it() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let file = drained.scratch.path("control.sock.by-hand");
    super::ok(&drained, &["hold", "p"]);
    assert!(file.exists());
    assert_eq!(super::proxy(&drained)["holding"], true);
    drained.signal(nix::sys::signal::Signal::SIGTERM);
    drained.daemon.wait_line("stopped after");
    assert!(!file.exists());
}
