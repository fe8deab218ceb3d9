//! Which thread a signal is sent to, what it means, and how the shell sees the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::contrary;
use crate::support::daemon::{Daemon, example, unit};
use crate::support::steady::steady;

/// Bits of HUP, INT, QUIT, USR1, USR2, PIPE and TERM in a mask of /proc/PID/status.
const HANDLED: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 14;

/// The threads of somedaemon; the first is its main.
const THREADS: [&str; 7] =
    ["somedaemon", "signals", "cleanup", "notify", "accept", "clients-tick", "peer-tick"];

fn somedaemon() -> Daemon {
    let daemon = unit(example("somedaemon"), &[], &[("NOTIFY_SOCKET", "@drained-it-nobody-listens")]);
    daemon.wait_line("ready");
    daemon
}

#[test]
fn all_signals_are_blocked_in_every_thread() {
    steady(|| {
        let daemon = somedaemon();
        for name in THREADS {
            daemon.wait_thread(name);
        }
        for (tid, name) in daemon.threads() {
            let blocked = u64::from_str_radix(&daemon.thread_status(tid, "SigBlk"), 16).unwrap();
            assert_eq!(blocked & HANDLED, HANDLED, "thread {name} has {blocked:x}");
        }
        for signal in [Signal::SIGUSR2, Signal::SIGPIPE, Signal::SIGHUP] {
            daemon.signal(signal);
        }
        daemon.signal(Signal::SIGUSR1);
        daemon.wait_line("clients");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_end().code, Some(0));
    });
}

/// Hazard: a signal that was sent to a single thread is still seen, whichever thread it is.
#[test]
fn a_signal_to_a_single_thread_is_seen() {
    steady(|| {
        for name in THREADS {
            let daemon = somedaemon();
            daemon.signal_thread(name, Signal::SIGTERM);
            let end = daemon.wait_end();
            assert_eq!(end.code, Some(0), "{name}: {:#?}", end.lines);
            assert_eq!(end.count("stopping: SIGTERM"), 1, "{name}");
            assert!(!end.says("hurried"), "{name}: seen twice: {:#?}", end.lines);
        }
    });
}

#[test]
fn a_thread_that_waits_for_the_stop_passes_on_each_signal() {
    steady(|| {
        let daemon = contrary(&["worker", "main-waits", "announce=60000"]);
        daemon.signal_thread("polite", Signal::SIGTERM);
        daemon.wait_line("announcing");
        daemon.signal_thread("contrary", Signal::SIGTERM);
        daemon.wait_line("woken");
        assert_eq!(daemon.wait_end().code, Some(0));
    });
}

/// The worker takes its own signal only after the signals thread has found it in /proc.
#[test]
fn a_signal_that_is_found_before_its_thread_takes_it_counts_once() {
    steady(|| {
        let daemon = contrary(&["worker-late", "announce=60000"]);
        let late = daemon.wait_thread("late");
        daemon.signal_thread("late", Signal::SIGTERM);
        daemon.wait_line("announcing");
        let pending = || u64::from_str_radix(&daemon.thread_status(late, "SigPnd"), 16).unwrap();
        while pending() != 0 {
            std::thread::yield_now();
        }
        daemon.signal(Signal::SIGUSR1);
        daemon.wait_line("SIGUSR1 is ignored");
        daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!((end.code, end.count("hurried by")), (Some(0), 1), "{:#?}", end.lines);
        assert!(!end.says("ending at once"));
        let place = |text: &str| end.lines.iter().position(|line| line.contains(text));
        assert!(
            place("SIGUSR1 is ignored") < place("hurried by"),
            "hurried by its own echo: {:#?}",
            end.lines
        );
    });
}

