//! The package is upgraded and removed in the midst of connections.

use std::collections::BTreeSet;
use std::process::Stdio;

use super::handover::{NEW, OLD, adopted, configured};
use super::package::{job_types, next_version};
use super::{SOON, install, on_every_release, this_run};
use crate::support::container::Container;
use crate::support::crowd::{Crowd, Knocking, Mix};
use crate::support::image::Release;

on_every_release!(an_upgrade_loses_no_connection_and_a_removal_drains);

const MIX: Mix = Mix { idle: 80, replies: 60, streams: 40, halves: 20 };
/// Those that are never quiet, so that a drain waits for them.
const BUSY: Mix = Mix { idle: 0, replies: 20, streams: 24, halves: 0 };

fn an_upgrade_loses_no_connection_and_a_removal_drains(release: Release) {
    let container = Container::boot(release);
    let deb = install(&container);
    let [upstream, fresh] = configured(&container, "[drain]\ndeadline = \"10m\"\n");
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, MIX));
    let knocking = container.in_network(|| Knocking::start(NEW, fresh));
    let next = next_version(&container, &deb);
    let (before, run) = (job_types(&container), this_run(&container));
    crowd.replies.longest();

    let apt = [
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
        "-o",
        "Dpkg::Options::=--force-confold",
        &next,
    ];
    container.run(apt);

    let version = container.run(["dpkg-query", "--showformat=${Version}", "--show", "drained"]);
    assert_eq!(version, "999-1");
    assert_ne!(this_run(&container), run, "the new version runs");
    println!("{release:?}: an upgrade: the longest reply took {:?}", crowd.replies.longest());
    let jobs: Vec<_> = job_types(&container).difference(&before).cloned().collect();
    let ids: BTreeSet<_> = jobs.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 1, "one job: {jobs:?}");
    assert!(jobs.iter().any(|(_, kind)| kind == "restart"), "a restart: {jobs:?}");
    let (listeners, connections) = adopted(&container);
    assert_eq!(listeners, 2);
    assert!((200..210).contains(&connections), "{connections} adopted");
    knocking.finish();
    crowd.finish();

    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, BUSY));
    let run = this_run(&container);
    let mut removal = container
        .command(["dpkg", "--remove", "drained"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    container.wait_journal([&run, "DRAINED_EVENT=phase", "DRAINED_PHASE=drain"], SOON);
    crowd.replies.longest();
    assert!(removal.try_wait().unwrap().is_none(), "it waits for them");
    crowd.finish();
    assert!(removal.wait().unwrap().success());
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
    let ended = container.wait_journal([&run, "DRAINED_EVENT=stopped"], SOON);
    assert!(container.journal([&run, "DRAINED_EVENT=handed-over"]).is_empty(), "{ended}");
}
