//! Connections of all kinds live on over ten restarts, and new ones come in meanwhile.

use std::io::{Read, Write};
use std::time::Duration;

use super::{ALWAYS, Port, adopted, pair, proxy, setup};
use crate::support::crowd::{Crowd, Knocking, Mix};
use crate::support::drained::{Setup, alone, raise_descriptors};
use crate::support::peers::{Listener, connect, talk, try_connect};
use crate::support::scratch::Scratch;
use crate::support::steady::steady;
use crate::support::store::{LEDGER, LISTENER, LOT, Restarted, Store};

const RESTARTS: usize = 10;
const MIX: Mix = Mix { idle: 20, replies: 20, streams: 24, halves: 10 };
const CONNECTIONS: u64 = 74;
/// Both ends of one for each worker.
const LOTS: usize = 4;

/// Which side of the proxy is a UNIX socket.
fn ten_restarts(unix_listener: bool, unix_upstream: bool) {
    let _alone = alone();
    raise_descriptors();
    let scratch = Scratch::new();
    let path = |name: &str| format!("unix:{}", scratch.path(name).display());
    let ports = [Port::reserve(), Port::reserve()];
    let upstream = |name: &str| if unix_upstream { path(name) } else { "127.0.0.1:0".to_owned() };
    let upstreams = [Listener::on(&upstream("up-old")), Listener::on(&upstream("up-new"))];
    let listen = |n: usize, name: &str| {
        if unix_listener { path(name) } else { ports[n].address().to_owned() }
    };
    let (old, new) = (listen(0, "in-old"), listen(1, "in-new"));
    let config = ALWAYS.to_owned()
        + &proxy("old", &[&old], &upstreams[0].address)
        + &proxy("new", &[&new], &upstreams[1].address);
    let [upstream, fresh] = upstreams;

    let mut store = Store::start(Setup::new(&config));
    store.wait_count(LISTENER, 2);
    let crowd = Crowd::gather(&old, &upstream, MIX);
    let knocking = Knocking::start(&new, fresh);
    crowd.replies.longest();
    for round in 0..RESTARTS {
        let Restarted { end, pause } = store.restart(Setup::new(&config));
        let longest = crowd.replies.longest();
        println!("restart {round}: ended and ready again in {pause:?}, longest reply {longest:?}");
        assert!(end.says("event=handed-over"), "{:#?}", end.lines);
        store.daemon().wait_line("event=adopted");
        assert_eq!((store.count(LEDGER), store.count(LOT)), (1, LOTS), "the store grows");
        store.wait_count(LISTENER, 2);
        let (listeners, connections) = adopted(&store);
        assert_eq!(listeners, 2);
        // New clients come and go beside them.
        assert!(
            (CONNECTIONS..CONNECTIONS + 10).contains(&connections),
            "{connections} adopted: {:#?}",
            store.daemon().lines()
        );
    }
    knocking.finish();
    crowd.finish();
}

#[test]
fn ten_restarts_from_tcp_to_tcp() {
    ten_restarts(false, false);
}

#[test]
fn ten_restarts_from_tcp_to_unix() {
    ten_restarts(false, true);
}

#[test]
fn ten_restarts_from_unix_to_tcp() {
    ten_restarts(true, false);
}

#[test]
fn ten_restarts_from_unix_to_unix() {
    ten_restarts(true, true);
}

#[test]
fn without_connections_the_listeners_are_handed_over() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || setup(port.address(), &upstream.address);
    let mut store = Store::start(setup());
    for _ in 0..3 {
        store.wait_count(LISTENER, 1);
        store.restart(setup());
        assert_eq!(adopted(&store), (1, 0));
        drop(pair(port.address(), &upstream));
    }
}

/// A worker that has nothing to do ends as soon as it may, perhaps before it is told to hand over.
#[test]
fn without_a_proxy_nobody_waits_for_anybody() {
    steady(|| {
        let mut store = Store::start(Setup::new(ALWAYS));
        for _ in 0..10 {
            let pause = store.restart(Setup::new(ALWAYS)).pause;
            assert!(pause < Duration::from_secs(1), "{pause:?}");
        }
    });
}