#[test]
fn the_second_signal_hurries_and_what_heeds_it_ends_in_order() {
    steady(|| {
        let daemon = contrary(&["steps", "linger=60000"]);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_line("lingering");
        let hurried = daemon.signal(Signal::SIGINT);
        let end = daemon.wait_end();
        let sender = format!("from process {}", std::process::id());
        assert!(end.says(&format!("stopping: SIGTERM {sender}")), "{:#?}", end.lines);
        assert!(end.says(&format!("hurried by SIGINT {sender}")), "{:#?}", end.lines);
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
        assert!(end.at - hurried < Duration::from_secs(2), "it took {:?}", end.at - hurried);
        assert!(end.says("finish") && end.says("hook"), "the rest of the stop was done: {:#?}", end.lines);
    });
}

#[test]
fn what_does_not_heed_a_hurry_is_left_behind_two_seconds_after_it() {
    steady(|| {
        let daemon = contrary(&["step-hangs=60000"]);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_line("phase drain");
        let hurried = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        let took = (end.at - hurried).as_secs_f64();
        assert!((1.9..3.0).contains(&took), "it took {took} s");
        assert_eq!(end.code, Some(70));
        assert!(end.says("cleanup step hanging-step left behind"));
    });
}

#[test]
fn the_third_signal_ends_at_once() {
    steady(|| {
        let daemon = contrary(&["step-hangs=60000", "worker-hangs=60000"]);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_line("phase drain");
        daemon.signal(Signal::SIGTERM);
        daemon.wait_line("hurried by");
        let third = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert!(end.at - third < Duration::from_secs(1), "it took {:?}", end.at - third);
        assert_eq!((end.code, end.count("hook")), (Some(70), 1));
        assert!(end.says("ending at once") && end.says("worker hanging left behind"), "{:#?}", end.lines);
    });
}

#[test]
fn quit_ends_at_once_without_a_drain_but_with_the_hooks() {
    steady(|| {
        let daemon = contrary(&["steps", "worker", "linger=60000"]);
        let quit = daemon.signal(Signal::SIGQUIT);
        let end = daemon.wait_end();
        assert!(end.at - quit < Duration::from_secs(1), "it took {:?}", end.at - quit);
        assert_eq!((end.code, end.count("hook")), (Some(0), 1), "{:#?}", end.lines);
        assert!(end.says("worker done") && !end.says("lingering"), "{:#?}", end.lines);
    });
}

/// Run by a shell on a terminal, an interrupted daemon must look like one: then the shell stops too.
#[test]
fn an_interrupt_on_a_terminal_looks_like_one_to_the_shell() {
    steady(|| {
        let path = example("somedaemon").get_program().to_str().unwrap().to_owned();
        let script = format!("trap 'echo shell interrupted' INT; {path}; echo status $?");
        let mut terminal = Command::new("script")
            .args(["-qec", &format!("/bin/sh -c '{}'", script.replace('\'', r"'\''")), "/dev/null"])
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) of util-linux");
        let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let up = lines.by_ref().inspect(|line| seen.push(line.clone())).any(|line| line.contains("ready"));
        assert!(up, "{seen:#?}");
        // Ctrl-C, as the terminal's line discipline takes it.
        let mut keyboard = terminal.stdin.take().unwrap();
        keyboard.write_all(b"\x03").unwrap();
        let rest: Vec<String> = lines.collect();
        assert!(rest.iter().any(|line| line.contains("stopping: SIGINT")), "{rest:#?}");
        assert!(rest.iter().any(|line| line.contains("last words")), "{rest:#?}");
        assert!(rest.iter().any(|line| line.contains("status 130")), "{rest:#?}");
        terminal.wait().unwrap();
    });
}

#[test]
fn with_nothing_to_wait_for_a_stop_is_over_in_milliseconds() {
    steady(|| {
        let stop = || {
            let daemon = contrary(&["worker", "worker-epoll", "steps", "main-waits"]);
            let asked = daemon.signal(Signal::SIGTERM);
            let end = daemon.wait_end();
            assert_eq!(end.code, Some(0));
            end.at - asked
        };
        // The best of several: the machine may be busy with other things.
        let best = (0..8).map(|_| stop()).min().unwrap();
        assert!(best < Duration::from_millis(20), "the fastest stop took {best:?}");
    });
}
