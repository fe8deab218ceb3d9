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

/// Takes everything out of the queue of one end.
///
/// # Errors
/// EMFILE: some are lost for want of room. Anything that is no lot: its errno.
pub fn take_out(end: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut all = Vec::new();
    while let Some(fds) = rights::receive(end)? {
        all.extend(fds);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_parked_is_taken_out() {
        let mut lots = Lots::default();
        for _ in 0..600 {
            lots.park([File::open("/dev/null").unwrap().into()]).unwrap();
        }
        let ends = lots.finish().unwrap();
        let out: usize = ends.iter().map(|end| take_out(end.as_fd()).unwrap().len()).sum();
        assert_eq!((ends.len(), out), (2, 600));
        let again: usize = ends.iter().map(|end| take_out(end.as_fd()).unwrap().len()).sum();
        assert_eq!(again, 0);
    }

    #[test]
    fn what_is_no_lot_is_an_error() {
        assert!(take_out(File::open("/dev/null").unwrap().as_fd()).is_err());
        assert!(Lots::default().finish().unwrap().is_empty());
    }
}
