//! What a worker relays with: its pipes and its buffer, and the lots in which duplicates of everything in use wait
//! for the next incarnation, should this one end without a word.
//!
//! Invariant: a pipe stands in a lot before it has held a byte, and a connection before it has a
//! record that says so.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::pipes::{Pipes, Taken};
use super::slab::{Key, Slab};
use super::source::Side;
use super::worker::Entry;
use crate::fault;
use crate::handover::buffer::{self, Buffer};
use crate::handover::keeper::Keeper;
use crate::handover::lot::Lots;
use crate::sys::memory::{self, Mapping};
use crate::sys::pipe::Pipe;
use crate::sys::rights;

/// File descriptors that are not a connection's: listeners, epolls, log, pipes.
const RESERVED_FDS: u64 = 512;
/// Of each worker, in flight: the dead in its lots, and what it is just parking.
const RESERVED_FDS_OF_A_WORKER: u64 = 128;
/// Of a connection: its two sockets. A pipe takes as many.
pub const FDS_PER_CONNECTION: u32 = 2;

/// How many connections fit a limit on file descriptors, pipes counted like connections.
pub fn room(fd_limit: u64, workers: usize) -> u32 {
    let reserved = RESERVED_FDS + workers as u64 * RESERVED_FDS_OF_A_WORKER;
    let room = fd_limit.saturating_sub(reserved) / u64::from(FDS_PER_CONNECTION);
    room.clamp(16, u64::from(u32::MAX)) as u32
}

/// Pipes and a buffer, and lots where there is a store.
pub(super) struct Means {
    pub pipes: Pipes,
    pub parking: Option<Parking>,
    /// The buffer where there is no ledger with one. What is never touched costs nothing.
    own_buffer: Mapping,
}

/// A worker's lots.
pub(super) struct Parking {
    pub keeper: Arc<Keeper>,
    pub worker: usize,
    pub lots: Lots<Item>,
    /// Records that nobody has.
    pub free: Vec<u32>,
}

/// What stands in a lot: the sockets of a connection or a pipe, as 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item(u64);

const KIND: u32 = 30;
const CLIENT: u64 = 0;
const SERVER: u64 = 1;
const BOTH: u64 = 2;
const PIPE: u64 = 3;

impl Item {
    /// The sockets of a connection: the client's, the upstream's or both.
    pub fn sockets(key: Key, client: bool, server: bool) -> Item {
        let kind = match (client, server) {
            (true, false) => CLIENT,
            (false, _) => SERVER,
            (true, true) => BOTH,
        };
        Item::new(key, kind)
    }

    /// One socket of a connection.
    pub(super) fn socket(key: Key, side: Side) -> Item {
        Item::sockets(key, side == Side::Client, side == Side::Server)
    }

    /// A pipe.
    pub fn pipe(key: Key) -> Item {
        Item::new(key, PIPE)
    }

    fn new(key: Key, kind: u64) -> Item {
        Item(u64::from(key.generation) << 32 | kind << KIND | u64::from(key.slot))
    }

    fn key(self) -> Key {
        Key { slot: self.0 as u32 & ((1 << KIND) - 1), generation: (self.0 >> 32) as u32 }
    }

    fn kind(self) -> u64 {
        self.0 >> KIND & 3
    }
}

impl Means {
    /// # Errors
    /// The system refuses the memory for a buffer.
    pub fn new(pipes: Pipes, parking: Option<Parking>) -> Result<Means, Errno> {
        let file = memory::new_file(c"drained-buffer")?;
        Ok(Means { pipes, parking, own_buffer: Mapping::new(file.as_fd(), 0, buffer::WORDS)? })
    }

