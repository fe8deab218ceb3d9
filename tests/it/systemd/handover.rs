//! `systemctl restart` in the midst of two thousand connections, a stop that drains still, and one that
//! becomes a restart while it drains.
//!
//! DRAINED_TEST_RESTARTS is how often it is restarted.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{UNIT, assert_ended_well, installed, on_every_release, this_run};
use crate::support::container::{Container, number};
use crate::support::crowd::{Crowd, Knocking, Mix, pairs};
use crate::support::drained::raise_descriptors;
use crate::support::image::Release;
use crate::support::number_from;
use crate::support::peers::{Ended, Listener, end_of, talk, try_connect};
use crate::support::steady::stolen;

on_every_release!(
    restarts_lose_none_of_two_thousand_connections,
    a_stop_drains_and_empties_the_store,
    a_drain_that_turns_into_a_restart_hands_over,
    a_drain_that_turns_into_a_restart_waits_for_no_worker_that_is_done,
);

/// Two thousand in all.
pub(super) const MANY: Mix = Mix { idle: 1_000, replies: 500, streams: 400, halves: 100 };
/// Those that are never quiet, so that a drain waits for them.
const BUSY: Mix = Mix { idle: 0, replies: 20, streams: 24, halves: 0 };

/// Where the connections that live on are made.
pub(super) const OLD: &str = "127.0.0.1:80";
/// Where those are made that come and go.
pub(super) const NEW: &str = "127.0.0.1:81";

