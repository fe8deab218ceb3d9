//! Clients that wait while a reload changes for how long they may.

use std::time::Instant;

use super::{Port, drainctl, proxy, reload};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of};
use crate::support::steady::steady;
use crate::support::store::{LISTENER, Store};

fn config(port: &Port, upstream: &Listener, hold: &str) -> String {
    let handover = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";
    let hold = format!("hold = \"{hold}\"");
    format!("{handover}{}", proxy("p", &[port.address()], &[&upstream.address], &hold))
}

fn wait_held(store: &Store, count: u64) {
    until("held clients", || store.status()["proxies"]["p"]["connections"]["held"] == count);
}

#[test]
fn a_hold_by_hand_holds_though_the_proxy_holds_nobody_any_more() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let with = |hold| config(&port, &upstream, hold);
    let mut store = Store::start(Setup::new(&with("30s")));
    store.wait_count(LISTENER, 1);
    assert!(drainctl(&store.scratch, &["hold", "p"]).status.success());
    let mut clients = vec![connect(port.address())];
    wait_held(&store, 1);
    reload(&store.scratch, &with("0s"));
    clients.push(connect(port.address()));
    wait_held(&store, 2);
    let none = with("0s");
    store.kill(Setup::new(&none));
    clients.push(connect(port.address()));
    wait_held(&store, 3);
    assert_eq!(store.status()["proxies"]["p"]["connections"]["failed"], 0);
    // It can be given another end.
    let again = drainctl(&store.scratch, &["hold", "p", "--timeout", "1h"]);
    assert!(again.status.success(), "{again:?}");
    assert!(drainctl(&store.scratch, &["resume", "p"]).status.success());
    for _ in &clients {
        drop(upstream.accept());
    }
    assert!(clients.iter().all(|client| end_of(client) == Ended::Fin));
    let refused = drainctl(&store.scratch, &["hold", "p"]);
    assert_eq!(refused.status.code(), Some(65), "nobody would wait now: {refused:?}");
}

#[test]
fn another_hold_goes_for_those_who_wait_already() {
    steady(|| {
        let (port, upstream) = (Port::reserve(), Listener::refusing("127.0.0.1:0"));
        let store = Store::start(Setup::new(&config(&port, &upstream, "1h")));
        let began = Instant::now();
        let client = connect(port.address());
        wait_held(&store, 1);
        reload(&store.scratch, &config(&port, &upstream, "1s"));
        assert_eq!(end_of(&client), Ended::Fin);
        assert!((900..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    });
}
