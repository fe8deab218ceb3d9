//! File descriptors passed to the next program as a service manager passes them: from 3 on, see
//! sd_listen_fds(3).

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::dup2_raw;

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;

/// Becomes `program`, which finds `fds` from 3 on, with LISTEN_FDS and LISTEN_PID in its environment.
/// Returns only if that fails.
///
/// What else this process has open there is replaced: nobody but the caller goes on after this.
pub fn exec(mut program: Command, fds: Vec<OwnedFd>) -> io::Error {
    if let Err(errno) = place(&fds) {
        return errno.into();
    }
    let (count, own) = (fds.len().to_string(), std::process::id().to_string());
    program.env("LISTEN_FDS", count).env("LISTEN_PID", own).exec()
}

fn place(fds: &[OwnedFd]) -> nix::Result<()> {
    let first_free = FIRST + fds.len() as RawFd;
    let mut copies = Vec::new();
    for fd in fds {
        // Out of the way first: one may stand where another belongs.
        let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(first_free))?;
        // SAFETY: the kernel has just made it for this call, and nobody else owns it.
        copies.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    for (fd, number) in copies.into_iter().zip(FIRST..) {
        // SAFETY: whoever owned `number` does not use it any more, see `exec`; it is not closed here,
        // so an owner that is dropped late closes an open file descriptor. Safe code could not do: no
        // safe call takes a number of the caller's choice. The number is left to exec(2).
        let _ = unsafe { dup2_raw(&fd, number) }?.into_raw_fd();
    }
    Ok(())
}
