//! Clients that wait, accepted, while no upstream takes connections: a queue for each proxy on each worker.
//!
//! They go through in the order in which they came once an upstream is back, some at a time: an upstream
//! that has just started has a short backlog, and what does not fit waits here and is tried again soon, for
//! the kernel's next SYN would come after a second. A worker whose first one came after that of another gives way
//! to it, and is told when its turn has come. A client waits for its proxy's `hold` at most, counted from its
//! accept, over restarts too.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::ending::End;
use super::fleet::Command;
use super::fronts::NOBODY;
use super::roster::Change;
use super::slab::Key;
use super::upstream::Probe;
use super::worker::{Entry, Worker};

/// Connects to upstreams of one proxy that are under way at the same time while clients wait, at first.
const WINDOW: usize = 16;
/// As many they may become where connects take time and succeed. With fewer a far upstream would get fewer clients
/// than come, and the queue never end: so many each time that a packet goes there and back.
const WINDOW_FAR: usize = 1024;
/// A connect that takes longer than this, in milliseconds, is taken back and tried anew, as long as none has told how
/// long they take.
const PATIENCE: u64 = 50;
/// The least that it may take where they take no time.
const PATIENCE_NEAR: u64 = 5;
/// So many times what the last connect took is waited for the next.
const SLACK: u64 = 4;
/// After a crowded upstream (no port left, a full backlog), milliseconds until the next try.
const CROWDED: u64 = 5;
/// A worker that has not done for so long, in milliseconds, what it was told hangs: nobody gives way to it.
const HANGS: u64 = 1_000;

/// The clients of one proxy that wait on this worker.
pub(super) struct Queue {
    /// In the order of their numbers, which is that of their accept. Who has gone meanwhile is passed over.
    waiting: VecDeque<(u64, Key)>,
    /// Those that were let through and are not connected yet, with the time.
    under_way: Vec<(u64, Key)>,
    /// How many these may be.
    window: usize,
    /// How long each may take, in milliseconds.
    patience: u64,
    /// Nobody is let through before.
    rests_until: u64,
    /// The upstreams that are tried often from here: a bit each.
    probed: u64,
    /// The number of the first one that waits, as the other workers know it.
    front: u64,
    /// The first of all, on another worker, that was told that it is.
    told: u64,
    /// It gives way to this one, on another worker, since then.
    gives_way: Option<(u64, u64)>,
}

impl Default for Queue {
    fn default() -> Queue {
        let (waiting, under_way) = Default::default();
        let (window, patience, rests_until, probed) = (WINDOW, PATIENCE, 0, 0);
        let (front, told, gives_way) = (NOBODY, NOBODY, None);
        Queue { waiting, under_way, window, patience, rests_until, probed, front, told, gives_way }
    }
}

impl Queue {
    /// One whose first is said to be that one already.
    pub fn behind(front: u64) -> Queue {
        Queue { front, ..Queue::default() }
    }

    /// A connect succeeded, after so many milliseconds.
    fn grow(&mut self, took: u64) {
        let most = if took > 0 { WINDOW_FAR } else { WINDOW };
        self.window += usize::from(self.window < most);
        self.patience = PATIENCE_NEAR.max(took * SLACK);
    }

