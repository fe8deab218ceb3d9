//! The file descriptor store of the demo's service manager, in small what systemd's is: it keeps what
//! the daemon sends to the notify socket and passes it to the next process.
//!
//! See sd_pid_notify_with_fds(3): the same file stored twice is one, FDSTOREREMOVE=1 removes every
//! entry of the name, BARRIER=1 is answered by closing what came with it. What is kept is never looked
//! at, as FDPOLL=0 asks; an entry without it is refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{dev_t, ino_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::fstat;

use crate::sys::rights;

/// FileDescriptorStoreMax= of the shipped unit.
const MOST: usize = 512;

/// The notify socket and what came through it to be kept.
pub struct Store {
    socket: UnixDatagram,
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    name: String,
    fd: OwnedFd,
    file: Identity,
}

/// Device and inode, and the access mode, which tells the two ends of a pipe apart.
type Identity = (dev_t, ino_t, i32);

impl Store {
    /// An empty one, with its notify socket at `path`.
    pub fn open(path: &Path) -> io::Result<Store> {
        Ok(Store { socket: UnixDatagram::bind(path)?, entries: Mutex::default() })
    }

    /// Waits until there is a message.
    pub fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(())
    }

    /// Does what all messages ask for that have come, and tells the text of each.
    pub fn take_in(&self, mut tell: impl FnMut(String)) -> io::Result<()> {
        // Held from a message's coming to its being done, so that one who was here after the daemon's
        // end has seen all.
        let mut entries = self.lock();
        let mut buffer = [0; 8192];
        loop {
            match rights::receive(self.socket.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok((length, fds)) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    obey(&mut entries, &text, fds)?;
                    tell(text);
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The names of all that is kept, in the order in which systemd passes them: the last first.
    pub fn names(&self) -> Vec<String> {
        self.lock().iter().rev().map(|entry| entry.name.clone()).collect()
    }

    /// Sends duplicates of all that is kept, in the order of [`Store::names`].
    pub fn send_all(&self, to: &UnixStream) -> io::Result<()> {
        let entries = self.lock();
        let fds: Vec<_> = entries.iter().rev().map(|entry| entry.fd.as_fd()).collect();
        for fds in fds.chunks(rights::MOST_AT_ONCE) {
            rights::send(to.as_fd(), fds)?;
        }
        Ok(())
    }

    /// Closes all, as systemd does once a service is stopped.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what one message asks for. What it does not keep is closed, which answers a barrier.
fn obey(entries: &mut Vec<Entry>, text: &str, fds: Vec<OwnedFd>) -> io::Result<()> {
    let says = |line: &str| text.lines().any(|l| l == line);
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    if says("FDSTOREREMOVE=1") {
        entries.retain(|entry| entry.name != name);
    } else if says("FDSTORE=1") && says("FDPOLL=0") {
        for fd in fds {
            let file = identity(&fd)?;
            if entries.len() < MOST && entries.iter().all(|entry| entry.file != file) {
                entries.push(Entry { name: name.to_owned(), fd, file });
            }
        }
    }
    Ok(())
}

fn identity(fd: &OwnedFd) -> io::Result<Identity> {
    let (file, flags) = (fstat(fd)?, fcntl(fd, FcntlArg::F_GETFL)?);
    Ok((file.st_dev, file.st_ino, flags & OFlag::O_ACCMODE.bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn what_is_stored_is_kept_once_until_its_name_is_removed() {
        let (a, b) = nix::unistd::pipe().unwrap();
        let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
        let mut entries = Vec::new();
        let mut say = |text, fds| {
            obey(&mut entries, text, fds).unwrap();
            names(&entries).join(" ")
        };
        assert_eq!(say("FDSTORE=1\nFDNAME=x\nFDPOLL=0\n", vec![copy(&a), copy(&b)]), "x x");
        assert_eq!(say("FDSTORE=1\nFDNAME=y\nFDPOLL=0\n", vec![copy(&a)]), "x x");
        assert_eq!(say("FDSTORE=1\nFDNAME=y\n", vec![copy(&a)]), "x x", "it would be polled");
        assert_eq!(say("BARRIER=1\n", vec![copy(&a)]), "x x");
        assert_eq!(say("FDSTOREREMOVE=1\nFDNAME=y\n", vec![]), "x x");
        assert_eq!(say("FDSTOREREMOVE=1\nFDNAME=x\n", vec![]), "");
    }
}
