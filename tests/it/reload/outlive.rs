//! Restarts and kills after a reload and in its midst: what is adopted is what was there.

use std::net::TcpStream;

use nix::sys::signal::Signal;

use super::{Port, proxy, reload, write};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Listener, connect, talk, try_connect};
use crate::support::store::{LISTENER, Store};

/// Connections outlive a crash from their first byte on, and no stop is asked for its reason.
const HANDOVER: &str = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";

struct Scene {
    ports: [Port; 3],
    upstreams: [Listener; 3],
}

impl Scene {
    fn new() -> Scene {
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        Scene { ports, upstreams: [Listener::new(), Listener::new(), Listener::new()] }
    }

    fn config(&self, proxies: &[(&str, &[usize], &[usize])]) -> String {
        let of = |(name, listen, upstream): &(&str, &[usize], &[usize])| {
            let listen: Vec<_> = listen.iter().map(|at| self.ports[*at].address()).collect();
            let upstream: Vec<_> = upstream.iter().map(|at| self.upstreams[*at].address.as_str()).collect();
            proxy(name, &listen, &upstream, "")
        };
        HANDOVER.to_owned() + &proxies.iter().map(of).collect::<String>()
    }

    fn pair(&self, port: usize, upstream: usize) -> (TcpStream, TcpStream) {
        let client = connect(self.ports[port].address());
        let server = self.upstreams[upstream].accept();
        talk(&client, &server);
        (client, server)
    }
}

fn adopted(store: &Store) -> (u64, u64) {
    let adopted = store.status()["adopted"].clone();
    (adopted["listeners"].as_u64().unwrap(), adopted["connections"].as_u64().unwrap())
}

#[test]
fn what_a_reload_made_is_adopted_by_the_next() {
    let scene = Scene::new();
    let before = scene.config(&[("a", &[0], &[0]), ("b", &[1], &[1])]);
    // Other upstreams, a new proxy, one less, and a listener that moves.
    let after = scene.config(&[("a", &[0, 1], &[2, 0]), ("c", &[2], &[2])]);
    let mut store = Store::start(Setup::new(&before));
    store.wait_count(LISTENER, 2);
    let mut pairs = vec![scene.pair(0, 0), scene.pair(0, 0)];
    // It waits for an answer: its proxy goes, and it is drained and not quiet.
    let waiting = scene.pair(1, 1);
    std::io::Write::write_all(&mut &waiting.0, b"?").unwrap();
    reload(&store.scratch, &after);
    store.wait_count(LISTENER, 3);
    pairs.extend([scene.pair(0, 2), scene.pair(2, 2)]);
    for round in 0..4 {
        match round % 2 {
            0 => _ = store.kill(Setup::new(&after)),
            _ => _ = store.restart(Setup::new(&after)),
        }
        assert_eq!(adopted(&store), (3, 5), "round {round}");
        pairs.iter().for_each(|(client, server)| talk(client, server));
        let status = store.status();
        assert_eq!(status["proxies"]["a"]["connections"]["active"], 3, "{status}");
        assert_eq!(status["proxies"]["c"]["connections"]["active"], 1, "{status}");
        assert_eq!(status["proxies"]["b"]["state"], "draining", "{status}");
        let told: Vec<_> =
            (0..2).map(|n| status["proxies"]["a"]["upstreams"][n]["connections"].clone()).collect();
        // In between an upstream was gone, and its connection went on with it.
        assert_eq!(told, [1, 2], "{status}");
        // A reload more, and one back: the names in the ledger change their place each time.
        reload(&store.scratch, &before);
        reload(&store.scratch, &after);
        pairs.iter().for_each(|(client, server)| talk(client, server));
        store.wait_count(LISTENER, 3);
        // That of c was drained meanwhile, for its proxy was gone.
        let (client, server) = pairs.pop().unwrap();
        drop((client, server));
        pairs.push(scene.pair(2, 2));
    }
    drop((pairs, waiting));
    store.stop();
}

#[test]
fn a_listener_that_is_gone_is_stored_no_longer() {
    let scene = Scene::new();
    let one = scene.config(&[("a", &[0], &[0])]);
    let two = scene.config(&[("a", &[0, 1], &[0]), ("b", &[2], &[0])]);
    let mut store = Store::start(Setup::new(&one));
    store.wait_count(LISTENER, 1);
    for _ in 0..3 {
        reload(&store.scratch, &two);
        store.wait_count(LISTENER, 3);
        drop(scene.pair(2, 0));
        reload(&store.scratch, &one);
        store.wait_count(LISTENER, 1);
        until("refusal", || try_connect(scene.ports[2].address()).is_err());
    }
    let held = scene.pair(0, 0);
    store.kill(Setup::new(&one));
    assert_eq!(adopted(&store), (1, 1));
    talk(&held.0, &held.1);
    drop(held);
    store.stop();
}

