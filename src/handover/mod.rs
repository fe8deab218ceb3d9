//! The handover: listeners and live connections on their way to the next incarnation.
//!
//! While connections live, duplicates of their sockets and pipes are parked in the queues of UNIX
//! socketpairs ([`lot`]), and what is known of each stands in a ledger ([`ledger`], [`record`]) that is
//! true at every instant. systemd has both ([`keeper`]). However the process ends, the next one takes
//! them and matches them by the kernel's own numbers ([`adopt`]): a socket by its cookie, a pipe by its
//! inode. So no order, no name and no count is trusted, and what matches nothing is closed.

pub mod adopt;
pub mod buffer;
pub mod keeper;
pub mod ledger;
pub mod lot;
pub mod names;
pub mod record;

/// Name of the stored ledger.
pub const LEDGER: &str = "drained-ledger";
/// Name of the stored ends of the lots.
pub const LOT: &str = "drained-lot";
/// Name of the stored listeners.
pub const LISTENER: &str = "drained-listener";
