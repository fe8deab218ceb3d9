//! Which events of a connection's sockets wake its worker, and what they say.
//!
//! Both sockets are watched edge-triggered, for both directions. While a sink takes nothing, its source is not
//! read, but each piece that comes would still wake the worker. So a source that is known to have more is muted
//! then. What ends it or breaks it is told all the same, and once it is heard again the kernel says at once what
//! there is.

use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::connection::Connection;
use super::ending::End;
use super::slab::Key;
use super::source::{Side, Source};
use super::worker::{Entry, Worker};
use crate::sys::socket::{self, Address, Peer};

pub(super) const SOCKET_EVENTS: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLPRI)
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// Of a source that is muted. Bytes that come wake those who want EPOLLPRI too.
const MUTED_EVENTS: EpollFlags = EpollFlags::EPOLLRDHUP.union(EpollFlags::EPOLLET);

/// Mutes the sources of a connection whose arrivals say nothing new, and hears the others again.
pub(super) fn mind(epoll: &Epoll, key: Key, connection: &mut Connection) {
    let Connection { client, server: Some(server), to_upstream: up, to_client: down, .. } = connection else {
        return;
    };
    // Its own room is to be told if it has none.
    let up_waits = up.flow.waits_for_room() && down.flow.has_room();
    let down_waits = down.flow.waits_for_room() && up.flow.has_room();
    for (half, waits, side, fd) in
        [(up, up_waits, Side::Client, client.as_fd()), (down, down_waits, Side::Server, server.as_fd())]
    {
        if half.muted == waits {
            continue;
        }
        let events = if waits { MUTED_EVENTS } else { SOCKET_EVENTS };
        let mut event = EpollEvent::new(events, Source::Entry(key, side).to_bits());
        // It asks the kernel for no memory: an error says that the socket is not watched.
        if epoll.modify(fd, &mut event).is_ok() {
            half.muted = waits;
        }
    }
}

impl Worker {
    pub(super) fn socket_event(&mut self, key: Key, side: Side, flags: EpollFlags) {
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let readable = flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | broken);
        let writable = flags.intersects(EpollFlags::EPOLLOUT | broken);
        let connection = match self.table.get_mut(key) {
            Some(Entry::Connection(connection)) => connection,
            Some(Entry::Probe(_)) => return self.probe_decided(key),
            Some(Entry::Check(_)) => return self.check_ready(key),
            None => return,
        };
        if side == Side::Server && connection.connect_turn == self.turn {
            // What epoll tells in the turn in which a socket was made is of one before it, which was closed.
            return;
        }
        if side == Side::Server && connection.connect_until.is_some() {
            // While a connect is pending nothing can be written: epoll says no EPOLLOUT, or an error with it.
            return match writable {
                true if !flags.intersects(broken) => self.connected(key, readable),
                true => self.connect_decided(key, readable),
                false => {}
            };
        }
        let is_unix = match side {
            Side::Client => matches!(connection.peer, Peer::Unix(_)),
            Side::Server => match connection.upstream {
                Some(upstream) => {
                    let proxy = &self.roster[connection.proxy];
                    matches!(proxy.upstream(upstream).address, Address::Unix(_))
                }
                // The ledger had no name of it.
                None => {
                    connection.server.as_ref().is_some_and(|fd| socket::local_address(fd.as_fd()).is_none())
                }
            },
        };
        let (up, down) = (&mut connection.to_upstream, &mut connection.to_client);
        let (source, sink) = if side == Side::Client { (up, down) } else { (down, up) };
        source.urgent |= flags.contains(EpollFlags::EPOLLPRI);
        source.leaves_nothing =
            !is_unix && !flags.intersects(EpollFlags::EPOLLPRI | EpollFlags::EPOLLRDHUP | broken);
        // A reset has EPOLLHUP too, and EPOLLERR until a write or a read was told of it. Nothing is written
        // after our own end, and to a UNIX socket that was closed nothing can be.
        let may_be_reset =
            flags.contains(EpollFlags::EPOLLHUP) && !is_unix && (connection.broken || !sink.flow.is_over());
        let ended = flags.contains(EpollFlags::EPOLLRDHUP) && !flags.contains(EpollFlags::EPOLLERR);
        source.fin |= ended && !may_be_reset && !source.source_broke;
        let (source, sink) = (&mut source.flow, &mut sink.flow);
        if readable {
            source.source_ready();
        }
        if writable {
            sink.sink_ready();
        }
        if side == Side::Client {
            connection.client_ended |= flags.intersects(EpollFlags::EPOLLRDHUP | broken);
            // EPOLLHUP alone is no error: a UNIX client that has sent all and closed.
            connection.client_broke |= flags.contains(EpollFlags::EPOLLERR);
            if connection.client_broke && connection.connect_until.is_some() {
                return self.end(key, End::Broken);
            }
            if connection.held {
                return self.look_at_held(key);
            }
        } else {
            connection.server_broke |= flags.contains(EpollFlags::EPOLLERR);
        }
        self.advance(key);
    }
}
