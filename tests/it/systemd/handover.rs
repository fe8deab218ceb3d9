//! `systemctl restart` in the midst of two thousand connections, and a stop that drains still.

use std::time::{Duration, Instant};

use super::{UNIT, assert_ended_well, installed, on_every_release, this_run};
use crate::support::container::{Container, number};
use crate::support::crowd::{Crowd, Knocking, Mix, pairs};
use crate::support::drained::raise_descriptors;
use crate::support::image::Release;
use crate::support::peers::{Ended, Listener, end_of};

on_every_release!(five_restarts_lose_none_of_two_thousand_connections, a_stop_drains_and_empties_the_store);

const RESTARTS: usize = 5;
const MIX: Mix = Mix { idle: 1_000, replies: 500, streams: 400, halves: 100 };
const CONNECTIONS: u64 = 2_000;
/// Two listeners; the ledger and the lots are taken out by the time that it is ready.
const STORED: &str = "2";

const OLD: &str = "127.0.0.1:80";
const NEW: &str = "127.0.0.1:81";

/// Two proxies: one for those who live on, one for those who come and go.
fn configured(container: &Container) -> [Listener; 2] {
    let upstreams = container.in_network(|| [Listener::new(), Listener::new()]);
    let proxy = |name: &str, listen: &str, upstream: &Listener| {
        format!("[proxy.{name}]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address)
    };
    let config = proxy("old", OLD, &upstreams[0]) + &proxy("new", NEW, &upstreams[1]);
    super::configure(container, &config);
    wait_stored(container);
    upstreams
}

fn wait_stored(container: &Container) {
    container.wait_property(UNIT, "NFileDescriptorStore", super::SOON, |stored| stored == STORED);
}

fn five_restarts_lose_none_of_two_thousand_connections(release: Release) {
    raise_descriptors();
    let container = installed(release);
    let [upstream, fresh] = configured(&container);
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, MIX));
    let knocking = container.in_network(|| Knocking::start(NEW, fresh));
    crowd.replies.longest();
    println!("{release:?}: without a restart the longest reply takes {:?}", crowd.replies.longest());

    let mut pauses = Vec::new();
    for round in 1..=RESTARTS {
        let began = Instant::now();
        container.systemctl(["restart", UNIT]);
        let command = began.elapsed();
        let longest = crowd.replies.longest();
        let adopted = container.wait_journal([&this_run(&container), "DRAINED_EVENT=adopted"], super::SOON);
        println!(
            "{release:?}: restart {round}: the longest reply took {longest:?}, systemctl {command:?}, \
             from the signal to the adoption {} us: {}",
            number(&adopted, "DRAINED_DURATION_US"),
            adopted["MESSAGE"]
        );
        pauses.push(longest);
        wait_stored(&container);
        let status = container.run(["drainctl", "--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["adopted"]["listeners"], 2, "{status}");
        let connections = status["adopted"]["connections"].as_u64().unwrap();
        assert!((CONNECTIONS..CONNECTIONS + 10).contains(&connections), "{connections} adopted");
    }
    let served = knocking.finish();
    crowd.finish();
    pauses.sort();
    let median = pauses[RESTARTS / 2];
    println!("{release:?}: median {median:?}, longest {:?}, {served} new clients", pauses[RESTARTS - 1]);
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
    // A client that the machine leaves waiting for seconds has no use for its connection.
    assert!(median < Duration::from_secs(2), "{pauses:?}");
}

fn a_stop_drains_and_empties_the_store(release: Release) {
    let container = installed(release);
    let [upstream, _] = configured(&container);
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
    wait_stored(&container);
    assert!(container.journal([&this_run(&container), "DRAINED_EVENT=adopted"]).is_empty());
}
