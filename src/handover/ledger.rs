//! The ledger: a memory file with one record a connection, true at every instant.
//!
//! It is mapped, and the workers store into it while they work; no system call is needed. The file
//! has a header and areas. One area is current: it has the names of proxies and upstreams, the lots,
//! the records, and a buffer a worker. A new incarnation writes an area of its own beside the one that it found, and one
//! store in the header makes it current: before it the old area holds, after it the new one.
//!
//! What another process wrote is read with pread(2) and trusted in nothing.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::{self, Buffer, LeftBuffer};
use super::names::{Names, decode, encode};
use super::record::{self, Record, Slot};
use crate::fault;
use crate::sys::memory::{self, Mapping, PAGE};
use crate::{Error, Result};

const MAGIC: u64 = u64::from_le_bytes(*b"drained\0");
/// Raised with every change of the layout that another version would take for something else.
const VERSION: u64 = 1;
/// The same layout once the names stand elsewhere than at the beginning of their place, after a reload.
const VERSION_RENAMED: u64 = 2;

/// Words of the file's header.
const HEADER: usize = 5;
const HEADER_MAGIC: usize = 0;
const HEADER_VERSION: usize = 1;
/// Where the current area is; 0: there is none.
const HEADER_CURRENT: usize = 2;
const HEADER_STOPPED: usize = 3;
const HEADER_TRIES: usize = 4;

/// Words of an area's head.
const HEAD: usize = 8;
const HEAD_CAPACITY: usize = 0;
const HEAD_USED: usize = 1;
const HEAD_NAMES: usize = 2;
const HEAD_WORKERS: usize = 3;
const HEAD_LOTS: usize = 4;
/// Where in their place the names are, and how many bytes they have: 32 bits each. 0: they fill it.
const HEAD_NAMES_NOW: usize = 5;
/// Words of each worker's buffer; 0: there are none.
const HEAD_BUFFER: usize = 6;

/// Slots that a worker takes at once.
const CHUNK: u64 = 64;
/// Words between the signs of life of two workers: a cache line, so that they don't share one.
const ALIVE: usize = 8;
/// Words of a lot: the cookies of both ends, and whose it is.
const LOT: usize = 3;
/// More than any machine has: a number beyond it is wrong.
const MOST_SLOTS: u64 = 1 << 24;
/// Areas take turns, so none is far from the beginning.
const FURTHEST: u64 = 1 << 40;
const MOST_NAMES: u64 = 1 << 25;
/// The place of the names has at least so many bytes. What is never touched costs nothing.
const ROOM_FOR_NAMES: usize = 2 << 20;
const MOST_WORKERS: u64 = 1 << 16;

/// A lot as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LotEntry {
    /// The cookie of the end that is sent into.
    pub near: u64,
    /// The cookie of the end with the queue.
    pub far: u64,
    /// The worker that parks in it.
    pub worker: u64,
}

/// The ledger of this process.
#[derive(Debug)]
pub struct Ledger {
    file: OwnedFd,
    header: Mapping,
    area: Mapping,
    layout: Layout,
    offset: u64,
    /// The area of the last incarnation.
    old: Range<u64>,
}

/// Where the parts of an area are, in words.
#[derive(Clone, Copy, Debug)]
struct Layout {
    alive: usize,
    lots: usize,
    names: usize,
    slots: usize,
    buffers: usize,
    end: usize,
}

/// Lots that there is room for: two a worker, and some for those who need more.
fn most_lots(workers: u64) -> usize {
    workers as usize * 2 + 62
}

impl Layout {
    fn of(workers: u64, names_bytes: u64, capacity: u64) -> Layout {
        let line = |at: usize| at.next_multiple_of(8);
        let alive = HEAD;
        let lots = alive + workers as usize * ALIVE;
        let names = line(lots + most_lots(workers) * LOT);
        let slots = line(names + (names_bytes as usize).div_ceil(8)).next_multiple_of(record::WORDS);
        let buffers = slots + capacity as usize * record::WORDS;
        Layout { alive, lots, names, slots, buffers, end: buffers + workers as usize * buffer::WORDS }
    }

    fn bytes(&self) -> u64 {
        (self.end as u64 * 8).next_multiple_of(PAGE)
    }
}

