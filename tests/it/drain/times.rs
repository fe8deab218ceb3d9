//! A stop lasts no longer than what it waits for.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::pair;
use crate::support::SOON;
use crate::support::daemon::Daemon;
use crate::support::drained::{Setup, alone};
use crate::support::peers::Listener;
use crate::support::steady::steady;

const RUNS: usize = 9;
const PROMISED: Duration = Duration::from_millis(20);

/// What is promised holds for the median. A machine that takes long to end even a process that does
/// nothing is granted a multiple of that time: a stop goes from thread to thread. And a microsecond
/// for each connection of the machine, which the kernel passes when it looks for handshakes.
fn assert_prompt(what: &str, mut times: Vec<Duration>) {
    let mut nothing: Vec<_> = (0..RUNS).map(|_| end_of_nothing()).collect();
    times.sort();
    nothing.sort();
    let (median, nothing) = (times[RUNS / 2], nothing[RUNS / 2]);
    println!("{what}: median {median:?}, longest {:?}; doing nothing: {nothing:?}", times[RUNS - 1]);
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let passing = Duration::from_micros(table.lines().count() as u64);
    assert!(median <= PROMISED.max(nothing * 10) + passing, "{what}: {times:?}, {passing:?} granted");
}

/// How long the end of a process takes that does nothing.
fn end_of_nothing() -> Duration {
    let mut command = std::process::Command::new("sleep");
    command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Daemon::start_as_is(command);
    let at = process.signal(Signal::SIGTERM);
    process.wait_end().at - at
}

#[test]
fn without_a_connection_the_stop_takes_20_ms_at_most() {
    steady(|| {
        let _alone = alone();
        let upstream = Listener::new();
        let times = (0..RUNS).map(|_| {
            let drained = Setup::proxy(&upstream.address, "").start();
            let at = drained.signal(Signal::SIGTERM);
            let end = drained.wait_end();
            assert_eq!(end.code, Some(0), "{:#?}", end.lines);
            end.at - at
        });
        assert_prompt("no connection", times.collect());
    });
}

#[test]
fn with_the_end_of_the_last_connection_it_is_over_within_20_ms() {
    steady(|| {
        let _alone = alone();
        let upstream = Listener::new();
        let times = (0..RUNS).map(|_| {
            let drained = Setup::proxy(&upstream.address, "").start();
            let (client, server) = pair(&drained, &upstream);
            drained.signal(Signal::SIGTERM);
            drained.manager.wait_for(SOON, |message| message.text.contains("Draining: 1 of 1"));
            drained.daemon.wait_line("phase drain");
            drop(server);
            let at = std::time::Instant::now();
            drop(client);
            let end = drained.wait_end();
            assert_eq!(end.code, Some(0), "{:#?}", end.lines);
            end.at.saturating_duration_since(at)
        });
        assert_prompt("last connection", times.collect());
    });
}
