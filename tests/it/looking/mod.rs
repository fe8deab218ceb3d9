//! Looking at a daemon that works: `drainctl connections` and `drainctl top`.

mod connections;
mod top;

/// drainctl, and where the daemon answers it.
const DRAINCTL: &str = env!("CARGO_BIN_EXE_drainctl");
