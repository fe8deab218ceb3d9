//! What several topics need: processes under test, a fake service manager, containers.

pub mod container;
pub mod daemon;
pub mod image;
pub mod manager;

use std::time::Duration;

/// A bound for what must happen at once, long enough for a busy machine. A test that waits this
/// long has failed.
pub const SOON: Duration = Duration::from_secs(10);
