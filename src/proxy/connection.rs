//! One client's connection: two sockets, two flows, and what the drain must know of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::drain::{Goodbye, QUIET_AFTER, View};
use super::flow::{Flow, Step};
use super::means::Means;
use super::pipes::Taken;
use super::portable::NO_SLOT;
use super::slab::Key;
use super::upstream::Tried;
use crate::fault;
use crate::handover::record::{Flags, Live, Slot, Way};
use crate::sys::socket::{self, Peer};

/// How many moves a direction gets before others have their turn.
const MOVES_PER_TURN: u32 = 16;
/// What goes into the last pipe at once: less than the room that a writable socket has.
const SPARING: u32 = 2 << 10;

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

/// One direction with the pipe that it owns while bytes are in it.
#[derive(Default)]
pub struct Half {
    pub flow: Flow,
    pub pipe: Option<Key>,
    /// Urgent data came: where a splice stops there may be more.
    pub urgent: bool,
    /// Its pipe is the last one: it must be empty again at once.
    sparing: bool,
    /// The source has broken off, as its own sink side has shown: its end is no clean one.
    pub source_broke: bool,
    /// The source has said its end cleanly, read or not: whatever it shows later is no reset.
    pub fin: bool,
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
        let down = self.to_client.pump(server, client, means, record.map(|slot| (slot, Way::ToClient)));
        // A socket tells its error once, and then reads as if its stream had ended well.
        let told = |pumped| matches!(pumped, Pumped::SinkFailed(errno) if errno != Errno::EPIPE);
        self.to_upstream.source_broke |= told(down);
        fault::pass("relay-between");
        let up = self.to_upstream.pump(client, server, means, record.map(|slot| (slot, Way::ToUpstream)));
        let asked = self.to_upstream.flow.bytes != sent.0;
        if asked || self.to_client.flow.bytes != sent.1 {
            self.last = now;
            self.answer_due = asked;
        }
        match (up, down) {
            (Pumped::SourceFailed(errno), _) | (_, Pumped::SourceFailed(errno)) => Turn::Failed(errno),
            (Pumped::SinkFailed(_), _) | (_, Pumped::SinkFailed(_)) => {
                self.broken = true;
                self.to_client.source_broke |= told(up);
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

    /// Bytes were taken from a peer, or wait to be, that the other will never get: an end without
    /// a reset would pass for the whole.
    pub fn holds_data(&self) -> bool {
        let holds = |flow: &Flow, source: Option<&OwnedFd>| {
            flow.held > 0 || (!flow.has_ended() && source.is_some_and(|fd| socket::unread(fd.as_fd()) > 0))
        };
        holds(&self.to_upstream.flow, Some(&self.client)) || holds(&self.to_client.flow, self.server.as_ref())
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
        end_socket(self.client, client_stands, reset.0);
        fault::pass("end-half");
        if let Some(server) = self.server {
            end_socket(server, server_stands, reset.1);
        }
        means.forget(self.parked.iter().filter(|parked| **parked).count());
    }
}

/// Closes a socket; one of which there are duplicates stays open, so its peer is told first.
pub fn end_socket(fd: OwnedFd, duplicated: bool, reset: bool) {
    match (duplicated, reset) {
        (true, true) => socket::reset(fd.as_fd()),
        (true, false) => socket::hang_up(fd.as_fd()),
        (false, true) => socket::reset_on_close(fd.as_fd()),
        (false, false) => {}
    }
}

/// The record of a connection, and which of its directions.
type Place<'a> = Option<(&'a Slot, Way)>;

/// Why one direction stopped moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pumped {
    Waits,
    Budget,
    NoPipe,
    SourceFailed(Errno),
    SinkFailed(Errno),
}

