//! What all workers share of the handover: the estate of the last incarnation is divided among them, and
//! theirs is gathered for the next.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fleet::{Command, Fleet, Placed, Proxy, lock};
use super::means::Item;
use super::portable::NO_SLOT;
use super::roster::Roster;
use crate::fault;
use crate::handover::adopt::{Adopted, Estate, Found, LeftLot};
use crate::handover::keeper::Keeper;
use crate::handover::ledger::{Ledger, LotEntry};
use crate::handover::lot::{Lot, Lots};
use crate::handover::names::Names;
use crate::handover::record::{Flags, NO_UPSTREAM};
use crate::sys::pipe::Pipe;
use crate::sys::rights;
use crate::systemd::notify::Notifier;
use crate::{Error, Result};

impl Fleet {
    /// Finds the proxy and the upstream of connections. Those of a proxy that is no longer configured get one
    /// that takes in nobody and drains.
    pub(super) fn adopt(&mut self, connections: impl ExactSizeIterator<Item = Box<Adopted>>, names: &Names) {
        // Nobody else has it yet.
        let roster = std::mem::take(self.roster.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut roster = Arc::unwrap_or_clone(roster);
        let mut homes = HashMap::new();
        self.adoptable.reserve_exact(connections.len());
        for adopted in connections {
            let of = (adopted.record.proxy, adopted.record.upstream);
            let home =
                homes.entry(of).or_insert_with(|| Home::find(&mut roster, names, of, self.mailboxes.len()));
            let proxy = &roster[home.proxy];
            if let Some(place) = home.upstream.filter(|_| adopted.server.is_some()) {
                proxy.upstream(place).enter();
            }
            proxy.active.fetch_add(1, Relaxed);
            self.active.fetch_add(1, Relaxed);
            self.next_id.fetch_max(adopted.record.id.saturating_add(1), Relaxed);
            self.adoptable.push((adopted, home.proxy, home.upstream));
        }
        self.roster = Mutex::new(Arc::new(roster));
    }

    /// Has connections outlive this process, and takes over those that the last one left: from here on its
    /// ledger is void, and one of our own holds.
    ///
    /// # Errors
    /// The system refuses the memory for the ledger, or file descriptors for the lots.
    pub fn keep(
        &mut self,
        estate: &mut Estate,
        crash_after: Option<Duration>,
        notifier: &Notifier,
    ) -> Result<()> {
        let names = self.proxies().names();
        let is_new = estate.ledger.is_none();
        // Any worker may come to have all connections. What is never touched costs nothing.
        let capacity = self.limit.saturating_mul(self.workers() as u32);
        let ledger = Ledger::prepare(&names, self.workers(), capacity, estate.ledger.take())?;
        let crash_after = crash_after.map(|after| after.as_millis() as u64);
        let keeper = Keeper::new(ledger, crash_after, notifier.clone(), estate.tries);
        let homes = self.take_lots(estate, &keeper)?;
        fault::pass("start-lots");
        self.place(&keeper.ledger, &homes);
        keeper.ledger.begin();
        if is_new || estate.litter {
            keeper.store_ledger(estate.litter)?;
        }
        fault::pass("start-ledger");
        for (worker, lots) in self.lots.iter().enumerate() {
            if crash_after.is_some() && lock(lots).is_none() {
                let lot = Lot::new().map_err(|e| Error::system("making a parking lot", e))?;
                if keeper.add_lot(worker, &lot) {
                    *lock(lots) = Some(Lots::new(vec![lot], self.crowd()));
                }
            }
        }
        self.keeper = Some(Arc::new(keeper));
        Ok(())
    }

    /// Gives the lots that the last incarnation left to the workers; tells for each who has it now, and as which
    /// of his. Where the store is to be cleared there are none.
    fn take_lots(&mut self, estate: &mut Estate, keeper: &Keeper) -> Result<Vec<(usize, usize)>> {
        let left = std::mem::take(&mut estate.lots);
        if estate.litter {
            return Ok(Vec::new());
        }
        let mut of_workers: Vec<Vec<Lot<Item>>> = (0..self.workers()).map(|_| Vec::new()).collect();
        let mut homes = Vec::new();
        for (number, LeftLot { entry, near, far, messages }) in left.into_iter().enumerate() {
            // In turn, whosever they were: nobody who comes in addition needs one more.
            let worker = number % self.workers();
            keeper.ledger.add_lot(LotEntry { worker: worker as u64, ..entry });
            homes.push((worker, of_workers[worker].len()));
            of_workers[worker].push(Lot::left(near, far, &messages));
        }
        for (lots, of_worker) in self.lots.iter().zip(of_workers).filter(|(_, lots)| !lots.is_empty()) {
            *lock(lots) = Some(Lots::new(of_worker, self.crowd()));
        }
        Ok(homes)
    }

    /// From how many file descriptors in the lots of a worker on the limit is near.
    fn crowd(&self) -> usize {
        self.limit as usize * 3 / 2 / self.workers()
    }

    /// Gives the connections to the workers whose lots they stand in, and each a record.
    fn place(&mut self, ledger: &Ledger, homes: &[(usize, usize)]) {
        let roster = self.proxies();
        let mut slots = std::iter::from_fn(|| ledger.take_chunk()).flatten();
        for (number, (mut adopted, proxy, upstream)) in self.adoptable.drain(..).enumerate() {
            let home = homes.get(adopted.client.place.0).map(|home| home.0);
            let worker = home.unwrap_or(number % self.adopted.len());
            let place = |found: &Found| {
                let (_, lot) = homes.get(found.place.0).filter(|(owner, _)| *owner == worker)?;
                Some((*lot, found.place.1))
            };
            let places = [place(&adopted.client), adopted.server.as_ref().and_then(place)];
            if adopted.server.is_none()
                && let Some(proxy) = roster.get(usize::from(proxy))
            {
                proxy.hold.fronts.set_earlier(worker, adopted.record.id);
            }
            let mut slot = NO_SLOT;
            if let Some(free) = slots.next() {
                slot = free;
                // What was under way in the last incarnation was judged: here nothing is yet.
                adopted.record.flags = adopted.record.flags.without(Flags::WORKING);
                adopted.record.proxy = proxy;
                adopted.record.upstream = upstream.unwrap_or(NO_UPSTREAM);
                adopted.record.server = if adopted.server.is_some() { adopted.record.server } else { 0 };
                let pipe = |pipe: &Option<(Pipe, u32)>| pipe.as_ref().map_or(0, |(pipe, _)| pipe.inode());
                adopted.record.pipes = [pipe(&adopted.to_upstream), pipe(&adopted.to_client)];
                ledger.slot(slot).iter().for_each(|slot| adopted.record.store(slot));
            }
            lock(&self.adopted[worker]).push(Placed { adopted, proxy, upstream, slot, places, pipes: None });
        }
        for (share, lots) in self.adopted.iter().zip(&self.lots) {
            for some in lock(share).chunks_mut(rights::MOST_AT_ONCE / Placed::MOST_STRAYS) {
                take_in_strays(some, &mut lock(lots));
            }
        }
    }

    /// A worker goes on with its share.
    pub(super) fn worker_has_adopted(&self) {
        if self.have_adopted.fetch_add(1, Relaxed) + 1 == self.workers() {
            self.keeper.iter().for_each(|keeper| keeper.got_through());
        }
    }

    /// Has all workers hand over what they have; gives the number of connections when all have done so, or None
    /// at `until`. What failed workers had parked goes on as well.
    pub fn hand_over(&self, until: Instant) -> Option<u64> {
        self.own_listeners().iter().for_each(|listener| listener.keep_file());
        self.tell_all(Command::HandOver);
        let all = || lock(&self.have_parked).len() == self.workers();
        self.wait_until(until, all).then(|| self.handed_over.load(Relaxed))
    }

    pub(super) fn worker_has_parked(&self, worker: usize, connections: u64) {
        self.handed_over.fetch_add(connections, Relaxed);
        lock(&self.have_parked).insert(worker);
        self.notify();
    }

    pub(super) fn worker_has_failed(&self, worker: usize) {
        self.failed.store(true, Relaxed);
        self.keeper.iter().for_each(|keeper| keeper.has_failed());
        self.worker_has_parked(worker, 0);
    }

    /// A worker has panicked or given up.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// What outlives the process, where there is a store.
    pub fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_deref()
    }
}

