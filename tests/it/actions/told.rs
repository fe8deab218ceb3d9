//! What the answer and the journal say of each call: what has changed, and what came of it.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use drained::control::by_hand::ByHand;
use drained::control::client;
use drained::control::protocol::Call;
use serde_json::Value;

use super::{ctl, ok, upstream_state, wait_held};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of};

fn changed(drained: &crate::support::drained::Drained, words: &[&str]) -> bool {
    let answer: Value = serde_json::from_str(&ok(drained, &[&["--json"], words].concat())).unwrap();
    answer["changed"].as_bool().unwrap()
}

#[test]
fn the_journal_has_what_came_of_each_call() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let journal = |line: &str| drained.daemon.wait_line(line);
    ok(&drained, &["drain", "p", "--timeout", "90s"]);
    assert!(journal(" drain p --timeout 90s, asked for by pid").contains(": done"));
    ok(&drained, &["drain", "p"]);
    assert!(journal(" drain p, asked for by pid").contains("so already"));
    assert_eq!(ctl(&drained, &["resume", "q"]).code, Some(65));
    assert!(journal("refused: resume q, asked for by pid").contains(": unknown proxy \"q\"; known: p"));
    ok(&drained, &["hold", "p", "--timeout", "1h"]);
    assert!(journal(" hold p --timeout 1h, asked for by pid").contains(": done"));
    ok(&drained, &["reload"]);
    assert!(journal(" reload, asked for by pid").contains(": done"));
    std::fs::remove_file(drained.scratch.path("drained.toml")).unwrap();
    assert_eq!(ctl(&drained, &["reload"]).code, Some(78));
    assert!(journal("refused: reload, asked for by pid").contains("drained.toml"));
    drained.stop();
}

#[test]
fn another_end_of_a_hold_is_a_change() {
    let drained = Setup::proxy("127.0.0.1:1", "").start();
    assert!(changed(&drained, &["hold", "p"]));
    assert!(!changed(&drained, &["hold", "p"]));
    assert!(changed(&drained, &["hold", "p", "--timeout", "1h"]));
    assert!(changed(&drained, &["hold", "p", "--timeout", "2h"]));
    assert!(changed(&drained, &["hold", "p"]));
    assert!(changed(&drained, &["resume", "p"]) && !changed(&drained, &["resume", "p"]));
}

#[test]
fn a_time_that_is_too_long_is_refused_with_the_longest() {
    let drained = Setup::proxy("127.0.0.1:1", "").start();
    for words in [&["hold", "p", "--timeout", "25h"][..], &["drain", "p", "--timeout", "25h"]] {
        let ended = ctl(&drained, words);
        assert!(ended.code == Some(64) && ended.err.contains("is too long, at most \"24h\""), "{ended:?}");
    }
    ok(&drained, &["hold", "p", "--timeout", "24h"]);
    ok(&drained, &["resume", "p"]);
    let proxy = || "p".to_owned();
    let timeout_ms = Some(86_400_001);
    for call in [
        Call::Hold { proxy: proxy(), timeout_ms },
        Call::Drain { proxy: proxy(), upstream: None, timeout_ms },
    ] {
        let answer = client::call::<ByHand>(&drained.scratch.path("control.sock"), &call);
        let refused = answer.unwrap_err().to_string();
        assert!(refused.contains("timeout_ms is 86400001: it may be 86400000 at the most"), "{refused}");
    }
    assert_eq!(
        (upstream_state(&drained).as_str(), &super::proxy(&drained)["holding"]),
        ("up", &false.into())
    );
}

#[test]
fn an_upstream_without_connections_is_drained_at_once_and_that_is_said_once() {
    let drained = Setup::proxy("127.0.0.1:1", "").workers(4).start();
    for round in 1..=3 {
        ok(&drained, &["drain", "p"]);
        until("its entry", || {
            drained.daemon.lines().iter().filter(|l| l.contains("is drained, 0 cut")).count() == round
        });
        assert_eq!(upstream_state(&drained), "drained");
        let again = ok(&drained, &["drain", "p"]);
        assert_eq!(again, "127.0.0.1:1 of p is drained already: it has no connection\n");
        ok(&drained, &["resume", "p"]);
    }
    let end = drained.stop();
    assert_eq!(end.count("is drained, 0 cut"), 3, "{:#?}", end.lines);
}

#[test]
fn the_end_of_a_hold_and_of_who_waits_in_it_are_told_as_what_they_are() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "hold = \"300ms\"").start();
    ok(&drained, &["hold", "p", "--timeout", "2s"]);
    let client = connect(&drained.address());
    wait_held(&drained, 1);
    assert_eq!(end_of(&client), Ended::Fin);
    drained.daemon.wait_line("held by hand for as long as it may wait, and let go: ");
    drained.daemon.wait_line("the hold of the proxy p has come to its end");
    let end = drained.stop();
    assert_eq!((end.count("no upstream took"), end.count("has come to its end")), (0, 1), "{:#?}", end.lines);
}

/// Answers each request that it has none to give.
fn unavailable(listener: Listener) -> String {
    let address = listener.address.clone();
    thread::spawn(move || {
        while let Some(mut stream) = listener.accept_within(Duration::from_secs(60)) {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        }
    });
    address
}

#[test]
fn who_waits_for_an_upstream_is_told_what_keeps_it_down() {
    let address = unavailable(Listener::new());
    let check = "check = { http = \"/ready\", interval = \"100ms\", fall = 1 }";
    let drained = Setup::proxy(&address, check).start();
    until("it is down", || upstream_state(&drained) == "down");
    let ended = ctl(&drained, &["resume", "p", "--wait", "--timeout", "300ms"]);
    let right = "is not up after 300ms: its checks fail: it answered 503; it is tried on";
    assert!(ended.code == Some(75) && ended.err.contains(right), "{ended:?}");
    // And where nobody listens.
    let drained = Setup::proxy(&Listener::refusing("127.0.0.1:0").address, "").start();
    let waiting = connect(&drained.address());
    wait_held(&drained, 1);
    let ended = ctl(&drained, &["resume", "p", "--wait", "--timeout", "300ms"]);
    assert!(
        ended.code == Some(75) && ended.err.contains("connects to it fail: Connection refused"),
        "{ended:?}"
    );
    drop(waiting);
}
