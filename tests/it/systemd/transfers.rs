//! A stop in the midst of a thousand transfers.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use super::{
    PROXY, SOON, UNIT, assert_ended_well, configure, installed, on_every_release, one_proxy, stop_us,
    this_run,
};
use crate::support::container::{Container, monotonic_us};
use crate::support::image::Release;
use crate::support::load::{Shape, Transfer, Upstream};

on_every_release!(a_thousand_transfers_end_whole);

const COUNT: u64 = 1_000;
/// Pieces of the slow transfers, one each 150 ms: 15 s, longer than TimeoutStopSec=.
const PIECES: u64 = 100;

fn a_thousand_transfers_end_whole(release: Release) {
    let container = installed(release);
    assert_eq!(container.show(UNIT, "TimeoutStopUSec"), "10s");
    let upstream = container.in_network(Upstream::start);
    configure(&container, &one_proxy(upstream.address, "deadline = \"60s\""));

    let running: Vec<_> =
        container.in_network(|| (0..COUNT).map(|n| upstream.transfer(PROXY, transfer(n))).collect());
    upstream.gate.wait_arrived(COUNT as usize, Duration::from_secs(60));
    let run = this_run(&container);
    container.systemctl(["stop", "--no-block", UNIT]);
    container.wait_journal([&run, "DRAINED_EVENT=phase", "DRAINED_PHASE=drain"], SOON);
    let refused = container.in_network(|| TcpStream::connect(PROXY).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "the listener is closed");
    upstream.gate.open();

    let left = follow_status(&container);
    let (mut errors, mut last) = (upstream.errors(), None);
    for transfer in running {
        match transfer.join().unwrap() {
            Ok(end) => last = last.max(Some(end)),
            Err(error) => errors.push(error),
        }
    }
    assert!(
        errors.is_empty(),
        "{} of {COUNT} went wrong, among them {:#?}",
        errors.len(),
        &errors[..errors.len().min(20)]
    );
    assert_ended_well(&container);

    assert!(left.is_sorted_by(|a, b| a >= b), "STATUS counts down: {left:?}");
    assert!(left.len() >= 3 && left[0] > left[left.len() - 1], "STATUS counts down: {left:?}");
    let stop = stop_us(&container);
    assert!(stop > 12_000_000, "it waited for the slow ones, past TimeoutStopSec: {stop} us");
    // The test's clock is systemd's, see monotonic_us().
    let last = monotonic_us() - last.unwrap().elapsed().as_micros() as u64;
    let after = container.show_number(UNIT, "ExecMainExitTimestampMonotonic").saturating_sub(last);
    assert!(after < 500_000, "the daemon ended {after} us after the last transfer");
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
    let complaints = container.journal([&run, "_TRANSPORT=journal", "PRIORITY=4", "PRIORITY=3"]);
    assert!(complaints.is_empty(), "{complaints:#?}");
    println!("{release:?}: stop {stop} us, exit {after} us after the last transfer, STATUS {left:?}");
}

/// The mix: from 1 byte to 100 MB, all shapes, one in twenty slow.
fn transfer(n: u64) -> Transfer {
    let size = match n % 100 {
        0 => 1,
        1..50 => 1 + n * 61,
        50..90 => 100_000 + n * 101,
        90..98 => 2_000_000 + n * 1_009,
        _ => 5_000_000,
    };
    // Twice 100 MB: one up, one down.
    let shape = match n {
        998 => return Transfer { shape: Shape::Request, up: 100_000_000, down: 1, pieces: 1, seed: n },
        999 => return Transfer { shape: Shape::Download, up: 0, down: 100_000_000, pieces: 1, seed: n },
        // What stands still must be seen to be unfinished: more than the sockets' buffers hold.
        _ if n % 100 == 99 => {
            return Transfer { shape: Shape::Download, up: 0, down: 24_000_000, pieces: 1, seed: n };
        }
        _ if n % 20 == 7 => Shape::Duplex,
        _ if n.is_multiple_of(3) => Shape::HalfClose,
        _ => Shape::Request,
    };
    Transfer { shape, up: size, down: size + n % 7, pieces: PIECES, seed: n }
}

/// Every number of connections left that STATUS= shows until the unit is down.
fn follow_status(container: &Container) -> Vec<u64> {
    let mut left = Vec::new();
    loop {
        let shown = container.systemctl(["show", UNIT, "--property", "ActiveState,StatusText"]);
        if let Some((_, text)) = shown.split_once("Draining: ") {
            let number = text.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{shown}"));
            if left.last() != Some(&number) {
                left.push(number);
            }
        }
        if !shown.contains("ActiveState=deactivating") {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
