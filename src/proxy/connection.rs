//! One client's connection: two sockets, two flows, and what the drain must know of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::drain::{Goodbye, QUIET_AFTER, View};
use super::flow::Flow;
use super::half::{Half, Place, Pumped};
use super::means::Means;
use super::portable::NO_SLOT;
use super::upstream::Tried;
use crate::fault;
use crate::handover::record::{Flags, Live, Slot, Way};
use crate::sys::clock::Tick;
use crate::sys::ends;
use crate::sys::socket::{self, Peer};

/// No field of it is shared; it lives and dies on one worker.
pub struct Connection {
    /// Unique in this process: journal field DRAINED_CONNECTION.
    pub id: u64,
    pub client: OwnedFd,
    pub peer: Peer,
    /// None while no upstream is being tried.
    pub server: Option<OwnedFd>,
    pub proxy: u16,
    pub upstream: Option<u16>,
    pub tried: Tried,
    /// Until when an upstream must be found; None once it is.
    pub connect_until: Option<u64>,
    /// When the connect that is pending began.
    pub connect_began: Tick,
    /// In which turn of its worker: what epoll told in that one is of a socket before it.
    pub connect_turn: u64,
    /// No upstream takes it now: it waits for one that does.
    pub held: bool,
    pub to_upstream: Half,
    pub to_client: Half,
    pub opened: u64,
    /// When the last byte moved.
    pub last: u64,
    pub answer_due: bool,
    /// The client's FIN was seen, read or not.
    pub client_ended: bool,
    /// The client's socket has an error, a reset for one.
    pub client_broke: bool,
    /// The same of the upstream's.
    pub server_broke: bool,
    /// It stands in the worker's queue for its next turn.
    pub queued: bool,
    /// A sink refused bytes: the end must be a reset.
    pub broken: bool,
    pub goodbye: Goodbye,
    /// When its next timer is due.
    pub wake_at: u64,
    /// The number of its record in the ledger, or [`NO_SLOT`].
    pub slot: u32,
    /// Whether duplicates of its sockets stand in a lot: the client's and the upstream's.
    pub parked: [bool; 2],
    /// The last incarnation had parked them, so duplicates may stand where nobody here knows of them.
    pub inherited: bool,
}

/// Why a turn of the relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It waits for the next event.
    Waits,
    /// There is more to move at once.
    More,
    /// No pipe was to be had.
    NoPipe,
    /// The relay is over.
    Ended,
    /// A source broke off.
    Failed(Errno),
}

impl Connection {
    /// One whose upstream is not found yet.
    pub fn new(id: u64, client: OwnedFd, peer: Peer, proxy: u16, opened: u64) -> Connection {
        Connection {
            id,
            client,
            peer,
            server: None,
            server_broke: false,
            proxy,
            upstream: None,
            tried: Tried::default(),
            connect_until: None,
            connect_began: Tick::default(),
            connect_turn: 0,
            held: false,
            to_upstream: Half::default(),
            to_client: Half::default(),
            opened,
            last: opened,
            answer_due: false,
            client_ended: false,
            client_broke: false,
            queued: false,
            broken: false,
            goodbye: Goodbye::None,
            wake_at: u64::MAX,
            slot: NO_SLOT,
            parked: [false; 2],
            inherited: false,
        }
    }

    /// Moves what can be moved in both directions. Its record, if it has one, is true all the while.
    pub fn relay(&mut self, means: &mut Means, record: Option<&Slot>, now: u64) -> Turn {
        if let Some(slot) = record {
            let fin = |way, half: &Half| Flags::fin(way).when(half.fin);
            let (up, down) = (fin(Way::ToUpstream, &self.to_upstream), fin(Way::ToClient, &self.to_client));
            slot.add_flags(Flags::WORKING.and(up).and(down));
        }
        fault::pass("relay-working");
        let turn = self.move_both(means, record, now);
        fault::pass("relay-moved");
        if let Some(slot) = record {
            self.save(slot);
        }
        fault::pass("relay-saved");
        turn
    }