/// systemd lets go of all of one name: whoever is killed a moment later must have stored again what stays.
#[test]
fn listeners_that_stay_are_stored_again_right_behind_a_removal() {
    let scene = Scene::new();
    let one = scene.config(&[("a", &[0], &[0])]);
    let two = scene.config(&[("a", &[0, 1], &[0]), ("b", &[2], &[0])]);
    let mut store = Store::start(Setup::new(&two));
    store.wait_count(LISTENER, 3);
    reload(&store.scratch, &one);
    store.wait_count(LISTENER, 1);
    reload(&store.scratch, &two);
    store.wait_count(LISTENER, 3);
    // At a start that closes others, too.
    store.kill(Setup::new(&one));
    store.wait_count(LISTENER, 1);
    let messages = store.manager.messages();
    let removes =
        |at: &usize| messages[*at].says("FDSTOREREMOVE=1") && messages[*at].value("FDNAME") == Some(LISTENER);
    let removed: Vec<_> = (0..messages.len()).filter(removes).collect();
    assert_eq!(removed.len(), 2, "{messages:?}");
    for at in removed {
        assert!(messages[at + 1].stores_listener(), "{messages:?}");
    }
    drop(scene.pair(0, 0));
    store.stop();
}

/// Whatever was configured when it was killed, and whatever is when it starts.
#[test]
fn no_listener_is_left_that_lets_nobody_in() {
    for (point, back) in
        ["reload-stored", "reload-removed", "reload-shut"].map(|p| [(p, true), (p, false)]).concat()
    {
        let scene = Scene::new();
        let before = scene.config(&[("a", &[0, 1], &[0])]);
        let after = scene.config(&[("a", &[0, 2], &[0])]);
        let mut store =
            Store::start(Setup::new(&before).env("DRAINED_TEST_FAULT", &format!("kill:{point}:1")));
        store.wait_count(LISTENER, 2);
        write(&store.scratch, &after);
        store.daemon().signal(Signal::SIGHUP);
        store.wait_killed();
        assert!(store.count(LISTENER) >= 2 - usize::from(point != "reload-stored"), "{point}");
        store.spawn(Setup::new(if back { &before } else { &after }));
        store.wait_count(LISTENER, 2);
        for port in [0, if back { 1 } else { 2 }] {
            drop(scene.pair(port, 0));
        }
        store.stop();
    }
}

#[test]
fn a_kill_in_the_midst_of_a_reload_loses_nothing() {
    let points = [
        ("reload-read", 1),
        ("reload-prepared", 1),
        ("reload-names", 1),
        ("reload-named", 1),
        ("reload-told", 1),
        ("reload-moved", 1),
        ("reload-moved", 3),
        ("reload-moved", 6),
        ("reload-renewed", 1),
        ("reload-renewed", 2),
        ("reload-stored", 1),
        ("reload-removed", 1),
    ];
    for (point, number) in points {
        let scene = Scene::new();
        let before = scene.config(&[("a", &[0], &[0, 1]), ("b", &[1], &[1])]);
        let after = scene.config(&[("a", &[0], &[2, 1, 0]), ("b", &[1, 2], &[2, 1])]);
        let fault = format!("kill:{point}:{number}");
        let mut store = Store::start(Setup::new(&before).env("DRAINED_TEST_FAULT", &fault));
        store.wait_count(LISTENER, 2);
        let mut pairs = Vec::new();
        for _ in 0..3 {
            let client = connect(scene.ports[0].address());
            let (_, server) = crate::support::peers::accept_any(&scene.upstreams);
            talk(&client, &server);
            pairs.push((client, server));
            pairs.push(scene.pair(1, 1));
        }
        write(&store.scratch, &after);
        store.daemon().signal(Signal::SIGHUP);
        store.wait_killed();
        store.spawn(Setup::new(&after));
        assert_eq!(adopted(&store).1, 6, "{fault}");
        pairs.iter().for_each(|(client, server)| talk(client, server));
        let status = store.status();
        for name in ["a", "b"] {
            assert_eq!(status["proxies"][name]["connections"]["active"], 3, "{fault}: {status}");
            let upstreams = status["proxies"][name]["upstreams"].as_array().unwrap().clone();
            let sum: u64 = upstreams.iter().map(|u| u["connections"].as_u64().unwrap()).sum();
            assert_eq!(sum, 3, "{fault}: {status}");
        }
        drop(pairs);
        store.stop();
    }
}

#[test]
fn what_was_set_by_hand_goes_with_what_is_configured_no_longer() {
    let scene = Scene::new();
    let with = scene.config(&[("a", &[0], &[0, 1])]);
    let without = scene.config(&[("a", &[0], &[0])]);
    let mut store = Store::start(Setup::new(&with));
    store.wait_count(LISTENER, 1);
    let drain = super::drainctl(&store.scratch, &["drain", "a", "--upstream", &scene.upstreams[1].address]);
    assert!(drain.status.success(), "{drain:?}");
    let file = store.scratch.path("control.sock.by-hand");
    assert!(file.exists());
    reload(&store.scratch, &without);
    assert!(!file.exists());
    reload(&store.scratch, &with);
    store.kill(Setup::new(&with));
    assert_eq!(store.status()["proxies"]["a"]["upstreams"][1]["state"], "up");
}
