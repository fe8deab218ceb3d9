//! The upstreams of a proxy: which takes the next connection, and which are down.
//!
//! Least connections among those that are up and not yet tried for this client; when all are known
//! to be down they are tried all the same, for what is known may be old.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU32};
use std::sync::{Arc, Mutex};

use super::by_hand::UpstreamDrain;
use super::fleet::lock;
use crate::sys::socket::Address;

/// Background retries of what is down: first after this many milliseconds, then doubled.
pub const RETRY_FIRST: u64 = 250;
/// The longest pause between two retries, in milliseconds.
pub const RETRY_LAST: u64 = 5_000;
/// While it is waited for: first after this many milliseconds, then a fifth longer each time.
const OFTEN_FIRST: u64 = 20;
/// The longest pause then, in milliseconds.
const OFTEN_LAST: u64 = 500;

/// One upstream, shared by all workers.
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// As the configuration has it.
    pub name: String,
    active: AtomicU32,
    /// What speaks against it.
    against: AtomicU8,
    /// What the last connect or check met that failed.
    met: Mutex<Option<String>>,
    pub(super) drain: UpstreamDrain,
}

/// The last connect to it failed.
const UNREACHABLE: u8 = 1;
/// Its checks fail.
const UNHEALTHY: u8 = 2;

impl Upstream {
    /// One that counts as up until a connect says otherwise.
    pub fn new(address: Address, name: String) -> Upstream {
        let (active, against, met, drain) = Default::default();
        Upstream { address, name, active, against, met, drain }
    }

    /// Connections that go there, those that are being made included. Who sees one gone sees what was counted of
    /// its end.
    pub fn active(&self) -> u32 {
        self.active.load(Acquire)
    }

    /// Whether the last connect to it succeeded, and its checks do where it has some.
    pub fn is_up(&self) -> bool {
        self.against.load(SeqCst) == 0
    }

    /// A connection goes there, or is tried.
    pub fn enter(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A connection there has ended, or was not made.
    pub fn leave(&self) {
        self.active.fetch_sub(1, Release);
    }

    /// Notes whether it takes connections; true if it is up or down by that.
    pub fn set_up(&self, up: bool) -> bool {
        self.set(UNREACHABLE, !up)
    }

    /// Notes what its checks say; true if it is up or down by that. So many good ones show that it takes
    /// connections too.
    pub fn set_healthy(&self, healthy: bool) -> bool {
        self.set(if healthy { UNHEALTHY | UNREACHABLE } else { UNHEALTHY }, !healthy)
    }

    /// Notes what a connect or a check met that failed.
    pub(super) fn note(&self, what: &str) {
        *lock(&self.met) = Some(what.to_owned());
    }

    /// What speaks against it, in words; None where nothing does, or nothing was met yet.
    pub fn why_down(&self) -> Option<String> {
        let against = self.against.load(SeqCst);
        let met = lock(&self.met).clone().filter(|_| against != 0)?;
        let what = if against & UNHEALTHY != 0 { "its checks fail" } else { "connects to it fail" };
        Some(format!("{what}: {met}"))
    }

    /// Its checks do not speak against it.
    pub fn is_healthy(&self) -> bool {
        self.against.load(SeqCst) & UNHEALTHY == 0
    }

    /// It is checked no more.
    pub fn forget_checks(&self) {
        self.against.fetch_and(!UNHEALTHY, SeqCst);
    }

    /// It is configured again: nobody knows how it is by now, and a drain that is over is forgotten.
    pub fn come_back(&self) {
        self.against.store(0, SeqCst);
        if self.active() == 0 {
            self.open();
        }
    }

    /// It is down until a connect succeeds; what its checks have said is of the time before.
    pub fn begin_anew(&self) {
        *lock(&self.met) = None;
        self.against.store(UNREACHABLE, SeqCst);
    }

    fn set(&self, what: u8, against: bool) -> bool {
        match against {
            true => self.against.fetch_or(what, SeqCst) == 0,
            false => {
                let before = self.against.fetch_and(!what, SeqCst);
                before != 0 && before & !what == 0
            }
        }
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
    /// Somebody waits for it.
    pub often: bool,
}

impl Probe {
    /// The first try after an upstream was seen to be down.
    pub fn new(proxy: u16, upstream: u16) -> Probe {
        Probe { proxy, upstream, fd: None, pause: RETRY_FIRST, often: false }
    }

    /// One of an upstream that is waited for: at once, then every few milliseconds.
    pub fn often(proxy: u16, upstream: u16) -> Probe {
        Probe { proxy, upstream, fd: None, pause: OFTEN_FIRST, often: true }
    }

    /// The next try after one that failed.
    pub fn again(self) -> Probe {
        let pause = match self.often {
            false => (self.pause * 2).min(RETRY_LAST),
            true => (self.pause + self.pause / 5).min(OFTEN_LAST),
        };
        Probe { fd: None, pause, ..self }
    }
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

    pub fn has_all_of(self, upstreams: &[Arc<Upstream>]) -> bool {
        (0..upstreams.len()).all(|index| self.has(index))
    }

    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
}

/// The next upstream to try; among equals the first at or after `start`. None: all were tried or are drained.
pub fn pick(upstreams: &[Arc<Upstream>], tried: Tried, start: usize) -> Option<usize> {
    let n = upstreams.len();
    let open = |i: &usize| !tried.has(*i) && !upstreams[*i].is_closed();
    let untried = (0..n).map(|i| (start + i) % n).filter(open);
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
    fn an_upstream_is_up_where_neither_clients_nor_checks_speak_against_it() {
        let up = &three()[0];
        assert!(up.set_healthy(false) && !up.is_up());
        // Clients are tried with it where there is no other: what they meet is no news while it is down.
        assert!(!up.set_up(false) && !up.set_up(true) && !up.is_up());
        assert!(up.set_healthy(true) && up.is_up());
        assert!(up.set_up(false) && !up.set_healthy(false));
        assert!(up.set_healthy(true) && up.is_up(), "a connect has succeeded");
        assert!(up.set_healthy(false));
        up.begin_anew();
        assert!(!up.is_up() && up.set_up(true) && up.is_up(), "what the checks said is forgotten");
    }

    #[test]
    fn one_that_is_waited_for_is_tried_often() {
        let mut probe = Probe::often(0, 0);
        let mut waited = 0;
        while waited < 10_000 {
            assert!(probe.pause >= 20 && probe.pause <= (20 + waited / 5).min(500), "after {waited} ms");
            waited += probe.pause;
            probe = probe.again();
        }
        assert_eq!(Probe::new(0, 0).again().pause, 2 * RETRY_FIRST);
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
