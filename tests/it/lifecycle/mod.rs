//! The life cycle of a daemon, seen from outside.
//!
//! - `signals`: which thread a signal is sent to, what it means, how the shell sees the end.
//! - `stop`: the phases, their bounds, the peers' view.
//! - `failures`: workers, steps, hooks and mains that fail, hang or panic.
//! - `manager`: what systemd is told, and what happens where it doesn't listen.
//! - `clock`: no decision rests on the wall clock.

mod clock;
mod failures;
mod manager;
mod signals;
mod stop;

use crate::support::daemon::{Daemon, example, unit};

/// The misbehaving daemon, up and running.
fn contrary(arguments: &[&str]) -> Daemon {
    let daemon = unit(example("contrary"), arguments, &[]);
    daemon.wait_line("ready");
    daemon
}
