//! One client's connection: two sockets, two flows, and what the drain must know of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::drain::{Goodbye, QUIET_AFTER, View};
use super::flow::{Flow, Step};
use super::pipes::Pipes;
use super::upstream::Tried;
use crate::sys::pipe::Pipe;
use crate::sys::socket::{self, Peer};

/// How many moves a direction gets before others have their turn.
const MOVES_PER_TURN: u32 = 16;

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
    /// It stands in the worker's queue for its next turn.
    pub queued: bool,
    /// A sink refused bytes: the end must be a reset.
    pub broken: bool,
    pub goodbye: Goodbye,
    /// When its next timer is due.
    pub wake_at: u64,
}

/// One direction with the pipe that it owns while bytes are in it.
#[derive(Default)]
pub struct Half {
    pub flow: Flow,
    pub pipe: Option<Pipe>,
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
    /// Moves what can be moved in both directions.
    pub fn relay(&mut self, pipes: &mut Pipes, now: u64) -> Turn {
        let Some(server) = &self.server else { return Turn::Waits };
        let (client, server) = (self.client.as_fd(), server.as_fd());
        let sent = (self.to_upstream.flow.bytes, self.to_client.flow.bytes);
        let up = self.to_upstream.pump(client, server, pipes);
        let down = self.to_client.pump(server, client, pipes);
        let asked = self.to_upstream.flow.bytes != sent.0;
        if asked || self.to_client.flow.bytes != sent.1 {
            self.last = now;
            // What the upstream sent in the same turn was sent before it saw this.
            self.answer_due = asked;
        }
        match (up, down) {
            (Pumped::SourceFailed(errno), _) | (_, Pumped::SourceFailed(errno)) => Turn::Failed(errno),
            (Pumped::SinkFailed, _) | (_, Pumped::SinkFailed) => {
                self.broken = true;
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
        let silent = now.saturating_sub(self.last) >= QUIET_AFTER;
        let ask = thorough || (silent && !self.answer_due);
        let unsent = |fd: BorrowedFd<'_>| ask && socket::unsent(fd) > 0;
        let unread = |flow: &Flow, fd: BorrowedFd<'_>| ask && !flow.has_ended() && socket::unread(fd) > 0;
        let server = self.server.as_ref().map(AsFd::as_fd);
        let client = self.client.as_fd();
        View {
            connecting: self.connect_until.is_some(),
            pending_to_upstream: up.held > 0 || unread(up, client) || (!told && server.is_some_and(unsent)),
            pending_to_client: down.held > 0
                || server.is_some_and(|s| unread(down, s))
                || (!matches!(self.goodbye, Goodbye::Client(_)) && unsent(client)),
            half_closed: !told && (up.has_ended() != down.has_ended()),
            answer_due: self.answer_due,
            last: self.last,
            goodbye: self.goodbye,
        }
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
    pub fn close(mut self, pipes: &mut Pipes, reset: (bool, bool)) {
        for half in [&mut self.to_upstream, &mut self.to_client] {
            if let Some(pipe) = half.pipe.take() {
                pipes.discard(pipe);
            }
        }
        if reset.0 {
            socket::reset_on_close(self.client.as_fd());
        }
        if let Some(server) = self.server.as_ref().filter(|_| reset.1) {
            socket::reset_on_close(server.as_fd());
        }
    }
}

/// Why one direction stopped moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pumped {
    Waits,
    Budget,
    NoPipe,
    SourceFailed(Errno),
    SinkFailed,
}

impl Half {
    /// Does what the flow asks for, until it waits or others should have their turn.
    fn pump(&mut self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>, pipes: &mut Pipes) -> Pumped {
        let mut result = Pumped::Budget;
        for _ in 0..MOVES_PER_TURN {
            if let Err(stop) = self.step(source, sink, pipes) {
                result = stop;
                break;
            }
        }
        if self.flow.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.put(pipe);
        }
        result
    }

    fn step(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        pipes: &mut Pipes,
    ) -> Result<(), Pumped> {
        match self.flow.next() {
            Step::Fill => {
                if self.pipe.is_none() {
                    self.pipe = Some(pipes.take().map_err(|_| Pumped::NoPipe)?);
                }
                match self.pipe.as_ref().map_or(Err(Errno::EBADF), |pipe| pipe.fill(source)) {
                    Ok(n) => self.flow.filled(n as u32),
                    Err(Errno::EAGAIN) => self.flow.source_blocked(),
                    Err(errno) => return Err(Pumped::SourceFailed(errno)),
                }
            }
            Step::Empty => {
                match self.pipe.as_ref().map_or(Err(Errno::EBADF), |p| p.empty(sink, self.flow.held)) {
                    Ok(n) => self.flow.emptied(n as u32),
                    Err(Errno::EAGAIN) => self.flow.sink_blocked(),
                    Err(_) => {
                        // What it holds has nowhere to go; the other direction may still end well.
                        self.flow.finished();
                        if let Some(pipe) = self.pipe.take() {
                            pipes.discard(pipe);
                        }
                        return Err(Pumped::SinkFailed);
                    }
                }
            }
            Step::Finish => {
                // An error says that the peer is gone, which its own direction reports.
                let _ = socket::finish_writing(sink);
                self.flow.finished();
            }
            Step::Wait | Step::Over => return Err(Pumped::Waits),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_no_more_than_it_must() {
        assert!(size_of::<Connection>() <= 320, "{} bytes", size_of::<Connection>());
    }
}
