//! Clients that wait, accepted, while no upstream takes connections: a queue for each proxy on each worker.
//!
//! They go through in the order in which they came once an upstream is back, some at a time: an upstream
//! that has just started has a short backlog, and what does not fit waits here and is tried again soon, for
//! the kernel's next SYN would come after a second. A worker whose first one came after that of another gives way
//! to it, and is told when its turn has come. A client waits for its proxy's `hold` at most, counted from its
//! accept, over restarts too.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::connection::Connection;
use super::ending::End;
use super::fleet::Command;
use super::fronts::NOBODY;
use super::lane::Lane;
use super::roster::Change;
use super::slab::Key;
use super::upstream::{Probe, Tried};
use super::worker::{Entry, Worker};

/// After a crowded upstream (no port left, a full backlog), milliseconds until the next try.
const CROWDED: u64 = 5;
/// A worker that has not done for so long, in milliseconds, what it was told hangs: nobody gives way to it.
const HANGS: u64 = 1_000;

/// The clients of one proxy that wait on this worker.
pub(super) struct Queue {
    /// In the order of their numbers, which is that of their accept. Who has gone meanwhile is passed over.
    waiting: VecDeque<(u64, Key)>,
    /// Those that were let through, by the upstream that they go to.
    lanes: Vec<Lane>,
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
        let (waiting, lanes) = Default::default();
        let (rests_until, probed, front, told, gives_way) = (0, 0, NOBODY, NOBODY, None);
        Queue { waiting, lanes, rests_until, probed, front, told, gives_way }
    }
}

impl Queue {
    /// One whose first is said to be that one already.
    pub fn behind(front: u64) -> Queue {
        Queue { front, ..Queue::default() }
    }

    fn lane(&mut self, upstream: u16) -> &mut Lane {
        let place = usize::from(upstream);
        if place >= self.lanes.len() {
            self.lanes.resize_with(place + 1, Lane::default);
        }
        &mut self.lanes[place]
    }

    fn has_room(&self, place: usize) -> bool {
        self.lanes.get(place).is_none_or(Lane::has_room)
    }

