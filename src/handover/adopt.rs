//! Adoption: what the store gave back, sorted and matched.
//!
//! Nothing is changed by it: until the new ledger holds, another process can do the same as this one.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;

use super::buffer;
use super::ledger::{self, Buffers, Left, LotEntry, Unreadable};
use super::names::Names;
use super::record::{Flags, Record, State, Way};
use super::{LEDGER, LISTENER, LOT, lot};
use crate::fault;
use crate::sys::pipe::Pipe;
use crate::sys::{ends, socket};
use crate::systemd::listen_fds::PassedFd;

/// Starts in a row that began to adopt and did not get through: the next one begins with nothing.
const TRIES: u64 = 3;

/// A connection that goes on.
pub struct Adopted {
    /// What is known of it. Its proxy and its upstream are as [`Estate::names`] numbers them.
    pub record: Record,
    /// Its client.
    pub client: Found,
    /// Its upstream, if it has one.
    pub server: Option<Found>,
    /// The pipe with bytes for the upstream, and how many.
    pub to_upstream: Option<(Pipe, u32)>,
    /// The pipe with bytes for the client, and how many.
    pub to_client: Option<(Pipe, u32)>,
}

/// A socket, and the lot and message that its duplicate stands in.
pub struct Found {
    /// The socket.
    pub fd: OwnedFd,
    /// Among [`Estate::lots`], and in its queue.
    pub place: (usize, usize),
}

/// A lot that the last incarnation left, both ends of it.
pub struct LeftLot {
    /// What the ledger says of it.
    pub entry: LotEntry,
    /// The end that is sent into.
    pub near: OwnedFd,
    /// The end with the queue.
    pub far: OwnedFd,
    /// How many file descriptors each message has.
    pub messages: Vec<usize>,
}

/// All that the last incarnation left.
#[derive(Default)]
pub struct Estate {
    /// Listeners that it had bound.
    pub listeners: Vec<OwnedFd>,
    /// Connections with everything that belongs to them. They are large and go through many hands.
    pub connections: Vec<Box<Adopted>>,
    /// The proxies and upstreams that it knew.
    pub names: Names,
    /// The lots, to be used on.
    pub lots: Vec<LeftLot>,
    /// The ledger's file, and where in it the last area is; to be used on.
    pub ledger: Option<(OwnedFd, Range<u64>)>,
    /// When it was asked to stop, in milliseconds of CLOCK_MONOTONIC; None: it was not asked.
    pub stopped: Option<u64>,
    /// Its last sign of life, on the same clock.
    pub alive: Option<u64>,
    /// What could not be kept, in words for the log.
    pub let_go: Vec<String>,
    /// The store has ledgers or lots that are of no use any more: all of them are to be taken out.
    pub litter: bool,
    /// How often the adoption was tried, this time included.
    pub tries: u64,
    tried: Option<OwnedFd>,
    /// For so many file descriptors of connections.
    room: u64,
}

/// Takes what is ours out of `passed` and leaves the rest: sockets of .socket units. Whoever calls it
/// has raised the limit on file descriptors. Beyond `room` of them no connection is kept.
pub fn estate(passed: &mut Vec<PassedFd>, room: u64) -> Estate {
    let mut estate = Estate { room, ..Estate::default() };
    let (mut ledgers, mut lots) = (Vec::new(), Vec::new());
    for PassedFd { name, fd } in std::mem::take(passed) {
        match name.as_str() {
            LEDGER => ledgers.push(fd),
            LOT => lots.push(fd),
            LISTENER => estate.listeners.push(fd),
            _ => passed.push(PassedFd { name, fd }),
        }
    }
    let mut found = None;
    for file in ledgers {
        match ledger::read(file.as_fd()) {
            Ok(left) if found.is_none() => found = Some((file, left)),
            Ok(_) => estate.litter = true,
            Err(why) => {
                estate.litter = true;
                estate.let_go.push(match why {
                    Unreadable::Foreign => "a ledger that is none or damaged".to_owned(),
                    Unreadable::Version(version) => format!("a ledger of version {version}"),
                });
            }
        }
    }
    match found {
        Some((file, left)) => estate.take(file, left, lots),
        None => estate.match_all(Left::default(), Buffers::default(), lots),
    }
    estate
}

