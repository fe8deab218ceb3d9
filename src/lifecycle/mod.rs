//! The life cycle of a daemon: start, run, and a stop in phases with deadlines.
//!
//! A daemon declares workers, cleanup steps and at-exit hooks, then runs:
//!
//! ```no_run
//! # use drained::lifecycle::{self, Lifecycle, Phase};
//! # use std::{process::ExitCode, time::Duration};
//! fn main() -> ExitCode {
//!     let signals = match lifecycle::block_signals() { // before any other thread exists
//!         Ok(signals) => signals,
//!         Err(error) => { eprintln!("{error}"); return error.exit().into() }
//!     };
//!     let log = slog::Logger::root(slog::Discard, slog::o!());
//!     let mut life = Lifecycle::new(signals, log);
//!     life.worker("ticker", Duration::from_secs(1), |stop| {
//!         while stop.wait(Duration::from_secs(1)) == lifecycle::StopLevel::Running { /* work */ }
//!         Ok(())
//!     });
//!     life.step(Phase::Drain, "say-goodbye", Duration::from_secs(5), |_| Ok(()));
//!     life.at_exit("last-words", || ());
//!     life.run(|handle| { handle.ready(); Ok(()) }).finish()
//! }
//! ```
//!
//! The order of a stop, and why it is so: docs/lifecycle.md. The threads:
//!
//! ```text
//! signals   reads a signalfd, decides what a signal means, does no work        signals, pending
//! cleanup   waits for the stop, then: phases, workers, at-exit hooks           cleanup, step, exit
//! notify    sends what systemd could not take at once; signs of life           systemd::notify, pulse
//! reload, report   while a SIGHUP or SIGUSR1 is served                         errand
//! workers, steps, hooks   one thread each                                      worker, step, exit
//! ```
//!
//! Invariant: what these threads know in common is in `core`, under one lock, and every wait but
//! that for the stop itself has a deadline.

mod builder;
mod cleanup;
mod core;
mod errand;
mod exit;
mod handle;
mod outcome;
mod pending;
mod pulse;
mod signals;
mod state;
mod step;
mod thread;
mod token;
mod worker;

pub use builder::Lifecycle;
pub use handle::Handle;
pub use outcome::Outcome;
pub use signals::{BlockedSignals, block_signals};
pub use state::{IllegalTransition, State, Transition};
pub use step::{Bound, Phase, StepContext};
pub use token::{StopLevel, StopSwitch, StopToken};
