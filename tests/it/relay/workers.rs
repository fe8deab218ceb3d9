//! How connections come to workers.

use std::fs;

use crate::support::drained::{Drained, Setup, pair};
use crate::support::peers::Listener;

/// How many file descriptors the busiest epoll has, and the second busiest: those of the two workers.
fn watched(drained: &Drained) -> (usize, usize) {
    let of_process = format!("/proc/{}/fdinfo", drained.pid());
    let infos = fs::read_dir(of_process).unwrap().filter_map(|fd| fs::read_to_string(fd.ok()?.path()).ok());
    let mut counts: Vec<_> = infos.map(|info| info.matches("tfd:").count()).collect();
    counts.sort_unstable();
    (counts[counts.len() - 1], counts[counts.len() - 2])
}

#[test]
fn clients_that_come_one_after_the_other_are_shared_out_among_the_workers() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (before, _) = watched(&drained);
    // Each has been served before the next one comes, so all workers wait.
    let pairs: Vec<_> = (0..64).map(|_| pair(&drained, &upstream)).collect();
    let (most, least) = watched(&drained);
    // Two sockets each. One of them may have a sixteenth more than half, and what was in its first batch.
    assert!(most <= before + 2 * 40 && least >= 2 * 24, "{most} and {least}, {before} before");
    drop(pairs);
    drained.stop();
}