    fn has_some_under_way(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.under_way.is_empty())
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
            if self.queues[index].has_some_under_way() {
                self.look_at_under_way(index);
            }
            self.let_through(index);
            // Its turn may have come while it looked.
            while self.show_front(index) {
                self.let_through(index);
            }
        }
    }

    /// The number of the first one that waits here, and the client. Those who have gone are not counted.
    fn first(&mut self, index: usize) -> Option<(u64, Key)> {
        let (queue, table) = (&mut self.queues[index], &self.table);
        let waits = |key: &Key| matches!(table.get(*key), Some(Entry::Connection(c)) if c.held);
        while let Some((id, key)) = queue.waiting.front() {
            if waits(key) {
                return Some((*id, *key));
            }
            queue.waiting.pop_front();
        }
        None
    }

    /// Tells the other workers who is first here, and the one whose turn it is that it is. True: it is this one's,
    /// and it gave way before.
    fn show_front(&mut self, index: usize) -> bool {
        let front = self.first(index).map_or(NOBODY, |(id, _)| id);
        let queue = &mut self.queues[index];
        if front == NOBODY && queue.front == NOBODY {
            return false;
        }
        let Some(proxy) = self.roster.get(index) else { return false };
        if std::mem::replace(&mut queue.front, front) != front {
            proxy.hold.fronts.set(self.index, front);
        }
        if front == NOBODY {
            queue.lanes.iter_mut().for_each(Lane::begin_anew);
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
        while proxy.hold_until(self.now).is_none() {
            let Some((id, key)) = self.first(index) else { return };
            let Some((tried, avoided)) = self.avoided(index, key) else { return };
            if self.gives_way(index, id) {
                return;
            }
            self.queues[index].waiting.pop_front();
            self.let_go(key);
            let now = self.now;
            if let Some(connection) = self.connection(key) {
                // Its time to connect begins anew.
                connection.connect_until = Some(now + proxy.config.connect_timeout.as_millis() as u64);
                connection.tried = tried;
            }
            self.connect_but_to(key, avoided);
            match self.connection(key) {
                // Nobody took it: it is the first again.
                Some(connection) if connection.held => {}
                // Nobody overtakes it.
                Some(connection) if connection.seeks() => {
                    self.hold(key);
                    self.queues[index].rests_until = self.now + CROWDED;
                    return;
                }
                Some(&mut Connection { upstream: Some(upstream), connect_until, .. }) => {
                    let lane = self.queues[index].lane(upstream);
                    match connect_until {
                        Some(_) => lane.under_way.push((now, key)),
                        None => lane.grow(0),
                    }
                }
                _ => {}
            }
        }
    }

    /// The upstreams that a client who waits has tried, and all that he is not let through to now: he waits for one
    /// that he has not tried, as long as there is one. None: to none.
    fn avoided(&self, index: usize, key: Key) -> Option<(Tried, Tried)> {
        let (upstreams, queue) = (&self.roster[index as u16].upstreams, &self.queues[index]);
        let tried = match self.table.get(key) {
            Some(Entry::Connection(connection)) => connection.tried,
            _ => Tried::default(),
        };
        let (mut unfit, mut full) = (Tried::default(), Tried::default());
        for (place, upstream) in upstreams.iter().enumerate() {
            match upstream.is_up() && !upstream.is_closed() {
                true if queue.has_room(place) => {}
                true => full.add(place),
                false => unfit.add(place),
            }
        }
        let has_tried_all = tried.and(unfit).has_all_of(upstreams);
        let tried = if has_tried_all { Tried::default() } else { tried };
        let avoided = tried.and(unfit).and(full);
        (!avoided.has_all_of(upstreams)).then_some((tried, avoided))
    }

    /// Those that are connected make room; those that take too long wait again, first of all.
    fn look_at_under_way(&mut self, index: usize) {
        for place in 0..self.queues[index].lanes.len() {
            let mut late = Vec::new();
            for (at, key) in std::mem::take(&mut self.queues[index].lanes[place].under_way) {
                if self.is_late(index, place, (at, key)) {
                    late.push(key);
                }
            }
            if !late.is_empty() {
                let most = self.roster[index as u16].config.connect_timeout;
                self.queues[index].lanes[place].shrink(most.as_millis() as u64);
            }
            late.into_iter().for_each(|key| self.take_back(key));
        }
    }

    /// Looks at one that was let through to the upstream at `place`. True: it is to be taken back.
    fn is_late(&mut self, index: usize, place: usize, (at, key): (u64, Key)) -> bool {
        let now = self.now;
        let is_late = self.queues[index].lanes[place].is_late(at, now);
        let connects = |c: &mut Connection| c.connect_until.is_some() && !c.held;
        if is_late && self.connection(key).is_some_and(connects) {
            // A busy worker has not heard of it yet.
            self.connect_decided(key, false);
        }
        let hold = self.roster[index as u16].config.hold.as_millis() as u64;
        let Some(Entry::Connection(connection)) = self.table.get(key) else { return false };
        let Some(upstream) = connection.upstream.filter(|_| !connection.held) else { return false };
        let lane = self.queues[index].lane(upstream);
        if connection.connect_until.is_none() {
            lane.grow(now - at);
        } else if usize::from(upstream) != place {
            // The other one did not take it.
            lane.under_way.push((now, key));
        } else if !is_late {
            lane.under_way.push((at, key));
        } else {
            // Who cannot wait any more goes on to the end of his connect.
            return connection.opened + hold > now;
        }
        false
    }

    /// Its connect has not been decided, and nothing was said. The next time it goes to one that it has not tried,
    /// where there is one.
    fn take_back(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        connection.server = None;
        let tried = connection.tried;
        if let Some(upstream) = connection.upstream.take() {
            self.roster[connection.proxy].upstream(upstream).leave();
        }
        self.hold(key);
        if let Some(connection) = self.connection(key) {
            connection.tried = tried;
        }
    }

    /// Milliseconds until a queue must be looked at without an event.
    pub(super) fn queues_wait(&self) -> Option<u64> {
        let in_use = |(_, queue): &(usize, &Queue)| !queue.waiting.is_empty() || queue.has_some_under_way();
        let due = self.queues.iter().enumerate().filter(in_use).flat_map(|(index, queue)| {
            let back = queue.lanes.iter().filter_map(Lane::due).min();
            let proxy = &self.roster[index as u16];
            let next = match (proxy.hold_until(self.now), queue.waiting.front()) {
                (_, None) => None,
                (Some(until), _) => Some(until),
                (None, Some((_, first))) if self.avoided(index, *first).is_none() => None,
                (None, _) => {
                    Some(queue.gives_way.map_or(0, |(_, since)| since + HANGS).max(queue.rests_until))
                }
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
            for (place, lane) in std::mem::take(&mut queue.lanes).into_iter().enumerate() {
                if let Some(place) = to.upstream(place as u16) {
                    *queue.lane(place) = lane;
                }
            }
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
    fn what_one_upstream_takes_says_nothing_of_another() {
        let mut queue = Queue::default();
        queue.lane(1).grow(20);
        queue.lane(0).grow(0);
        (0..9).for_each(|_| queue.lane(3).shrink(5_000));
        queue.lane(3).under_way.push((0, Key { slot: 0, generation: 0 }));
        assert!(!queue.lane(1).is_late(0, 79) && queue.lane(0).is_late(0, 5));
        assert!(!queue.has_room(3) && (0..3).all(|place| queue.has_room(place)));
    }
}