    fn move_both(&mut self, means: &mut Means, record: Option<&Slot>, now: u64) -> Turn {
        let Some(server) = &self.server else { return Turn::Waits };
        let (client, server) = (self.client.as_fd(), server.as_fd());
        let sent = (self.to_upstream.flow.bytes, self.to_client.flow.bytes);
        // In this order, so that an upstream which answers at once is seen to have answered: what
        // it has sent by now it sent before it sees what the client asks in this turn.
        let place = |way, back: &Half| record.map(|slot| Place { slot, way, said: back.flow.is_over() });
        let down = self.to_client.pump(server, client, means, place(Way::ToClient, &self.to_upstream));
        if let Pumped::SourceFailed(errno) = down {
            return Turn::Failed(errno);
        }
        // A socket tells its error once, and then reads as if its stream had ended well.
        let told = |pumped| matches!(pumped, Pumped::SinkFailed(errno) if errno != Errno::EPIPE);
        self.to_upstream.source_broke |= told(down) && !self.to_upstream.fin;
        fault::pass("relay-between");
        let up = self.to_upstream.pump(client, server, means, place(Way::ToUpstream, &self.to_client));
        let asked = self.to_upstream.flow.bytes != sent.0;
        if asked || self.to_client.flow.bytes != sent.1 {
            self.last = now;
            self.answer_due = asked;
        }
        match (up, down) {
            (Pumped::SourceFailed(errno), _) => Turn::Failed(errno),
            (Pumped::SinkFailed(_), _) | (_, Pumped::SinkFailed(_)) => {
                self.broken = true;
                self.to_client.source_broke |= told(up) && !self.to_client.fin;
                if self.is_over() { Turn::Ended } else { Turn::More }
            }
            (Pumped::NoPipe, _) | (_, Pumped::NoPipe) => Turn::NoPipe,
            (Pumped::Budget, _) | (_, Pumped::Budget) => Turn::More,
            _ if self.is_over() => Turn::Ended,
            _ => Turn::Waits,
        }
    }

    fn is_over(&self) -> bool {
        self.to_upstream.flow.is_over() && self.to_client.flow.is_over()
    }

    /// What the drain policy sees. Asks the kernel for its queues only where they decide.
    pub fn view(&self, now: u64, thorough: bool) -> View {
        let (up, down) = (&self.to_upstream.flow, &self.to_client.flow);
        let told = self.goodbye != Goodbye::None;
        let silent = !self.is_recent(now);
        let ask = thorough || (silent && !self.answer_due);
        // A FIN that is not acknowledged counts as one byte.
        let unsent = |flow: &Flow, fd: BorrowedFd<'_>| ask && socket::unsent(fd) > u32::from(flow.is_over());
        let unread = |flow: &Flow, fd: BorrowedFd<'_>| ask && !flow.has_ended() && socket::unread(fd) > 0;
        let server = self.server.as_ref().map(AsFd::as_fd);
        let client = self.client.as_fd();
        View {
            held: self.held,
            connecting: self.connect_until.is_some(),
            pending_to_upstream: up.held > 0 || unread(up, client) || server.is_some_and(|s| unsent(up, s)),
            pending_to_client: down.held > 0
                || server.is_some_and(|s| unread(down, s))
                || unsent(down, client),
            half_closed: !told && up.has_ended() && !down.has_ended(),
            answer_due: self.answer_due && !down.has_ended(),
            last: self.last,
            goodbye: self.goodbye,
        }
    }

    /// Duplicates of all that belongs to it stand in a lot, and its record in the ledger.
    pub fn is_whole(&self) -> bool {
        let has_server = self.server.is_some() && self.connect_until.is_none();
        self.slot != NO_SLOT && self.parked[0] && (self.parked[1] || !has_server)
    }

