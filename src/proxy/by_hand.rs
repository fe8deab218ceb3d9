//! What an administrator sets while the proxy runs: upstreams that are drained, proxies that hold their
//! new clients. It is one state for all workers; each is told to look at it again when it has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use super::fleet::{Command, Fleet, Proxy};
use super::fronts::Fronts;
use super::upstream::Upstream;
use crate::sys::clock::monotonic_ms;

/// The end of a hold that has none.
const FOR_EVER: u64 = u64::MAX;

/// The drain of one upstream, if there is one.
#[derive(Default)]
pub(super) struct UpstreamDrain {
    on: AtomicBool,
    since: AtomicU64,
    deadline: AtomicU64,
    /// Connections at its beginning.
    began_with: AtomicU32,
    /// Those of them that the deadline ended.
    cut: AtomicU32,
    /// Its end was told to the journal.
    told: AtomicBool,
}

/// What clients of a proxy wait for.
pub(super) struct Hold {
    /// Until when an administrator holds them; 0: nobody does.
    until: AtomicU64,
    /// For how long they wait at the least while it lasts, in milliseconds, whatever a reload says meanwhile.
    bound: AtomicU64,
    /// Clients that wait, of all workers.
    pub held: AtomicU32,
    /// The first of them on each worker.
    pub fronts: Fronts,
}

impl Hold {
    /// Nobody waits.
    pub fn new(workers: usize) -> Hold {
        let (until, bound, held) = Default::default();
        Hold { until, bound, held, fronts: Fronts::new(workers) }
    }
}

/// What is set of one proxy, to be kept beyond the process. Times are milliseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByHand {
    /// Clients are held until then; `u64::MAX`: without an end.
    pub hold_until: Option<u64>,
    /// For how long each waits at the least in that hold, in milliseconds; 0 where there is none.
    pub hold_bound: u64,
    /// Upstreams that are drained, each with the beginning and the deadline of its drain.
    pub drained: Vec<(String, u64, u64)>,
}

impl Upstream {
    /// An administrator drains it, or has drained it: no new connection goes there.
    pub fn is_closed(&self) -> bool {
        self.drain.on.load(Relaxed)
    }

    /// Beginning and deadline of its drain, in milliseconds of CLOCK_MONOTONIC.
    pub fn drain_times(&self) -> Option<(u64, u64)> {
        self.is_closed().then(|| (self.drain.since.load(Relaxed), self.drain.deadline.load(Relaxed)))
    }

    /// How many connections its drain began with, and how many of them were cut.
    pub fn drain_counts(&self) -> (u32, u32) {
        (self.drain.began_with.load(Relaxed), self.drain.cut.load(Relaxed))
    }

    /// Its drain has come to its end: true once.
    pub(super) fn has_drained(&self) -> bool {
        self.is_closed() && self.active() == 0 && !self.drain.told.swap(true, Relaxed)
    }

    pub(super) fn count_cut(&self) {
        self.drain.cut.fetch_add(1, Relaxed);
    }

    /// Its drain is over, whether or not it has come to its end.
    pub(super) fn open(&self) {
        self.drain.on.store(false, Relaxed);
    }

    fn close(&self, since: u64, deadline: u64) {
        self.drain.since.store(since, Relaxed);
        self.drain.deadline.store(deadline, Relaxed);
        self.drain.began_with.store(self.active(), Relaxed);
        self.drain.cut.store(0, Relaxed);
        self.drain.told.store(false, Relaxed);
        self.drain.on.store(true, Relaxed);
    }
}

impl Proxy {
    /// Clients that wait for an upstream.
    pub fn held(&self) -> u32 {
        self.hold.held.load(SeqCst)
    }

    /// Until when an administrator holds its new clients: milliseconds of CLOCK_MONOTONIC, or
    /// `u64::MAX` for no end.
    pub fn hold_until(&self, now: u64) -> Option<u64> {
        Some(self.hold.until.load(Relaxed)).filter(|until| *until > now)
    }

