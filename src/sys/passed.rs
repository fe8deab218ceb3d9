//! Ownership of the file descriptors that a service manager opened for this process.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

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

#[expect(unsafe_code, reason = "a number becomes an owner here")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID and LISTEN_FDS say that the service manager opened `fd` for this process
    // and nobody else in it; TAKEN lets each be taken only once. Safe code could not do: no API
    // of std makes an owner out of a number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
