//! What systemd and the control socket are told in a stop, and a manager who doesn't listen.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::pair;
use crate::support::SOON;
use crate::support::drained::{Drained, Setup, until};
use crate::support::manager::{Manager, stuffed_socket};
use crate::support::peers::{Listener, talk};
use crate::support::scratch::Scratch;
use crate::support::steady::steady;

fn busy_pair(drained: &Drained, upstream: &Listener) -> (std::net::TcpStream, std::net::TcpStream) {
    let (client, server) = pair(drained, upstream);
    (&client).write_all(b"?").unwrap();
    (client, server)
}

#[test]
fn the_first_message_of_a_stop_asks_for_time_and_the_status_counts_down() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let mut pairs: Vec<_> = (0..3).map(|_| busy_pair(&drained, &upstream)).collect();
        drained.signal(Signal::SIGTERM);
        let (seen, first) = drained.manager.wait_after(0, SOON, |message| message.says("STOPPING=1"));
        let time: u64 = first.value("EXTEND_TIMEOUT_USEC").unwrap().parse().unwrap();
        assert!((2_000_000..10_000_000).contains(&time), "{first:?}");
        assert!(first.value("STATUS").unwrap().starts_with("Draining: 3 of 3 connections left"), "{first:?}");
        for left in [2, 1] {
            pairs.pop();
            let text = format!("Draining: {left} of 3 connections left");
            drained
                .manager
                .wait_after(seen, SOON, |m| m.value("STATUS").is_some_and(|s| s.starts_with(&text)));
        }
        // And time is asked for again, each second.
        let again = |m: &crate::support::manager::Received| m.value("EXTEND_TIMEOUT_USEC").is_some();
        let (seen, second) = drained.manager.wait_after(seen, SOON, again);
        let (_, third) = drained.manager.wait_after(seen, SOON, again);
        let gap = third.at - second.at;
        assert!(gap > Duration::from_millis(800) && gap < Duration::from_millis(1_800), "{gap:?}");
        pairs.clear();
        assert_eq!(drained.wait_end().code, Some(0));
    });
}

#[test]
fn a_daemon_that_is_stopped_in_its_drain_asks_for_no_more_time() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let held = busy_pair(&drained, &upstream);
        drained.term_and_drain();
        let asks = |m: &crate::support::manager::Received| m.value("EXTEND_TIMEOUT_USEC").is_some();
        let (seen, _) = drained.manager.wait_after(0, SOON, asks);
        drained.manager.wait_after(seen, SOON, asks);
        drained.signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        std::thread::sleep(Duration::from_millis(2_500));
        let late =
            drained.manager.messages().into_iter().filter(|m| m.at > stopped + Duration::from_millis(200));
        assert_eq!(late.count(), 0);
        drained.signal(Signal::SIGCONT);
        drop(held);
        assert_eq!(drained.wait_end().code, Some(0));
    });
}

#[test]
fn the_control_socket_answers_while_it_drains() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let held = busy_pair(&drained, &upstream);
        drained.term_and_drain();
        let output = Command::new(env!("CARGO_BIN_EXE_drainctl"))
            .arg("--socket")
            .arg(drained.scratch.path("control.sock"))
            .args(["--json", "status"])
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["state"], "draining", "{status}");
        assert_eq!(status["proxies"]["p"]["state"], "draining", "{status}");
        assert_eq!(status["proxies"]["p"]["connections"]["active"], 1, "{status}");
        drop(held);
        assert_eq!(drained.wait_end().code, Some(0));
    });
}

#[test]
fn a_sighup_without_another_file_changes_nothing() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let held = pair(&drained, &upstream);
        drained.signal(Signal::SIGHUP);
        let told = "reloaded: of the proxies 0 added, 0 removed, 0 changed, 1 as before";
        drained.daemon.wait_line(told);
        drained.signal(Signal::SIGHUP);
        until("the second line", || drained.daemon.count(told) == 2);
        talk(&held.0, &held.1);
        drop(held);
        drained.stop();
    });
}

