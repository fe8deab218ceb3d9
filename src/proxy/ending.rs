//! How connections end on a worker: by themselves, by the drain, or cut.

use std::time::Duration;

use slog::{debug, info, warn};

use super::connection::Connection;
use super::drain::{Doing, Goodbye, Plan, Verdict, View, verdict};
use super::fleet::Command;
use super::portable::record_of;
use super::seeded::Seeded;
use super::slab::Key;
use super::worker::{Entry, Worker};
use crate::event::Event;
use crate::fault;
use crate::handover::record::Live;

/// Clients whose connection failed, a second, that have an entry of their own. The others are
/// counted: while all upstreams are down the log must not run over.
const FAILURES_LOGGED: u32 = 10;

/// How many failures were logged in which second.
#[derive(Default)]
pub(super) struct Failures {
    second: u64,
    logged: u32,
}

impl Failures {
    fn may_be_logged(&mut self, now: u64) -> bool {
        if self.second != now / 1_000 {
            *self = Failures { second: now / 1_000, logged: 0 };
        }
        self.logged += 1;
        self.logged <= FAILURES_LOGGED
    }
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both directions ended.
    Done,
    /// The goodbye was said and waited for.
    Goodbye,
    /// No byte moved for idle_timeout.
    Idle,
    /// A peer broke off, so the other learns the same.
    Broken,
    /// No upstream took it.
    Failed,
    /// The client did not wait for an upstream.
    Left,
    /// Cut at the deadline, by a reset where `reset` says so.
    Cut { reset: bool },
}

impl End {
    pub fn word(self) -> &'static str {
        match self {
            End::Done => "done",
            End::Goodbye => "goodbye",
            End::Idle => "idle",
            End::Broken => "broken",
            End::Failed => "failed",
            End::Left => "left",
            End::Cut { .. } => "cut",
        }
    }
}

impl Worker {
    pub(super) fn read_mail(&mut self) {
        self.looks.extend(self.fleet.mailboxes[self.index].looks.take());
        let commands = self.fleet.mailboxes[self.index].take();
        let count = commands.len();
        for command in commands {
            match command {
                Command::Renew(change) => self.renew(&change),
                Command::CloseStrays { until } => self.close_strays(self.at(until)),
                Command::ByHand => self.look_at_hand(),
                // The queues have their turn after the events.
                Command::Look => {}
                Command::HandOver => self.hand_over(),
                Command::Refuse { until } => self.refuse(self.at(until)),
                Command::Drain { proxy, since, deadline } => {
                    let shared = &self.roster[proxy];
                    let spread = shared.config.drain.spread.as_millis() as u64;
                    let (since, deadline) = (self.at(since), self.at(deadline));
                    let plan = Plan { since, deadline, spread, hurried: false };
                    self.plans[usize::from(proxy)] =
                        Some(if self.hurried { self.hurry_plan(plan) } else { plan });
                    self.look_at_all();
                }
            }
        }
        self.fleet.mailboxes[self.index].done(count);
        for proxy in self.roster.iter() {
            proxy.all_upstreams().for_each(|upstream| self.say_drained(proxy, upstream));
        }
    }

    /// The connections of proxies that the configuration no longer has.
    pub(super) fn drain_departed(&mut self) {
        for (number, proxy) in self.roster.numbered() {
            if proxy.departed {
                let deadline = self.now + proxy.config.drain.deadline.as_millis() as u64;
                self.plans[usize::from(number)] =
                    Some(Plan { since: self.now, deadline, spread: 0, hurried: false });
            }
        }
    }

    /// The stop was asked for a second time: goodbyes now, and a near deadline.
    pub(super) fn hurry(&mut self) {
        if !std::mem::replace(&mut self.hurried, true) {
            self.plans = self.plans.iter().map(|plan| plan.map(|plan| self.hurry_plan(plan))).collect();
            self.hurry_upstreams();
            self.look_at_all();
        }
    }

    pub(super) fn hurry_plan(&self, plan: Plan) -> Plan {
        plan.hurry(self.now, self.fleet.hurry.as_millis() as u64)
    }

    fn look_at_all(&mut self) {
        for key in self.table.keys() {
            self.look_at_drain(key);
        }
    }

    /// Does what the drain policy says of a connection, if its proxy drains.
    pub(super) fn look_at_drain(&mut self, key: Key) {
        let now = self.now;
        let Some(Entry::Connection(connection)) = self.table.get(key) else { return };
        let Some(plan) = self.plan_of(connection) else { return };
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let turn = plan.turn(Seeded::new(connection.id).next() as u16);
        let view = connection.view(now, now >= plan.deadline);
        // What a pause of the whole machine kept its peers from is no silence of theirs.
        let view = View { last: view.last.max(self.awake_since), ..view };
        match verdict(&view, &plan, turn, now) {
            Verdict::LookAgainAt(at) => self.arm(key, at),
            Verdict::FinUpstream => {
                connection.goodbye = Goodbye::Upstream(now);
                connection.to_upstream.flow.end_source();
                self.arm(key, now);
                self.advance(key);
            }
            Verdict::FinClient => {
                connection.goodbye = Goodbye::Client(now);
                connection.to_client.flow.end_source();
                self.arm(key, now);
                self.advance(key);
            }
            Verdict::Close => self.end(key, End::Goodbye),
            Verdict::Cut(doing) => self.cut(key, doing),
        }
    }