    /// One did not in time: `most` is as long as it may take by the configuration.
    fn shrink(&mut self, most: u64) {
        self.window = (self.window / 2).max(1);
        self.patience = (self.patience * 2).min(most);
    }

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
        let Some(connection) = self.connection(key) else { return };
        let (index, id, opened) = (connection.proxy, connection.id, connection.opened);
        let proxy = self.proxy(index);
        let is_closed = proxy.hold_until(self.now).is_some() || proxy.is_all_closed();
        // Who cannot wait any more overtakes them.
        let has_time = || opened + proxy.patience(self.now) > self.now;
        let overtakes = || proxy.held() > 0 || proxy.hold.fronts.before(self.index, id).is_some();
        if is_closed || overtakes() && has_time() { self.hold(key) } else { self.connect(key) }
    }

    /// Has a client wait that no upstream takes; lets it go if it has waited for as long as it may.
    pub(super) fn hold(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let proxy = &self.roster[connection.proxy];
        let until = connection.opened + proxy.patience(self.now);
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
        self.tidy_queue(usize::from(index));
        self.arm(key, until);
        self.look_at_held(key);
        self.seek_upstreams(index);
    }

    /// A reload may have changed for how long it waits.
    pub(super) fn look_at_wait(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        if connection.held {
            let until = connection.opened + self.roster[connection.proxy].patience(self.now);
            connection.connect_until = Some(until);
            self.arm(key, until);
        }
    }

    /// It waits no more, whatever comes now.
    pub(super) fn let_go(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        if std::mem::replace(&mut connection.held, false) {
            self.roster[connection.proxy].hold.held.fetch_sub(1, Relaxed);
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
            if !self.queues[index].under_way.is_empty() {
                self.look_at_under_way(index);
            }
            self.let_through(index);
            // Its turn may have come while it looked.
            while self.show_front(index) {
                self.let_through(index);
            }
        }
    }

    /// The number of the first one that waits here. Those who have gone are not counted.
    fn first(&mut self, index: usize) -> Option<u64> {
        let (queue, table) = (&mut self.queues[index], &self.table);
        let waits = |key: &Key| matches!(table.get(*key), Some(Entry::Connection(c)) if c.held);
        while let Some((id, key)) = queue.waiting.front() {
            if waits(key) {
                return Some(*id);
            }
            queue.waiting.pop_front();
        }
        None
    }

    /// Tells the other workers who is first here, and the one whose turn it is that it is. True: it is this one's,
    /// and it gave way before.
    fn show_front(&mut self, index: usize) -> bool {
        let front = self.first(index).unwrap_or(NOBODY);
        let queue = &mut self.queues[index];
        if front == NOBODY && queue.front == NOBODY {
            return false;
        }
        let Some(proxy) = self.roster.get(index) else { return false };
        if std::mem::replace(&mut queue.front, front) != front {
            proxy.hold.fronts.set(self.index, front);
        }
        if front == NOBODY {
            // Those who wait the next time wait for one that has just started again.
            queue.window = queue.window.min(WINDOW);
        }
        match proxy.hold.fronts.first() {
            Some((worker, _)) if worker == self.index => queue.gives_way.take().is_some(),
            Some((worker, id)) => {
                if proxy.is_open() && std::mem::replace(&mut queue.told, id) != id {
                    self.fleet.tell(worker, Command::Look);
                }
                false
            }
            None => false,
        }
    }

    /// Somebody on another worker came before the client `id`. That worker was told, and tells when he has gone.
    fn gives_way(&mut self, index: usize, id: u64) -> bool {
        let queue = &mut self.queues[index];
        let Some((worker, first)) = self.roster[index as u16].hold.fronts.before(self.index, id) else {
            queue.gives_way = None;
            return false;
        };
        let since = queue.gives_way.filter(|(to, _)| *to == first).map_or(self.now, |(_, since)| since);
        queue.gives_way = Some((first, since));
        if self.now < since + HANGS {
            return true;
        }
        let hangs = !self.fleet.mailboxes[worker].is_settled();
        if !hangs {
            // Asked again.
            (queue.gives_way, queue.told) = (Some((first, self.now)), NOBODY);
        }
        !hangs
    }

    /// Nobody gives way to this worker any more.
    pub(super) fn leave_fronts(&mut self) {
        self.roster.iter().for_each(|proxy| proxy.hold.fronts.set(self.index, NOBODY));
    }

    fn let_through(&mut self, index: usize) {
        if self.queues[index].waiting.is_empty() || self.queues[index].rests_until > self.now {
            return;
        }
        let roster = self.roster.clone();
        let proxy = &roster[index as u16];
        while proxy.is_open() && proxy.hold_until(self.now).is_none() {
            let Some(id) = self.first(index) else { return };
            let queue = &mut self.queues[index];
            if queue.under_way.len() >= queue.window || self.gives_way(index, id) {
                return;
            }
            let Some((_, key)) = self.queues[index].waiting.pop_front() else { return };
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
                    self.queues[index].under_way.push((self.now, key));
                }
                Some(_) => self.queues[index].grow(0),
                None => {}
            }
        }
    }

    /// Those that are connected make room; those that take too long wait again, first of all.
    fn look_at_under_way(&mut self, index: usize) {
        let proxy = &self.roster[index as u16].config;
        let (hold, most) = (proxy.hold.as_millis() as u64, proxy.connect_timeout.as_millis() as u64);
        let mut late = Vec::new();
        for (at, key) in std::mem::take(&mut self.queues[index].under_way) {
            let (now, patience) = (self.now, self.queues[index].patience);
            match self.connection(key) {
                Some(c) if c.connect_until.is_none() => self.queues[index].grow(now - at),
                Some(c) if c.held || c.seeks() => {}
                Some(c) if at + patience <= now && c.opened + hold > now => late.push(key),
                // It cannot wait any more: its connect goes on to its end.
                Some(_) if at + patience <= now => {}
                Some(_) => self.queues[index].under_way.push((at, key)),
                None => {}
            }
        }
        if !late.is_empty() {
            self.queues[index].shrink(most);
        }
        for key in late {
            self.take_back(key);
        }
    }

    /// Its connect has not been decided, and nothing was said. The next time another upstream is tried first, where
    /// one is up.
    pub(super) fn take_back(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        connection.server = None;
        let Some(upstream) = connection.upstream.take() else { return self.hold(key) };
        let proxy = &self.roster[connection.proxy];
        proxy.upstream(upstream).leave();
        let place = usize::from(upstream);
        let others = proxy.upstreams.iter().enumerate().filter(|(other, _)| *other != place);
        let has_other = others.into_iter().any(|(_, other)| other.is_up() && !other.is_closed());
        self.hold(key);
        if let Some(connection) = self.connection(key).filter(|_| has_other) {
            connection.tried.add(place);
        }
    }

    /// Milliseconds until a queue must be looked at without an event.
    pub(super) fn queues_wait(&self) -> Option<u64> {
        let busy = |(_, queue): &(usize, &Queue)| !queue.waiting.is_empty() || !queue.under_way.is_empty();
        let due = self.queues.iter().enumerate().filter(busy).flat_map(|(index, queue)| {
            let back = queue.under_way.iter().map(|(at, _)| at + queue.patience).min();
            let proxy = &self.roster[index as u16];
            let next = match proxy.hold_until(self.now) {
                _ if queue.waiting.is_empty() => None,
                Some(until) => Some(until),
                None if !proxy.is_open() || queue.under_way.len() >= queue.window => None,
                None => Some(queue.gives_way.map_or(0, |(_, since)| since + HANGS).max(queue.rests_until)),
            };
            [back, next]
        });
        due.flatten().min().map(|at| at.saturating_sub(self.now))
    }

    /// A reload has given other numbers to proxies or upstreams.
    pub(super) fn renew_queues(&mut self, change: &Change) {
        let renewed = (0..self.roster.size()).map(|_| Queue::default()).collect();
        let before = std::mem::replace(&mut self.queues, renewed);
        for (mut queue, to) in before.into_iter().zip(&change.moves) {
            let Some(to) = to else { continue };
            let places = (0..u64::BITS as u16).filter(|index| queue.probed & (1 << index) != 0);
            let configured = |place: &u16| self.roster[to.to].has_configured(*place);
            let places = places.filter_map(|index| to.upstream(index)).filter(configured);
            queue.probed = places.fold(0, |all, at| all | 1 << at);
            self.queues[usize::from(to.to)] = queue;
        }
    }

    /// Forgets those who have gone, when they may be most.
    fn tidy_queue(&mut self, index: usize) {
        let (queue, table) = (&mut self.queues[index], &self.table);
        if queue.waiting.len() > 1024 + 2 * self.connections {
            let waits = |key: &Key| matches!(table.get(*key), Some(Entry::Connection(c)) if c.held);
            queue.waiting.retain(|(_, key)| waits(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_is_first_again() {
        let mut queue = Queue::default();
        let key = |slot| Key { slot, generation: 0 };
        for id in [3, 5, 4, 1, 2] {
            queue.insert(id, key(id as u32));
        }
        assert!(queue.waiting.iter().map(|(id, _)| *id).eq(1..6));
    }

    #[test]
    fn a_crowded_upstream_is_asked_by_fewer_and_a_far_one_with_patience() {
        let mut queue = Queue::default();
        for _ in 0..20 {
            queue.shrink(5_000);
        }
        assert_eq!((queue.window, queue.patience), (1, 5_000));
        queue.grow(200);
        assert_eq!((queue.window, queue.patience), (2, 800));
        (0..20).for_each(|_| queue.grow(0));
        assert_eq!((queue.window, queue.patience), (WINDOW, PATIENCE_NEAR));
        (0..2_000).for_each(|_| queue.grow(100));
        assert_eq!((queue.window, queue.patience), (WINDOW_FAR, 400));
        queue.grow(0);
        assert_eq!(queue.window, WINDOW_FAR);
    }
}
