//! The proxy: listeners, workers, relays, and the drain of protocol `tcp`.
//!
//! A [`Fleet`] holds what all workers share; [`run_worker`] is the body of a worker's thread. No
//! byte of a peer is in memory that dies with the process: bulk moves by splice(2) from socket to pipe to socket,
//! and small messages through a buffer in the ledger's file.

mod accept;
mod bounce;
mod by_hand;
mod check;
mod connect;
mod connection;
mod drain;
mod ending;
mod fleet;
mod flow;
mod fronts;
mod half;
mod handing_over;
mod holding;
mod keeping;
mod lane;
mod listener;
mod looking;
mod means;
mod pipes;
mod portable;
mod proxy_protocol;
mod refusing;
mod reload;
mod renew;
mod retired;
mod roster;
mod seeded;
mod slab;
mod source;
mod stats;
mod timers;
mod upstream;
mod upstream_drain;
mod watching;
mod worker;

pub use by_hand::ByHand;
pub use drain::Doing;
pub use fleet::{Fleet, Proxy};
pub use listener::Listener;
pub use looking::{Looked, Row};
pub use means::{FDS_PER_CONNECTION, room};
pub use reload::{Leftover, Prepared};
pub use roster::Roster;
pub use stats::{Distribution, Totals};
pub use upstream::Upstream;
pub use worker::run as run_worker;