impl Estate {
    fn take(&mut self, file: OwnedFd, mut left: Left, ends: Vec<OwnedFd>) {
        self.tries = ledger::count_try(file.as_fd());
        fault::pass("start-counted");
        if self.tries > TRIES {
            let count = left.records.len();
            self.let_go.push(format!(
                "{count} connections, because {TRIES} starts in a row did not get through with them"
            ));
            (left.records, left.damaged) = (Vec::new(), 0);
            self.litter = true;
        }
        self.tried = file.try_clone().ok();
        let buffers = Buffers::of(file.as_fd(), left.buffers.clone());
        match self.tries {
            // It could not be written to: it is read, and then replaced.
            0 => self.litter = true,
            // Perhaps it is the file itself.
            _ if self.tries > TRIES => {}
            _ => self.ledger = Some((file, left.area.clone())),
        }
        (self.stopped, self.alive) = (left.stopped, Some(left.alive).filter(|at| *at != 0));
        self.match_all(left, buffers, ends);
    }

    fn match_all(&mut self, left: Left, buffers: Buffers, ends: Vec<OwnedFd>) {
        let mut search = Search { room: self.room, buffers, ..Search::for_all(&left.records) };
        for lot in self.pair(&left.lots, ends) {
            let number = self.lots.len();
            let mut messages = Vec::new();
            let walked = lot::look_into(lot.far.as_fd(), |fds| {
                let place = (number, messages.len());
                messages.push(fds.len());
                fds.into_iter().for_each(|fd| search.offer(fd, place));
            });
            if let Err(errno) = walked {
                self.let_go.push(format!("connections of a parking lot: {}", errno.desc()));
                self.litter = true;
            }
            self.lots.push(LeftLot { messages, ..lot });
        }
        self.names = left.names;
        self.connections.reserve_exact(left.records.len());
        let mut incomplete = Incomplete::default();
        for (index, record) in left.records.into_iter().enumerate() {
            match search.take(index, &record) {
                Pieces::Whole(pieces) if record.state == State::Live => {
                    self.connections.push(Box::new(pieces.adopted(record)));
                }
                pieces => {
                    if let (Pieces::Some(.., lacks), State::Live) = (&pieces, record.state) {
                        incomplete.count(*lacks);
                    }
                    pieces.close(&record);
                    fault::pass("adopt-closed");
                }
            }
        }
        if left.damaged > 0 {
            self.let_go.push(format!("{} connections whose record is damaged", left.damaged));
        }
        self.let_go.extend(incomplete.words());
        if search.refused > 0 {
            self.let_go.push(format!(
                "{} file descriptors for which there is no room: LimitNOFILE= is less than it was",
                search.refused
            ));
        }
        if search.strangers > 0 {
            self.let_go.push(format!("{} file descriptors that no ledger names", search.strangers));
        }
    }

    /// The start ends in an orderly way without having adopted anything: that is no failure of the adoption.
    pub fn give_back(&self) {
        if let Some(file) = &self.tried {
            ledger::uncount_try(file.as_fd());
        }
    }

    /// The lots of the ledger whose two ends are there. Another end is litter.
    fn pair(&mut self, entries: &[LotEntry], ends: Vec<OwnedFd>) -> Vec<LeftLot> {
        let mut by_cookie = HashMap::new();
        for end in ends {
            match socket::cookie(end.as_fd()) {
                Ok(cookie) => _ = by_cookie.insert(cookie, end),
                Err(errno) => {
                    self.let_go.push(format!("a parking lot that is none: {}", errno.desc()));
                    self.litter = true;
                }
            }
        }
        let (mut lots, mut lonely) = (Vec::new(), Vec::new());
        for entry in entries {
            match (by_cookie.remove(&entry.near), by_cookie.remove(&entry.far)) {
                (Some(near), Some(far)) => {
                    lots.push(LeftLot { entry: *entry, near, far, messages: Vec::new() });
                }
                // Noted, and never stored.
                (None, None) => {}
                (near, far) => lonely.extend(near.into_iter().chain(far)),
            }
        }
        lonely.extend(by_cookie.into_values());
        if !lonely.is_empty() {
            self.let_go.push(format!("{} ends of parking lots that no ledger names", lonely.len()));
            self.litter = true;
        }
        // What stands in them shall not seem to have ended well.
        let mut nobody = Search::default();
        for end in lonely {
            let _ =
                lot::look_into(end.as_fd(), |fds| fds.into_iter().for_each(|fd| nobody.offer(fd, (0, 0))));
        }
        lots
    }
}

/// What is looked for in the lots, by the numbers that the kernel gave to it.
#[derive(Default)]
struct Search {
    sockets: HashMap<u64, (usize, usize)>,
    pipes: HashMap<u64, (usize, usize)>,
    found: Vec<Parts>,
    buffers: Buffers,
    /// For so many more there is room; what was refused since there was none.
    room: u64,
    refused: u64,
    /// What nobody looks for and is in use still.
    strangers: usize,
}

