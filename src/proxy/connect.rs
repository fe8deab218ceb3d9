//! A worker finds an upstream for each client, and tries in the background those that are down.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use slog::{debug, info, warn};

use super::ending::End;
use super::portable::{NO_SLOT, record_of};
use super::proxy_protocol;
use super::slab::Key;
use super::source::{Side, Source};
use super::upstream::{Probe, RETRY_FIRST, Tried, pick};
use super::watching::SOCKET_EVENTS;
use super::worker::{Entry, RETRY_SCARCE, Worker};
use crate::config::SendProxy;
use crate::event::Event;
use crate::fault;
use crate::sys::clock::Tick;
use crate::sys::socket::{self, Connecting, Peer};

impl Worker {
    /// Starts to connect a client to the next upstream; has it wait when all were tried.
    pub(super) fn connect(&mut self, key: Key) {
        self.connect_but_to(key, Tried::default());
    }

    /// The same, but to none of those.
    pub(super) fn connect_but_to(&mut self, key: Key, avoided: Tried) {
        let mut crowded = Tried::default();
        loop {
            let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
            let proxy = &self.roster[connection.proxy];
            let start = proxy.rotation.fetch_add(1, Relaxed);
            let again = (self.now + RETRY_SCARCE).min(connection.connect_until.unwrap_or(self.now));
            let index = match pick(&proxy.upstreams, connection.tried.and(crowded).and(avoided), start) {
                Some(index) => index,
                None if crowded.is_empty() => return self.hold(key),
                None => return self.arm(key, again),
            };
            let upstream = &proxy.upstreams[index];
            let began = Tick::now();
            let (fd, decided) = match socket::start_connect(&upstream.address) {
                Ok(Connecting::Done(fd)) => (fd, true),
                Ok(Connecting::Pending(fd)) => (fd, false),
                // Not the upstream's fault: tried again until the time to connect is over.
                Err(errno) if is_scarcity(errno) => {
                    self.fleet.descriptors_ran_out(self.now);
                    return self.arm(key, again);
                }
                Err(errno) if is_crowded(errno) => {
                    crowded.add(index);
                    continue;
                }
                Err(errno) => {
                    connection.tried.add(index);
                    let proxy = connection.proxy;
                    self.upstream_failed(proxy, index, errno.desc());
                    continue;
                }
            };
            fault::pass("connect-started");
            upstream.enter();
            connection.upstream = Some(index as u16);
            connection.tried.add(index);
            let until = self.now + proxy.config.connect_timeout.as_millis() as u64;
            connection.connect_until = Some(until);
            connection.connect_began = began;
            connection.connect_turn = self.turn;
            let event = EpollEvent::new(SOCKET_EVENTS, Source::Entry(key, Side::Server).to_bits());
            let watched = self.epoll.add(&fd, event);
            connection.server = Some(fd);
            fault::pass("connect-begun");
            match watched {
                Err(_) => return self.end(key, End::Failed),
                // What it sends is an event of its own: it is watched only since it is connected.
                Ok(()) if decided => return self.connected(key, false),
                Ok(()) => return self.arm(key, until),
            }
        }
    }

    /// A pending connect became writable, or broke; with something to read where `readable`.
    pub(super) fn connect_decided(&mut self, key: Key, readable: bool) {
        let Some(connection) = self.connection(key) else { return };
        let Some(server) = &connection.server else { return };
        match socket::connect_result(server.as_fd()) {
            Some(Ok(())) => self.connected(key, readable),
            Some(Err(errno)) => self.next_upstream(key, errno.desc()),
            None => {}
        }
    }

