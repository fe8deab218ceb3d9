//! drainctl's socket: the daemon's thread that answers, and the client that asks.
//!
//! One JSON object a line, see [`protocol`]. The server knows nothing of what it tells: it is
//! given an [`Operator`] that answers, and never blocks for a client.

pub mod by_hand;
pub mod client;
pub mod clients;
mod connection;
pub mod connections;
pub mod listing;
pub mod operator;
pub mod paint;
pub mod protocol;
pub mod reload;
pub mod screen;
pub mod server;
pub mod status;
mod table;
pub mod top;
pub mod words;

pub use operator::Operator;
pub use server::ControlServer;
pub use status::Status;

/// Where drainctl looks for the daemon that the packaged unit runs.
pub const DEFAULT_SOCKET: &str = crate::config::DEFAULT_CONTROL;