    fn cut(&mut self, key: Key, doing: Doing) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let proxy = &self.roster[connection.proxy];
        let upstream = connection.upstream.map_or("none", |u| &proxy.upstream(u).name);
        warn!(self.log, "cut {} at the deadline: {}", connection.peer, doing.word(); Event::Cut,
            "DRAINED_PROXY" => &proxy.config.name,
            "DRAINED_PROTOCOL" => %proxy.config.protocol,
            "DRAINED_CLIENT" => %connection.peer,
            "DRAINED_UPSTREAM" => upstream,
            "DRAINED_CONNECTION" => connection.id,
            "DRAINED_DOING" => doing.word(),
            "DRAINED_DURATION_US" => (self.now - connection.opened) * 1_000,
            "DRAINED_BYTES_TO_UPSTREAM" => connection.to_upstream.flow.bytes,
            "DRAINED_BYTES_TO_CLIENT" => connection.to_client.flow.bytes);
        self.end(key, End::Cut { reset: doing.loses_data() });
    }

    /// Closes a connection and counts how it ended.
    pub(super) fn end(&mut self, key: Key, end: End) {
        self.let_go(key);
        let Some(Entry::Connection(connection)) = self.table.remove(key) else { return };
        let index = connection.proxy;
        let proxy = &self.roster[index];
        let counters = self.counters(index);
        if connection.connect_until.is_none() {
            counters.lives.add_life(Duration::from_millis(self.now.saturating_sub(connection.opened)));
        }
        let upstream = connection.upstream.map(|u| proxy.upstream(u));
        let closed = upstream.filter(|upstream| upstream.is_closed());
        let draining = proxy.is_draining() || closed.is_some();
        match end {
            End::Cut { .. } => {
                counters.cut.add(1);
                closed.iter().for_each(|upstream| upstream.count_cut());
            }
            End::Failed => counters.failed.add(1),
            End::Done | End::Goodbye | End::Left if draining => counters.drained.add(1),
            End::Done | End::Goodbye | End::Left | End::Broken | End::Idle => {}
        }
        let name = upstream.map_or("none", |u| &u.name);
        let age = (self.now - connection.opened) * 1_000;
        match end {
            End::Failed if !self.failures.may_be_logged(self.now) => {}
            End::Failed if proxy.hold_until(self.now).is_some() => {
                warn!(self.log, "held by hand for as long as it may wait, and let go: {}", connection.peer;
                    Event::ConnectFailed, "DRAINED_PROXY" => &proxy.config.name,
                    "DRAINED_CLIENT" => %connection.peer, "DRAINED_CONNECTION" => connection.id,
                    "DRAINED_DURATION_US" => age);
            }
            End::Failed => warn!(self.log, "no upstream took the connection of {}", connection.peer;
                Event::ConnectFailed, "DRAINED_PROXY" => &proxy.config.name,
                "DRAINED_CLIENT" => %connection.peer, "DRAINED_CONNECTION" => connection.id,
                "DRAINED_DURATION_US" => age),
            End::Idle => info!(self.log, "closed {}: idle", connection.peer; Event::IdleTimeout,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_CLIENT" => %connection.peer,
                "DRAINED_UPSTREAM" => name, "DRAINED_CONNECTION" => connection.id,
                "DRAINED_DURATION_US" => age,
                "DRAINED_BYTES_TO_UPSTREAM" => connection.to_upstream.flow.bytes,
                "DRAINED_BYTES_TO_CLIENT" => connection.to_client.flow.bytes),
            _ => debug!(self.log, "closed {}: {}", connection.peer, end.word(); Event::ConnectionClosed,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_CLIENT" => %connection.peer,
                "DRAINED_UPSTREAM" => name, "DRAINED_CONNECTION" => connection.id,
                "DRAINED_DURATION_US" => age,
                "DRAINED_BYTES_TO_UPSTREAM" => connection.to_upstream.flow.bytes,
                "DRAINED_BYTES_TO_CLIENT" => connection.to_client.flow.bytes),
        }
        let reset = match end {
            // A client that was told the end of the upstream's stream has it on the way: a reset
            // would overtake it.
            End::Broken => (!connection.to_client.flow.is_over(), true),
            End::Cut { reset } => (reset, reset),
            End::Idle => (connection.holds_data(), connection.holds_data()),
            End::Done | End::Goodbye | End::Left | End::Failed => (false, false),
        };
        let upstream = connection.upstream;
        self.release(connection, reset);
        // Only now: who hears of it may stop the upstream.
        if let Some(upstream) = upstream {
            self.proxy(index).upstream(upstream).leave();
        }
        if let Some(upstream) = upstream {
            let proxy = self.proxy(index);
            self.say_drained(proxy, proxy.upstream(upstream));
        }
        self.connections -= 1;
        self.fleet.connection_closed(self.proxy(index));
    }

    /// Closes it, by a reset where `reset` says so for client and server. Should the process end in the midst
    /// of it, the next one does the rest.
    pub(super) fn release(&mut self, connection: Connection, reset: (bool, bool)) {
        let number = connection.slot;
        let record = record_of(&self.keeper, &connection);
        record.iter().for_each(|slot| connection.save_end(slot, reset));
        fault::pass("end-saved");
        connection.close(&mut self.means, reset);
        fault::pass("end-closed");
        if let Some(slot) = record {
            slot.free();
            self.means.parking.iter_mut().for_each(|parking| parking.free.push(number));
        }
    }
}