impl Half {
    /// Does what the flow asks for, until it waits or others should have their turn.
    fn pump(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        means: &mut Means,
        place: Place<'_>,
    ) -> Pumped {
        let mut result = Pumped::Budget;
        for _ in 0..MOVES_PER_TURN {
            if let Err(stop) = self.step(source, sink, means, place) {
                result = stop;
                break;
            }
        }
        if self.flow.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            if let Some((slot, way)) = place {
                slot.unbind(way);
            }
            fault::pass("relay-unbound");
            means.put(pipe);
            self.sparing = false;
        }
        result
    }

    fn step(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        means: &mut Means,
        place: Place<'_>,
    ) -> Result<(), Pumped> {
        match self.flow.next() {
            Step::Fill => {
                if self.pipe.is_none() {
                    let pipe = match means.take() {
                        Ok(Taken::Ample(pipe) | Taken::New(pipe)) => pipe,
                        Ok(Taken::Last(pipe)) if socket::is_writable(sink) => {
                            self.sparing = true;
                            pipe
                        }
                        Ok(Taken::Last(pipe)) => {
                            means.put(pipe);
                            self.flow.sink_blocked();
                            return Ok(());
                        }
                        Err(_) => return self.end_without_pipe(source),
                    };
                    if let (Some((slot, way)), Some(known)) = (place, means.pipes.get(pipe)) {
                        slot.bind(way, known.inode());
                    }
                    fault::pass("relay-bound");
                    self.pipe = Some(pipe);
                }
                let filled = self.fill(source, means, place);
                fault::pass("relay-filled");
                match filled {
                    Ok(0) if self.source_broke => return Err(Pumped::SourceFailed(Errno::ECONNRESET)),
                    Ok(n) => self.flow.filled(n as u32),
                    Err(Errno::EAGAIN) => self.flow.source_blocked(),
                    Err(errno) => return Err(self.source_failed(errno)),
                }
            }
            Step::Empty => {
                let pipe = self.pipe.and_then(|pipe| means.pipes.get(pipe));
                let emptied = pipe.map_or(Err(Errno::EBADF), |pipe| pipe.empty(sink, self.flow.held));
                fault::pass("relay-emptied");
                match emptied {
                    Ok(n) => self.flow.emptied(n as u32),
                    Err(Errno::EAGAIN) => self.flow.sink_blocked(),
                    Err(errno) => {
                        // What it holds has nowhere to go; the other direction may still end well.
                        self.flow.finished();
                        if let Some(pipe) = self.pipe.take() {
                            if let Some((slot, way)) = place {
                                // Without its pipe the stream has a hole: that is to be known first.
                                slot.add_flags(Flags::BROKEN.and(Flags::over(way)));
                                slot.unbind(way);
                            }
                            fault::pass("relay-broken");
                            means.discard(pipe);
                        }
                        return Err(Pumped::SinkFailed(errno));
                    }
                }
            }
            Step::Finish => {
                // An error says that the peer is gone, which its own direction reports.
                let _ = socket::finish_writing(sink);
                fault::pass("relay-finished");
                self.flow.finished();
            }
            Step::Wait | Step::Over => return Err(Pumped::Waits),
        }
        Ok(())
    }

    fn fill(&mut self, source: BorrowedFd<'_>, means: &Means, place: Place<'_>) -> Result<usize, Errno> {
        let pipe = self.pipe.and_then(|pipe| means.pipes.get(pipe)).ok_or(Errno::EBADF)?;
        let result = pipe.fill(source, if self.sparing { SPARING } else { u32::MAX });
        let is_urgent = match result {
            Ok(0) | Err(Errno::EAGAIN) if std::mem::take(&mut self.urgent) => true,
            // It came a moment ago, and its event is yet to come: this is not the end.
            Ok(0) => socket::unread(source) > 0,
            _ => false,
        };
        if !is_urgent {
            return result;
        }
        // Said until the end of the turn: a crash in its midst may lose the byte.
        if let Some((slot, _)) = place {
            slot.add_flags(Flags::URGENT);
        }
        fault::pass("urgent-noted");
        let result = pipe.fill_urgent(source);
        fault::pass("urgent-moved");
        result
    }

    /// An end needs no pipe, and lets go of what there are too few of.
    fn end_without_pipe(&mut self, source: BorrowedFd<'_>) -> Result<(), Pumped> {
        match socket::ended(source) {
            Some(Ok(())) if self.source_broke => Err(Pumped::SourceFailed(Errno::ECONNRESET)),
            Some(Ok(())) => {
                self.flow.filled(0);
                Ok(())
            }
            Some(Err(errno)) => Err(self.source_failed(errno)),
            None => Err(Pumped::NoPipe),
        }
    }

    /// Nobody will be told the error once more: the record has it until the connection is closed.
    fn source_failed(&mut self, errno: Errno) -> Pumped {
        self.source_broke = true;
        Pumped::SourceFailed(errno)
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
    fn a_reset_that_a_write_met_is_never_passed_on_as_an_end() {
        let (near_client, far_client) = tcp_pair();
        let (near_server, far_server) = tcp_pair();
        let peer = Peer::Tcp(far_client.local_addr().unwrap());
        let mut means = Means { pipes: Pipes::new(Arc::default()).unwrap(), parking: None };
        (&far_server).write_all(b"an answer").unwrap();
        socket::reset_on_close(far_client.as_fd());
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
        let mut means = Means { pipes: Pipes::new(Arc::default()).unwrap(), parking: None };
        socket::reset_on_close(far_client.as_fd());
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
        let mut means = Means { pipes: Pipes::new(Arc::default()).unwrap(), parking: None };
        let (mut up, mut down) = (Half::default(), Half::default());
        (&far_client).write_all(b"a request").unwrap();
        socket::reset_on_close(far_server.as_fd());
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
