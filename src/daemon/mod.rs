//! The daemon: ordered startup, status.

pub mod demo;

use slog::Level;

use crate::Result;
use crate::config::Config;
use crate::lifecycle::{BlockedSignals, Outcome};

/// Runs until the stop is over. An error means that nothing was started.
pub fn run(_signals: BlockedSignals, _config: Config, _level: Level) -> Result<Outcome> {
    todo!()
}
