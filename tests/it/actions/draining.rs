//! Upstreams are drained by hand: nobody goes there any more, and those that are there end well.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{ctl, finish, ok, proxy, spawn, upstream_state};
use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, talk};
use crate::support::steady::steady;

#[test]
fn an_unknown_proxy_or_upstream_is_told_with_the_known_ones() {
    let drained = Setup::proxy("127.0.0.1:1", "").start();
    for words in [&["drain", "q"][..], &["resume", "q"], &["hold", "q"]] {
        let ended = ctl(&drained, words);
        assert_eq!((ended.code, ended.out.as_str()), (Some(65), ""), "{ended:?}");
        assert_eq!(ended.err, "drainctl: unknown proxy \"q\"; known: p\n");
    }
    for word in ["drain", "resume"] {
        let ended = ctl(&drained, &[word, "p", "--upstream", "127.0.0.1:2"]);
        assert_eq!(ended.code, Some(65));
        let right = "drainctl: unknown upstream \"127.0.0.1:2\": the proxy \"p\" has 127.0.0.1:1\n";
        assert_eq!(ended.err, right);
    }
    for words in [&["drain", "p", "--timeout", "5"][..], &["drain"], &["resume", "p", "--timeout", "1s"]] {
        assert_eq!(ctl(&drained, words).code, Some(64), "{words:?}");
    }
    assert_eq!(proxy(&drained)["upstreams"][0]["state"], "up");
}

#[test]
fn a_drained_upstream_gets_nobody_and_the_others_take_all() {
    let upstreams = [Listener::new(), Listener::new()];
    let addresses: Vec<_> = upstreams.iter().map(|upstream| &upstream.address).collect();
    let config = format!("[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = {addresses:?}\n");
    let drained = Setup::new(&config).start();
    let said = ok(&drained, &["drain", "p", "--upstream", &upstreams[0].address, "--wait"]);
    assert!(said.contains("0 connections ended, none was cut"), "{said}");
    let held: Vec<_> = (0..6).map(|_| pair(&drained, &upstreams[1])).collect();
    assert!(upstreams[0].accept_within(Duration::ZERO).is_none());
    assert_eq!(proxy(&drained)["upstreams"][0]["state"], "drained");
    assert_eq!(proxy(&drained)["upstreams"][1]["state"], "up");
    assert!(ok(&drained, &["resume", "p", "--wait"]).contains("takes connections"));
    // The try whether it is there, and then all until they are even.
    assert_eq!(end_of(&upstreams[0].accept()), Ended::Fin);
    drop(pair(&drained, &upstreams[0]));
    drop(held);
}

#[test]
fn a_drain_waits_for_work_says_goodbye_and_ends_with_0() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let idle = pair(&drained, &upstream);
    let (mut client, mut server) = pair(&drained, &upstream);
    client.write_all(b"a long question").unwrap();
    server.read_exact(&mut [0; 15]).unwrap();
    let waiting = spawn(&drained, &["--json", "drain", "p", "--wait", "--timeout", "1m"]);
    // The idle one is told goodbye, upstream first.
    assert_eq!(end_of(&idle.1), Ended::Fin);
    drop(idle.1);
    assert_eq!(end_of(&idle.0), Ended::Fin);
    assert_eq!(upstream_state(&drained), "draining");
    server.write_all(b"the answer").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client).0, b"the answer");
    drop((client, server, idle.0));
    let ended = finish(waiting);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    let answer: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(ended.out.lines().count(), 1);
    let upstream = &answer["upstreams"][0];
    assert_eq!((&upstream["state"], &upstream["drain"]["began_with"]), (&"drained".into(), &2.into()));
    assert_eq!((&upstream["drain"]["cut"], &answer["changed"]), (&0.into(), &true.into()));
    drained.daemon.wait_line("is drained, 0 cut");
    assert_eq!(proxy(&drained)["connections"]["drained"], 2);
}

#[test]
fn what_has_to_be_cut_is_and_ends_with_75() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (mut client, mut server) = pair(&drained, &upstream);
    client.write_all(b"never answered").unwrap();
    server.read_exact(&mut [0; 14]).unwrap();
    let ended = ctl(&drained, &["drain", "p", "--wait", "--timeout", "300ms"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(75), ""), "{ended:?}");
    assert!(ended.err.contains("is drained: 1 connection had to be cut"), "{ended:?}");
    assert_eq!(end_of(&client), Ended::Reset);
    assert_eq!(end_of(&server), Ended::Reset);
    drained.daemon.wait_line("is drained, 1 cut");
    // Who comes after that is told the same.
    assert_eq!(ctl(&drained, &["drain", "p", "--wait"]).code, Some(75));
    // And the next drain begins anew.
    ok(&drained, &["resume", "p", "--wait"]);
    assert_eq!(end_of(&upstream.accept()), Ended::Fin);
    ok(&drained, &["drain", "p", "--wait"]);
}

