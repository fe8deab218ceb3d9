//! Servers and clients that nobody here wrote, through the real binary: the same results as without
//! it, and a stop in their midst that ends them as designed.
//!
//! They need the packages of `tests/tools` and root, for servers that change their user.

mod http;
mod iperf;
mod postgres;
mod redis;
mod ssh;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::real_peers::wait_for;

/// What a stop, or its end after the last connection, may take on a loaded machine.
const SOON: Duration = Duration::from_millis(800);
/// A deadline that no test reaches.
const LONG: &str = "50s";

/// The states, as /proc/net/tcp has them, of the connections to `server` that are not closed.
fn states_of_clients(server: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(server) = server else { panic!("{server} is not IPv4") };
    let port = format!("0100007F:{:04X}", server.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = |line: &str| line.split_whitespace().nth(2) == Some(&port);
    let state = |line: &str| u8::from_str_radix(line.split_whitespace().nth(3).unwrap(), 16).unwrap();
    const TIME_WAIT: u8 = 6;
    table.lines().filter(|line| remote(line)).map(state).filter(|state| *state != TIME_WAIT).collect()
}

/// Waits until the only client of `server` was sent a FIN, and has not been reset.
fn wait_for_fin(server: SocketAddr, bound: Duration) {
    const CLOSE_WAIT: u8 = 8;
    assert_eq!(states_of_clients(server).len(), 1);
    wait_for("FIN", bound, || {
        let states = states_of_clients(server);
        assert_eq!(states.len(), 1, "the client's connection is gone without a FIN");
        (states == [CLOSE_WAIT]).then_some(())
    });
}
