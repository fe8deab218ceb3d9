//! The upstreams of a proxy: which takes the next connection, and which are down.
//!
//! Least connections among those that are up and not yet tried for this client; when all are known
//! to be down they are tried all the same, for what is known may be old.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::sys::socket::Address;

/// Background retries of what is down: first after this many milliseconds, then doubled.
pub const RETRY_FIRST: u64 = 250;
/// The longest pause between two retries, in milliseconds.
pub const RETRY_LAST: u64 = 5_000;

/// One upstream, shared by all workers.
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// As the configuration has it.
    pub name: String,
    active: AtomicU32,
    down: AtomicBool,
}

impl Upstream {
    /// One that counts as up until a connect says otherwise.
    pub fn new(address: Address, name: String) -> Upstream {
        Upstream { address, name, active: AtomicU32::new(0), down: AtomicBool::new(false) }
    }

    /// Connections that go there, those that are being made included.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Whether the last connect to it succeeded.
    pub fn is_up(&self) -> bool {
        !self.down.load(Relaxed)
    }

    /// A connection goes there, or is tried.
    pub fn enter(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A connection there has ended, or was not made.
    pub fn leave(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Notes whether it takes connections; true if that is news.
    pub fn set_up(&self, up: bool) -> bool {
        self.down.swap(!up, Relaxed) == up
    }
}

/// A background try whether an upstream that is down takes connections again.
pub struct Probe {
    pub proxy: u16,
    pub upstream: u16,
    /// While a connect is pending.
    pub fd: Option<OwnedFd>,
    /// The pause before the next try, in milliseconds.
    pub pause: u64,
}

/// The upstreams tried for one client: a mask of as many bits as a proxy
/// has upstreams at the most, which the configuration sees to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried(u64);

impl Tried {
    pub fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub fn and(self, others: Tried) -> Tried {
        Tried(self.0 | others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
}

/// The next upstream to try; among equals the first at or after `start`. None: all were tried.
pub fn pick(upstreams: &[Arc<Upstream>], tried: Tried, start: usize) -> Option<usize> {
    let n = upstreams.len();
    let untried = (0..n).map(|i| (start + i) % n).filter(|i| !tried.has(*i));
    untried.min_by_key(|i| (!upstreams[*i].is_up(), upstreams[*i].active()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Arc<Upstream>> {
        let address: std::net::SocketAddr = ([127, 0, 0, 1], 1).into();
        (0..3).map(|n| Arc::new(Upstream::new(Address::Tcp(address), n.to_string()))).collect()
    }

    #[test]
    fn least_connections_then_round() {
        let ups = three();
        assert_eq!(pick(&ups, Tried::default(), 1), Some(1));
        ups[1].enter();
        assert_eq!(pick(&ups, Tried::default(), 1), Some(2));
        ups[2].enter();
        assert_eq!(pick(&ups, Tried::default(), 1), Some(0));
    }

    #[test]
    fn what_is_down_is_the_last_resort_and_what_was_tried_none() {
        let ups = three();
        assert!(ups[0].set_up(false));
        assert!(!ups[0].set_up(false), "news only once");
        let mut tried = Tried::default();
        for expected in [Some(1), Some(2), Some(0), None] {
            let next = pick(&ups, tried, 0);
            assert_eq!(next, expected);
            next.into_iter().for_each(|i| tried.add(i));
        }
        assert!(ups[0].set_up(true));
        assert_eq!(pick(&ups, Tried::default(), 0), Some(0));
        assert_eq!(pick(&[], Tried::default(), 0), None);
    }
}
