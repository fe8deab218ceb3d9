//! A worker parks its connections while they live, hands them over at a restart, and takes in those
//! that the last incarnation left.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use slog::warn;

use super::connection::Connection;
use super::drain::{Doing, Goodbye, doing};
use super::ending::End;
use super::fleet::{Placed, lock};
use super::means::Item;
use super::portable::{NO_SLOT, record_of};
use super::slab::Key;
use super::source::{Side, Source};
use super::watching::SOCKET_EVENTS;
use super::worker::{Entry, Worker};
use crate::fault;
use crate::handover::record::Live;
use crate::sys::{ends, rights};

/// After a failure to park, milliseconds until the next try.
const RETRY_PARKING: u64 = 1_000;

impl Worker {
    /// A connection that is young yet: it is parked once it is old enough.
    pub(super) fn will_park(&mut self, key: Key) {
        if self.crash_after.is_some() {
            self.young.push_back((key, self.now));
        }
    }

    /// When the next one is old enough. What comes a little later is taken along: one message has room for
    /// many.
    pub(super) fn parks_at(&self) -> Option<u64> {
        Some(self.young.front()?.1 + self.crash_after?)
    }

    /// Parks those that are old enough.
    pub(super) fn park_aged(&mut self) {
        let (Some(at), Some(crash_after)) = (self.parks_at(), self.crash_after) else { return };
        if at > self.now || self.parking_rests_until > self.now {
            return;
        }
        let due = self.now - crash_after + crash_after / 8;
        let mut aged = Vec::new();
        while let Some((key, since)) = self.young.front()
            && *since <= due
        {
            aged.push(*key);
            self.young.pop_front();
        }
        self.park(&aged);
    }

    /// Takes the next step of making the lots tidy, if there is one.
    pub(super) fn tidy_lots(&mut self) {
        if self.parking_rests_until > self.now {
            return;
        }
        self.untidy = self.means.tidy(&self.table).unwrap_or_else(|_| {
            self.parking_rests_until = self.now + RETRY_PARKING;
            false
        });
    }

    /// Parks connections as far as they are not, with a record of each.
    pub(super) fn park(&mut self, keys: &[Key]) {
        let mut failed = None;
        let mut batch: Vec<(Key, [bool; 2])> = Vec::new();
        let mut size = 0;
        for key in keys {
            let Some(missing) = self.prepare_parking(*key, &mut failed) else { continue };
            let fds = missing.iter().filter(|missing| **missing).count();
            if size + fds > rights::MOST_AT_ONCE {
                self.send_parked(&std::mem::take(&mut batch), &mut failed);
                size = 0;
            }
            batch.push((*key, missing));
            size += fds;
        }
        self.send_parked(&batch, &mut failed);
        let Some(errno) = failed else {
            self.parking_failed = false;
            return;
        };
        self.parking_rests_until = self.now + RETRY_PARKING;
        if !std::mem::replace(&mut self.parking_failed, true) {
            warn!(
                self.log,
                "some connections would end with a crash, for they cannot be parked: {}",
                errno.desc()
            );
        }
    }

