//! Pipes and splice(2): how payload moves from socket to socket without entering user memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::fstat;
use nix::unistd::{SysconfVar, pipe2, sysconf, write};

/// A pipe with both ends in this process.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: u32,
    slots: u32,
    inode: u64,
}

impl Pipe {
    /// A non-blocking, close-on-exec pipe of `wanted` bytes where the kernel allows, else of what
    /// it gives: 64 KiB, or 8 KiB once the user's pages are over fs.pipe-user-pages-soft, see
    /// pipe(7).
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(wanted: Option<u32>) -> Result<Pipe, Errno> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let grown = wanted.and_then(|size| fcntl(&write, FcntlArg::F_SETPIPE_SZ(size as i32)).ok());
        let capacity = match grown {
            Some(size) => size,
            None => fcntl(&write, FcntlArg::F_GETPIPE_SZ)?,
        };
        let inode = fstat(&read)?.st_ino;
        Ok(Pipe { read, write, capacity: capacity as u32, slots: slots(capacity as u32), inode })
    }

    /// A pipe out of the ends that another process had.
    ///
    /// # Errors
    /// EBADF: they are no pipe.
    pub fn of(read: OwnedFd, write: OwnedFd) -> Result<Pipe, Errno> {
        let capacity = fcntl(&write, FcntlArg::F_GETPIPE_SZ)? as u32;
        let inode = fstat(&read)?.st_ino;
        Ok(Pipe { read, write, capacity, slots: slots(capacity), inode })
    }

    /// Its ends, for reading and for writing.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.read.as_fd(), self.write.as_fd()]
    }

    /// The kernel's number for it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// How many bytes it takes at the most.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many pieces it takes at the most, each of a byte at least: capacity in pages, pipe(7).
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Moves what `source` has, up to `most` bytes and the capacity, into the pipe, which must be
    /// empty: only then does EAGAIN mean that the source has nothing. 0 is the end of the stream.
    pub fn fill(&self, source: BorrowedFd<'_>, most: u32) -> Result<usize, Errno> {
        move_bytes(source, &self.write, most.min(self.capacity) as usize)
    }

    /// Moves one byte of a TCP connection's urgent data, which splice(2) stops before: it says EAGAIN
    /// or the end of the stream though bytes follow. The socket must have SO_OOBINLINE, tcp(7). This
    /// byte alone passes through user memory.
    pub fn fill_urgent(&self, source: BorrowedFd<'_>) -> Result<usize, Errno> {
        let mut byte = [0];
        match recv(source.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT)? {
            0 => Ok(0),
            _ => write(&self.write, &byte),
        }
    }

    /// Moves up to `len` bytes out of the pipe into `sink`.
    pub fn empty(&self, sink: BorrowedFd<'_>, len: u32) -> Result<usize, Errno> {
        move_bytes(&self.read, sink, len as usize)
    }
}

fn slots(capacity: u32) -> u32 {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| u32::try_from(page).ok());
    // Too few are harmless.
    capacity / page.unwrap_or(1 << 16)
}

fn move_bytes(from: impl AsFd, to: impl AsFd, len: usize) -> Result<usize, Errno> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(&from, None, &to, None, len, flags) {
            Err(Errno::EINTR) => continue,
            result => return result,
        }
    }
}
