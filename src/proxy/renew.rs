//! A worker takes in the proxies of a reload: connections, doors and drains go on under the new ones.

use std::sync::atomic::Ordering::SeqCst;

use super::portable::record_of;
use super::roster::{Change, Roster};
use super::slab::Key;
use super::upstream::Tried;
use super::worker::{Entry, Worker};
use crate::fault;

impl Worker {
    /// Goes on with the new proxies. Where a number changes the record of each connection follows by one store: the
    /// ledger has the names of both.
    pub(super) fn renew(&mut self, change: &Change) {
        let old = std::mem::replace(&mut self.roster, change.roster.clone());
        let mut plans = vec![None; self.roster.size()];
        for (plan, to) in self.plans.iter().zip(&change.moves) {
            if let Some(to) = to {
                plans[usize::from(to.to)] = *plan;
            }
        }
        self.plans = plans;
        self.renew_upstream_plans(change);
        self.renew_queues(change);
        for key in self.table.keys() {
            self.renew_entry(key, &old, change);
        }
        self.renew_doors(&old, change);
        self.renew_checks(&old, change);
        fault::pass("reload-renewed");
        change.behind.fetch_sub(1, SeqCst);
        self.fleet.notify();
    }

    fn renew_entry(&mut self, key: Key, old: &Roster, change: &Change) {
        match self.table.get_mut(key) {
            Some(Entry::Connection(connection)) => {
                // A proxy stays as long as it has connections.
                let Some(to) = change.of(connection.proxy) else { return };
                let before = (connection.proxy, connection.upstream);
                connection.upstream = connection.upstream.and_then(|index| to.upstream(index));
                connection.proxy = to.to;
                let shared = &self.roster[to.to];
                let connects = connection.connect_until.is_some();
                // Who is being connected to an upstream that is gone gets another one.
                let goes = |index: &u16| connects && !shared.has_configured(*index);
                let is_lost = connection.upstream.is_some_and(|index| goes(&index));
                if is_lost || before.1.is_some() && connection.upstream.is_none() {
                    before.1.iter().for_each(|index| old[before.0].upstream(*index).leave());
                    connection.upstream = None;
                }
                if (connection.proxy, connection.upstream) != before {
                    record_of(&self.keeper, connection).iter().for_each(|slot| connection.save(slot));
                    fault::pass("reload-moved");
                }
                if to.upstreams.is_some() {
                    connection.tried = Tried::default();
                    let known = connection.upstream.filter(|index| shared.has_configured(*index));
                    known.iter().for_each(|index| connection.tried.add(usize::from(*index)));
                }
                if is_lost {
                    connection.server = None;
                    let timeout = shared.config.connect_timeout.as_millis() as u64;
                    connection.connect_until = Some(self.now + timeout);
                    self.seek(key);
                }
                self.look_at_wait(key);
                self.look_at_idle_after(key, old, before.0);
            }
            Some(Entry::Probe(probe)) => {
                let to = change.of(probe.proxy);
                let place = to.and_then(|to| Some((to.to, to.upstream(probe.upstream)?)));
                let is_configured = |(to, place): &(u16, u16)| self.roster[*to].has_configured(*place);
                match place.filter(is_configured) {
                    Some(place) => (probe.proxy, probe.upstream) = place,
                    None => _ = self.table.remove(key),
                }
            }
            Some(Entry::Check(_)) | None => {}
        }
    }

    /// A shorter idle_timeout may be over already. A longer one is looked at when the old one is.
    fn look_at_idle_after(&mut self, key: Key, old: &Roster, number: u16) {
        let Some(connection) = self.connection(key) else { return };
        let (is_connected, proxy) = (connection.connect_until.is_none(), connection.proxy);
        if is_connected && self.proxy(proxy).config.idle_timeout != old[number].config.idle_timeout {
            self.look_at_idle(key);
        }
    }
}