/// A proxy each for [`OLD`] and [`NEW`], below these lines.
pub(super) fn configured(container: &Container, more: &str) -> [Listener; 2] {
    let upstreams = container.in_network(|| [Listener::new(), Listener::new()]);
    let proxy = |name: &str, listen: &str, upstream: &Listener| {
        format!("[proxy.{name}]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address)
    };
    let config = more.to_owned() + &proxy("old", OLD, &upstreams[0]) + &proxy("new", NEW, &upstreams[1]);
    super::configure(container, &config);
    upstreams
}

/// How many file descriptors systemd keeps for the unit. A few, however many connections there are.
pub(super) fn stored(container: &Container) -> u64 {
    let stored = container.show_number(UNIT, "NFileDescriptorStore");
    assert!((5..64).contains(&stored), "{stored} stored");
    stored
}

/// How many listeners and connections the daemon says that it has adopted.
pub(super) fn adopted(container: &Container) -> (u64, u64) {
    let status = container.run(["drainctl", "--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let count = |what: &str| status["adopted"][what].as_u64().unwrap();
    (count("listeners"), count("connections"))
}

/// Where the time of a restart went, in microseconds.
struct Parts {
    /// From the signal until everything was left to the store.
    parking: u64,
    /// From the signal until systemd knew of the end.
    exit: u64,
    /// Until systemd started the next one.
    between: u64,
    /// Until that one was ready: exec, adoption and READY=1.
    start: u64,
    /// From the signal to the adoption.
    adopted: u64,
}

impl Parts {
    /// From systemd's fork to READY=1.
    fn start(container: &Container) -> u64 {
        time(container, "ActiveEnter") - time(container, "ExecMainStart")
    }

    /// Of the last restart. `before` matches the entries of the process that was ended by it.
    fn of(container: &Container, before: &str) -> Parts {
        let [asked, ended, begun] =
            ["ActiveExit", "InactiveEnter", "ExecMainStart"].map(|at| time(container, at));
        let said = |run: &str, event: &str| {
            let entry = container.wait_journal([run, &format!("DRAINED_EVENT={event}")], super::SOON);
            number(&entry, "DRAINED_DURATION_US")
        };
        Parts {
            parking: said(before, "handed-over"),
            exit: ended - asked,
            between: begun - ended,
            start: Parts::start(container),
            adopted: said(&this_run(container), "adopted"),
        }
    }
}

/// One of systemd's timestamps of the unit.
fn time(container: &Container, name: &str) -> u64 {
    container.show_number(UNIT, &format!("{name}TimestampMonotonic"))
}

fn restarts_lose_none_of_two_thousand_connections(release: Release) {
    raise_descriptors();
    let container = installed(release);
    let [upstream, fresh] = configured(&container, "");
    let empty = Parts::start(&container);
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, MANY));
    let knocking = container.in_network(|| Knocking::start(NEW, fresh));
    crowd.replies.longest();
    println!("{release:?}: without a restart the longest reply takes {:?}", crowd.replies.longest());

    let before = stored(&container);
    let stolen_before = stolen();
    let (mut pauses, mut all_parts) = (Vec::new(), Vec::new());
    for round in 0..number_from("DRAINED_TEST_RESTARTS", 10) {
        let run = this_run(&container);
        container.systemctl(["restart", UNIT]);
        pauses.push(crowd.replies.longest());
        all_parts.push(Parts::of(&container, &run));
        assert_eq!(stored(&container), before, "the store grows, round {round}");
        let (listeners, connections) = adopted(&container);
        assert_eq!(listeners, 2);
        assert!((2_000..2_010).contains(&connections), "{connections} adopted");
    }
    let stolen = stolen() - stolen_before;
    let served = knocking.finish();
    crowd.finish();
    let part = |f: fn(&Parts) -> u64| {
        let mut all: Vec<_> = all_parts.iter().map(f).collect();
        all.sort();
        format!("{:.1} ms (at most {:.1})", all[all.len() / 2] as f64 / 1e3, all[all.len() - 1] as f64 / 1e3)
    };
    pauses.sort();
    let median = pauses[pauses.len() / 2];
    println!(
        "{release:?}: {} restarts, {served} new clients, {before} stored; longest reply: median {median:?}, \
         longest {:?}",
        pauses.len(),
        pauses[pauses.len() - 1]
    );
    println!(
        "{release:?}: medians: parking {}, exit {}, systemd {}, start {} (without a connection {:.1} ms), from \
         the signal to the adoption {}",
        part(|p| p.parking),
        part(|p| p.exit),
        part(|p| p.between),
        part(|p| p.start),
        empty as f64 / 1e3,
        part(|p| p.adopted)
    );
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
    // A client that the machine leaves waiting for seconds has no use for its connection.
    let granted = stolen / pauses.len() as u32;
    assert!(median < Duration::from_secs(2) + granted, "{pauses:?}, {granted:?} granted");
}

fn a_stop_drains_and_empties_the_store(release: Release) {
    let container = installed(release);
    let [upstream, _] = configured(&container, "");
    let held = container.in_network(|| pairs(OLD, &upstream, 20));
    container.systemctl(["restart", UNIT]);
    let run = this_run(&container);
    container.systemctl(["stop", UNIT]);
    assert_ended_well(&container);
    container.wait_journal([&run, "DRAINED_EVENT=phase", "DRAINED_PHASE=drain"], super::SOON);
    assert!(container.journal([&run, "DRAINED_EVENT=handed-over"]).is_empty());
    for (client, server) in &held {
        assert_eq!((end_of(client), end_of(server)), (Ended::Fin, Ended::Fin));
    }
    assert_eq!(container.show(UNIT, "NFileDescriptorStore"), "0");
    // And a start after it has nothing to adopt.
    container.systemctl(["start", UNIT]);
    stored(&container);
    assert!(container.journal([&this_run(&container), "DRAINED_EVENT=adopted"]).is_empty());
}

fn a_drain_that_turns_into_a_restart_hands_over(release: Release) {
    let container = installed(release);
    let [upstream, _] = configured(&container, "[drain]\ndeadline = \"10m\"\n");
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, BUSY));
    for turn in ["restart", "start"] {
        let run = this_run(&container);
        container.systemctl(["stop", "--no-block", UNIT]);
        container.wait_journal([&run, "DRAINED_EVENT=phase", "DRAINED_PHASE=drain"], super::SOON);
        let refused = container.in_network(|| try_connect(OLD)).err();
        assert_eq!(refused, Some(Errno::ECONNREFUSED), "it drains");
        crowd.replies.longest();
        assert_eq!(container.show(UNIT, "ActiveState"), "deactivating");

        let (began, stolen_before) = (Instant::now(), stolen());
        container.systemctl([turn, UNIT]);
        let (took, stolen) = (began.elapsed(), stolen() - stolen_before);
        println!("{release:?}: {turn} in the midst of a drain: served again after {took:?}");
        assert!(took < Duration::from_secs(5) + stolen, "{turn}: {took:?}, {stolen:?} granted");
        container.wait_journal([&run, "DRAINED_EVENT=handed-over"], super::SOON);
        assert_eq!(adopted(&container), (0, 44), "{turn}");
        // Those of before go on, and there are new ones.
        crowd.replies.longest();
        for (client, server) in container.in_network(|| pairs(OLD, &upstream, 5)) {
            talk(&client, &server);
        }
    }
    crowd.finish();
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
}

fn a_drain_that_turns_into_a_restart_waits_for_no_worker_that_is_done(release: Release) {
    let container = installed(release);
    let [upstream, _] = configured(&container, "[daemon]\nworkers = 2\n[drain]\ndeadline = \"10m\"\n");
    let (client, server) = container.in_network(|| pairs(OLD, &upstream, 1)).remove(0);
    // An answer is due, so one worker has something to wait for.
    (&client).write_all(b"?").unwrap();
    let run = this_run(&container);
    container.systemctl(["stop", "--no-block", UNIT]);
    container.wait_journal([&run, "DRAINED_EVENT=phase", "DRAINED_PHASE=drain"], super::SOON);
    container.systemctl(["restart", UNIT]);
    container.wait_journal([&run, "DRAINED_EVENT=handed-over"], super::SOON);
    assert!(container.journal([&run, "DRAINED_EVENT=step-failed"]).is_empty());
    assert_eq!(adopted(&container), (0, 1));
    (&server).read_exact(&mut [0]).unwrap();
    talk(&client, &server);
}
