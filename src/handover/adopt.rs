//! Adoption: what the store gave back, sorted and matched.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

use super::ledger::{self, Ledger, Unreadable};
use super::record::{Direction, Record};
use super::{LEDGER, LISTENER, LOT, lot};
use crate::Result;
use crate::sys::pipe::Pipe;
use crate::sys::socket;
use crate::systemd::listen_fds::PassedFd;

/// A connection that goes on.
pub struct Adopted {
    /// What is known of it.
    pub record: Record,
    /// Its client.
    pub client: OwnedFd,
    /// Its upstream, if it had one.
    pub server: Option<OwnedFd>,
    /// The pipe with bytes for the upstream.
    pub to_upstream: Option<Pipe>,
    /// The pipe with bytes for the client.
    pub to_client: Option<Pipe>,
}

/// All that the last incarnation left.
#[derive(Default)]
pub struct Estate {
    /// Listeners that it had bound.
    pub listeners: Vec<OwnedFd>,
    /// Connections with everything that belongs to them.
    pub connections: Vec<Adopted>,
    /// When it was asked to stop, in milliseconds of CLOCK_MONOTONIC.
    pub stopped: Option<u64>,
    /// Whether there was a ledger or a lot, which are to be taken out of the store.
    pub is_handover: bool,
    /// What could not be kept, in words for the log.
    pub let_go: Vec<String>,
    ledgers: Vec<OwnedFd>,
}

/// Takes what is ours out of `passed` and leaves the rest: sockets of .socket units. Whoever calls it
/// has raised the limit on file descriptors.
pub fn estate(passed: &mut Vec<PassedFd>) -> Estate {
    let mut estate = Estate::default();
    let (mut ledgers, mut lots) = (Vec::new(), Vec::new());
    for PassedFd { name, fd } in std::mem::take(passed) {
        match name.as_str() {
            LEDGER => ledgers.push(fd),
            LOT => lots.push(fd),
            LISTENER => estate.listeners.push(fd),
            _ => passed.push(PassedFd { name, fd }),
        }
    }
    estate.is_handover = !ledgers.is_empty() || !lots.is_empty();
    let mut finds = Finds::default();
    for end in lots {
        match lot::look_into(end.as_fd()) {
            Ok(fds) => fds.into_iter().for_each(|fd| finds.add(fd)),
            Err(errno) => estate.let_go.push(format!("connections of a parking lot: {}", errno.desc())),
        }
    }
    for memory in ledgers {
        match Ledger::read(memory.as_fd()) {
            Ok(ledger) => {
                estate.match_all(ledger, &mut finds);
                // What nobody believes needs no mark, and may be nothing that takes one.
                estate.ledgers.push(memory);
            }
            Err(Unreadable::Taken) => {
                estate.let_go.push("connections that a process before this one went on with".to_owned());
            }
            Err(Unreadable::Foreign) => estate.let_go.push("a ledger that is none or damaged".to_owned()),
            Err(Unreadable::Version(v)) => estate.let_go.push(format!("a ledger of version {v}")),
        }
    }
    if finds.count() > 0 {
        estate.let_go.push(format!("{} file descriptors that no ledger names", finds.count()));
    }
    estate
}

impl Estate {
    /// Its connections go on from here: what the ledger says of them will not be true any more. Until
    /// this is called, another process can do the same as this one.
    ///
    /// # Errors
    /// The ledger cannot be written. To go on then could damage a stream.
    pub fn take(&self) -> Result<()> {
        self.ledgers.iter().try_for_each(|memory| ledger::mark_taken(memory.as_fd()))
    }

    fn match_all(&mut self, ledger: Ledger, finds: &mut Finds) {
        self.stopped = Some(ledger.stopped);
        let mut incomplete = ledger.unreadable;
        for record in ledger.records {
            match finds.take(record) {
                Some(adopted) => self.connections.push(adopted),
                None => incomplete += 1,
            }
        }
        if incomplete > 0 {
            self.let_go.push(format!("{incomplete} connections whose record or sockets are missing"));
        }
    }
}

/// File descriptors by the numbers that the kernel gave to what is behind them.
#[derive(Default)]
struct Finds {
    sockets: HashMap<u64, OwnedFd>,
    pipes: HashMap<u64, (Option<OwnedFd>, Option<OwnedFd>)>,
    others: usize,
}

impl Finds {
    fn add(&mut self, fd: OwnedFd) {
        let Ok(stat) = fstat(&fd) else { return };
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFSOCK => {
                if let Ok(cookie) = socket::cookie(fd.as_fd()) {
                    self.sockets.insert(cookie, fd);
                }
            }
            SFlag::S_IFIFO => {
                let ends = self.pipes.entry(stat.st_ino).or_default();
                let mode = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
                match mode.map(|mode| mode & OFlag::O_ACCMODE) {
                    Ok(OFlag::O_WRONLY) => ends.1 = Some(fd),
                    _ => ends.0 = Some(fd),
                }
            }
            _ => self.others += 1,
        }
    }

    fn count(&self) -> usize {
        self.sockets.len() + self.pipes.len() + self.others
    }

    /// The connection of a record, if everything that belongs to it is there. A pipe whose bytes are
    /// missing would damage the stream, so such a connection is not kept.
    fn take(&mut self, record: Record) -> Option<Adopted> {
        let client = self.sockets.remove(&record.client)?;
        let server = match record.server {
            0 => None,
            cookie => Some(self.sockets.remove(&cookie)?),
        };
        let to_upstream = self.pipe(&record.to_upstream).ok()?;
        let to_client = self.pipe(&record.to_client).ok()?;
        Some(Adopted { record, client, server, to_upstream, to_client })
    }

    fn pipe(&mut self, direction: &Direction) -> Result<Option<Pipe>, ()> {
        if direction.pipe == 0 {
            return Ok(None);
        }
        match self.pipes.remove(&direction.pipe) {
            // With more or fewer bytes than were written down it is not what the record speaks of.
            Some((Some(read), Some(write))) if socket::unread(read.as_fd()) == direction.held => {
                Pipe::of(read, write).map(Some).map_err(drop)
            }
            _ => Err(()),
        }
    }
}
