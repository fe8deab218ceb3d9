//! Clients that wait, accepted, while no upstream takes connections: a queue for each proxy on each worker.
//!
//! They go through in the order in which they came once an upstream is back, some at a time: an upstream
//! that has just started has a short backlog, and what does not fit waits here and not for the kernel's
//! next SYN. A client waits for its proxy's `hold` at most, counted from its accept, over restarts too.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::ending::End;
use super::slab::Key;
use super::upstream::Probe;
use super::worker::{Entry, Worker};

/// Connects to upstreams of one proxy that are under way at the same time while clients wait.
const WINDOW: usize = 16;
/// A connect that takes longer than this, in milliseconds, keeps nobody else waiting.
const WINDOW_TIME: u64 = 50;
/// After a crowded upstream (no port left, a full backlog), milliseconds until the next try.
const CROWDED: u64 = 5;

/// The clients of one proxy that wait on this worker.
#[derive(Default)]
pub(super) struct Queue {
    /// In the order of their numbers, which is that of their accept. Who has gone meanwhile is passed over.
    waiting: VecDeque<(u64, Key)>,
    /// Those that were let through, with the time, as long as they may be on their way.
    under_way: VecDeque<(u64, Key)>,
    /// Nobody is let through before.
    rests_until: u64,
    /// The upstreams that are tried often from here: a bit each.
    probed: u64,
}

impl Queue {
    /// The next one is not to be passed over for one that finds the upstream drained.
    pub fn forget_probe_of(&mut self, upstream: u16) {
        self.probed &= !(1 << upstream);
    }

    fn insert(&mut self, id: u64, key: Key) {
        let at = self.waiting.partition_point(|(other, _)| *other < id);
        self.waiting.insert(at, (id, key));
    }
}

impl Worker {
    /// Finds an upstream for a client, or has it wait behind those that wait already.
    pub(super) fn seek(&mut self, key: Key) {
        let Some(index) = self.connection(key).map(|connection| connection.proxy) else { return };
        let proxy = self.proxy(index);
        let by_hand = proxy.hold_until(self.now).is_some();
        let waits = by_hand || proxy.is_all_closed() || !self.queues[usize::from(index)].waiting.is_empty();
        if waits { self.hold(key) } else { self.connect(key) }
    }

    /// Has a client wait that no upstream takes; lets it go if it has waited for as long as it may.
    pub(super) fn hold(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let proxy = &self.fleet.proxies[usize::from(connection.proxy)];
        let until = connection.opened + proxy.config.hold.as_millis() as u64;
        if until <= self.now {
            return self.end(key, End::Failed);
        }
        connection.held = true;
        connection.tried = Default::default();
        connection.connect_until = Some(until);
        // Before it is looked whether an upstream is up: who marks one up looks here after that.
        proxy.hold.held.fetch_add(1, SeqCst);
        let (id, index) = (connection.id, connection.proxy);
        self.queues[usize::from(index)].insert(id, key);
        self.arm(key, until);
        self.look_at_held(key);
        self.seek_upstreams(index);
    }

    /// It waits no more, whatever comes now.
    pub(super) fn let_go(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        if std::mem::replace(&mut connection.held, false) {
            self.fleet.proxies[usize::from(connection.proxy)].hold.held.fetch_sub(1, Relaxed);
        }
    }

    /// A client that has ended its stream without a word is taken to have gone: TCP does not tell more.
    /// One that has said something may wait for the answer.
    pub(super) fn look_at_held(&mut self, key: Key) {
        let gone = self.connection(key).is_some_and(|c| c.held && c.client_ended && c.gave_nothing());
        if gone {
            self.end(key, End::Left);
        }
    }

    /// Has the upstreams that are down tried often, as long as somebody waits for them.
    fn seek_upstreams(&mut self, index: u16) {
        for upstream in 0..self.proxy(index).upstreams.len() {
            let shared = &self.proxy(index).upstreams[upstream];
            if !shared.is_up() && !shared.is_closed() {
                self.probe_often(index, upstream as u16);
            }
        }
    }

    /// Tries an upstream now, and then often, until it takes connections. Nothing if that is done from
    /// this worker already.
    pub(super) fn probe_often(&mut self, proxy: u16, upstream: u16) {
        let bit = 1 << upstream;
        let queue = &mut self.queues[usize::from(proxy)];
        if queue.probed & bit == 0 {
            queue.probed |= bit;
            let key = self.table.insert(Entry::Probe(Probe::often(proxy, upstream)));
            self.arm(key, self.now);
        }
    }

    /// A probe has ended.
    pub(super) fn forget_probe(&mut self, probe: &Probe) {
        if probe.often {
            self.queues[usize::from(probe.proxy)].forget_probe_of(probe.upstream);
        }
    }

    /// Lets those through that an upstream takes.
    pub(super) fn tend_queues(&mut self) {
        for index in 0..self.queues.len() {
            if !self.queues[index].waiting.is_empty() && self.queues[index].rests_until <= self.now {
                self.let_through(index);
            }
        }
    }

    fn let_through(&mut self, index: usize) {
        let fleet = self.fleet.clone();
        let proxy = &fleet.proxies[index];
        while proxy.is_open() && proxy.hold_until(self.now).is_none() {
            self.forget_arrived(index);
            let queue = &mut self.queues[index];
            if queue.under_way.len() >= WINDOW {
                return;
            }
            let Some((_, key)) = queue.waiting.pop_front() else { return };
            if !self.connection(key).is_some_and(|connection| connection.held) {
                continue;
            }
            self.let_go(key);
            // Its time to connect begins anew.
            let until = self.now + proxy.config.connect_timeout.as_millis() as u64;
            if let Some(connection) = self.connection(key) {
                connection.connect_until = Some(until);
            }
            self.connect(key);
            match self.connection(key) {
                // Nobody overtakes it: it is the first again.
                Some(connection) if !connection.held && connection.seeks() => {
                    self.hold(key);
                    self.queues[index].rests_until = self.now + CROWDED;
                    return;
                }
                Some(connection) if !connection.held && connection.connect_until.is_some() => {
                    self.queues[index].under_way.push_back((self.now, key));
                }
                _ => {}
            }
        }
    }

    fn forget_arrived(&mut self, index: usize) {
        let (queue, table, now) = (&mut self.queues[index], &self.table, self.now);
        queue.under_way.retain(|(at, key)| {
            let connects = matches!(table.get(*key), Some(Entry::Connection(c)) if c.connect_until.is_some());
            connects && at + WINDOW_TIME > now
        });
    }

    /// Milliseconds until a queue must be looked at without an event.
    pub(super) fn queues_wait(&self) -> Option<u64> {
        let busy = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let due = busy.filter_map(|(index, queue)| {
            let proxy = &self.fleet.proxies[index];
            match proxy.hold_until(self.now) {
                Some(until) => Some(until),
                None if !proxy.is_open() => None,
                None if queue.under_way.len() < WINDOW => Some(queue.rests_until),
                None => queue.under_way.front().map(|(at, _)| at + WINDOW_TIME),
            }
        });
        due.min().map(|at| at.saturating_sub(self.now))
    }

    /// Those that wait are many and mostly gone.
    pub(super) fn tidy_queues(&mut self) {
        for queue in &mut self.queues {
            if queue.waiting.len() > 1024 + 2 * self.connections {
                let table = &self.table;
                let waits = |key: &Key| matches!(table.get(*key), Some(Entry::Connection(c)) if c.held);
                queue.waiting.retain(|(_, key)| waits(key));
            }
        }
    }
}