const FDS_OF_A_PIPE: u64 = 2;

/// What was found of one connection.
#[derive(Default)]
struct Parts {
    sockets: [Option<Found>; 2],
    pipes: [(Option<OwnedFd>, Option<OwnedFd>); 2],
}

impl Search {
    fn for_all(records: &[Record]) -> Search {
        let mut search = Search {
            sockets: HashMap::with_capacity(records.len() * 2),
            found: Vec::with_capacity(records.len()),
            ..Search::default()
        };
        let mut ambiguous = Vec::new();
        for (index, record) in records.iter().enumerate() {
            search.sockets.insert(record.client, (index, 0));
            search.sockets.insert(record.server, (index, 1));
            for (inode, way) in record.pipes.iter().zip(0..) {
                // Numbers of pipes may come again after some thousand millions of them.
                if search.pipes.insert(*inode, (index, way)).is_some() {
                    ambiguous.push(*inode);
                }
            }
            search.found.push(Parts::default());
        }
        ambiguous.iter().for_each(|inode| _ = search.pipes.remove(inode));
        // The number of none.
        search.sockets.remove(&0);
        search.pipes.remove(&0);
        search
    }

    fn offer(&mut self, fd: OwnedFd, place: (usize, usize)) {
        // Most are sockets, and one question is enough to know it.
        let wanted = match socket::cookie(fd.as_fd()) {
            Ok(cookie) => self.sockets.get(&cookie),
            Err(_) => return self.offer_pipe(fd),
        };
        match wanted {
            // It may stand in a queue twice.
            Some((index, side)) if self.found[*index].sockets[*side].is_some() => {}
            Some((index, side)) if self.room > 0 => {
                self.found[*index].sockets[*side] = Some(Found { fd, place });
                self.room -= 1;
            }
            Some(_) => {
                self.refused += 1;
                ends::reset(fd.as_fd());
            }
            // What was closed is shut down both ways, and stands here until the lot is tidied.
            None if ends::is_hung_up(fd.as_fd()) => {}
            None => {
                self.strangers += 1;
                ends::reset(fd.as_fd());
            }
        }
    }

    fn offer_pipe(&mut self, fd: OwnedFd) {
        let Ok(stat) = fstat(&fd) else { return };
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
            self.strangers += 1;
            return;
        }
        let Some((index, way)) = self.pipes.get(&stat.st_ino) else { return };
        if self.room == 0 {
            self.refused += 1;
            return;
        }
        self.room -= 1;
        let ends = &mut self.found[*index].pipes[*way];
        let mode = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        match mode.map(|mode| mode & OFlag::O_ACCMODE) {
            Ok(OFlag::O_WRONLY) => ends.1 = Some(fd),
            _ => ends.0 = Some(fd),
        }
    }

    /// What was found for a record.
    fn take(&mut self, index: usize, record: &Record) -> Pieces {
        let Parts { sockets: [client, server], pipes } = std::mem::take(&mut self.found[index]);
        let mut lacks = match (&client, &server) {
            (None, _) => Some(Lacks::Client),
            (_, None) if record.server != 0 => Some(Lacks::Upstream),
            _ => None,
        };
        let mut full = Vec::new();
        let fds = [client.as_ref(), server.as_ref()].map(|found| found.map(|found| found.fd.as_fd()));
        for (way, (ends, inode)) in pipes.into_iter().zip(record.pipes).enumerate() {
            full.push(match (ends, inode) {
                (_, 0) => None,
                ((Some(read), Some(write)), _) => match socket::unread(read.as_fd()) {
                    0 => None,
                    held => Pipe::of(read, write).ok().map(|pipe| (pipe, held)),
                },
                // It may have had bytes, and without them the stream would have a hole.
                (_, number) => {
                    let (rest, lack) = match buffer::worker(number) {
                        Some(worker) => {
                            let owner = (record.id, [Way::ToUpstream, Way::ToClient][way]);
                            (self.rest_of(worker, owner, fds[way], fds[1 - way]), Lacks::Buffer)
                        }
                        None => (None, Lacks::Pipe),
                    };
                    rest.unwrap_or_else(|| {
                        lacks.get_or_insert(lack);
                        None
                    })
                }
            });
        }
        // It was on its way through the memory of the process: it may be in the pipe or not.
        if record.flags.has(Flags::URGENT) {
            lacks.get_or_insert(Lacks::UrgentByte);
        }
        let mut full = full.into_iter();
        let pipes = [full.next().flatten(), full.next().flatten()];
        match (client, lacks) {
            (Some(client), None) => Pieces::Whole(Box::new(WholePieces { client, server, pipes })),
            (client, lacks) => Pieces::Some(client, server, lacks.unwrap_or(Lacks::Client)),
        }
    }

    /// What was on its way through the buffer of a worker, in a pipe; there may be nothing. None: what there is
    /// cannot be known, or kept.
    fn rest_of(
        &mut self,
        worker: usize,
        owner: (u64, Way),
        source: Option<BorrowedFd<'_>>,
        sink: Option<BorrowedFd<'_>>,
    ) -> Option<Option<(Pipe, u32)>> {
        let rest = self.buffers.head(worker)?.rest(owner, source?, sink?)?;
        if rest.is_empty() {
            return Some(None);
        }
        if self.room < FDS_OF_A_PIPE {
            self.refused += 1;
            return None;
        }
        self.room -= FDS_OF_A_PIPE;
        let pipe = Pipe::new(None).ok()?;
        let [_, into] = pipe.ends();
        let mut bytes = self.buffers.bytes(worker, rest)?;
        let kept = write(into, &bytes);
        let length = bytes.len();
        // They stay nowhere else.
        bytes.fill(0);
        std::hint::black_box(&bytes);
        (kept == Ok(length)).then_some(Some((pipe, length as u32)))
    }
}

