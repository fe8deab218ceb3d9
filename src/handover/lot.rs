//! A parking lot: a UNIX socketpair in whose queue file descriptors wait for the next incarnation.
//!
//! Both ends are stored with systemd. The queue holds the connections open while no process does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::sys::rights;

/// Lots that grow in number as their queues fill (by default some 70,000 file descriptors each).
#[derive(Default)]
pub struct Lots {
    lots: Vec<(OwnedFd, OwnedFd)>,
    waiting: Vec<OwnedFd>,
}

impl Lots {
    /// Parks file descriptors; they are closed here once they are in a queue.
    ///
    /// # Errors
    /// EMFILE: no further lot can be made. ETOOMANYREFS: too many are in flight. What was to be
    /// parked is closed then.
    pub fn park(&mut self, fds: impl IntoIterator<Item = OwnedFd>) -> Result<(), Errno> {
        self.waiting.extend(fds);
        while self.waiting.len() >= rights::MOST_AT_ONCE {
            self.send(rights::MOST_AT_ONCE)?;
        }
        Ok(())
    }

    /// Parks what still waits for a full message; gives all ends, which are to be stored.
    ///
    /// # Errors
    /// As [`park`](Self::park).
    pub fn finish(mut self) -> Result<Vec<OwnedFd>, Errno> {
        if !self.waiting.is_empty() {
            self.send(self.waiting.len())?;
        }
        Ok(self.lots.into_iter().flat_map(|(near, far)| [near, far]).collect())
    }

    fn send(&mut self, count: usize) -> Result<(), Errno> {
        let fds: Vec<OwnedFd> = self.waiting.drain(..count).collect();
        if let Some((near, _)) = self.lots.last() {
            match rights::send(near.as_fd(), &fds) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        rights::send(near.as_fd(), &fds)?;
        self.lots.push((near, far));
        Ok(())
    }
}

/// Duplicates of everything in the queue of one end. What is in it stays, so that a start that fails
/// takes nothing from the next try.
///
/// # Errors
/// EMFILE: there is no room for all of them. Anything that is no lot: its errno.
pub fn look_into(end: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut all = Vec::new();
    rights::start_walk(end)?;
    while let Some(fds) = rights::walk(end)? {
        all.extend(fds);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_parked_is_found_as_often_as_one_looks() {
        let mut lots = Lots::default();
        for _ in 0..600 {
            lots.park([File::open("/dev/null").unwrap().into()]).unwrap();
        }
        let ends = lots.finish().unwrap();
        assert_eq!(ends.len(), 2);
        for _ in 0..2 {
            let found: usize = ends.iter().map(|end| look_into(end.as_fd()).unwrap().len()).sum();
            assert_eq!(found, 600);
        }
    }

    #[test]
    fn what_is_no_lot_is_an_error() {
        assert!(look_into(File::open("/dev/null").unwrap().as_fd()).is_err());
        assert!(Lots::default().finish().unwrap().is_empty());
    }
}
