//! What outlives the process: the ledger and the lots, in systemd's store.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::lot::Lot;
use super::{LEDGER, LOT};
use crate::Result;
use crate::fault;
use crate::systemd::notify::Notifier;

/// The ledger of this process, and its way to the store.
pub struct Keeper {
    /// The ledger.
    pub ledger: Ledger,
    /// The age, in milliseconds, from which on connections outlive a crash; None: they don't.
    pub crash_after: Option<u64>,
    notifier: Notifier,
    /// Lots that were stored.
    stored: AtomicU64,
    began: Instant,
    tries: u64,
    failed: AtomicBool,
}

/// Who fails so soon after an adoption may fail because of it.
const TRIAL: Duration = Duration::from_secs(10);

impl Keeper {
    /// Nothing is stored by it yet. `tries` is how often in a row an adoption was begun, this time included.
    pub fn new(ledger: Ledger, crash_after: Option<u64>, notifier: Notifier, tries: u64) -> Keeper {
        ledger.set_tries(tries);
        let (stored, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        Keeper { ledger, crash_after, notifier, stored, began: Instant::now(), tries, failed }
    }

    /// The adoption has got through.
    pub fn got_through(&self) {
        self.ledger.set_tries(0);
        if self.failed.load(SeqCst) {
            self.ledger.set_tries(self.tries);
        }
    }

    /// A part of this process has failed by itself.
    pub fn has_failed(&self) {
        if self.began.elapsed() < TRIAL {
            self.failed.store(true, SeqCst);
            self.ledger.set_tries(self.tries);
        }
    }

    /// Has the ledger stored, in place of all that is of no use any more where there is `litter`.
    ///
    /// # Errors
    /// A file descriptor cannot be duplicated.
    pub fn store_ledger(&self, litter: bool) -> Result<()> {
        if litter {
            self.notifier.fdstore_remove(LEDGER)?;
            fault::pass("start-clearing");
            self.notifier.fdstore_remove(LOT)?;
        }
        self.notifier.fdstore(LEDGER, &[self.ledger.file()])
    }

    /// Notes a lot in the ledger and has it stored. False: there is no room for it, or no file descriptor
    /// to do so.
    pub fn add_lot<T>(&self, worker: usize, lot: &Lot<T>) -> bool {
        let noted = lot.entry(worker).is_ok_and(|entry| self.ledger.add_lot(entry));
        fault::pass("lot-noted");
        let stored = noted && self.notifier.fdstore(LOT, &lot.ends()).is_ok();
        fault::pass("lot-stored");
        self.stored.fetch_add(u64::from(stored), Relaxed);
        stored
    }

    /// How many lots were given to the store.
    pub fn lots_stored(&self) -> u64 {
        self.stored.load(Relaxed)
    }
}
