//! What the tests share.

pub mod container;
pub mod crowd;
pub mod daemon;
pub mod drained;
pub mod image;
pub mod load;
pub mod manager;
pub mod peers;
pub mod real_peers;
pub mod replies;
pub mod scratch;
pub mod store;
pub mod swarm;

use std::time::Duration;

/// A bound for what must happen at once, long enough for a busy machine. A test that waits this
/// long has failed.
pub const SOON: Duration = Duration::from_secs(10);

/// The number in this environment variable, for a run that is longer than what everybody waits for.
pub fn number_from(variable: &str, default: usize) -> usize {
    let Ok(text) = std::env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}"))
}