impl Ledger {
    /// An area with these names and room for so many records, in the file that the last incarnation
    /// left, or in a new one. It holds from [`begin`](Self::begin) on.
    ///
    /// # Errors
    /// The system refuses the memory, or the file cannot be sealed.
    pub fn prepare(
        names: &Names,
        workers: usize,
        capacity: u32,
        left: Option<(OwnedFd, Range<u64>)>,
    ) -> Result<Ledger> {
        let failed = |e| Error::system("making the ledger", e);
        let (file, old) = match left {
            Some(left) => left,
            None => (memory::new_file(c"drained-ledger").map_err(failed)?, 0..0),
        };
        let names = encode(names);
        let workers = workers as u64;
        let capacity = u64::from(capacity).next_multiple_of(CHUNK).min(MOST_SLOTS);
        let room = (names.len() * 2).next_multiple_of(16).max(ROOM_FOR_NAMES) as u64;
        let layout = Layout::of(workers, room, capacity);
        let offset = if PAGE + layout.bytes() <= old.start { PAGE } else { old.end.max(PAGE) };
        let header = Mapping::new(file.as_fd(), 0, HEADER).map_err(failed)?;
        // Something may be left there of an area that never became current.
        memory::release(file.as_fd(), offset, layout.bytes()).map_err(failed)?;
        let area = Mapping::new(file.as_fd(), offset, layout.end).map_err(failed)?;
        let ledger = Ledger { file, header, area, layout, offset, old };
        let head = [(HEAD_CAPACITY, capacity), (HEAD_USED, 0), (HEAD_NAMES, room)];
        head.iter().for_each(|(at, value)| ledger.area.words()[*at].store(*value, Ordering::Relaxed));
        ledger.area.words()[HEAD_WORKERS].store(workers, Ordering::Relaxed);
        ledger.area.words()[HEAD_LOTS].store(0, Ordering::Relaxed);
        ledger.area.words()[HEAD_BUFFER].store(buffer::WORDS as u64, Ordering::Relaxed);
        ledger.write_names(0, &names);
        Ok(ledger)
    }

    /// Puts other names in the place of those that hold, at one instant. The numbers of proxies and upstreams that
    /// records go by must mean the same in both. False: there is no room for them, and nothing has changed.
    pub fn rename(&self, names: &Names) -> bool {
        let names = encode(names);
        let head = self.area.words();
        let half = head[HEAD_NAMES].load(Ordering::Relaxed) / 2;
        if names.len() as u64 > half {
            return false;
        }
        let now = head[HEAD_NAMES_NOW].load(Ordering::Relaxed) >> 32;
        // Whoever knows but the beginning would find old names there.
        self.header.words()[HEADER_VERSION].store(VERSION_RENAMED, Ordering::Release);
        self.write_names(if now == 0 { half } else { 0 }, &names);
        true
    }

    /// Writes names `at` so many bytes from the beginning of their place, and has them hold.
    fn write_names(&self, at: u64, names: &[u8]) {
        let words = &self.area.words()[self.layout.names + at as usize / 8..];
        for (word, bytes) in words.iter().zip(names.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        let now = at << 32 | names.len() as u64;
        self.area.words()[HEAD_NAMES_NOW].store(now, Ordering::Release);
    }

    /// Makes this area the one that holds. What the last incarnation wrote is void from here on.
    pub fn begin(&self) {
        let header = self.header.words();
        fault::pass("start-beginning");
        header[HEADER_STOPPED].store(0, Ordering::Relaxed);
        header[HEADER_VERSION].store(VERSION, Ordering::Relaxed);
        header[HEADER_MAGIC].store(MAGIC, Ordering::Release);
        header[HEADER_CURRENT].store(self.offset, Ordering::Release);
        fault::pass("start-begun");
        if !self.old.is_empty() {
            // What cannot be given back is used again at the next start.
            let _ = memory::release(self.file.as_fd(), self.old.start, self.old.end - self.old.start);
        }
    }

    /// The file, to be stored.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The numbers of slots that nobody has; None: there are no more.
    pub fn take_chunk(&self) -> Option<Range<u32>> {
        let used = &self.area.words()[HEAD_USED];
        let take = |n: u64| (n + CHUNK <= self.slots().len() as u64).then_some(n + CHUNK);
        let first = used.fetch_update(Ordering::Release, Ordering::Relaxed, take).ok()?;
        Some(first as u32..(first + CHUNK) as u32)
    }

    /// The record with this number, one that [`take_chunk`](Self::take_chunk) gave.
    pub fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots().get(number as usize)
    }

