//! The ledger: a memfd with one record a connection, behind a header that says what it is.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::record::{self, Record};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"drained\0";
const TAKEN: [u8; 8] = *b"taken\0\0\0";
/// Raised with every change of the layout. Another version's ledger is not read.
const VERSION: u32 = 1;
const HEADER: usize = 32;
/// More records than any machine has sockets: a length that says more is wrong.
const MOST: u64 = 1 << 24;

/// What one incarnation tells the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// When the outgoing daemon was asked to stop, in milliseconds of CLOCK_MONOTONIC.
    pub stopped: u64,
    /// Its connections.
    pub records: Vec<Record>,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// Says in a ledger that its connections have gone on: from then on it is not true any more, and a
/// process that finds it must not believe it.
pub fn mark_taken(memory: BorrowedFd<'_>) -> Result<()> {
    let failed = |e| Error::system("marking the ledger as taken", e);
    let file = File::from(memory.try_clone_to_owned().map_err(failed)?);
    file.write_all_at(&TAKEN, 0).map_err(failed)
}

/// Why a ledger says nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its connections have gone on already.
    Taken,
    /// It is no ledger, or a damaged one.
    Foreign,
    /// Another version of drained wrote it.
    Version(u32),
}

impl Ledger {
    /// A memfd with all of it.
    ///
    /// # Errors
    /// The system refuses the memory.
    pub fn write(&self) -> Result<OwnedFd> {
        let failed = |e| Error::system("writing the ledger", e);
        let memory = memfd_create(c"drained-ledger", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?;
        let file = File::from(memory);
        let mut bytes = Vec::with_capacity(HEADER + self.records.len() * record::SIZE);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((record::SIZE as u32).to_le_bytes());
        bytes.extend((self.records.len() as u64).to_le_bytes());
        bytes.extend(self.stopped.to_le_bytes());
        self.records.iter().for_each(|record| bytes.extend(record.to_bytes()));
        file.write_all_at(&bytes, 0).map_err(failed)?;
        Ok(file.into())
    }

    /// Reads what another process wrote, which may be anything.
    pub fn read(memory: BorrowedFd<'_>) -> Result<Ledger, Unreadable> {
        let file = File::from(memory.as_fd().try_clone_to_owned().map_err(|_| Unreadable::Foreign)?);
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| Unreadable::Foreign)?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let small = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        if header[..MAGIC.len()] == TAKEN {
            return Err(Unreadable::Taken);
        }
        if header[..MAGIC.len()] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if small(8) != VERSION || small(12) as usize != record::SIZE {
            return Err(Unreadable::Version(small(8)));
        }
        let (count, mut ledger) = (number(16), Ledger { stopped: number(24), ..Ledger::default() });
        for index in 0..count.min(MOST) {
            let mut bytes = [0; record::SIZE];
            if file.read_exact_at(&mut bytes, (HEADER + index as usize * record::SIZE) as u64).is_err() {
                // Cut off: what it promised beyond is not there.
                ledger.unreadable += count - index;
                break;
            }
            match Record::from_bytes(&bytes) {
                Some(record) => ledger.records.push(record),
                None => ledger.unreadable += 1,
            }
        }
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Direction;
    use super::*;
    use crate::sys::socket::Peer;

    fn ledger() -> Ledger {
        let record = |id| Record {
            id,
            proxy: "web".to_owned(),
            upstream: "127.0.0.1:80".to_owned(),
            peer: Peer::Unix(1),
            client: id,
            server: 0,
            opened: 0,
            last: 0,
            answer_due: false,
            client_ended: false,
            to_upstream: Direction::default(),
            to_client: Direction::default(),
        };
        Ledger { stopped: 5, records: (1..=3).map(record).collect(), unreadable: 0 }
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let memory = ledger().write().unwrap();
        assert_eq!(Ledger::read(memory.as_fd()), Ok(ledger()));
    }

    #[test]
    fn a_damaged_ledger_gives_what_is_left_of_it() {
        let memory = ledger().write().unwrap();
        let file = File::from(memory.try_clone().unwrap());
        file.set_len((HEADER + record::SIZE + 10) as u64).unwrap();
        let read = Ledger::read(memory.as_fd()).unwrap();
        assert_eq!((read.records.len(), read.unreadable), (1, 2));
        file.write_all_at(&[0; 8], HEADER as u64 + 8).unwrap();
        assert_eq!(Ledger::read(memory.as_fd()).unwrap().unreadable, 3);
        file.write_all_at(&9_u32.to_le_bytes(), 8).unwrap();
        assert_eq!(Ledger::read(memory.as_fd()), Err(Unreadable::Version(9)));
        file.write_all_at(b"x", 0).unwrap();
        assert_eq!(Ledger::read(memory.as_fd()), Err(Unreadable::Foreign));
        mark_taken(memory.as_fd()).unwrap();
        assert_eq!(Ledger::read(memory.as_fd()), Err(Unreadable::Taken));
        file.set_len(3).unwrap();
        assert_eq!(Ledger::read(memory.as_fd()), Err(Unreadable::Foreign));
    }
}