    /// For how long a client waits that was just accepted, in milliseconds.
    pub(super) fn patience(&self, now: u64) -> u64 {
        let configured = self.config.hold.as_millis() as u64;
        let by_hand = self.hold_until(now).map_or(0, |_| self.hold.bound.load(Relaxed));
        configured.max(by_hand)
    }

    /// Has its new clients held until then.
    fn hold_by_hand(&self, until: u64, bound: u64) {
        self.hold.bound.store(bound, Relaxed);
        self.hold.until.store(until, Relaxed);
    }

    /// A hold by hand had an end that has come: true once.
    fn take_end_of_hold(&self, now: u64) -> bool {
        let until = self.hold.until.load(Relaxed);
        until != 0 && until <= now && self.hold.until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok()
    }

    /// Some upstream takes connections, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.is_up() && !upstream.is_closed())
    }

    /// All upstreams are drained, so that nothing need be tried.
    pub(super) fn is_all_closed(&self) -> bool {
        self.upstreams.iter().all(|upstream| upstream.is_closed())
    }
}

impl Fleet {
    /// The proxy of that name.
    ///
    /// # Errors
    /// There is none: names those that there are.
    pub fn find_proxy(&self, name: &str) -> Result<Arc<Proxy>, String> {
        let roster = self.proxies();
        let all: Vec<_> = roster.iter().filter(|proxy| !proxy.departed).collect();
        let found = all.iter().find(|proxy| proxy.config.name == name);
        found.map(|proxy| Arc::clone(proxy)).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|proxy| proxy.config.name.as_str()).collect();
            match known.is_empty() {
                true => format!("unknown proxy {name:?}: none is configured"),
                false => format!("unknown proxy {name:?}; known: {}", known.join(", ")),
            }
        })
    }

    /// The same for somebody who looks on: also one that is configured no longer and not gone yet.
    ///
    /// # Errors
    /// There is none: names those that are configured.
    pub fn find_proxy_or_left(&self, name: &str) -> Result<Arc<Proxy>, String> {
        self.find_proxy(name).or_else(|error| {
            let roster = self.proxies();
            roster.iter().rev().find(|proxy| proxy.config.name == name).cloned().ok_or(error)
        })
    }

    /// Has upstreams of a proxy, all of them if none is named, take no new connections and drains those
    /// that they have, by `timeout` or the proxy's own deadline. One that is drained already goes on as it
    /// does. Tells which are drained from now on.
    ///
    /// # Errors
    /// There is no such proxy or upstream.
    pub fn drain_upstreams(
        &self,
        proxy: &str,
        upstream: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<Vec<String>, String> {
        let proxy = self.find_proxy(proxy)?;
        let since = monotonic_ms();
        let deadline = since + timeout.unwrap_or(proxy.config.drain.deadline).as_millis() as u64;
        let mut begun = Vec::new();
        for upstream in proxy.find_upstreams(upstream)? {
            if !upstream.is_closed() {
                upstream.close(since, deadline);
                begun.push(upstream.name.clone());
            }
        }
        if !begun.is_empty() {
            self.tell_all(Command::ByHand);
        }
        Ok(begun)
    }

    /// Has drained upstreams of a proxy take connections again, as soon as one is seen to succeed. If none
    /// is named, all do, and a hold by hand ends. Tells which were drained.
    ///
    /// # Errors
    /// There is no such proxy or upstream.
    pub fn resume(&self, proxy: &str, upstream: Option<&str>) -> Result<Vec<String>, String> {
        let proxy = self.find_proxy(proxy)?;
        let mut resumed = Vec::new();
        for upstream in proxy.find_upstreams(upstream)? {
            if upstream.is_closed() {
                // In this order, so that nobody takes it for up in between.
                upstream.begin_anew();
                upstream.open();
                resumed.push(upstream.name.clone());
            }
        }
        if upstream.is_none() {
            proxy.hold.until.store(0, Relaxed);
        }
        self.tell_all(Command::ByHand);
        Ok(resumed)
    }

    /// Has new clients of a proxy wait, for `timeout` or until it is resumed. True if they did not already, or
    /// had another end of it.
    ///
    /// # Errors
    /// There is no such proxy, or it lets clients go at once.
    pub fn hold(&self, proxy: &str, timeout: Option<Duration>) -> Result<bool, String> {
        let proxy = self.find_proxy(proxy)?;
        if proxy.patience(monotonic_ms()) == 0 {
            let name = &proxy.config.name;
            return Err(format!(
                "the proxy {name:?} has hold = \"0s\", so no client would wait: set it to more"
            ));
        }
        let now = monotonic_ms();
        let until = timeout.map_or(FOR_EVER, |timeout| now + timeout.as_millis() as u64);
        let changed = proxy.hold_until(now) != Some(until);
        proxy.hold_by_hand(until, proxy.patience(now));
        self.tell_all(Command::ByHand);
        Ok(changed)
    }

    /// The proxies whose hold by hand has ended by itself, each once.
    pub fn ended_holds(&self) -> Vec<String> {
        let now = monotonic_ms();
        let roster = self.proxies();
        let ended = roster.iter().filter(|proxy| proxy.take_end_of_hold(now));
        ended.map(|proxy| proxy.config.name.clone()).collect()
    }

    /// What is set of all proxies.
    pub fn by_hand(&self) -> Vec<(String, ByHand)> {
        let now = monotonic_ms();
        let of = |proxy: &Proxy| ByHand {
            hold_until: proxy.hold_until(now),
            hold_bound: proxy.hold_until(now).map_or(0, |_| proxy.hold.bound.load(Relaxed)),
            drained: proxy
                .all_upstreams()
                .filter(|upstream| {
                    proxy.upstreams.iter().any(|u| Arc::ptr_eq(u, upstream)) || upstream.active() > 0
                })
                .filter_map(|u| u.drain_times().map(|(since, deadline)| (u.name.clone(), since, deadline)))
                .collect(),
        };
        let roster = self.proxies();
        let present = roster.iter().filter(|proxy| !proxy.departed);
        let all = present.map(|proxy| (proxy.config.name.clone(), of(proxy)));
        all.filter(|(_, by_hand)| *by_hand != ByHand::default()).collect()
    }

    /// Sets what the last incarnation was told, before the workers run. What is not configured any more is
    /// passed over. True if there was something to set.
    pub fn restore_by_hand(&self, all: &[(String, ByHand)]) -> bool {
        let mut any = false;
        for (name, by_hand) in all {
            let Ok(proxy) = self.find_proxy(name) else { continue };
            if let Some(until) = by_hand.hold_until {
                let configured = proxy.config.hold.as_millis() as u64;
                proxy.hold_by_hand(until, configured.max(by_hand.hold_bound));
                any = true;
            }
            for (name, since, deadline) in &by_hand.drained {
                for upstream in proxy.all_upstreams().filter(|upstream| upstream.name == *name) {
                    upstream.close(*since, *deadline);
                    // Its end was told by the last incarnation, unless that left connections of it.
                    upstream.drain.told.store(upstream.active() == 0, Relaxed);
                    any = true;
                }
            }
        }
        any
    }

    /// An upstream of `proxy` is back: all workers look whether somebody waits for it.
    pub(super) fn tell_held(&self, proxy: &Proxy) {
        if proxy.held() > 0 {
            self.tell_all(Command::Look);
        }
    }

    /// All workers have done what they were told so far: a drained upstream without connections gets none
    /// any more.
    pub fn is_settled(&self) -> bool {
        self.mailboxes.iter().all(super::fleet::Mailbox::is_settled)
    }
}