    /// Gives a connection its record; tells which of its sockets are not parked yet.
    fn prepare_parking(&mut self, key: Key, failed: &mut Option<Errno>) -> Option<[bool; 2]> {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return None };
        let parking = self.means.parking.as_mut()?;
        // An upstream that is not connected yet is none: the next incarnation begins anew with it.
        let has_server = connection.server.is_some() && connection.connect_until.is_none();
        let missing = [!connection.parked[0], has_server && !connection.parked[1]];
        if missing == [false, false] {
            return None;
        }
        if connection.slot == NO_SLOT {
            let slot = parking.take_slot();
            let record = connection.record(&self.means.pipes);
            let (Some(number), Ok(record)) = (slot, record) else {
                *failed = Some(Errno::ENOSPC);
                self.young.push_back((key, self.now));
                return None;
            };
            record.store(parking.keeper.ledger.slot(number)?);
            fault::pass("park-recorded");
            connection.slot = number;
        }
        Some(missing)
    }

    fn send_parked(&mut self, batch: &[(Key, [bool; 2])], failed: &mut Option<Errno>) {
        let (table, Some(parking)) = (&self.table, self.means.parking.as_mut()) else { return };
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        let mut items = Vec::new();
        for (key, missing) in batch {
            if let Some(Entry::Connection(connection)) = table.get(*key) {
                fds.extend(missing[0].then(|| connection.client.as_fd()));
                fds.extend(connection.server.as_ref().filter(|_| missing[1]).map(AsFd::as_fd));
                let ours = fds.len() - missing.iter().filter(|missing| **missing).count();
                // Should nobody ever go on with it, its peers shall not take its end for a clean one.
                fds[ours..].iter().for_each(|fd| ends::reset_on_close(*fd));
                items.push(Item::sockets(*key, missing[0], missing[1]));
            }
        }
        if fds.is_empty() {
            return;
        }
        let result = parking.park(&fds, items);
        fault::pass("park-sent");
        for (key, missing) in batch {
            let Some(Entry::Connection(connection)) = self.table.get_mut(*key) else { continue };
            match result {
                Ok(()) => (0..2).for_each(|side| connection.parked[side] |= missing[side]),
                Err(errno) => {
                    *failed = Some(errno);
                    self.young.push_back((*key, self.now));
                    connection.ends_here(*missing);
                    if connection.parked == [false, false] {
                        let slot = std::mem::replace(&mut connection.slot, NO_SLOT);
                        parking.keeper.ledger.slot(slot).into_iter().for_each(Live::free);
                        parking.free.push(slot);
                    }
                }
            }
        }
    }

    /// Parks everything. Listeners are let go of and stay open: the store has them.
    pub(super) fn hand_over(&mut self) {
        for index in 0..self.doors.len() {
            self.keep_door_for_the_next(index);
        }
        self.end_the_told();
        let keys = self.table.keys();
        let in_use = |key: &Key| match self.table.get(*key) {
            Some(Entry::Connection(c)) => [c.to_upstream.pipe, c.to_client.pipe],
            _ => [None, None],
        };
        let pipes: Vec<_> = keys.iter().flat_map(in_use).flatten().collect();
        self.means.park_pipes(&pipes, true);
        fault::pass("leave-pipes");
        self.park(&keys);
        fault::pass("leave-parked");
        let mut count = 0;
        for key in keys {
            self.let_go(key);
            let Some(Entry::Connection(connection)) = self.table.remove(key) else { continue };
            count += u64::from(self.let_go_of_parked(connection));
            fault::pass("leave-one");
        }
        // The lots are the next one's now: nothing in them is dead because nobody here needs it.
        self.means.parking = None;
        self.fleet.worker_has_parked(self.index, count);
    }

    /// Ends those that were told goodbye, in a drain that has become a restart, and are silent since.
    fn end_the_told(&mut self) {
        let now = self.now;
        let is_told = |c: &mut Connection| {
            let closes = c.goodbye != Goodbye::None && !c.is_recent(now);
            closes && doing(&c.view(now, true), now) == Doing::Closing
        };
        for key in self.table.keys() {
            if self.connection(key).is_some_and(is_told) {
                self.end(key, End::Goodbye);
            }
        }
    }

    /// Ends this process's part in a connection. True if the next one goes on with it.
    fn let_go_of_parked(&mut self, connection: Connection) -> bool {
        let roster = self.roster.clone();
        let proxy = &roster[connection.proxy];
        let upstream = connection.upstream.map(|index| proxy.upstream(index));
        let is_whole = connection.is_whole();
        if is_whole {
            // Its upstream has it still: who waits for the end of a drain is told so to the last.
            record_of(&self.keeper, &connection).iter().for_each(|slot| connection.save(slot));
            // The end of the process closes thousands of sockets in half the time.
            std::mem::forget(connection);
        } else {
            warn!(self.log, "cannot hand over the connection of {}", connection.peer);
            self.release(connection, (true, true));
            upstream.iter().for_each(|upstream| upstream.leave());
        }
        self.connections -= 1;
        self.fleet.connection_closed(proxy);
        is_whole
    }

    /// Takes in this worker's share of what was handed over.
    pub(super) fn adopt_all(&mut self) {
        let share = std::mem::take(&mut *lock(&self.fleet.adopted[self.index]));
        if !share.is_empty() {
            fault::strike("adopt-hang", None);
        }
        // Those who wait for an upstream come last, in the order in which they came first.
        let mut waiting = Vec::new();
        for placed in share {
            let (id, seeks) = (placed.adopted.record.id, placed.adopted.server.is_none());
            let key = self.take_in(placed);
            match seeks {
                true => waiting.push((id, key)),
                false => self.go_on_with(key),
            }
            fault::pass("adopt-one");
        }
        waiting.sort_unstable();
        waiting.into_iter().for_each(|(_, key)| self.go_on_with(key));
        self.fleet.worker_has_adopted();
    }

    /// Gives a connection its place here.
    fn take_in(&mut self, placed: Placed) -> Key {
        let Placed { adopted, proxy, upstream, slot, places, pipes } = placed;
        self.counters(proxy).adopted.add(1);
        let shared = &self.roster[proxy];
        // Who has none yet gets one below; the others count for theirs already.
        let upstream = upstream.filter(|_| adopted.server.is_some());
        let mut connection = Connection::adopted(adopted, proxy, upstream, &mut self.means.pipes);
        connection.slot = slot;
        if let Some(until) = &mut connection.connect_until {
            *until = self.now + shared.config.connect_timeout.as_millis() as u64;
        }
        connection.parked = [places[0].is_some(), places[1].is_some() && connection.server.is_some()];
        let bound = [connection.to_upstream.pipe, connection.to_client.pipe];
        self.connections += 1;
        let key = self.table.insert(Entry::Connection(connection));
        if let Some(parking) = &mut self.means.parking {
            for (place, side) in places.into_iter().zip([Side::Client, Side::Server]) {
                if let Some((lot, message)) = place {
                    parking.lots.note(lot, message, Item::socket(key, side), 1);
                }
            }
        }
        fault::pass("adopt-noted");
        for pipe in bound.into_iter().flatten() {
            match (pipes, &mut self.means.parking) {
                (Some((lot, message)), Some(parking)) => {
                    parking.lots.note(lot, message, Item::pipe(pipe), 2);
                    self.means.pipes.set_parked(pipe);
                }
                _ => self.means.park_pipe(pipe, false),
            }
        }
        if self.crash_after.is_some() {
            self.young.push_back((key, 0));
        }
        key
    }

    /// Relays from now on. What has come meanwhile is an event of its own; what goes on without one is done.
    fn go_on_with(&mut self, key: Key) {
        if !self.watch_both(key) {
            return self.end(key, End::Broken);
        }
        let Some(connection) = self.connection(key) else { return };
        match connection.connect_until {
            Some(_) => self.seek(key),
            None if connection.has_more_to_do() => self.advance(key),
            None => {}
        }
        self.look_at_idle(key);
        self.look_at_drain(key);
    }

    fn watch_both(&mut self, key: Key) -> bool {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return false };
        let event = |side| EpollEvent::new(SOCKET_EVENTS, Source::Entry(key, side).to_bits());
        let client = self.epoll.add(connection.client.as_fd(), event(Side::Client));
        let server = connection.server.as_ref().map(|s| self.epoll.add(s.as_fd(), event(Side::Server)));
        client.is_ok() && server.is_none_or(|added| added.is_ok())
    }
}