/// What of a connection is missing, so that it cannot go on.
#[derive(Clone, Copy, Debug)]
enum Lacks {
    Client,
    Upstream,
    Pipe,
    Buffer,
    UrgentByte,
}

/// How many connections lack what.
#[derive(Default)]
struct Incomplete([u64; 5]);

impl Incomplete {
    fn count(&mut self, lacks: Lacks) {
        self.0[lacks as usize] += 1;
    }

    fn words(&self) -> impl Iterator<Item = String> {
        let what = [
            "the client's socket",
            "the upstream's socket",
            "a pipe",
            "a message on its way",
            "a byte of urgent data",
        ];
        let some = self.0.iter().zip(what).filter(|(count, _)| **count > 0);
        some.map(|(count, what)| format!("{count} connections that lack {what}"))
    }
}

/// What was found of a connection, sorted.
enum Pieces {
    Whole(Box<WholePieces>),
    Some(Option<Found>, Option<Found>, Lacks),
}

struct WholePieces {
    client: Found,
    server: Option<Found>,
    pipes: [Option<(Pipe, u32)>; 2],
}

impl WholePieces {
    fn adopted(self, mut record: Record) -> Adopted {
        let WholePieces { client, mut server, pipes: [to_upstream, to_client] } = self;
        let flags = record.flags;
        if flags.has(Flags::CONNECTING) {
            // It was just taken, and may have been greeted: once more would be once too often.
            server.take().iter().for_each(|server| ends::reset(server.fd.as_fd()));
            record.server = 0;
        } else if flags.has(Flags::WORKING) {
            for (way, source) in [(Way::ToUpstream, Some(&client)), (Way::ToClient, server.as_ref())] {
                // Its error may have been told to the process that is gone: the end that it shows now
                // would pass for a clean one. After our own end nothing is written, and a read tells an error
                // only after the last byte.
                let is_said = flags.has(Flags::over(way.back())) && !flags.has(Flags::BROKEN);
                let may_be_told =
                    |fd| !is_said || (flags.has(Flags::reading(way)) && socket::unread(fd) == 0);
                let broke = |fd| ends::is_closed_without_error(fd) && may_be_told(fd);
                let is_known = flags.has(Flags::fin(way)) || flags.has(Flags::ended(way));
                let broke = !is_known && source.is_some_and(|source| broke(source.fd.as_fd()));
                record.flags = record.flags.and(Flags::source_broke(way).when(broke));
            }
        }
        Adopted { record, client, server, to_upstream, to_client }
    }
}

impl Pieces {
    /// Ends what is there: as the last incarnation was about to, or else by a reset, for what cannot go on
    /// whole must not look as if it were.
    fn close(self, record: &Record) {
        let (client, server) = match self {
            Pieces::Whole(pieces) => (Some(pieces.client), pieces.server),
            Pieces::Some(client, server, _) => (client, server),
        };
        let live = record.state == State::Live;
        for (found, flag) in [(client, Flags::RESET_CLIENT), (server, Flags::RESET_SERVER)] {
            let Some(found) = found else { continue };
            match live || record.flags.has(flag) {
                true => ends::reset(found.fd.as_fd()),
                false => ends::hang_up(found.fd.as_fd()),
            }
        }
    }
}