impl Proxy {
    /// The upstream of that name, or all: also those that are configured no longer and have connections yet,
    /// or were drained with those.
    ///
    /// # Errors
    /// There is none: names those that there are.
    pub fn find_upstreams(&self, name: Option<&str>) -> Result<Vec<&Arc<Upstream>>, String> {
        let is_asked = |upstream: &&Arc<Upstream>| name.is_none_or(|name| upstream.name == name);
        let retired = self.retired.iter().filter(|upstream| upstream.is_closed() || upstream.active() > 0);
        let found: Vec<_> = self.upstreams.iter().chain(retired).filter(is_asked).collect();
        if found.is_empty() {
            let known: Vec<_> = self.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
            let (asked, proxy) = (name.unwrap_or_default(), &self.config.name);
            return Err(format!("unknown upstream {asked:?}: the proxy {proxy:?} has {}", known.join(", ")));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::handover::adopt::Estate;

    fn fleet() -> Fleet {
        fleet_with(|_| {})
    }

    fn fleet_with(change: impl Fn(&mut config::Proxy)) -> Fleet {
        let listen = ["127.0.0.1:0".to_string()];
        let upstream = ["127.0.0.1:1".to_string(), "127.0.0.1:2".to_string()];
        let mut config = config::Config::from_command_line(&listen, &upstream, None, None).unwrap();
        config.proxies[0].name = "web".to_string();
        change(&mut config.proxies[0]);
        Fleet::open(&config, 2, 4096, Duration::ZERO, &mut Vec::new(), &mut Estate::default()).unwrap()
    }

    #[test]
    fn unknown_names_are_told_with_the_known_ones() {
        let fleet = fleet();
        assert_eq!(fleet.resume("wbe", None).unwrap_err(), "unknown proxy \"wbe\"; known: web");
        assert_eq!(
            fleet.drain_upstreams("web", Some("127.0.0.1:3"), None).unwrap_err(),
            "unknown upstream \"127.0.0.1:3\": the proxy \"web\" has 127.0.0.1:1, 127.0.0.1:2"
        );
    }

    #[test]
    fn a_second_drain_changes_nothing_of_the_first() {
        let fleet = fleet();
        let first = fleet.drain_upstreams("web", Some("127.0.0.1:1"), Some(Duration::from_secs(5)));
        assert_eq!(first.unwrap(), ["127.0.0.1:1"]);
        let times = fleet.proxies()[0].upstreams[0].drain_times();
        assert_eq!(fleet.drain_upstreams("web", None, None).unwrap(), ["127.0.0.1:2"]);
        assert_eq!(fleet.proxies()[0].upstreams[0].drain_times(), times);
        assert!(fleet.proxies()[0].is_all_closed() && !fleet.is_settled());
    }

    #[test]
    fn a_resumed_upstream_is_down_until_it_is_seen_to_take_connections() {
        let fleet = fleet();
        assert!(fleet.proxies()[0].is_open());
        fleet.drain_upstreams("web", None, None).unwrap();
        assert!(!fleet.proxies()[0].is_open());
        assert_eq!(fleet.resume("web", Some("127.0.0.1:2")).unwrap(), ["127.0.0.1:2"]);
        let upstream = &fleet.proxies()[0].upstreams[1];
        assert!(!upstream.is_closed() && !upstream.is_up());
        // One that nobody drained is left as it is.
        upstream.set_up(true);
        assert!(fleet.resume("web", Some("127.0.0.1:2")).unwrap().is_empty() && upstream.is_up());
    }

    #[test]
    fn what_is_set_can_be_set_again_elsewhere() {
        let (before, after) = (fleet(), fleet());
        assert!(before.by_hand().is_empty());
        before.drain_upstreams("web", Some("127.0.0.1:2"), None).unwrap();
        assert!(before.hold("web", None).unwrap() && !before.hold("web", None).unwrap());
        let mut kept = before.by_hand();
        assert_eq!(kept[0].1.hold_until, Some(FOR_EVER));
        assert!(after.restore_by_hand(&kept));
        assert_eq!(after.by_hand(), kept);
        kept[0].0 = "gone".to_string();
        assert!(!fleet().restore_by_hand(&kept));
    }

    #[test]
    fn a_proxy_that_holds_nobody_cannot_be_told_to() {
        let fleet = fleet_with(|proxy| proxy.hold = Duration::ZERO);
        assert!(fleet.hold("web", None).unwrap_err().contains("hold = \"0s\""));
    }
}