#[test]
fn it_tells_what_it_handed_over_and_adopted() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(port.address(), &upstream.address));
    assert_eq!(adopted(&store), (0, 0));
    store.wait_count(LISTENER, 1);
    let pairs: Vec<_> = (0..3).map(|_| pair(port.address(), &upstream)).collect();
    let Restarted { end, .. } = store.restart(setup(port.address(), &upstream.address));
    assert_eq!(end.count("event=handed-over"), 1, "{:#?}", end.lines);
    assert!(!end.says("event=cut"), "{:#?}", end.lines);
    assert_eq!(adopted(&store), (1, 3));
    let line = store.daemon().wait_line("event=adopted");
    assert!(line.contains('3') && line.contains("duration"), "{line}");
    assert!(store.status()["adopted"]["pause_ms"].as_u64().is_some_and(|pause| pause < 10_000));
    // All was stored at the start: a stop has nothing to wait for.
    let said: Vec<_> = store.manager.messages().into_iter().take(store.seen()).collect();
    let stopping = said.iter().position(|m| m.says("STOPPING=1")).unwrap();
    assert!(said[stopping..].iter().all(|m| !m.says("FDSTORE=1") && !m.says("BARRIER=1")), "{said:#?}");
    for name in [LEDGER, LOT] {
        assert!(said[..stopping].iter().any(|m| m.value("FDNAME") == Some(name)), "{name}: {said:#?}");
    }
    // They are counted as active, and no more once they are gone.
    assert_eq!(store.status()["proxies"]["p"]["connections"]["active"], 3);
    for (client, server) in &pairs {
        talk(client, server);
    }
    drop(pairs);
    let active = || store.status()["proxies"]["p"]["connections"]["active"] == 0;
    crate::support::drained::until("no connection", active);
}

#[test]
fn a_client_whose_upstream_does_not_answer_yet_is_served_after_the_restart() {
    let (port, upstream) = (Port::reserve(), Listener::refusing("127.0.0.1:0"));
    let filling = upstream.fill();
    let config = || setup(port.address(), &upstream.address);
    let mut store = Store::start(config());
    store.wait_count(LISTENER, 1);
    let mut client = connect(port.address());
    client.write_all(b"is anybody there?").unwrap();
    let active = || store.status()["proxies"]["p"]["connections"]["accepted"] == 1;
    crate::support::drained::until("the accept", active);
    store.restart(config());
    store.restart(config());
    // Now there is room: those who filled it go away, the client's connection comes through.
    upstream.listen(128);
    drop(filling);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        assert!(std::time::Instant::now() < until, "the client's question never arrived");
        let Some(mut server) = upstream.accept_within(Duration::from_secs(1)) else { continue };
        let mut question = [0; 17];
        if server.read_exact(&mut question).is_ok() {
            assert_eq!(&question, b"is anybody there?");
            talk(&client, &server);
            break;
        }
    }
}

#[test]
fn clients_that_come_while_nobody_runs_are_served() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let config = || setup(port.address(), &upstream.address);
    let mut store = Store::start(config());
    store.wait_count(LISTENER, 1);
    store.end();
    let clients: Vec<_> = (0..50).map(|_| try_connect(port.address()).unwrap()).collect();
    store.spawn(config());
    let servers = crate::support::peers::serve_all(&clients, &upstream);
    for (client, server) in clients.iter().zip(&servers) {
        talk(client, server);
    }
}

#[test]
fn a_unix_listener_keeps_its_path_and_mode() {
    use std::os::unix::fs::MetadataExt;
    let (scratch, upstream) = (Scratch::new(), Listener::new());
    let path = scratch.path("in");
    let listen = format!("unix:{}", path.display());
    let mut store = Store::start(setup(&listen, &upstream.address));
    store.wait_count(LISTENER, 1);
    let before = path.metadata().unwrap();
    for _ in 0..2 {
        store.restart(setup(&listen, &upstream.address));
        let after = path.metadata().unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()), "the same socket file");
        drop(pair(&listen, &upstream));
    }
}

#[test]
fn a_unix_listener_whose_path_is_gone_is_made_again() {
    let (scratch, upstream) = (Scratch::new(), Listener::new());
    let path = scratch.path("in");
    let listen = format!("unix:{}", path.display());
    let mut store = Store::start(setup(&listen, &upstream.address));
    store.wait_count(LISTENER, 1);
    let held = pair(&listen, &upstream);
    store.end();
    // As systemd does with RuntimeDirectory= where nothing says to preserve it.
    std::fs::remove_file(&path).unwrap();
    store.spawn(setup(&listen, &upstream.address));
    drop(pair(&listen, &upstream));
    talk(&held.0, &held.1);
}