    /// There is something to do that waits for no event: bytes are under way, or something of it is over.
    pub fn has_more_to_do(&self) -> bool {
        let has_more = |flow: &Flow| flow.held > 0 || flow.has_ended();
        self.broken || has_more(&self.to_upstream.flow) || has_more(&self.to_client.flow)
    }

    /// A byte moved a moment ago.
    pub fn is_recent(&self, now: u64) -> bool {
        now.saturating_sub(self.last) < QUIET_AFTER
    }

    /// The client has not received everything yet, as far as its acknowledgements tell.
    pub fn delivers(&self) -> bool {
        socket::unsent(self.client.as_fd()) > u32::from(self.to_client.flow.is_over())
    }

    /// Nothing of a client that broke off is left for the upstream. A TCP reset takes back what is on
    /// its way; a UNIX socket that was closed has sent all that it sent.
    pub fn gave_all(&self) -> bool {
        let is_read = || self.to_upstream.flow.held == 0 && socket::unread(self.client.as_fd()) == 0;
        matches!(self.peer, Peer::Tcp(_)) || is_read()
    }

    /// It has no upstream, and none is being tried.
    pub fn seeks(&self) -> bool {
        self.connect_until.is_some() && self.server.is_none()
    }

    /// The client has sent nothing that waits to be read.
    pub fn gave_nothing(&self) -> bool {
        socket::unread(self.client.as_fd()) == 0
    }

    /// Bytes were taken from a peer, or wait to be, that the other will never get: an end without
    /// a reset would pass for the whole.
    pub fn holds_data(&self) -> bool {
        let holds = |flow: &Flow, source: Option<&OwnedFd>| {
            flow.held > 0 || (!flow.has_ended() && source.is_some_and(|fd| socket::unread(fd.as_fd()) > 0))
        };
        holds(&self.to_upstream.flow, Some(&self.client)) || holds(&self.to_client.flow, self.server.as_ref())
    }

    /// Nobody else has these sockets, the client's and the upstream's, after all: closing them is an end again.
    pub fn ends_here(&self, which: [bool; 2]) {
        if self.inherited {
            return;
        }
        let fds = [Some(&self.client), self.server.as_ref()];
        for (fd, _) in fds.into_iter().zip(which).filter(|(_, is_meant)| *is_meant) {
            fd.iter().for_each(|fd| ends::finish_on_close(fd.as_fd()));
        }
    }

    /// Releases the pipes; closes both sockets, by a reset where `reset` says so for client and server.
    pub fn close(mut self, means: &mut Means, reset: (bool, bool)) {
        for half in [&mut self.to_upstream, &mut self.to_client] {
            if let Some(pipe) = half.pipe.take() {
                means.discard(pipe);
            }
        }
        fault::pass("end-pipes");
        let [client_stands, server_stands] = self.parked.map(|parked| parked || self.inherited);
        end_socket(self.client, client_stands, reset.0, self.to_client.flow.is_over());
        fault::pass("end-half");
        if let Some(server) = self.server {
            end_socket(server, server_stands, reset.1, self.to_upstream.flow.is_over());
        }
        means.forget(self.parked.iter().filter(|parked| **parked).count());
    }
}

