//! systemd's side: notify socket, listening file descriptors, journal.

pub mod journal;
pub mod listen_fds;
#[cfg(feature = "daemon")]
pub mod manager;
pub mod notify;
