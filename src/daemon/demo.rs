//! `drained demo`: a stop under load, shown.

use std::process::ExitCode;

use crate::{Error, Exit, Result};

/// Runs the show, about 15 seconds.
pub fn run() -> Result<ExitCode> {
    Err(Error::new(Exit::Software, "demo: not built yet"))
}
