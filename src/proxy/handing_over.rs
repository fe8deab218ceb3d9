//! A worker hands its connections over, and takes in those that the last incarnation left.

use std::os::fd::AsFd;

use nix::sys::epoll::EpollEvent;
use slog::warn;

use super::connection::Connection;
use super::fleet::{Parked, lock};
use super::slab::Key;
use super::worker::{End, Entry, SOCKET_EVENTS, Side, Source, Worker};
use crate::handover::adopt::Adopted;

impl Worker {
    /// Parks everything. Listeners are let go of and stay open: the store has them.
    pub(super) fn hand_over(&mut self) {
        for index in 0..self.doors.len() {
            self.keep_door_for_the_next(index);
        }
        let mut parked = Parked::default();
        for key in self.table.keys() {
            if let Some(Entry::Connection(connection)) = self.table.remove(key) {
                self.park(connection, &mut parked);
            }
        }
        lock(&self.fleet.parked).push(parked);
        self.fleet.worker_has_parked();
    }

    fn park(&mut self, connection: Connection, parked: &mut Parked) {
        let fleet = self.fleet.clone();
        let proxy = &fleet.proxies[usize::from(connection.proxy)];
        let upstream = connection.upstream.map(|index| &proxy.upstreams[usize::from(index)]);
        if let Some(upstream) = upstream {
            upstream.leave();
        }
        let peer = connection.peer;
        let parts = connection.into_parts(&proxy.config.name, upstream.map_or("", |u| &u.name));
        let result = parts.and_then(|(record, fds)| {
            parked.lots.park(fds)?;
            parked.records.push(record);
            Ok(())
        });
        if let Err(errno) = result {
            warn!(self.log, "cannot hand over the connection of {peer}: {}", errno.desc());
        }
        self.connections -= 1;
        fleet.connection_closed(proxy);
    }

    /// Takes in this worker's share of what was handed over.
    pub(super) fn adopt_all(&mut self) {
        let adopted = std::mem::take(&mut *lock(&self.fleet.adopted[self.index]));
        for (connection, proxy, upstream) in adopted {
            self.adopt(connection, proxy, upstream);
        }
    }

    fn adopt(&mut self, adopted: Adopted, proxy: u16, upstream: Option<u16>) {
        let shared = &self.fleet.proxies[usize::from(proxy)];
        if let Some(index) = upstream {
            shared.upstreams[usize::from(index)].enter();
        }
        let mut connection = Connection::adopted(adopted, proxy, upstream);
        for half in [&connection.to_upstream, &connection.to_client] {
            half.pipe.iter().for_each(|pipe| self.pipes.adopt(pipe));
        }
        if let Some(until) = &mut connection.connect_until {
            *until = self.now + shared.config.connect_timeout.as_millis() as u64;
        }
        self.connections += 1;
        let key = self.table.insert(Entry::Connection(connection));
        if !self.watch_both(key) {
            return self.end(key, End::Broken);
        }
        match self.connection(key).is_some_and(|c| c.connect_until.is_some()) {
            true => self.connect(key),
            false => self.advance(key),
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