    /// What small messages go through.
    pub fn buffer(&self) -> Buffer<'_> {
        match &self.parking {
            Some(parking) => parking.keeper.ledger.buffer(parking.worker),
            None => Buffer::of(self.own_buffer.words()),
        }
    }

    /// Whose buffer it is, as records name it.
    pub fn buffer_number(&self) -> u64 {
        buffer::number(self.parking.as_ref().map_or(0, |parking| parking.worker))
    }

    /// An empty pipe; a new one is parked first.
    ///
    /// # Errors
    /// EMFILE, ENFILE: the caller tries again later.
    pub fn take(&mut self) -> Result<Taken, Errno> {
        let taken = self.pipes.take()?;
        if let Taken::New(key) = taken {
            self.park_pipe(key, false);
        }
        Ok(taken)
    }

    /// Takes an empty pipe back.
    pub fn put(&mut self, pipe: Key) {
        let forgotten = self.pipes.put(pipe);
        self.forget(2 * usize::from(forgotten));
    }

    /// Closes a pipe whose bytes are given up.
    pub fn discard(&mut self, pipe: Key) {
        let forgotten = self.pipes.discard(pipe);
        self.forget(2 * usize::from(forgotten));
    }

    /// So many file descriptors that stand in the lots are not needed any more.
    pub fn forget(&mut self, fds: usize) {
        if let Some(parking) = &mut self.parking {
            parking.lots.forget(fds);
        }
    }

    /// Parks a pipe, where connections outlive a crash or `at_once`. Should it fail, a crash ends the
    /// connection with bytes in it.
    pub fn park_pipe(&mut self, key: Key, at_once: bool) {
        self.park_pipes(&[key], at_once);
    }

    /// The same for several, many to a message: a queue has room for few messages.
    pub fn park_pipes(&mut self, keys: &[Key], at_once: bool) {
        let wanted = |parking: &&mut Parking| at_once || parking.keeper.crash_after.is_some();
        let Some(parking) = self.parking.as_mut().filter(wanted) else { return };
        for some in keys.chunks(rights::MOST_AT_ONCE / 2) {
            let some: Vec<Key> = some.iter().filter(|key| !self.pipes.is_parked(**key)).copied().collect();
            let fds: Vec<_> =
                some.iter().filter_map(|key| self.pipes.get(*key)).flat_map(|pipe| pipe.ends()).collect();
            if !fds.is_empty()
                && parking.park(&fds, some.iter().map(|key| Item::pipe(*key)).collect()).is_ok()
            {
                some.iter().for_each(|key| self.pipes.set_parked(*key));
                fault::pass("pipe-parked");
            }
        }
    }

    /// Takes the next step of making the lots tidy, if that is to be done. False: there is nothing more to do.
    ///
    /// # Errors
    /// As [`Lots::tidy`].
    pub fn tidy(&mut self, table: &Slab<Entry>) -> Result<bool, Errno> {
        let Some(parking) = self.parking.as_mut().filter(|parking| parking.lots.is_untidy()) else {
            return Ok(false);
        };
        let pipes = &self.pipes;
        parking.lots.tidy(|item| find(*item, table, pipes))?;
        Ok(parking.lots.is_untidy())
    }
}

impl Parking {
    /// Parks duplicates of these.
    ///
    /// # Errors
    /// As [`Lots::park`].
    pub fn park(&mut self, fds: &[BorrowedFd<'_>], items: Vec<Item>) -> Result<(), Errno> {
        if fault::fails("park") {
            return Err(Errno::ETOOMANYREFS);
        }
        let Parking { keeper, worker, lots, .. } = self;
        lots.park(fds, items, |lot| keeper.add_lot(*worker, lot))
    }

    /// The number of a record that nobody has; None: there are no more.
    pub fn take_slot(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            self.free.extend(self.keeper.ledger.take_chunk()?.rev());
        }
        self.free.pop()
    }
}

/// The file descriptors of an item, as far as they are needed.
fn find<'a>(item: Item, table: &'a Slab<Entry>, pipes: &'a Pipes) -> [Option<BorrowedFd<'a>>; 2] {
    if item.kind() == PIPE {
        let pipe = pipes.get(item.key()).filter(|_| pipes.is_parked(item.key()));
        return pipe.map_or([None, None], |pipe: &Pipe| pipe.ends().map(Some));
    }
    let Some(Entry::Connection(connection)) = table.get(item.key()) else { return [None, None] };
    let client = connection.parked[0].then(|| connection.client.as_fd());
    let server = connection.server.as_ref().filter(|_| connection.parked[1]).map(AsFd::as_fd);
    match item.kind() {
        CLIENT => [client, None],
        SERVER => [server, None],
        _ => [client, server],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_says_what_it_is() {
        let key = Key { slot: (1 << KIND) - 1, generation: u32::MAX - 1 };
        for (item, kind) in [
            (Item::sockets(key, true, false), CLIENT),
            (Item::sockets(key, false, true), SERVER),
            (Item::sockets(key, true, true), BOTH),
            (Item::pipe(key), PIPE),
        ] {
            assert_eq!((item.key(), item.kind()), (key, kind));
        }
    }
}
