//! Thousands of quiet connections are told goodbye at once.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{pair, silence};
use crate::support::drained::{Setup, alone, raise_descriptors};
use crate::support::peers::{Ended, Listener, end_of};

/// This process holds both ends of each, and each process may have 20,000 files where this runs.
const CROWD: usize = 8_000;

#[test]
fn eight_thousand_goodbyes_at_once() {
    let _alone = alone();
    raise_descriptors();
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let pairs: Vec<_> = (0..CROWD).map(|_| pair(&drained, &upstream)).collect();
    silence();
    let at = drained.signal(Signal::SIGTERM);
    // Upstreams answer the goodbye with theirs, and clients with theirs.
    let mut clients = Vec::with_capacity(CROWD);
    for (client, server) in pairs {
        assert_eq!(end_of(&server), Ended::Fin);
        clients.push(client);
    }
    println!("all upstreams told after {:?}", at.elapsed());
    for client in clients {
        assert_eq!(end_of(&client), Ended::Fin);
    }
    let end = drained.wait_end_within(Duration::from_secs(20));
    println!("{CROWD} goodbyes in {:?}", end.at - at);
    assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
}
