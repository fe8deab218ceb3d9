//! What systemd is told, and what happens where it doesn't listen.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::SOON;
use crate::support::daemon::{Daemon, example, unit};
use crate::support::manager::{Manager, stuffed_socket};
use crate::support::steady::steady;

fn contrary(manager: &Manager, arguments: &[&str]) -> Daemon {
    let daemon = unit(example("contrary"), arguments, &[("NOTIFY_SOCKET", manager.address())]);
    manager.wait_for(SOON, |message| message.says("READY=1"));
    daemon
}

#[test]
fn stopping_comes_with_the_first_extension_and_a_status_in_one_message() {
    steady(|| {
        let manager = Manager::new();
        let daemon = contrary(&manager, &["steps"]);
        let pid = daemon.pid();
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
        let message = manager.wait_for(SOON, |message| message.says("STOPPING=1"));
        assert_eq!(message.text, "STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000\nSTATUS=Stopping\n");
        assert!(manager.messages().iter().all(|message| message.pid == pid && message.fds == 0));
    });
}

/// Hazard: a daemon that is stopped by SIGSTOP gives no sign of life, so systemd ends it.
#[test]
fn extensions_come_each_second_and_cease_when_the_daemon_is_stopped() {
    steady(|| {
        let manager = Manager::new();
        let daemon = contrary(&manager, &["linger=60000"]);
        daemon.signal(Signal::SIGTERM);
        let extends = |message: &crate::support::manager::Received| {
            message.value("EXTEND_TIMEOUT_USEC") == Some("5000000")
        };
        let (seen, first) = manager.wait_after(0, SOON, extends);
        let (seen, second) = manager.wait_after(seen, SOON, extends);
        let (_, third) = manager.wait_after(seen, SOON, extends);
        for gap in [second.at - first.at, third.at - second.at] {
            assert!((0.7..1.6).contains(&gap.as_secs_f64()), "{gap:?} between two extensions");
        }
        daemon.signal(Signal::SIGSTOP);
        let stopped = || daemon.thread_status(daemon.pid(), "State").starts_with('T');
        while !stopped() {
            std::thread::yield_now();
        }
        let before = manager.messages().len();
        // Three seconds of silence: nothing but time can show it.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(manager.messages().len(), before);
        daemon.signal(Signal::SIGCONT);
        manager.wait_after(before, SOON, extends);
    });
}

#[test]
fn extensions_end_with_the_longest_time_that_the_stop_can_take() {
    steady(|| {
        let manager = Manager::new();
        // Left behind after 1 s in the last phase but one; the hook then hangs for 1 s.
        let daemon = contrary(&manager, &["step-hangs=1500", "hook-hangs"]);
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!(end.code, Some(70));
        let took = (end.at - asked).as_secs_f64();
        assert!((2.5..3.5).contains(&took), "the stop took {took} s");
        let extensions =
            manager.messages().iter().filter(|m| m.value("EXTEND_TIMEOUT_USEC").is_some()).count();
        assert!((2..=4).contains(&extensions), "{extensions} extensions in {took} s");
    });
}

fn watched(manager: &Manager, arguments: &[&str]) -> Daemon {
    let environment = [("NOTIFY_SOCKET", manager.address()), ("WATCHDOG_USEC", "600000")];
    let daemon = unit(example("contrary"), arguments, &environment);
    manager.wait_for(SOON, |message| message.says("READY=1"));
    daemon
}

#[test]
fn the_watchdog_is_fed_while_all_workers_show_life() {
    steady(|| {
        let manager = Manager::new();
        let daemon = watched(&manager, &["worker", "worker-epoll"]);
        let fed = |message: &crate::support::manager::Received| message.says("WATCHDOG=1");
        let mut seen = 0;
        let mut times = Vec::new();
        for _ in 0..8 {
            let (next, message) = manager.wait_after(seen, SOON, fed);
            seen = next;
            times.push(message.at);
        }
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest < Duration::from_millis(600), "{longest:?} between two WATCHDOG=1");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
    });
}

#[test]
fn the_watchdog_starves_when_a_worker_hangs_and_the_log_names_it_once() {
    steady(|| {
        let manager = Manager::new();
        let daemon = watched(&manager, &["worker", "worker-hangs=100"]);
        daemon.wait_line("worker hanging shows no life");
        let before = manager.messages().len();
        // Two intervals of silence: nothing but time can show it.
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(manager.messages().len(), before);
        daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!((end.code, end.count("shows no life")), (Some(70), 1), "{:#?}", end.lines);
    });
}

#[test]
fn a_watchdog_for_another_process_is_not_fed() {
    steady(|| {
        let manager = Manager::new();
        let environment =
            [("NOTIFY_SOCKET", manager.address()), ("WATCHDOG_USEC", "3000"), ("WATCHDOG_PID", "1")];
        let daemon = unit(example("contrary"), &["linger=1000"], &environment);
        manager.wait_for(SOON, |message| message.says("READY=1"));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
        assert!(!manager.messages().iter().any(|message| message.says("WATCHDOG=1")));
    });
}

#[test]
fn a_reload_is_framed_by_reloading_and_ready() {
    steady(|| {
        let manager = Manager::new();
        let daemon = contrary(&manager, &["reload"]);
        let seen = manager.messages().len();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_line("reload");
        let (seen, message) = manager.wait_after(seen, SOON, |message| message.says("RELOADING=1"));
        assert!(message.value("MONOTONIC_USEC").unwrap().parse::<u64>().unwrap() > 0);
        manager.wait_after(seen, SOON, |message| message.text == "READY=1\n");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
    });
}

#[test]
fn a_reload_that_fails_is_named_and_changes_nothing() {
    steady(|| {
        let manager = Manager::new();
        let daemon = contrary(&manager, &["reload-fails"]);
        let seen = manager.messages().len();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_line("not reloaded: broken on purpose");
        manager.wait_after(seen, SOON, |message| message.says("READY=1"));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
    });
}

/// Hazard: the notify socket is full.
#[test]
fn a_stuffed_notify_socket_holds_nothing_up() {
    steady(|| {
        let (socket, address) = stuffed_socket();
        let daemon = unit(example("contrary"), &["steps", "worker"], &[("NOTIFY_SOCKET", &address)]);
        daemon.wait_line("main");
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
        assert!(end.at - asked < Duration::from_secs(1), "it took {:?}", end.at - asked);
        drop(socket);
    });
}

/// Hazard: the notify socket is missing. (All other tests here use an abstract one.)
#[test]
fn a_missing_notify_socket_is_logged_once() {
    steady(|| {
        for address in ["/nowhere/notify", "@drained-it-nowhere", "vsock:2:1234", "nonsense"] {
            let daemon = unit(example("contrary"), &["steps"], &[("NOTIFY_SOCKET", address)]);
            daemon.wait_line("main");
            daemon.wait_line("the notify socket cannot be used");
            daemon.signal(Signal::SIGTERM);
            let end = daemon.wait_end();
            assert_eq!(end.code, Some(0), "{:#?}", end.lines);
            assert_eq!(end.count("the notify socket cannot be used"), 1, "{address}: {:#?}", end.lines);
        }
    });
}
