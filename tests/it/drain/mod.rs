//! The stop of the real daemon against a fake service manager.
//!
//! - `times`: how long a stop takes that has nothing to wait for.
//! - `connections`: what becomes of quiet, busy and hanging connections, and when.
//! - `doors`: clients in the backlog, in the midst of a handshake, at passed listeners.
//! - `manager`: what systemd and the control socket are told, and a manager who doesn't listen.
//! - `failures`: workers and steps that fail, signals to single threads, a log that blocks.
//! - `crowd`: thousands of goodbyes at once.

mod connections;
mod crowd;
mod doors;
mod failures;
mod manager;
mod times;

use std::thread;
use std::time::Duration;

use crate::support::drained::pair;

/// Lets a connection become quiet: silence cannot be waited for but by the clock.
fn silence() {
    thread::sleep(Duration::from_millis(1_100));
}
