//! What several topics need: processes under test, and a fake service manager.

pub mod daemon;
pub mod manager;

use std::time::Duration;

/// A bound for what must happen at once, long enough for a busy machine. A test that waits this
/// long has failed.
pub const SOON: Duration = Duration::from_secs(10);
