//! Parking lots: UNIX socketpairs in whose queues file descriptors wait for the next incarnation.
//!
//! Both ends of each are stored with systemd. What stands in a queue is open while no process has it.
//! A queue is kept tidy from its head: what is still needed of the oldest messages is sent to the tail
//! once more, and then they are taken off, so that at each instant everything needed is in it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::ledger::LotEntry;
use crate::fault;
use crate::sys::{rights, socket};

/// Messages in one queue at the most; 278 fit the default of net.core.wmem_default.
const MOST_MESSAGES: usize = 192;
/// Lots of one worker at the most.
const MOST_LOTS: usize = 16;
/// This many file descriptors of the dead are let be, and an eighth of the number of the living.
const DEAD: usize = 512;
/// The same for the crowded, for whom the limit on file descriptors in flight is near.
const DEAD_CROWDED: usize = 64;
/// A queue with so many messages, and less than a quarter of what they could hold, is packed.
const MANY_MESSAGES: usize = 64;

/// One lot: where to send, and what stands in its queue.
#[derive(Debug)]
pub struct Lot<T> {
    near: OwnedFd,
    far: OwnedFd,
    queue: VecDeque<Message<T>>,
}

/// What was sent at once.
#[derive(Debug)]
struct Message<T> {
    items: Vec<T>,
    fds: usize,
}

impl<T> Lot<T> {
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new() -> Result<Lot<T>, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(Lot { near, far, queue: VecDeque::new() })
    }

    /// One that another process made, with so many file descriptors in each message.
    pub fn left(near: OwnedFd, far: OwnedFd, messages: &[usize]) -> Lot<T> {
        let queue = messages.iter().map(|fds| Message { items: Vec::new(), fds: *fds }).collect();
        Lot { near, far, queue }
    }

    /// Both ends, to be stored.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.near.as_fd(), self.far.as_fd()]
    }

    /// What the ledger says of it.
    ///
    /// # Errors
    /// The kernel tells no cookie.
    pub fn entry(&self, worker: usize) -> Result<LotEntry, Errno> {
        let [near, far] = self.ends();
        Ok(LotEntry { near: socket::cookie(near)?, far: socket::cookie(far)?, worker: worker as u64 })
    }

    fn drop_head(&mut self) -> Option<Message<T>> {
        let message = self.queue.pop_front()?;
        // Its file descriptors are closed with it. It is ours alone, so it is there.
        let _ = rights::discard(self.far.as_fd());
        Some(message)
    }
}

/// The lots of one worker.
#[derive(Debug)]
pub struct Lots<T> {
    lots: Vec<Lot<T>>,
    /// File descriptors that stand in the queues, and those among them that are needed.
    parked: usize,
    needed: usize,
    /// From how many on the limit is near.
    crowd: usize,
    /// Messages of each lot that are yet to be looked at, while it tidies.
    tidying: Vec<usize>,
}

impl<T> Default for Lots<T> {
    fn default() -> Self {
        Lots::new(Vec::new(), usize::MAX)
    }
}

impl<T> Lots<T> {
    /// These, of whose content nothing is needed but what is [noted](Self::note). With `crowd` file descriptors
    /// in them the limit on those in flight is near.
    pub fn new(lots: Vec<Lot<T>>, crowd: usize) -> Lots<T> {
        let parked = lots.iter().flat_map(|lot| &lot.queue).map(|message| message.fds).sum();
        Lots { lots, parked, needed: 0, crowd, tidying: Vec::new() }
    }

    /// Notes so many file descriptors of what a lot had from the beginning, in the message with this number,
    /// as needed.
    pub fn note(&mut self, lot: usize, message: usize, item: T, fds: usize) {
        if let Some(message) = self.lots.get_mut(lot).and_then(|lot| lot.queue.get_mut(message)) {
            message.items.push(item);
            self.needed += fds;
        }
    }