    fn slots(&self) -> &[Slot] {
        self.area.words()[self.layout.slots..self.layout.buffers].as_chunks().0
    }

    /// The buffer of a worker.
    pub fn buffer(&self, worker: usize) -> Buffer<'_> {
        Buffer::of(&self.area.words()[self.layout.buffers + worker * buffer::WORDS..])
    }

    /// Notes a lot; to be done before it is stored. False: there is no room for more.
    pub fn add_lot(&self, lot: LotEntry) -> bool {
        let words = self.area.words();
        let most = most_lots(words[HEAD_WORKERS].load(Ordering::Relaxed)) as u64;
        let more = |n: u64| (n < most).then_some(n + 1);
        let Ok(index) = words[HEAD_LOTS].fetch_update(Ordering::AcqRel, Ordering::Relaxed, more) else {
            return false;
        };
        let at = self.layout.lots + index as usize * LOT;
        // The next incarnation knows a lot by its cookies: until they are there it is none.
        words[at + 2].store(lot.worker, Ordering::Release);
        words[at + 1].store(lot.far, Ordering::Release);
        words[at].store(lot.near, Ordering::Release);
        true
    }

    /// A worker's sign of life, in milliseconds of CLOCK_MONOTONIC.
    pub fn beat(&self, worker: usize, now: u64) {
        self.area.words()[self.layout.alive + worker * ALIVE].store(now, Ordering::Relaxed);
    }

    /// When an orderly stop began, on the same clock.
    pub fn set_stopped(&self, at: u64) {
        self.header.words()[HEADER_STOPPED].store(at, Ordering::Release);
    }

    /// How often a process has begun to adopt what is in it, and not got through.
    pub fn set_tries(&self, tries: u64) {
        self.header.words()[HEADER_TRIES].store(tries, Ordering::Release);
    }
}

/// Counts a try to adopt, before anything else is done with the file; gives the count.
pub fn count_try(file: BorrowedFd<'_>) -> u64 {
    let Ok(header) = Mapping::new(file, 0, HEADER) else { return 0 };
    let tries: &AtomicU64 = &header.words()[HEADER_TRIES];
    tries.fetch_add(1, Ordering::Relaxed) + 1
}

/// Takes a try back.
pub fn uncount_try(file: BorrowedFd<'_>) {
    if let Ok(header) = Mapping::new(file, 0, HEADER) {
        let less = |n: u64| Some(n.saturating_sub(1));
        let _ = header.words()[HEADER_TRIES].fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// What the last incarnation left in the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The proxies and upstreams that it had.
    pub names: Names,
    /// Its connections.
    pub records: Vec<Record>,
    /// Records that could not be read.
    pub damaged: u64,
    /// Its lots.
    pub lots: Vec<LotEntry>,
    /// Where its workers' buffers are in the file.
    pub buffers: Range<u64>,
    /// When it was asked to stop, in milliseconds of CLOCK_MONOTONIC; None: it was not asked.
    pub stopped: Option<u64>,
    /// Its last sign of life, on the same clock.
    pub alive: u64,
    /// Where its area is in the file.
    pub area: Range<u64>,
}

/// Why a ledger says nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no ledger, or a damaged one.
    Foreign,
    /// Another version of drained wrote it.
    Version(u64),
}