/// Relays and stops, whatever becomes of its messages.
fn works(drained: Drained, upstream: &Listener) {
    drained.daemon.wait_line("ready");
    drop(pair(&drained, upstream));
    let held = busy_pair(&drained, upstream);
    drained.term_and_drain();
    (&held.1).write_all(b"!").unwrap();
    drop(held);
    let began = Instant::now();
    let end = drained.wait_end();
    assert_eq!(end.code, Some(0), "{:#?}", end.lines);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_manager_who_does_not_listen_holds_up_nothing() {
    steady(|| {
        let upstream = Listener::new();
        let (_socket, full) = stuffed_socket();
        for address in [&*full, "/nowhere/notify", "@drained-nobody-is-there", "nonsense", ""] {
            works(Setup::proxy(&upstream.address, "").spawn_with(Manager::new(), address), &upstream);
        }
    });
}

#[test]
fn a_stop_before_ready_is_clean() {
    steady(|| {
        // At any moment of the start, some of them before the signals are blocked.
        let (mut clean, mut early) = (0, 0);
        for delay in 0..60 {
            let drained = Setup::proxy("127.0.0.1:9", "").spawn();
            std::thread::sleep(Duration::from_micros(delay * 250));
            drained.signal(Signal::SIGTERM);
            let manager = &drained.manager.messages().len();
            let _ = manager;
            let end = drained.wait_end();
            match (end.code, end.signal) {
                (Some(0), None) => clean += 1,
                // Before main: nothing was begun.
                (None, Some(15)) => {
                    assert!(end.lines.is_empty(), "{:#?}", end.lines);
                    early += 1;
                }
                other => panic!("{other:?}: {:#?}", end.lines),
            }
        }
        println!("{clean} clean, {early} before main");
        assert!(clean > 0);
    });
}

#[test]
fn a_bus_that_does_not_answer_holds_up_a_stop_for_five_seconds() {
    steady(|| {
        let (scratch, upstream) = (Scratch::new(), Listener::new());
        let bus = format!("unix:path={}", scratch.path("bus").display());
        let _deaf = UnixListener::bind(scratch.path("bus")).unwrap();
        let drained = Setup::proxy(&upstream.address, "").env("DBUS_SYSTEM_BUS_ADDRESS", &bus).start();
        let at = drained.signal(Signal::SIGTERM);
        until_taken(&drained);
        // Meanwhile clients are served.
        let (client, server) = pair(&drained, &upstream);
        drop((client, server));
        assert_eq!(drained.daemon.count("phase announce"), 0, "it waits for the bus");
        let end = drained.wait_end();
        let lasted = end.at - at;
        assert!((5_000..6_000).contains(&lasted.as_millis()), "{lasted:?}");
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
    });
}

#[test]
fn a_hurried_stop_does_not_wait_for_the_bus() {
    steady(|| {
        let (scratch, upstream) = (Scratch::new(), Listener::new());
        let bus = format!("unix:path={}", scratch.path("bus").display());
        let _deaf = UnixListener::bind(scratch.path("bus")).unwrap();
        let drained = Setup::proxy(&upstream.address, "").env("DBUS_SYSTEM_BUS_ADDRESS", &bus).start();
        drained.signal(Signal::SIGTERM);
        until_taken(&drained);
        let at = drained.signal(Signal::SIGTERM);
        let end = drained.wait_end();
        assert!(end.at - at < Duration::from_secs(1), "{:?}", end.at - at);
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
    });
}

/// Waits until no signal is pending: two of a kind would be one, signal(7).
fn until_taken(drained: &Drained) {
    let status = format!("/proc/{}/status", drained.pid());
    let is_taken = || fs::read_to_string(&status).unwrap().contains("ShdPnd:\t0000000000000000");
    until("the signal is taken", is_taken);
}