#[test]
fn a_second_drain_goes_along_with_the_first() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (mut client, mut server) = pair(&drained, &upstream);
    client.write_all(b"never answered").unwrap();
    server.read_exact(&mut [0; 14]).unwrap();
    let first = spawn(&drained, &["drain", "p", "--wait", "--timeout", "1500ms"]);
    until("the drain", || upstream_state(&drained) == "draining");
    let said = ok(&drained, &["drain", "p", "--timeout", "1h"]);
    assert!(said.contains("is being drained already: 1 connection, cut in"), "{said}");
    let second = ctl(&drained, &["drain", "p", "--wait", "--timeout", "1h"]);
    let first = finish(first);
    assert_eq!((first.code, second.code), (Some(75), Some(75)), "{first:?} {second:?}");
    assert!(
        second.err.contains("already") && second.err.contains("1 connection had to be cut"),
        "{second:?}"
    );
}

#[test]
fn one_who_waits_is_told_that_another_resumed() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, mut server) = pair(&drained, &upstream);
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let waiting = spawn(&drained, &["drain", "p", "--wait"]);
    until("the drain", || upstream_state(&drained) == "draining");
    ok(&drained, &["resume", "p"]);
    let ended = finish(waiting);
    assert!(ended.code == Some(75) && ended.err.contains("was resumed before"), "{ended:?}");
    // Nothing had been said to it yet.
    server.write_all(b"!").unwrap();
    (&client).read_exact(&mut [0]).unwrap();
    talk(&client, &server);
}

/// A goodbye that was said goes its way, though the drain is over.
#[test]
fn those_that_were_told_goodbye_end_after_a_resume() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    ok(&drained, &["drain", "p"]);
    assert_eq!(end_of(&server), Ended::Fin);
    ok(&drained, &["resume", "p", "--wait"]);
    assert_eq!(end_of(&client), Ended::Fin, "the goodbye's second half");
    drop((client, server));
    until("the end", || proxy(&drained)["connections"]["active"] == 0);
}

#[test]
fn one_who_loses_the_daemon_says_so_and_ends_with_69() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, mut server) = pair(&drained, &upstream);
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let waiting = spawn(&drained, &["drain", "p", "--wait"]);
    until("the drain", || upstream_state(&drained) == "draining");
    drained.signal(Signal::SIGKILL);
    let ended = finish(waiting);
    assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""), "{ended:?}");
    assert!(ended.err.contains("lost drained while waiting, the drain goes on"), "{ended:?}");
}

#[test]
fn a_stop_of_the_daemon_drains_as_ever_though_an_upstream_is_drained() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"1s\" }").start();
    let (client, mut server) = pair(&drained, &upstream);
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    ok(&drained, &["drain", "p", "--timeout", "1h"]);
    let held = connect(&drained.address());
    super::wait_held(&drained, 1);
    let end = drained.stop();
    assert_eq!(end.count("event=cut"), 2, "{:#?}", end.lines);
    assert_eq!((end_of(&client), end_of(&held)), (Ended::Reset, Ended::Fin));
}

#[test]
fn on_a_terminal_one_line_shows_how_far_it_is() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, mut server) = pair(&drained, &upstream);
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let drain = format!(
        "{} --socket {} drain p --wait --timeout 500ms; echo \"code $?\"",
        env!("CARGO_BIN_EXE_drainctl"),
        drained.scratch.path("control.sock").display()
    );
    // script(1) gives it a terminal.
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--command", &drain, "/dev/null"]).stdin(std::process::Stdio::null());
    let shown = String::from_utf8(script.output().expect("script (util-linux) starts").stdout).unwrap();
    assert!(shown.contains("\r\u{1b}[K") && shown.contains("1 connection left, cut in 1s"), "{shown:?}");
    assert!(shown.contains("had to be cut") && shown.contains("code 75"), "{shown:?}");
}

/// Each is told goodbye in its turn, not all in the same instant.
#[test]
fn goodbyes_are_spread() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { spread = \"3s\" }").start();
        let (clients, servers): (Vec<_>, Vec<_>) = (0..16).map(|_| pair(&drained, &upstream)).unzip();
        ok(&drained, &["drain", "p"]);
        let told = |server| {
            std::thread::spawn(move || {
                assert_eq!(end_of(&server), Ended::Fin);
                Instant::now()
            })
        };
        let threads: Vec<_> = servers.into_iter().map(told).collect();
        let mut times: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        times.sort();
        let took = times[15] - times[0];
        assert!((Duration::from_millis(700)..Duration::from_millis(3_500)).contains(&took), "{took:?}");
        drop(clients);
    });
}

#[test]
fn an_upstream_is_drained_in_a_stop_too_though_workers_have_ended() {
    let upstreams = [Listener::new(), Listener::new()];
    let proxy = |name, up: &Listener| {
        format!("[proxy.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n", up.address)
    };
    let config = proxy("q", &upstreams[0]) + &proxy("p", &upstreams[1]);
    let drained = Setup::new(&config).workers(4).start();
    let client = connect(&drained.address_of("q"));
    let mut server = upstreams[0].accept();
    (&client).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drained.signal(Signal::SIGTERM);
    drained.daemon.wait_line("phase drain");
    ok(&drained, &["drain", "p", "--wait"]);
    assert_eq!(upstream_state(&drained), "drained");
    drop(server);
    assert_eq!(drained.wait_end().code, Some(0));
}
