//! A worker's part in the drain of single upstreams, beside that of whole proxies.

use slog::info;

use super::connection::Connection;
use super::drain::{Goodbye, Plan};
use super::fleet::Proxy;
use super::roster::Change;
use super::upstream::Upstream;
use super::worker::{Entry, Worker};
use crate::event::Event;

/// The drain of one upstream as one worker sees it.
#[derive(Clone, Copy)]
pub(super) struct UpstreamPlan {
    pub plan: Plan,
    /// The upstream was resumed: it goes on for those alone that were told goodbye.
    over: bool,
}

impl Worker {
    /// The plan that a connection is drained by: that of its proxy, or of its upstream, whichever ends it first.
    pub(super) fn plan_of(&self, connection: &Connection) -> Option<Plan> {
        let proxy = usize::from(connection.proxy);
        let of_upstream = connection.upstream.and_then(|upstream| {
            let plan = self.upstream_plans[proxy].get(usize::from(upstream)).copied().flatten()?;
            (!plan.over || connection.goodbye != Goodbye::None).then_some(plan.plan)
        });
        self.plans[proxy].into_iter().chain(of_upstream).min_by_key(|plan| plan.deadline)
    }

    /// What an administrator set has changed, or begins to hold.
    pub(super) fn look_at_hand(&mut self) {
        let roster = self.roster.clone();
        roster.numbered().for_each(|(number, proxy)| self.look_at_hand_of(usize::from(number), proxy));
    }

    fn look_at_hand_of(&mut self, proxy: usize, shared: &Proxy) {
        self.plan_upstreams(proxy);
        for (upstream, index) in shared.upstreams.iter().zip(0..) {
            if upstream.is_closed() {
                self.turn_away(proxy, index);
                self.queues[proxy].forget_probe_of(index);
            } else if !upstream.is_up() && self.index == 0 {
                // Who waits for it elsewhere has it tried from there.
                self.probe_often(proxy as u16, index);
            }
        }
        for key in self.table.keys() {
            if self.connection(key).is_some_and(|c| usize::from(c.proxy) == proxy && c.upstream.is_some()) {
                self.look_at_drain(key);
            }
        }
    }

    /// Takes over the drains that are set, of all proxies.
    pub(super) fn plan_all_upstreams(&mut self) {
        let roster = self.roster.clone();
        roster.numbered().for_each(|(number, _)| self.plan_upstreams(usize::from(number)));
    }

    fn plan_upstreams(&mut self, proxy: usize) {
        let shared = &self.roster[proxy as u16];
        let spread = shared.config.drain.spread.as_millis() as u64;
        let set: Vec<_> = shared.all_upstreams().map(|upstream| upstream.drain_times()).collect();
        self.upstream_plans[proxy].resize(set.len(), None);
        for (index, set) in set.into_iter().enumerate() {
            let before = self.upstream_plans[proxy][index];
            self.upstream_plans[proxy][index] = match set {
                Some((since, deadline)) => {
                    let plan = Plan { since, deadline, spread, hurried: false };
                    let plan = if self.hurried { self.hurry_plan(plan) } else { plan };
                    Some(UpstreamPlan { plan, over: false })
                }
                None => before.map(|before| UpstreamPlan { over: true, ..before }),
            };
        }
        // Mostly there is none, and each turn looks at all.
        if self.upstream_plans[proxy].iter().all(Option::is_none) {
            self.upstream_plans[proxy].clear();
        }
    }

    /// A reload has given other numbers to proxies or upstreams.
    pub(super) fn renew_upstream_plans(&mut self, change: &Change) {
        let before = std::mem::replace(&mut self.upstream_plans, vec![Vec::new(); self.roster.size()]);
        for (plans, to) in before.into_iter().zip(&change.moves) {
            let Some(to) = to else { continue };
            let renewed = &mut self.upstream_plans[usize::from(to.to)];
            renewed.resize(self.roster[to.to].places(), None);
            for (plan, index) in plans.into_iter().zip(0..) {
                to.upstream(index).into_iter().for_each(|at| renewed[usize::from(at)] = plan);
            }
        }
        self.plan_all_upstreams();
    }

    /// The stop was hurried.
    pub(super) fn hurry_upstreams(&mut self) {
        let hurried = |plan: UpstreamPlan| UpstreamPlan { plan: self.hurry_plan(plan.plan), ..plan };
        let all = |plans: &Vec<Option<UpstreamPlan>>| plans.iter().map(|plan| plan.map(hurried)).collect();
        self.upstream_plans = self.upstream_plans.iter().map(all).collect();
    }

    /// Clients that were on their way there go elsewhere, or wait: nothing was said yet.
    fn turn_away(&mut self, proxy: usize, upstream: u16) {
        for key in self.table.keys() {
            let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { continue };
            let connects = connection.connect_until.is_some() && connection.upstream == Some(upstream);
            if connects && usize::from(connection.proxy) == proxy {
                (connection.server, connection.upstream) = (None, None);
                let shared = &self.roster[proxy as u16];
                let timeout = shared.config.connect_timeout.as_millis() as u64;
                connection.connect_until = Some(self.now + timeout);
                shared.upstream(upstream).leave();
                self.seek(key);
            }
        }
    }

    /// Says it where the last connection of a drained upstream has ended, and nobody goes there any more for
    /// all workers know of the drain.
    pub(super) fn say_drained(&self, proxy: &Proxy, upstream: &Upstream) {
        if upstream.is_closed() && self.fleet.is_settled() && upstream.has_drained() {
            let (_, cut) = upstream.drain_counts();
            info!(self.log, "upstream {} is drained, {cut} cut", upstream.name; Event::UpstreamDrained,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_UPSTREAM" => &upstream.name);
        }
    }
}
