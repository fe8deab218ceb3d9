//! A connection and its record in the ledger: what is written of it while it lives, and how it is put
//! together again.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::connection::Connection;
use super::flow::Flow;
use super::half::Half;
use super::pipes::Pipes;
use crate::handover::adopt::Adopted;
use crate::handover::keeper::Keeper;
use crate::handover::record::{Flags, Live, NO_UPSTREAM, Record, Slot, State, Way};
use crate::sys::{ends, socket};

/// The number of no record.
pub const NO_SLOT: u32 = u32::MAX;

/// The record of a connection, if it has one.
pub(super) fn record_of<'a>(keeper: &'a Option<Arc<Keeper>>, connection: &Connection) -> Option<&'a Slot> {
    keeper.as_ref()?.ledger.slot(connection.slot)
}

impl Connection {
    /// All that is known of it.
    ///
    /// # Errors
    /// The kernel doesn't tell what a socket is.
    pub fn record(&self, pipes: &Pipes) -> Result<Record, Errno> {
        let server = self.server.as_ref().filter(|_| self.connect_until.is_none());
        let server = server.map_or(Ok(0), |server| socket::cookie(server.as_fd()));
        let inode = |half: &Half| half.pipe.and_then(|key| pipes.get(key)).map_or(0, |pipe| pipe.inode());
        Ok(Record {
            state: State::Live,
            flags: self.flags(),
            proxy: self.proxy,
            upstream: self.upstream.unwrap_or(NO_UPSTREAM),
            id: self.id,
            client: socket::cookie(self.client.as_fd())?,
            server: server?,
            opened: self.opened,
            peer: self.peer,
            last: self.last,
            bytes: [self.to_upstream.flow.bytes, self.to_client.flow.bytes],
            pipes: [inode(&self.to_upstream), inode(&self.to_client)],
        })
    }

    fn flags(&self) -> Flags {
        let half = |way, half: &Half| {
            Flags::ended(way)
                .when(half.flow.has_ended())
                .and(Flags::over(way).when(half.flow.is_over()))
                .and(Flags::source_broke(way).when(half.source_broke))
                .and(Flags::fin(way).when(half.fin))
        };
        Flags::ANSWER_DUE
            .when(self.answer_due)
            .and(Flags::CLIENT_ENDED.when(self.client_ended))
            .and(Flags::CONNECTING.when(self.connect_until.is_some()))
            .and(Flags::BROKEN.when(self.broken))
            .and(half(Way::ToUpstream, &self.to_upstream))
            .and(half(Way::ToClient, &self.to_client))
    }

    /// Brings its record up to date after a turn of the relay.
    pub fn save(&self, slot: &Slot) {
        slot.set_traffic(self.last, [self.to_upstream.flow.bytes, self.to_client.flow.bytes]);
        slot.set_head(State::Live, self.flags(), self.proxy, self.upstream.unwrap_or(NO_UPSTREAM));
    }

    /// Notes the upstream that it is connected to.
    pub fn save_server(&self, slot: &Slot) {
        let cookie = self.server.as_ref().and_then(|server| socket::cookie(server.as_fd()).ok());
        slot.set_server(cookie.unwrap_or_default());
        self.save(slot);
    }

    /// Notes that it is about to be closed, and how.
    pub fn save_end(&self, slot: &Slot, reset: (bool, bool)) {
        let flags = Flags::RESET_CLIENT.when(reset.0).and(Flags::RESET_SERVER.when(reset.1));
        slot.set_head(State::Closing, flags, self.proxy, self.upstream.unwrap_or(NO_UPSTREAM));
    }

    /// Puts one together again, under the proxy and the upstream that the configuration has now.
    pub fn adopted(
        adopted: Box<Adopted>,
        proxy: u16,
        upstream: Option<u16>,
        pipes: &mut Pipes,
    ) -> Connection {
        let Adopted { record, client, server, to_upstream, to_client } = *adopted;
        let flags = record.flags;
        let mut connection = Connection::new(record.id, client.fd, record.peer, proxy, record.opened);
        connection.connect_until = server.is_none().then_some(0);
        connection.upstream = upstream;
        connection.server = server.map(|server| server.fd);
        connection.last = record.last;
        connection.inherited = true;
        connection.answer_due = flags.has(Flags::ANSWER_DUE);
        connection.client_ended = flags.has(Flags::CLIENT_ENDED);
        connection.broken = flags.has(Flags::BROKEN);
        for (half, way, pipe) in [
            (&mut connection.to_upstream, Way::ToUpstream, to_upstream),
            (&mut connection.to_client, Way::ToClient, to_client),
        ] {
            half.source_broke = flags.has(Flags::source_broke(way));
            half.fin = flags.has(Flags::fin(way));
            // What goes nowhere any more is not kept.
            let pipe = pipe.filter(|_| !flags.has(Flags::over(way)));
            half.flow =
                flow(flags, way, record.bytes[way as usize], pipe.as_ref().map_or(0, |(_, held)| *held));
            half.pipe = pipe.map(|(pipe, _)| pipes.add(pipe));
        }
        // Noted before it was said, which the last incarnation may not have come to.
        let sinks = [
            (&connection.to_upstream, connection.server.as_ref()),
            (&connection.to_client, Some(&connection.client)),
        ];
        for sink in sinks.into_iter().filter(|(half, _)| half.flow.is_over()).filter_map(|(_, sink)| sink) {
            let _ = ends::finish_writing(sink.as_fd());
        }
        connection
    }
}

/// A flow of which nothing is known but what the record says. What there is to read is told by epoll, as soon
/// as the source is watched; a sink has room until it says otherwise.
fn flow(flags: Flags, way: Way, bytes: u64, held: u32) -> Flow {
    let mut flow = Flow::default();
    (flow.held, flow.bytes) = (held, bytes);
    flow.sink_ready();
    if flags.has(Flags::ended(way)) {
        flow.end_source();
    }
    if flags.has(Flags::over(way)) {
        flow.finished();
    }
    flow
}