    /// A timer of a client that has no upstream yet.
    pub(super) fn connect_due(&mut self, key: Key) {
        let now = self.now;
        let Some(connection) = self.connection(key) else { return };
        match (&connection.server, connection.connect_until) {
            (None, Some(until)) if connection.held && now < until => self.arm(key, until),
            (None, Some(until)) if now < until => self.connect(key),
            (None, _) if connection.held => self.end(key, End::Failed),
            (None, _) => self.hold(key),
            (Some(_), Some(until)) if now >= until => {
                self.next_upstream(key, "no answer within connect_timeout")
            }
            (Some(_), Some(until)) => self.arm(key, until),
            (Some(_), None) => {}
        }
    }

    fn next_upstream(&mut self, key: Key, why: &str) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        connection.server = None;
        let timeout = self.roster[connection.proxy].config.connect_timeout;
        connection.connect_until = Some(self.now + timeout.as_millis() as u64);
        let (proxy, upstream) = (connection.proxy, connection.upstream.take());
        if let Some(upstream) = upstream {
            self.proxy(proxy).upstream(upstream).leave();
            self.upstream_failed(proxy, usize::from(upstream), why);
        }
        self.connect(key);
    }

    /// A connection to the upstream was made; it has sent something already where `readable`.
    pub(super) fn connected(&mut self, key: Key, readable: bool) {
        let now = self.now;
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let proxy = &self.roster[connection.proxy];
        let (Some(server), Some(upstream)) = (&connection.server, connection.upstream) else { return };
        let addresses = || match connection.peer {
            Peer::Tcp(peer) => socket::local_address(connection.client.as_fd()).map(|local| (peer, local)),
            Peer::Unix(_) => None,
        };
        fault::pass("connect-decided");
        let greeted = match proxy.config.send_proxy {
            SendProxy::Off => Ok(()),
            SendProxy::V1 => socket::send_whole(server.as_fd(), &proxy_protocol::v1(addresses())),
            SendProxy::V2 => socket::send_whole(server.as_fd(), &proxy_protocol::v2(addresses())),
        };
        fault::pass("connect-greeted");
        if let Err(errno) = greeted {
            return self.next_upstream(key, errno.desc());
        }
        connection.connect_until = None;
        connection.last = now;
        let took = connection.connect_began.until(Tick::now());
        proxy.counters[self.index].connects.add_connect(took);
        // Its event was this one: it counts as ready for what that said until it says EAGAIN.
        connection.to_upstream.flow.sink_ready();
        if readable {
            connection.to_client.flow.source_ready();
        }
        let shared = &proxy.upstreams[usize::from(upstream)];
        debug!(self.log, "connected {} to {}", connection.peer, shared.name; Event::ConnectionOpened,
            "DRAINED_PROXY" => &proxy.config.name, "DRAINED_CLIENT" => %connection.peer,
            "DRAINED_UPSTREAM" => &shared.name, "DRAINED_CONNECTION" => connection.id);
        let proxy = connection.proxy;
        self.is_back(proxy, upstream);
        self.keep_server(key);
        self.look_at_idle(key);
        self.look_at_drain(key);
        self.advance(key);
    }

    /// From here on the next incarnation must not connect anew: what is to be kept of the upstream is, before
    /// the record says that there is one.
    fn keep_server(&mut self, key: Key) {
        let known = self.connection(key).is_some_and(|connection| connection.slot != NO_SLOT);
        if known || self.crash_after == Some(0) {
            self.park(&[key]);
        }
        fault::pass("connect-parked");
        if let Some(Entry::Connection(connection)) = self.table.get_mut(key)
            && let Some(slot) = record_of(&self.keeper, connection)
        {
            connection.save_server(slot);
        }
        fault::pass("connect-connected");
    }

    fn upstream_failed(&mut self, proxy: u16, index: usize, why: &str) {
        let shared = self.proxy(proxy);
        let upstream = &shared.upstreams[index];
        if upstream.is_up() {
            upstream.note(why);
        }
        if !upstream.set_up(false) {
            return;
        }
        warn!(self.log, "upstream {} does not take connections: {why}", upstream.name; Event::UpstreamDown,
            "DRAINED_PROXY" => &shared.config.name, "DRAINED_UPSTREAM" => &upstream.name);
        let probe = Probe::new(proxy, index as u16);
        let key = self.table.insert(Entry::Probe(probe));
        self.arm(key, self.now + RETRY_FIRST);
    }

    /// The timer of a probe: the next try, or the end of one that got no answer.
    pub(super) fn probe_due(&mut self, key: Key) {
        let Some(Entry::Probe(probe)) = self.table.get_mut(key) else { return };
        let shared = &self.roster[probe.proxy];
        let upstream = &shared.upstreams[usize::from(probe.upstream)];
        if upstream.is_up() || upstream.is_closed() {
            self.remove_probe(key);
        } else if probe.fd.take().is_some() {
            self.probe_failed(key, "no answer within connect_timeout");
        } else {
            match socket::start_connect(&upstream.address) {
                Ok(Connecting::Done(_)) => self.probe_succeeded(key),
                Ok(Connecting::Pending(fd)) => {
                    let event = EpollEvent::new(SOCKET_EVENTS, Source::Entry(key, Side::Server).to_bits());
                    // Not watched it gets no answer, which is a try that failed.
                    let _ = self.epoll.add(&fd, event);
                    probe.fd = Some(fd);
                    let until = self.now + shared.config.connect_timeout.as_millis() as u64;
                    self.arm(key, until);
                }
                Err(errno) => self.probe_failed(key, errno.desc()),
            }
        }
    }

    /// A probe's pending connect was decided.
    pub(super) fn probe_decided(&mut self, key: Key) {
        let Some(Entry::Probe(probe)) = self.table.get_mut(key) else { return };
        // Its timer is armed still and finds either nothing or a probe that waits: both harmless.
        let Some(fd) = probe.fd.take() else { return };
        match socket::take_error(fd.as_fd()) {
            Ok(()) => self.probe_succeeded(key),
            Err(errno) => self.probe_failed(key, errno.desc()),
        }
    }

    fn probe_failed(&mut self, key: Key, why: &str) {
        let Some(Entry::Probe(probe)) = self.table.remove(key) else { return };
        let upstream = self.proxy(probe.proxy).upstream(probe.upstream);
        // What the checks say weighs more.
        if upstream.is_healthy() {
            upstream.note(why);
        }
        let pause = probe.pause;
        // A new key: the timer of the try that is over finds nothing.
        let key = self.table.insert(Entry::Probe(probe.again()));
        self.arm(key, self.now + pause);
    }

    fn probe_succeeded(&mut self, key: Key) {
        if let Some(probe) = self.remove_probe(key) {
            self.is_back(probe.proxy, probe.upstream);
        }
    }

    fn remove_probe(&mut self, key: Key) -> Option<Probe> {
        let Some(Entry::Probe(probe)) = self.table.remove(key) else { return None };
        self.forget_probe(&probe);
        Some(probe)
    }

    /// An upstream took a connection. If that is news, all workers look whether somebody waits for it.
    fn is_back(&self, proxy: u16, upstream: u16) {
        let shared = self.proxy(proxy);
        let upstream = &shared.upstreams[usize::from(upstream)];
        if !upstream.set_up(true) {
            return;
        }
        info!(self.log, "upstream {} takes connections again", upstream.name; Event::UpstreamUp,
            "DRAINED_PROXY" => &shared.config.name, "DRAINED_UPSTREAM" => &upstream.name);
        self.fleet.tell_held(shared);
    }
}

/// Errors of connect(2) that speak of this machine and not of the upstream.
pub(super) fn is_scarcity(errno: Errno) -> bool {
    use Errno::*;
    matches!(errno, EMFILE | ENFILE | ENOBUFS | ENOMEM)
}

/// There is no way to this upstream now, but soon again and to others at once: no local port is
/// left, or the backlog of a UNIX listener is full (EAGAIN).
pub(super) fn is_crowded(errno: Errno) -> bool {
    matches!(errno, Errno::EADDRNOTAVAIL | Errno::EAGAIN)
}
