//! SIGKILL in the midst of two thousand connections, at instants that a seed chooses.
//!
//! DRAINED_TEST_KILLS is how often.

use std::thread;
use std::time::{Duration, Instant};

use super::handover::{MANY, OLD, adopted, configured, stored};
use super::{SOON, UNIT, installed, on_every_release};
use crate::support::container::Container;
use crate::support::crowd::{Crowd, Mix, pairs};
use crate::support::drained::raise_descriptors;
use crate::support::image::Release;
use crate::support::number_from;
use crate::support::peers::{Pattern, talk};

on_every_release!(
    kills_lose_none_of_two_thousand_connections,
    without_an_age_kills_lose_no_connection_that_was_used,
    nine_thousand_connections_outlive_a_restart_and_a_kill,
);

const FEW: Mix = Mix { idle: 40, replies: 60, streams: 60, halves: 40 };
/// A kill comes so long after the start before it at the latest.
const SPREAD: Duration = Duration::from_millis(500);

fn kills_lose_none_of_two_thousand_connections(release: Release) {
    // What makes a connection old enough is time, so there is nothing but time to wait for.
    kills(release, "", MANY, Duration::from_millis(1_500), number_from("DRAINED_TEST_KILLS", 20));
}

fn without_an_age_kills_lose_no_connection_that_was_used(release: Release) {
    kills(release, "[handover]\ncrash_after = \"0s\"\n", FEW, Duration::ZERO, 5);
}

/// As many as a process has room for where it may have 20,000 file descriptors, and nearly as many as may be in
/// flight then.
fn nine_thousand_connections_outlive_a_restart_and_a_kill(release: Release) {
    const ALL: usize = 9_000;
    raise_descriptors();
    let container = installed(release);
    let [upstream, _] = configured(&container, "");
    let held = container.in_network(|| pairs(OLD, &upstream, ALL));
    // Until the last of them is old enough.
    thread::sleep(Duration::from_millis(1_500));
    let before = stored(&container);
    let mut took = [Duration::ZERO; 2];
    for (round, took) in took.iter_mut().enumerate() {
        let began = Instant::now();
        match round {
            0 => _ = container.systemctl(["restart", UNIT]),
            _ => _ = kill(&container, 1),
        }
        *took = began.elapsed();
        assert_eq!(adopted(&container), (2, ALL as u64));
        held.iter().for_each(|(client, server)| talk(client, server));
    }
    println!("{release:?}: {ALL} connections, {before} stored; restart {:?}, kill {:?}", took[0], took[1]);
}

/// Kills it so often, with connections older than `age`.
fn kills(release: Release, config: &str, mix: Mix, age: Duration, count: usize) {
    raise_descriptors();
    let container = installed(release);
    let [upstream, _] = configured(&container, config);
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, mix));
    thread::sleep(age);
    crowd.replies.longest();
    let connections = (mix.idle + mix.replies + mix.streams + mix.halves) as u64;
    let before = stored(&container);
    let mut seed = Pattern::new(count as u64);
    let (mut pauses, mut recoveries) = (Vec::new(), Vec::new());
    for round in 1..=count {
        let mut random = [0; 8];
        seed.fill(&mut random);
        thread::sleep(SPREAD.mul_f64((u64::from_le_bytes(random) >> 11) as f64 / (1_u64 << 53) as f64));
        recoveries.push(kill(&container, round));
        pauses.push(crowd.replies.longest());
        assert_eq!(adopted(&container), (2, connections), "after kill {round}");
        assert_eq!(stored(&container), before, "the store grows, kill {round}");
    }
    crowd.finish();
    pauses.sort();
    recoveries.sort();
    println!(
        "{release:?}: {count} kills of {connections} connections, {before} stored; longest reply: median {:?}, \
         longest {:?}; active again: median {:?}, longest {:?}",
        pauses[count / 2],
        pauses[count - 1],
        recoveries[count / 2],
        recoveries[count - 1]
    );
}

/// Kills the main process; returns how long it took until the next one was seen to be ready.
fn kill(container: &Container, round: usize) -> Duration {
    let began = Instant::now();
    container.systemctl(["kill", "--signal", "KILL", UNIT]);
    // Counted before the next one is started, so what is running after it is the next one.
    container.wait_property(UNIT, "NRestarts", SOON, |restarts| restarts == round.to_string());
    container.wait_property(UNIT, "SubState", SOON, |state| state == "running");
    began.elapsed()
}
