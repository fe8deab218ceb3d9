//! A worker's pool of pipes.
//!
//! A pipe belongs to one direction of one connection while it holds bytes and goes back when it is
//! empty. The pool is a stack: as long as receivers keep up, one hot pipe serves all. A receiver
//! that is slow keeps its own, so a few are large and the others are what the kernel gives.

use nix::errno::Errno;

use crate::sys::pipe::Pipe;

/// Bulk moves in pieces of up to 1 MiB, /proc/sys/fs/pipe-max-size of an untuned kernel.
const LARGE: u32 = 1 << 20;
/// Large pipes of a worker at the most: unprivileged users share 64 MiB (fs.pipe-user-pages-soft),
/// and over it new pipes shrink to 8 KiB.
const LARGE_MAX: usize = 8;
/// Empty pipes kept for the next burst of slow receivers.
const SPARE_MAX: usize = 32;

pub struct Pipes {
    spare: Vec<Pipe>,
    large: usize,
}

impl Default for Pipes {
    /// With one to begin with: while receivers keep up it serves, whatever else runs out.
    fn default() -> Pipes {
        let mut pipes = Pipes { spare: Vec::new(), large: 0 };
        if let Ok(pipe) = pipes.take() {
            pipes.put(pipe);
        }
        pipes
    }
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// EMFILE, ENFILE: the caller tries again later.
    pub fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let pipe = Pipe::new((self.large < LARGE_MAX).then_some(LARGE))?;
        self.large += usize::from(pipe.capacity() >= LARGE);
        Ok(pipe)
    }

    /// Takes an empty pipe back.
    pub fn put(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(pipe);
        } else {
            self.discard(pipe);
        }
    }

    /// Closes a pipe whose bytes are given up.
    pub fn discard(&mut self, pipe: Pipe) {
        self.large -= usize::from(pipe.capacity() >= LARGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_large_and_the_last_one_put_is_the_next_taken() {
        let mut pipes = Pipes::default();
        let mut taken: Vec<_> = (0..LARGE_MAX + 2).map(|_| pipes.take().unwrap()).collect();
        assert!(pipes.large <= LARGE_MAX);
        assert!(taken[LARGE_MAX + 1].capacity() < LARGE);
        let hot = taken.remove(0);
        let capacity = hot.capacity();
        taken.drain(..).for_each(|pipe| pipes.put(pipe));
        pipes.put(hot);
        assert_eq!(pipes.take().unwrap().capacity(), capacity);
    }
}