/// Closes a socket; one of which there are duplicates stays open, so its peer is told first. `is_finished`: our end may
/// have been said to it.
fn end_socket(fd: OwnedFd, duplicated: bool, reset: bool, is_finished: bool) {
    match (duplicated, reset) {
        (true, true) => ends::reset(fd.as_fd()),
        (true, false) => ends::hang_up(fd.as_fd()),
        (false, true) if is_finished && ends::is_all_said(fd.as_fd()) => {}
        (false, true) => ends::reset_on_close(fd.as_fd()),
        (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipes::Pipes;
    use super::*;
    use crate::handover::record::Record;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    #[test]
    fn an_idle_connection_costs_no_more_than_it_must() {
        assert!(size_of::<Connection>() <= 320, "{} bytes", size_of::<Connection>());
    }

    /// A TCP connection between two sockets of this process, the first non-blocking.
    fn tcp_pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (socket::accept(listener.as_fd()).unwrap().0, far)
    }

    #[test]
    fn an_end_that_was_lost_is_said_again_though_the_other_peer_breaks_off() {
        let ((near_client, mut far_client), (near_server, _far_server)) = (tcp_pair(), tcp_pair());
        let peer = Peer::Tcp(far_client.local_addr().unwrap());
        let mut means = Means::new(Pipes::new(Arc::default()).unwrap(), None).unwrap();
        far_client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        far_client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut connection = Connection::new(1, near_client, peer, 0, 0);
        connection.server = Some(near_server);
        ends::finish_in_vain(connection.client.as_fd(), far_client.as_fd());
        connection.to_client.flow.finished();
        connection.close(&mut means, (true, true));
        ends::lose(far_client.as_fd(), false);
        assert_eq!(far_client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_reset_that_a_write_met_is_never_passed_on_as_an_end() {
        let (near_client, far_client) = tcp_pair();
        let (near_server, far_server) = tcp_pair();
        let peer = Peer::Tcp(far_client.local_addr().unwrap());
        let mut means = Means::new(Pipes::new(Arc::default()).unwrap(), None).unwrap();
        (&far_server).write_all(b"an answer").unwrap();
        ends::reset_on_close(far_client.as_fd());
        drop(far_client);
        let mut connection = Connection::new(1, near_client, peer, 0, 0);
        connection.server = Some(near_server);
        for half in [&mut connection.to_upstream, &mut connection.to_client] {
            half.flow.source_ready();
            half.flow.sink_ready();
        }
        assert_eq!(connection.relay(&mut means, None, 0), Turn::Failed(Errno::ECONNRESET));
        far_server.set_nonblocking(true).unwrap();
        assert_eq!((&far_server).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reset_that_a_read_met_stands_in_the_record() {
        let ((near_client, far_client), (near_server, _far_server)) = (tcp_pair(), tcp_pair());
        let peer = Peer::Tcp(far_client.local_addr().unwrap());
        let mut means = Means::new(Pipes::new(Arc::default()).unwrap(), None).unwrap();
        ends::reset_on_close(far_client.as_fd());
        drop(far_client);
        let mut connection = Connection::new(1, near_client, peer, 0, 0);
        connection.server = Some(near_server);
        connection.to_upstream.flow.source_ready();
        connection.to_upstream.flow.sink_ready();
        let slot = Slot::default();
        connection.record(&means.pipes).unwrap().store(&slot);
        assert_eq!(connection.relay(&mut means, Some(&slot), 0), Turn::Failed(Errno::ECONNRESET));
        let words = std::array::from_fn(|at| slot[at].load(std::sync::atomic::Ordering::Relaxed));
        let flags = Record::load(&words).unwrap().flags;
        assert!(flags.has(Flags::source_broke(Way::ToUpstream)) && !flags.has(Flags::ended(Way::ToUpstream)));
    }

    #[test]
    fn a_write_that_meets_a_reset_makes_the_end_of_the_other_direction_one() {
        let (near_client, far_client) = tcp_pair();
        let (near_server, far_server) = tcp_pair();
        let mut means = Means::new(Pipes::new(Arc::default()).unwrap(), None).unwrap();
        let (mut up, mut down) = (Half::default(), Half::default());
        (&far_client).write_all(b"a request").unwrap();
        ends::reset_on_close(far_server.as_fd());
        drop(far_server);
        up.flow.source_ready();
        up.flow.sink_ready();
        let pumped = up.pump(near_client.as_fd(), near_server.as_fd(), &mut means, None);
        assert_eq!(pumped, Pumped::SinkFailed(Errno::ECONNRESET));
        down.source_broke = true;
        down.flow.source_ready();
        down.flow.sink_ready();
        let pumped = down.pump(near_server.as_fd(), near_client.as_fd(), &mut means, None);
        assert_eq!(pumped, Pumped::SourceFailed(Errno::ECONNRESET));
    }
}
