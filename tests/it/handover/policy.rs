//! When nothing is handed over, and a daemon without a store.

use nix::sys::signal::Signal;

use super::{Port, adopted, pair, proxy, setup};
use crate::support::drained::Setup;
use crate::support::manager::Manager;
use crate::support::peers::{Ended, Listener, end_of, try_connect};
use crate::support::store::{LISTENER, Store};

fn with_policy(policy: &str, port: &Port, upstream: &Listener) -> Setup {
    let config = format!("[handover]\non_restart = \"{policy}\"\n");
    Setup::new(&(config + &proxy("p", &[port.address()], &upstream.address)))
}

/// A stop that drains, and leaves nothing in the store.
fn drains(policy: &str) {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(with_policy(policy, &port, &upstream));
    let (client, server) = pair(port.address(), &upstream);
    let (end, stored) = store.stop();
    assert!(end.says("phase drain") && !end.says("event=handed-over"), "{:#?}", end.lines);
    assert_eq!((end_of(&client), end_of(&server)), (Ended::Fin, Ended::Fin));
    assert!(stored.is_empty(), "in the store after the stop: {stored:?}");
    assert!(try_connect(port.address()).is_err(), "a listener is open still");
    store.spawn(with_policy(policy, &port, &upstream));
    assert_eq!(adopted(&store), (0, 0));
    drop(pair(port.address(), &upstream));
}

#[test]
fn a_daemon_that_never_hands_over_drains() {
    drains("never");
}

#[test]
fn without_a_job_it_drains() {
    // The bus knows of no unit that this process is the main process of.
    drains("auto");
}

#[test]
fn what_was_handed_over_is_adopted_whatever_the_policy_is_now() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(with_policy("always", &port, &upstream));
    store.wait_count(LISTENER, 1);
    let held = pair(port.address(), &upstream);
    store.restart(with_policy("never", &port, &upstream));
    assert_eq!(adopted(&store), (1, 1));
    crate::support::peers::talk(&held.0, &held.1);
    let (_, stored) = store.stop();
    assert!(stored.is_empty(), "{stored:?}");
}

#[test]
fn a_daemon_that_is_killed_leaves_its_listeners() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let mut store = Store::start(setup(port.address(), &upstream.address));
    store.wait_count(LISTENER, 1);
    store.daemon().signal(Signal::SIGKILL);
    store.wait_killed();
    let client = try_connect(port.address()).expect("the listener is in the store");
    store.spawn(setup(port.address(), &upstream.address));
    crate::support::peers::talk(&client, &upstream.accept());
}

#[test]
fn an_interrupt_in_a_terminal_drains() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let drained = setup(port.address(), &upstream.address).spawn_with(Manager::new(), "");
    drained.daemon.wait_line("ready");
    let (client, server) = pair(port.address(), &upstream);
    drained.signal(Signal::SIGINT);
    let end = drained.wait_end();
    assert!(end.says("phase drain") && !end.says("event=handed-over"), "{:#?}", end.lines);
    assert_eq!((end_of(&client), end_of(&server)), (Ended::Fin, Ended::Fin));
}

#[test]
fn without_a_manager_it_drains_and_says_nothing_of_a_store() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let drained = setup(port.address(), &upstream.address).spawn_with(Manager::new(), "");
    drained.daemon.wait_line("ready");
    let (client, server) = pair(port.address(), &upstream);
    let end = drained.stop();
    assert!(end.says("phase drain") && !end.says("event=handed-over"), "{:#?}", end.lines);
    assert_eq!((end_of(&client), end_of(&server)), (Ended::Fin, Ended::Fin));
}

#[test]
fn a_manager_that_does_not_answer_the_barrier_is_not_waited_for_without_end() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let (_stuffed, address) = crate::support::manager::stuffed_socket();
    let drained = setup(port.address(), &upstream.address).spawn_with(Manager::new(), &address);
    drained.daemon.wait_line("listens on");
    let (client, server) = pair(port.address(), &upstream);
    drained.signal(Signal::SIGTERM);
    // Nothing could be stored: they must not be lost silently.
    let end = drained.wait_end();
    assert_eq!((end_of(&client), end_of(&server)), (Ended::Reset, Ended::Reset));
    assert!(!end.says("event=handed-over"), "{:#?}", end.lines);
}
