//! A worker's pool of pipes.
//!
//! A pipe belongs to one direction of one connection while it holds bytes and goes back when it is
//! empty. The pool is a stack: as long as receivers keep up, one hot pipe serves all. A receiver
//! that is slow keeps its own, so a few are large and the others are what the kernel gives. When file
//! descriptors run out, one pipe is left that no slow receiver may keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::errno::Errno;

use super::slab::{Key, Slab};
use crate::sys::pipe::Pipe;

/// Bulk moves in pieces of up to 1 MiB, /proc/sys/fs/pipe-max-size of an untuned kernel.
const LARGE: u32 = 1 << 20;
/// Large pipes of a worker at the most: unprivileged users share 64 MiB (fs.pipe-user-pages-soft),
/// and over it new pipes shrink to 8 KiB.
const LARGE_MAX: usize = 8;
/// Empty pipes kept for the next burst of slow receivers.
const SPARE_MAX: usize = 32;

pub struct Pipes {
    table: Slab<Held>,
    spare: Vec<Key>,
    large: usize,
    /// For the time when no more are to be had: it serves receivers that keep up.
    last: Option<Key>,
    /// How many there are in all workers, which leaves less room for connections.
    count: Arc<AtomicU32>,
}

/// A pipe, and whether a duplicate of it stands in a lot.
struct Held {
    pipe: Pipe,
    parked: bool,
}

/// An empty pipe, and how it may be used.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// The direction may keep it while its receiver is slow.
    Ample(Key),
    /// The same, and nobody has had it before.
    New(Key),
    /// It must be empty again at once: to be filled with no more than the sink takes.
    Last(Key),
}

impl Pipes {
    /// A pool of two pipes, counted in `count`: the hot one, and the last.
    ///
    /// # Errors
    /// EMFILE, ENFILE: there is no file descriptor for the first pipe.
    pub fn new(count: Arc<AtomicU32>) -> Result<Pipes, Errno> {
        count.fetch_add(1, Relaxed);
        let mut table = Slab::default();
        let last = Some(table.insert(Held { pipe: Pipe::new(None)?, parked: false }));
        let mut pipes = Pipes { table, spare: Vec::new(), large: 0, last, count };
        if let Ok(Taken::New(hot)) = pipes.take() {
            pipes.put(hot);
        }
        Ok(pipes)
    }

    /// A pipe that was taken.
    pub fn get(&self, key: Key) -> Option<&Pipe> {
        self.table.get(key).map(|held| &held.pipe)
    }

    /// Whether a duplicate of it stands in a lot.
    pub fn is_parked(&self, key: Key) -> bool {
        self.table.get(key).is_some_and(|held| held.parked)
    }

    /// A duplicate of it stands in a lot now.
    pub fn set_parked(&mut self, key: Key) {
        if let Some(held) = self.table.get_mut(key) {
            held.parked = true;
        }
    }

    /// All pipes, those that are not in use included.
    pub fn keys(&self) -> Vec<Key> {
        self.table.keys()
    }

    /// What the pipe takes that the next [`take`](Self::take) gives, if there is one that the direction may keep.
    pub fn spare_capacity(&self) -> usize {
        self.spare.last().and_then(|key| self.get(*key)).map_or(0, |pipe| pipe.capacity() as usize)
    }

    /// An empty pipe.
    ///
    /// # Errors
    /// EMFILE, ENFILE: the caller tries again later.
    pub fn take(&mut self) -> Result<Taken, Errno> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(Taken::Ample(pipe));
        }
        match Pipe::new((self.large < LARGE_MAX).then_some(LARGE)) {
            Ok(pipe) => Ok(Taken::New(self.add(pipe))),
            Err(errno) => self.last.take().map(Taken::Last).ok_or(errno),
        }
    }

    /// Counts one more, which may be the last incarnation's with bytes in it.
    pub fn add(&mut self, pipe: Pipe) -> Key {
        self.count.fetch_add(1, Relaxed);
        self.large += usize::from(pipe.capacity() >= LARGE);
        self.table.insert(Held { pipe, parked: false })
    }

    /// Takes an empty pipe back. True: there are enough, and one that is parked was closed.
    pub fn put(&mut self, pipe: Key) -> bool {
        if self.last.is_none() {
            self.large -= usize::from(self.is_large(pipe));
            self.last = Some(pipe);
        } else if self.spare.len() < SPARE_MAX {
            self.spare.push(pipe);
        } else {
            return self.discard(pipe);
        }
        false
    }

    /// Closes a pipe whose bytes are given up; tells whether it is parked.
    pub fn discard(&mut self, pipe: Key) -> bool {
        self.count.fetch_sub(1, Relaxed);
        self.large -= usize::from(self.is_large(pipe));
        self.table.remove(pipe).is_some_and(|held| held.parked)
    }

    fn is_large(&self, pipe: Key) -> bool {
        self.get(pipe).is_some_and(|pipe| pipe.capacity() >= LARGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ample(pipes: &mut Pipes) -> Key {
        match pipes.take() {
            Ok(Taken::Ample(pipe) | Taken::New(pipe)) => pipe,
            _ => panic!("no pipe"),
        }
    }

    #[test]
    fn few_are_large_and_the_last_one_put_is_the_next_taken() {
        let count = Arc::new(AtomicU32::new(0));
        let mut pipes = Pipes::new(count.clone()).unwrap();
        let mut taken: Vec<_> = (0..LARGE_MAX + 2).map(|_| ample(&mut pipes)).collect();
        assert!(pipes.large <= LARGE_MAX);
        assert!(pipes.get(taken[LARGE_MAX + 1]).unwrap().capacity() < LARGE);
        assert_eq!(count.load(Relaxed) as usize, LARGE_MAX + 3);
        let hot = taken.remove(0);
        assert!(!taken.drain(..).any(|pipe| pipes.put(pipe)));
        pipes.put(hot);
        assert_eq!(ample(&mut pipes), hot);
    }

    #[test]
    fn no_more_are_kept_than_a_burst_needs() {
        let count = Arc::new(AtomicU32::new(0));
        let mut pipes = Pipes::new(count.clone()).unwrap();
        let taken: Vec<_> = (0..SPARE_MAX + 5).map(|_| ample(&mut pipes)).collect();
        taken.iter().for_each(|pipe| pipes.set_parked(*pipe));
        let closed = taken.iter().filter(|pipe| pipes.put(**pipe)).count();
        assert_eq!((closed, pipes.keys().len()), (5, SPARE_MAX + 1));
        assert_eq!(count.load(Relaxed) as usize, SPARE_MAX + 1);
    }

    #[test]
    fn what_was_kept_is_replaced_by_the_next_that_comes_back() {
        let mut pipes = Pipes::new(Arc::default()).unwrap();
        let (kept, other) = (pipes.last.take(), ample(&mut pipes));
        assert!(pipes.spare.is_empty());
        pipes.put(other);
        assert!(pipes.last.is_some() && pipes.spare.is_empty());
        kept.into_iter().for_each(|pipe| _ = pipes.put(pipe));
        assert_eq!(pipes.spare.len(), 1);
    }
}
