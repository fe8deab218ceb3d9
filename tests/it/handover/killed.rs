//! SIGKILL, a panic and an abort: connections of all kinds live on.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{ALWAYS, Port, adopted, pair, proxy};
use crate::support::crowd::{Crowd, Mix};
use crate::support::drained::{Setup, alone, raise_descriptors};
use crate::support::peers::{Ended, Listener, end_of, read_to_end, reset, talk};
use crate::support::scratch::Scratch;
use crate::support::store::{LEDGER, LISTENER, LOT, Store};

const KILLS: usize = 15;
const MIX: Mix = Mix { idle: 20, replies: 20, streams: 24, halves: 10 };
const CONNECTIONS: u64 = 74;
/// Both ends of one for each worker, or of two where the first was half full once.
const LOTS: std::ops::RangeInclusive<usize> = 4..=8;

/// Connections outlive a crash from this age on.
fn after(crash_after: &str, port: &Port, upstream: &Listener) -> Setup {
    let handover = format!("{ALWAYS}crash_after = \"{crash_after}\"\n");
    Setup::new(&(handover + &proxy("p", &[port.address()], &upstream.address)))
}

/// Kills it again and again, with connections older than `age`.
fn kills(crash_after: &str, age: Duration) {
    let _alone = alone();
    raise_descriptors();
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || after(crash_after, &port, &upstream);
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let crowd = Crowd::gather(port.address(), &upstream, MIX);
    // What makes a connection old enough is time, so here is nothing but time to wait for.
    std::thread::sleep(age);
    for round in 0..KILLS {
        let pause = store.kill(setup()).pause;
        let longest = crowd.replies.longest();
        println!("kill {round}: ready again in {pause:?}, longest reply {longest:?}");
        assert_eq!(adopted(&store), (1, CONNECTIONS));
        assert_eq!(store.count(LEDGER), 1);
        assert!(LOTS.contains(&store.count(LOT)), "the store grows: {}", store.count(LOT));
    }
    crowd.finish();
}

#[test]
fn connections_older_than_a_second_live_on() {
    kills("1s", Duration::from_millis(1_500));
}

#[test]
fn without_an_age_every_connection_that_was_used_lives_on() {
    kills("0s", Duration::ZERO);
}

/// Only who dies of what it adopts counts as one who did: a mistake in the configuration may take its time.
#[test]
fn starts_that_fail_for_another_reason_take_nothing_from_the_next() {
    let (port, upstream, occupied) = (Port::reserve(), Listener::new(), Listener::new());
    let setup = || after("0s", &port, &upstream);
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let held = pair(port.address(), &upstream);
    store.end();
    let both =
        proxy("p", &[port.address()], &upstream.address) + &proxy("q", &[&occupied.address], "127.0.0.1:1");
    for _ in 0..4 {
        store.spawn_unready(Setup::new(&(ALWAYS.to_owned() + &both)));
        store.wait_failed(70);
    }
    store.spawn(setup());
    assert_eq!(adopted(&store), (1, 1), "{:#?}", store.daemon().lines());
    talk(&held.0, &held.1);
}

/// Each connection is parked by itself, so the lots are tidied at once and all the time.
#[test]
fn in_the_midst_of_tidying_too() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || after("0s", &port, &upstream);
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let mut held = Vec::new();
    for round in 0..6 {
        held.extend((0..250).map(|_| pair(port.address(), &upstream)));
        if round % 2 == 0 {
            store.kill(setup())
        } else {
            store.restart(setup())
        };
        assert_eq!(adopted(&store), (1, held.len() as u64), "{:#?}", store.daemon().lines());
        assert!(LOTS.contains(&store.count(LOT)), "the store grows: {}", store.count(LOT));
        // Some go, and leave their dead behind.
        held.truncate(held.len() - 50);
    }
    held.iter().for_each(|(client, server)| talk(client, server));
}

/// The notify thread never has its turn: what the workers have in hand is stored without it.
#[test]
fn what_was_served_is_in_the_store_whoever_had_his_turn() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::empty();
    store.spawn(after("0s", &port, &upstream).env("DRAINED_TEST_FAULT", "notify-hang"));
    let held: Vec<_> = (0..20).map(|_| pair(port.address(), &upstream)).collect();
    let dead = store.kill(after("0s", &port, &upstream)).end;
    assert_eq!(adopted(&store), (1, 20), "{:#?}", dead.lines);
    held.iter().for_each(|(client, server)| talk(client, server));
}

