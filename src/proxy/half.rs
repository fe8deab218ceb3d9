//! One direction of a connection with its pipe: what its flow asks for, done.
//!
//! Bulk goes through the pipe. Small messages go through the worker's buffer, which is cheaper, where what becomes of
//! them can be known after a crash ([`bounce`](super::bounce)).

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::bounce::Origin;
use super::flow::{Flow, Step};
use super::means::Means;
use super::pipes::Taken;
use super::slab::Key;
use crate::fault;
use crate::handover::record::{Flags, Live, Slot, Way};
use crate::sys::pipe::Pipe;
use crate::sys::{ends, socket};

/// How many moves a direction gets before others have their turn.
const MOVES_PER_TURN: u32 = 16;
/// What goes into the last pipe at once: less than the room that a writable socket has.
const SPARING: u32 = 2 << 10;

/// One direction with the pipe that it owns while bytes are in it.
#[derive(Default)]
pub struct Half {
    pub flow: Flow,
    pub pipe: Option<Key>,
    /// Urgent data came: where a splice stops there may be more.
    pub urgent: bool,
    /// A read that leaves room in the pipe has left nothing behind: the source is a TCP connection, and by its
    /// last event neither ended nor urgent. Whatever comes later is an event of its own.
    pub leaves_nothing: bool,
    /// Bytes that come from the source wake nobody: its sink takes none.
    pub muted: bool,
    /// Its pipe is the last one: it must be empty again at once.
    sparing: bool,
    /// The source has broken off, as its own sink side has shown: its end is no clean one.
    pub source_broke: bool,
    /// The source has said its end cleanly, read or not: whatever it shows later is no reset.
    pub fin: bool,
    /// The last write took less than there was. It wrote piece by piece, and where a piece met an error, that was
    /// told to nobody: the next write says EPIPE only.
    cut_short: bool,
    /// So many reads must bring less than the buffer takes before it is used again.
    pub bulky: u8,
    /// What the kernel's counts of both sockets were before the first byte.
    pub origin: Origin,
}

/// The record of a connection, and which of its directions.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub slot: &'a Slot,
    pub way: Way,
    /// Our own end was said to the source. Then its end closes the socket, which looks like a reset whose
    /// error was told.
    pub said: bool,
}

/// Why one direction stopped moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    Waits,
    Budget,
    NoPipe,
    SourceFailed(Errno),
    SinkFailed(Errno),
}

