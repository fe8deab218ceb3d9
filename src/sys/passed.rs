//! Ownership of the file descriptors that a service manager opened for this process; and how they
//! are passed on by one who plays the manager.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::dup2_raw;

/// The first passed file descriptor: SD_LISTEN_FDS_START, see sd_listen_fds(3).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes ownership of the `count` file descriptors from 3 on; nothing on a second call.
///
/// The caller has seen in the environment that they were passed to this process (LISTEN_PID), and
/// that each is open.
pub(crate) fn take(count: usize) -> Vec<OwnedFd> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    (FIRST..).take(count).map(own).collect()
}

/// Becomes `program`, which finds `fds` from 3 on, with LISTEN_FDS and LISTEN_PID in its environment.
/// Returns only if that fails.
///
/// What else this process has open there is replaced: nobody but the caller goes on after this.
pub(crate) fn exec(mut program: Command, fds: Vec<OwnedFd>) -> io::Error {
    if let Err(errno) = place(&fds) {
        return errno.into();
    }
    let (count, own) = (fds.len().to_string(), std::process::id().to_string());
    program.env("LISTEN_FDS", count).env("LISTEN_PID", own).exec()
}

fn place(fds: &[OwnedFd]) -> nix::Result<()> {
    let first_free = FIRST + fds.len() as RawFd;
    // Out of the way first: one may stand where another belongs. The numbers are left to exec(2).
    let copy = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(first_free)).map(own);
    let copies = fds.iter().map(copy).collect::<nix::Result<Vec<_>>>()?;
    for (fd, number) in copies.into_iter().zip(FIRST..) {
        // SAFETY: whoever owned `number` does not use it any more, see `exec`; it is not closed
        // here, so an owner that is dropped late closes an open file descriptor. Safe code could
        // not do: no safe call takes a number of the caller's choice.
        let _ = unsafe { dup2_raw(&fd, number) }?.into_raw_fd();
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a number becomes an owner here")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID and LISTEN_FDS say that the service manager opened `fd` for this process
    // and nobody else in it, and TAKEN lets each be taken only once; or the kernel has just made it
    // for `place`. Safe code could not do: no API of std makes an owner out of a number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