#[test]
fn where_they_never_outlive_a_crash_they_end() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(after("never", &port, &upstream));
    store.wait_count(LISTENER, 1);
    let held = pair(port.address(), &upstream);
    store.kill(after("never", &port, &upstream));
    assert_eq!(adopted(&store), (1, 0));
    // The end of the process is theirs, however the kernel says it.
    let _ = (end_of(&held.0), end_of(&held.1));
    // And a restart hands over all the same.
    let held = pair(port.address(), &upstream);
    store.restart(after("never", &port, &upstream));
    assert_eq!(adopted(&store), (1, 1));
    talk(&held.0, &held.1);
}

#[test]
fn a_worker_that_panics_is_like_a_kill() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || after("0s", &port, &upstream);
    let mut store = Store::start(setup().env("DRAINED_TEST_FAULT", "worker-panic:9"));
    store.wait_count(LISTENER, 1);
    let held: Vec<_> = (0..8).map(|_| pair(port.address(), &upstream)).collect();
    let ninth = crate::support::peers::connect(port.address());
    let end = store.wait_failed(70);
    assert!(end.says("event=handed-over"), "{:#?}", end.lines);
    store.spawn(setup());
    assert_eq!(adopted(&store), (1, 8));
    held.iter().for_each(|(client, server)| talk(client, server));
    assert_eq!(end_of(&ninth), Ended::Reset, "it was too young");
}

#[test]
fn a_watchdog_abort_is_like_a_kill() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || after("0s", &port, &upstream);
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let held: Vec<_> = (0..8).map(|_| pair(port.address(), &upstream)).collect();
    store.daemon().signal(Signal::SIGABRT);
    store.wait_died(Signal::SIGABRT);
    store.spawn(setup());
    assert_eq!(adopted(&store), (1, 8));
    held.iter().for_each(|(client, server)| talk(client, server));
}

/// Its end closes the client's socket, for ours was said to it before; then it looks like one that was reset.
#[test]
fn an_end_that_comes_while_nobody_runs_is_clean_though_the_next_one_dies_too() {
    let listen_on_both = |port: &Port, scratch: &Scratch| {
        let unix = format!("unix:{}", scratch.path("in").display());
        [port.address().to_owned(), unix]
    };
    for point in ["relay-working", "relay-between", "relay-filled", "relay-finished", "relay-moved"] {
        let (port, scratch) = (Port::reserve(), Scratch::new());
        for listen in listen_on_both(&port, &scratch) {
            let upstream = Listener::new();
            let config =
                format!("{ALWAYS}crash_after = \"0s\"\n") + &proxy("p", &[&listen], &upstream.address);
            let mut store = Store::start(Setup::new(&config));
            store.wait_count(LISTENER, 1);
            let (client, server) = pair(&listen, &upstream);
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(&client), Ended::Fin);
            store.daemon().signal(Signal::SIGKILL);
            store.wait_killed();
            (&client).write_all(b"all").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            store.spawn_unready(Setup::new(&config).env("DRAINED_TEST_FAULT", &format!("kill:{point}:1")));
            store.wait_killed();
            store.spawn(Setup::new(&config));
            assert_eq!(read_to_end(&server), (b"all".to_vec(), Ended::Fin), "{point}, {listen}");
        }
    }
}

/// A socket tells its error once: the next process must know it all the same.
#[test]
fn a_reset_that_only_the_dead_one_was_told_of_is_passed_on_as_one() {
    for server_ends in [false, true] {
        let (port, upstream) = (Port::reserve(), Listener::new());
        let mut store = Store::start(after("0s", &port, &upstream));
        store.wait_count(LISTENER, 1);
        let (client, server) = pair(port.address(), &upstream);
        if server_ends {
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(&client), Ended::Fin);
        }
        store.daemon().signal(Signal::SIGKILL);
        store.wait_killed();
        reset(client);
        // The first thing that the next one reads is the client's error: nothing else has come.
        store.spawn_unready(after("0s", &port, &upstream).env("DRAINED_TEST_FAULT", "kill:relay-filled:1"));
        store.wait_killed();
        store.spawn(after("0s", &port, &upstream));
        assert_eq!(end_of(&server), Ended::Reset, "the upstream ends first: {server_ends}");
    }
}
