//! File descriptors passed by systemd: sd_listen_fds_with_names(3).
//!
//! Only names and ownership: what a file descriptor is, a listener or something out of the store,
//! is for the caller to find out. The environment is left as it is (see [`super::notify`]); since
//! LISTEN_PID names this process alone, children don't take the variables for theirs.

use std::os::fd::OwnedFd;

use crate::{Error, Result, sys::passed};

/// A passed file descriptor and its FileDescriptorName=.
#[derive(Debug)]
pub struct PassedFd {
    /// FileDescriptorName=, by default the name of the .socket unit.
    pub name: String,
    /// The file descriptor, close-on-exec.
    pub fd: OwnedFd,
}

/// Takes over what systemd passed (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES), close-on-exec set. A
/// second call returns nothing. To be called before anything else in the process opens files.
///
/// Nothing was passed where LISTEN_PID is missing or another process. An error says that the
/// variables contradict each other or that a file descriptor which they promise isn't open.
pub fn take() -> Result<Vec<PassedFd>> {
    let named = sd_notify::listen_fds_with_names()
        .map_err(|e| Error::system("take over the file descriptors that systemd passed (LISTEN_FDS)", e))?;
    let names: Vec<String> = named.map(|(_, name)| name).collect();
    let fds = passed::take(names.len());
    Ok(fds.into_iter().zip(names).map(|(fd, name)| PassedFd { name, fd }).collect())
}
