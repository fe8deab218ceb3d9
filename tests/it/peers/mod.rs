//! Servers and clients that nobody here wrote, through the real binary: the same results as without
//! it, and a stop in their midst that ends them as designed.
//!
//! They need the packages of `tests/tools` and root, for servers that change their user.

mod handover;
mod http;
mod iperf;
mod postgres;
mod redis;
mod ssh;

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::real_peers::client::run;
use crate::support::real_peers::wait_for;

/// What a stop, or its end after the last connection, may take.
const SOON: Duration = Duration::from_millis(800);
/// A deadline that no test reaches.
const LONG: &str = "50s";

/// The states of the connections to `server` that are not closed. ss asks the kernel for these
/// alone; /proc/net/tcp lists the tens of thousands that linger after other tests too.
fn states_of_clients(server: SocketAddr) -> Vec<String> {
    let list = run("ss", ["-Htn", "dst", &server.to_string()]).success();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Waits until the only client of `server` was sent a FIN, and has not been reset.
fn wait_for_fin(server: SocketAddr, bound: Duration) {
    assert_eq!(states_of_clients(server).len(), 1);
    wait_for("FIN", bound, || {
        let states = states_of_clients(server);
        assert_eq!(states.len(), 1, "the client's connection is gone without a FIN");
        (states == ["CLOSE-WAIT"]).then_some(())
    });
}