    /// Parks duplicates of what has come from elsewhere, to be [noted](Self::note) later. Tells the lot and
    /// the message; None: there is no room.
    pub fn take_in(&mut self, fds: &[BorrowedFd<'_>]) -> Option<(usize, usize)> {
        let mut with_room =
            self.lots.iter_mut().enumerate().filter(|(_, lot)| lot.queue.len() < MOST_MESSAGES);
        let (index, lot) = with_room.find(|(_, lot)| rights::send(lot.near.as_fd(), fds).is_ok())?;
        lot.queue.push_back(Message { items: Vec::new(), fds: fds.len() });
        self.parked += fds.len();
        Some((index, lot.queue.len() - 1))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lot<T>> {
        self.lots.iter()
    }

    /// Parks duplicates of `fds`, at most [`rights::MOST_AT_ONCE`], which are `items`. Makes a lot before
    /// the last one is full, so that it is stored by the time that it is needed, and tells `made` of it
    /// before anything is in it; no lot is used that it refuses.
    ///
    /// # Errors
    /// EMFILE: no lot can be made. ETOOMANYREFS: too many are in flight. ENOSPC: there are too many lots.
    pub fn park(
        &mut self,
        fds: &[BorrowedFd<'_>],
        items: Vec<T>,
        made: impl FnOnce(&Lot<T>) -> bool,
    ) -> Result<(), Errno> {
        let is_half_full = |lot: &Lot<T>| lot.queue.len() >= MOST_MESSAGES / 2;
        let mut made = Some(made);
        if self.lots.iter().all(is_half_full)
            && self.lots.len() < MOST_LOTS
            && let Some(made) = made.take()
        {
            let lot = Lot::new()?;
            if made(&lot) {
                self.lots.push(lot);
            }
        }
        for lot in self.lots.iter_mut().filter(|lot| lot.queue.len() < MOST_MESSAGES) {
            match rights::send(lot.near.as_fd(), fds) {
                Ok(()) => {
                    lot.queue.push_back(Message { items, fds: fds.len() });
                    self.count(fds.len());
                    return Ok(());
                }
                // There is less room where somebody made the buffers of sockets smaller.
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        // Smaller buffers, and the first half of the last lot was already too much for them.
        let Some(made) = made.filter(|_| self.lots.len() < MOST_LOTS) else { return Err(Errno::ENOSPC) };
        let mut lot = Lot::new()?;
        if !made(&lot) {
            return Err(Errno::ENOSPC);
        }
        let result = rights::send(lot.near.as_fd(), fds);
        if result.is_ok() {
            lot.queue.push_back(Message { items, fds: fds.len() });
            self.count(fds.len());
        }
        // It is stored, so it is used the next time.
        self.lots.push(lot);
        result
    }

    fn count(&mut self, fds: usize) {
        self.parked += fds;
        self.needed += fds;
    }

    /// So many file descriptors are needed no more.
    pub fn forget(&mut self, fds: usize) {
        self.needed = self.needed.saturating_sub(fds);
    }

    /// There is something to tidy: [`tidy`](Self::tidy) is to be called again and again.
    pub fn is_untidy(&self) -> bool {
        let messages = || self.lots.iter().map(|lot| lot.queue.len()).sum::<usize>();
        let dead = self.parked.saturating_sub(self.needed);
        let bearable = if self.parked > self.crowd { DEAD_CROWDED } else { DEAD + self.needed / 8 };
        !self.tidying.is_empty()
            || dead > bearable
            || self.is_scattered()
            || (messages() > MANY_MESSAGES && self.parked < messages() * (rights::MOST_AT_ONCE / 4))
    }

    /// Little stands in many lots.
    fn is_scattered(&self) -> bool {
        let used = self.lots.iter().filter(|lot| !lot.queue.is_empty()).count();
        used > 1 && self.lots.iter().map(|lot| lot.queue.len()).sum::<usize>() < MANY_MESSAGES / 2
    }

    /// Takes the oldest messages off one queue, as many as one new message has room for what is needed of
    /// them. `find` gives the file descriptors of an item, none where it is needed no more.
    ///
    /// # Errors
    /// As [`park`](Self::park). Nothing is lost; it is to be tried again later.
    pub fn tidy<'a>(&mut self, find: impl Fn(&T) -> [Option<BorrowedFd<'a>>; 2]) -> Result<(), Errno> {
        if self.tidying.is_empty() {
            self.tidying = self.lots.iter().map(|lot| lot.queue.len()).collect();
        }
        let Some(index) = self.tidying.iter().position(|left| *left > 0) else {
            self.tidying.clear();
            return Ok(());
        };
        let (mut fds, mut taken) = (Vec::new(), 0);
        for message in self.lots[index].queue.iter().take(self.tidying[index]) {
            let found: Vec<_> = message.items.iter().flat_map(&find).flatten().collect();
            if !fds.is_empty() && fds.len() + found.len() > rights::MOST_AT_ONCE {
                break;
            }
            fds.extend(found);
            taken += 1;
        }
        // The first one has it, if there is room: the others become empty.
        let room = self.lots.iter().take(index).position(|lot| lot.queue.len() < MOST_MESSAGES);
        let to = room.unwrap_or(index);
        if !fds.is_empty() {
            rights::send(self.lots[to].near.as_fd(), &fds)?;
        }
        fault::pass("tidy-sent");
        let lot = &mut self.lots[index];
        let mut items = Vec::new();
        for _ in 0..taken {
            if let Some(message) = lot.drop_head() {
                self.parked -= message.fds;
                items.extend(message.items);
            }
            fault::pass("tidy-dropped");
        }
        items.retain(|item| find(item).iter().any(Option::is_some));
        if !fds.is_empty() {
            self.parked += fds.len();
            self.lots[to].queue.push_back(Message { items, fds: fds.len() });
        }
        self.tidying[index] -= taken;
        if self.tidying.iter().all(|left| *left == 0) {
            self.tidying.clear();
        }
        Ok(())
    }
}

/// Duplicates of the file descriptors in a lot, message by message, as they stand in its queue. They
/// stay there, so a start that fails takes nothing from the next try.
///
/// # Errors
/// EMFILE: there is no room for all of one message. Anything that is no lot: its errno.
pub fn look_into(end: BorrowedFd<'_>, mut each: impl FnMut(Vec<OwnedFd>)) -> Result<(), Errno> {
    rights::start_walk(end)?;
    while let Some(fds) = rights::walk(end)? {
        each(fds);
    }
    rights::stop_walk(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    fn file() -> OwnedFd {
        crate::sys::memory::new_file(c"drained-test").unwrap()
    }

    fn inode(fd: &OwnedFd) -> u64 {
        File::from(fd.try_clone().unwrap()).metadata().unwrap().ino()
    }

    fn found<T>(lots: &Lots<T>) -> Vec<u64> {
        let mut all = Vec::new();
        for lot in lots.iter() {
            look_into(lot.ends()[1], |fds| all.extend(fds.iter().map(inode))).unwrap();
        }
        all
    }

    #[test]
    fn what_is_parked_is_found_as_often_as_one_looks() {
        let mut lots = Lots::default();
        let files: Vec<_> = (0..600).map(|_| file()).collect();
        let mut made = 0;
        for some in files.chunks(200) {
            let fds: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            lots.park(&fds, Vec::<()>::new(), |_| {
                made += 1;
                true
            })
            .unwrap();
        }
        let inodes: Vec<_> = files.iter().map(inode).collect();
        drop(files);
        assert_eq!((made, found(&lots)), (1, inodes.clone()));
        assert_eq!(found(&lots), inodes);
    }

    #[test]
    fn full_queues_make_more_lots_and_too_many_are_refused() {
        let mut lots = Lots::default();
        let one = file();
        let mut made = 0;
        for n in 0..MOST_MESSAGES * 2 + 1 {
            lots.park(&[one.as_fd()], vec![n], |_| {
                made += 1;
                true
            })
            .unwrap();
        }
        assert_eq!((made, lots.iter().count()), (3, 3));
        for n in 0..MOST_MESSAGES {
            lots.park(&[one.as_fd()], vec![n], |_| {
                made += 1;
                true
            })
            .unwrap();
        }
        assert_eq!((made, lots.iter().count()), (4, 4));
        let mut lots = Lots::default();
        assert_eq!(lots.park(&[one.as_fd()], vec![1], |_| false), Err(Errno::ENOSPC));
    }

    #[test]
    fn what_is_taken_in_and_noted_outlives_the_tidying() {
        let (first, second, nobodys) = (file(), file(), file());
        let mut lots: Lots<u8> = Lots::new(vec![Lot::new().unwrap()], usize::MAX);
        assert_eq!(lots.take_in(&[first.as_fd(), second.as_fd()]), Some((0, 0)));
        let dead = vec![nobodys.as_fd(); 200];
        (0..4).for_each(|n| assert_eq!(lots.take_in(&dead), Some((0, 1 + n))));
        lots.note(0, 0, 7, 2);
        assert!(lots.is_untidy());
        while lots.is_untidy() {
            lots.tidy(|_| [Some(first.as_fd()), Some(second.as_fd())]).unwrap();
        }
        assert_eq!((found(&lots), lots.needed), (vec![inode(&first), inode(&second)], 2));
        assert_eq!(Lots::<u8>::default().take_in(&[first.as_fd()]), None);
    }

    /// At each instant everything that lives stands in a queue, and in the end not much more.
    #[test]
    fn tidying_loses_nobody_and_lets_go_of_the_dead() {
        let mut random = 1_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut lots = Lots::default();
        let mut living: HashMap<u64, (OwnedFd, OwnedFd)> = HashMap::new();
        let mut next = 0;
        for round in 0..1_500 {
            let mut batch = Vec::new();
            for _ in 0..1 + below(8) {
                living.insert(next, (file(), file()));
                batch.push(next);
                next += 1;
            }
            let fds: Vec<_> = batch.iter().flat_map(|n| [living[n].0.as_fd(), living[n].1.as_fd()]).collect();
            lots.park(&fds, batch, |_| true).unwrap();
            for n in (0..next).filter(|_| below(4) == 0).take(9).collect::<Vec<_>>() {
                if living.len() > 100 && living.remove(&n).is_some() {
                    lots.forget(2);
                }
            }
            while lots.is_untidy() {
                lots.tidy(|n| {
                    living.get(n).map_or([None, None], |(a, b)| [Some(a.as_fd()), Some(b.as_fd())])
                })
                .unwrap();
                if round % 50 == 0 {
                    let stands = found(&lots);
                    assert!(
                        living
                            .values()
                            .all(|(a, b)| stands.contains(&inode(a)) && stands.contains(&inode(b)))
                    );
                }
            }
        }
        assert!(next > 4_000, "{next}");
        let stands = found(&lots).len();
        assert_eq!(stands, lots.parked);
        assert!(stands <= DEAD + 1 + living.len() * 9 / 4, "{stands} for {}", living.len());
        assert!(lots.iter().count() <= 2);
    }

    #[test]
    fn the_crowded_let_go_of_their_dead_early() {
        let (one, mut lots) = (file(), Lots::new(Vec::new(), 100));
        for n in 0..110 {
            lots.park(&[one.as_fd(); 2], vec![n], |_| true).unwrap();
            lots.forget(usize::from(n < 100));
        }
        assert!(lots.is_untidy());
        while lots.is_untidy() {
            lots.tidy(|n| if *n < 100 { [Some(one.as_fd()), None] } else { [Some(one.as_fd()); 2] }).unwrap();
        }
        assert_eq!((lots.parked, found(&lots).len()), (120, 120));
    }

    #[test]
    fn what_is_no_lot_is_an_error() {
        assert!(look_into(File::open("/dev/null").unwrap().as_fd(), |_| ()).is_err());
    }
}