/// What a proxy and an upstream of the last incarnation are here.
struct Home {
    proxy: u16,
    upstream: Option<u16>,
}

impl Home {
    fn find(roster: &mut Roster, names: &Names, (proxy, upstream): (u16, u16), workers: usize) -> Home {
        let known = names.get(usize::from(proxy));
        let (name, upstreams) = known.map_or(("", &[][..]), |(name, upstreams)| (name, upstreams));
        let here = roster.numbered().find(|(_, p)| p.config.name == *name).map(|(number, _)| number);
        let proxy = here.unwrap_or_else(|| roster.push(Arc::new(Proxy::departed(name, workers))));
        let upstream = upstreams.get(usize::from(upstream));
        let upstream = upstream.and_then(|name| roster.get_mut(proxy).and_then(|proxy| proxy.place_of(name)));
        Home { proxy, upstream }
    }
}

/// Parks once more what stands where nobody notes it: pipes, and what another worker would tidy away.
fn take_in_strays(some: &mut [Placed], lots: &mut Option<Lots<Item>>) {
    let strays: Vec<BorrowedFd<'_>> = some.iter().flat_map(Placed::strays).collect();
    let Some(place) = lots.as_mut().filter(|_| !strays.is_empty()).and_then(|lots| lots.take_in(&strays))
    else {
        return;
    };
    for placed in some {
        placed.places[1] = placed.places[1].or(Some(place).filter(|_| placed.adopted.server.is_some()));
        placed.pipes = Some(place);
    }
}

impl Placed {
    /// The upstream's socket, and both ends of two pipes.
    const MOST_STRAYS: usize = 5;

    fn strays(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let Placed { adopted, places, .. } = self;
        let server = adopted.server.iter().filter(|_| places[1].is_none()).map(|found| found.fd.as_fd());
        let pipes = [&adopted.to_upstream, &adopted.to_client].into_iter().flatten();
        server.chain(pipes.flat_map(|(pipe, _)| pipe.ends()))
    }
}
