//! File descriptors passed by systemd: sd_listen_fds_with_names(3).

use std::os::fd::OwnedFd;

/// A passed file descriptor and its FileDescriptorName=.
pub struct PassedFd {
    pub name: String,
    pub fd: OwnedFd,
}

/// Takes over what systemd passed (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES), close-on-exec set. A
/// second call returns nothing.
pub fn take() -> crate::Result<Vec<PassedFd>> {
    todo!()
}
