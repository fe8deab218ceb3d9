//! The handover: listeners and live connections on their way to the next incarnation.
//!
//! The outgoing daemon parks the file descriptors of its connections in the queues of UNIX
//! socketpairs ([`lot`]), writes what it knows of each into a ledger ([`ledger`], [`record`]) and has
//! systemd keep both. The next one takes them out and matches them by the kernel's own numbers
//! ([`adopt`]): a socket by its cookie, a pipe by its inode. So no order, no name and no count is
//! trusted, and what matches nothing is closed.

pub mod adopt;
pub mod ledger;
pub mod lot;
pub mod record;

/// Name of the stored ledger.
pub const LEDGER: &str = "drained-ledger";
/// Name of the stored ends of the lots.
pub const LOT: &str = "drained-lot";
/// Name of the stored listeners.
pub const LISTENER: &str = "drained-listener";