impl Half {
    /// Does what the flow asks for, until it waits or others should have their turn.
    pub fn pump(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        means: &mut Means,
        place: Option<Place<'_>>,
    ) -> Pumped {
        let mut result = Pumped::Budget;
        for _ in 0..MOVES_PER_TURN {
            if let Err(stop) = self.step(source, sink, means, place) {
                result = stop;
                break;
            }
        }
        // Only the next write says what a short one met.
        if result == Pumped::Budget
            && self.cut_short
            && let Err(stop) = self.step(source, sink, means, place)
        {
            result = stop;
        }
        if self.flow.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            if let Some(Place { slot, way, .. }) = place {
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
        place: Option<Place<'_>>,
    ) -> Result<(), Pumped> {
        match self.flow.next() {
            Step::Fill if self.bounces(source, sink, means, place) => {
                self.bounce(source, sink, means, place)?;
            }
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
                        Err(_) => return self.end_without_pipe(source, place),
                    };
                    if let (Some(Place { slot, way, .. }), Some(known)) = (place, means.pipes.get(pipe)) {
                        slot.bind(way, known.inode());
                    }
                    fault::pass("relay-bound");
                    self.pipe = Some(pipe);
                }
                self.before_reading(source, place);
                let filled = self.fill(source, means, place);
                fault::pass("relay-filled");
                let capacity = self.pipe.and_then(|pipe| means.pipes.get(pipe)).map_or(0, Pipe::capacity);
                self.has_filled(filled.unwrap_or_default(), capacity);
                let has_room = filled.is_ok_and(|n| self.has_room_after(n, means));
                self.has_read(filled, source, place, has_room)?;
            }
            Step::Empty => {
                let pipe = self.pipe.and_then(|pipe| means.pipes.get(pipe));
                let emptied = pipe.map_or(Err(Errno::EBADF), |pipe| pipe.empty(sink, self.flow.held));
                fault::pass("relay-emptied");
                let was_cut_short = std::mem::take(&mut self.cut_short);
                match emptied {
                    Ok(n) => {
                        self.cut_short = n < self.flow.held as usize;
                        self.flow.emptied(n as u32);
                    }
                    Err(Errno::EAGAIN) => self.flow.sink_blocked(),
                    Err(errno) => {
                        // It may have been a clean end and a reset after it. A reset that passes for an end is worse.
                        let is_tcp = || socket::is_tcp(sink).unwrap_or(false);
                        let errno = match errno {
                            Errno::EPIPE if was_cut_short && is_tcp() => Errno::ECONNRESET,
                            errno => errno,
                        };
                        return Err(self.sink_failed(errno, means, place));
                    }
                }
            }
            Step::Finish => {
                // Whoever goes on says it once more, so this comes first.
                if let Some(Place { slot, way, .. }) = place {
                    slot.add_flags(Flags::over(way));
                }
                fault::pass("relay-finishing");
                // An error says that the peer is gone, which its own direction reports.
                let _ = ends::finish_writing(sink);
                fault::pass("relay-finished");
                self.flow.finished();
            }
            Step::Wait | Step::Over => return Err(Pumped::Waits),
        }
        Ok(())
    }

    /// What a read from the source has told. `has_room`: it would have taken more, had there been more.
    pub(super) fn has_read(
        &mut self,
        read: Result<usize, Errno>,
        source: BorrowedFd<'_>,
        place: Option<Place<'_>>,
        has_room: bool,
    ) -> Result<(), Pumped> {
        match read {
            Ok(0) if self.source_broke => return Err(Pumped::SourceFailed(Errno::ECONNRESET)),
            Ok(n) => {
                self.after_reading(place, n == 0);
                self.flow.filled(n as u32);
                // Each read that finds nothing costs as much as one that does.
                if n > 0 && self.leaves_nothing && (has_room || socket::unread(source) == 0) {
                    self.flow.source_blocked();
                }
            }
            Err(Errno::EAGAIN) => {
                self.after_reading(place, false);
                self.flow.source_blocked();
            }
            Err(errno) => return Err(self.source_failed(errno)),
        }
        Ok(())
    }

    /// The sink is gone: what is held has nowhere to go. The other direction may still end well.
    pub(super) fn sink_failed(
        &mut self,
        errno: Errno,
        means: &mut Means,
        place: Option<Place<'_>>,
    ) -> Pumped {
        self.flow.finished();
        if let Some(Place { slot, way, .. }) = place {
            // Without its bytes the stream has a hole: that is to be known first.
            slot.add_flags(Flags::BROKEN.and(Flags::over(way)));
            slot.unbind(way);
        }
        fault::pass("relay-broken");
        if let Some(pipe) = self.pipe.take() {
            means.discard(pipe);
        }
        Pumped::SinkFailed(errno)
    }

    fn fill(
        &mut self,
        source: BorrowedFd<'_>,
        means: &Means,
        place: Option<Place<'_>>,
    ) -> Result<usize, Errno> {
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
        if let Some(Place { slot, .. }) = place {
            slot.add_flags(Flags::URGENT);
        }
        fault::pass("urgent-noted");
        let result = pipe.fill_urgent(source);
        fault::pass("urgent-moved");
        result
    }

    /// So few bytes, however they came, have left room in the pipe.
    fn has_room_after(&self, n: usize, means: &Means) -> bool {
        let pipe = self.pipe.and_then(|pipe| means.pipes.get(pipe));
        !self.sparing && pipe.is_some_and(|pipe| n < pipe.slots())
    }

    /// An end needs no pipe, and lets go of what there are too few of.
    fn end_without_pipe(&mut self, source: BorrowedFd<'_>, place: Option<Place<'_>>) -> Result<(), Pumped> {
        self.before_reading(source, place);
        match ends::ended(source) {
            Some(Ok(())) if self.source_broke => Err(Pumped::SourceFailed(Errno::ECONNRESET)),
            Some(Ok(())) => {
                self.after_reading(place, true);
                self.flow.filled(0);
                Ok(())
            }
            Some(Err(errno)) => Err(self.source_failed(errno)),
            None => {
                self.after_reading(place, false);
                Err(Pumped::NoPipe)
            }
        }
    }

    /// Where an end and a reset that was told look alike, the record says which of them a read may meet.
    fn before_reading(&mut self, source: BorrowedFd<'_>, place: Option<Place<'_>>) {
        let Some(Place { slot, way, .. }) = place.filter(|place| place.said && !self.fin) else { return };
        self.fin = !self.source_broke && ends::is_said(source);
        slot.add_flags(if self.fin { Flags::fin(way) } else { Flags::reading(way) });
        fault::pass("relay-reading");
    }

    /// The read told no error, but perhaps the end.
    fn after_reading(&mut self, place: Option<Place<'_>>, is_end: bool) {
        self.fin |= is_end;
        if let Some(Place { slot, way, .. }) = place.filter(|place| place.said || is_end) {
            slot.change_flags(Flags::reading(way), Flags::fin(way).when(self.fin));
        }
    }

    /// Nobody will be told the error once more: the record has it until the connection is closed.
    fn source_failed(&mut self, errno: Errno) -> Pumped {
        self.source_broke = true;
        Pumped::SourceFailed(errno)
    }
}