/// Reads what another process wrote, which may be anything.
pub fn read(file: BorrowedFd<'_>) -> Result<Left, Unreadable> {
    let file = Reader::of(file)?;
    let header: [u64; HEADER] = file.array(0)?;
    if header[HEADER_MAGIC] != MAGIC {
        return Err(Unreadable::Foreign);
    }
    if ![VERSION, VERSION_RENAMED].contains(&header[HEADER_VERSION]) {
        return Err(Unreadable::Version(header[HEADER_VERSION]));
    }
    let offset = header[HEADER_CURRENT];
    if offset == 0 || !offset.is_multiple_of(PAGE) || offset > FURTHEST {
        return Err(Unreadable::Foreign);
    }
    let head: [u64; HEAD] = file.array(offset)?;
    let [capacity, names, workers] = [head[HEAD_CAPACITY], head[HEAD_NAMES], head[HEAD_WORKERS]];
    if capacity > MOST_SLOTS || names > MOST_NAMES || workers > MOST_WORKERS {
        return Err(Unreadable::Foreign);
    }
    let layout = Layout::of(workers, names, capacity);
    let at = |word: usize| offset + word as u64 * 8;
    let lots = head[HEAD_LOTS].min(most_lots(workers) as u64) as usize;
    let lots = file.words(at(layout.lots), lots * LOT)?;
    let alive = file.words(at(layout.alive), workers as usize * ALIVE)?;
    let (first, length) = match head[HEAD_NAMES_NOW] {
        0 => (0, names),
        now => (now >> 32, now & u64::from(u32::MAX)),
    };
    if !first.is_multiple_of(8) || first + length > names {
        return Err(Unreadable::Foreign);
    }
    let bytes = file.words(at(layout.names) + first, (length as usize).div_ceil(8))?;
    let bytes: Vec<u8> = bytes.into_iter().flat_map(u64::to_le_bytes).take(length as usize).collect();
    let mut left = Left {
        names: decode(&bytes).ok_or(Unreadable::Foreign)?,
        lots: lots
            .as_chunks()
            .0
            .iter()
            .map(|&[near, far, worker]| LotEntry { near, far, worker })
            .filter(|lot| lot.near != 0)
            .collect(),
        buffers: match head[HEAD_BUFFER] == buffer::WORDS as u64 {
            true => at(layout.buffers)..at(layout.end),
            // Of an earlier version, or a later one.
            false => 0..0,
        },
        stopped: Some(header[HEADER_STOPPED]).filter(|at| *at != 0),
        alive: alive.iter().step_by(ALIVE).copied().max().unwrap_or_default(),
        area: offset..offset + layout.bytes(),
        ..Left::default()
    };
    let used = head[HEAD_USED].min(capacity);
    for first in (0..used).step_by(CHUNK as usize) {
        let Ok(words) =
            file.words(at(layout.slots + first as usize * record::WORDS), CHUNK as usize * record::WORDS)
        else {
            // Cut off: what it promised beyond is not there.
            left.damaged += used - first;
            break;
        };
        for words in words.as_chunks().0 {
            left.records.extend(Record::load(words));
            left.damaged += u64::from(record::is_damaged(words));
        }
    }
    Ok(left)
}

/// The buffers that the workers left, in the ledger's file.
#[derive(Default)]
pub struct Buffers {
    file: Option<Reader>,
    place: Range<u64>,
}

impl Buffers {
    /// Those that stand there. Where the file cannot be had again there are none.
    pub fn of(file: BorrowedFd<'_>, place: Range<u64>) -> Buffers {
        Buffers { file: Reader::of(file).ok(), place }
    }

    /// What stands before the message in the one of a worker.
    pub fn head(&self, worker: usize) -> Option<LeftBuffer> {
        Some(LeftBuffer::of(&self.file.as_ref()?.array(self.at(worker)?).ok()?))
    }

    /// Bytes of the message.
    pub fn bytes(&self, worker: usize, bytes: Range<usize>) -> Option<Vec<u8>> {
        let first = bytes.start / 8;
        let at = self.at(worker)? + (buffer::DATA + first) as u64 * 8;
        let words = self.file.as_ref()?.words(at, bytes.end.div_ceil(8) - first).ok()?;
        let all = words.into_iter().flat_map(u64::to_ne_bytes);
        Some(all.skip(bytes.start % 8).take(bytes.len()).collect())
    }

    fn at(&self, worker: usize) -> Option<u64> {
        let at = self.place.start.checked_add((worker as u64).checked_mul(buffer::WORDS as u64 * 8)?)?;
        self.place.contains(&at).then_some(at)
    }
}

struct Reader(File);

impl Reader {
    fn of(fd: BorrowedFd<'_>) -> Result<Reader, Unreadable> {
        fd.try_clone_to_owned().map(|fd| Reader(fd.into())).map_err(|_| Unreadable::Foreign)
    }

    fn array<const N: usize>(&self, at: u64) -> Result<[u64; N], Unreadable> {
        self.words(at, N)?.try_into().map_err(|_| Unreadable::Foreign)
    }

    fn words(&self, at: u64, count: usize) -> Result<Vec<u64>, Unreadable> {
        let mut bytes = vec![0; count * 8];
        self.0.read_exact_at(&mut bytes, at).map_err(|_| Unreadable::Foreign)?;
        Ok(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests;
