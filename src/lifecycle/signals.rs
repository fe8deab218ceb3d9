//! The signals thread: what a signal means, and nothing else.
//!
//! It never does the work that a signal asks for, so it can never be kept from reading the next one.

use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use slog::debug;

use super::core::{Cause, Core};
use super::errand::Errands;
use super::pending::{Caught, Scan, SignalSource};
use super::token::StopSwitch;
use crate::{Error, Result};

/// The signals that a daemon handles, or keeps from ending it.
const HANDLED: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE];

/// Proof that the signals of a daemon are blocked in this thread and in all that it starts.
pub struct BlockedSignals {
    pub(super) source: Arc<SignalSource>,
    pub(super) switch: StopSwitch,
}

/// Blocks HUP INT QUIT TERM USR1 USR2 PIPE. The first statement of main: a thread that was started
/// before would be killed by them.
///
/// An error says that there is no file descriptor left for a signalfd or an eventfd.
pub fn block_signals() -> Result<BlockedSignals> {
    let mut mask = SigSet::empty();
    for number in HANDLED {
        let signal =
            Signal::try_from(number).map_err(|e| Error::system(format!("block signal {number}"), e))?;
        mask.add(signal);
    }
    mask.thread_block().map_err(|e| Error::system("block signals", e))?;
    Ok(BlockedSignals { source: Arc::new(SignalSource::new(&mask)?), switch: StopSwitch::new()? })
}

/// A signal's name as in signal(7).
pub(super) fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("an unknown signal")
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Stop,
    Hurry,
    EndAtOnce,
    Reload,
    Report,
    Nothing,
}

/// The meaning of `signal` after `asked` signals that asked for a stop.
fn meaning(signal: i32, asked: usize) -> Meaning {
    match (signal, asked) {
        (SIGTERM | SIGINT, 0) => Meaning::Stop,
        (SIGTERM | SIGINT, 1) => Meaning::Hurry,
        (SIGTERM | SIGINT, _) | (SIGQUIT, _) => Meaning::EndAtOnce,
        (SIGHUP, _) => Meaning::Reload,
        (SIGUSR1, _) => Meaning::Report,
        _ => Meaning::Nothing,
    }
}

/// Reads signals until the life cycle is over.
pub(super) fn run(core: &Arc<Core>, errands: &Errands) {
    let mut scan = Scan::new();
    let mut asked = 0;
    while core.facts().outcome.is_none() {
        for caught in core.signals.wait(&mut scan) {
            act(core, errands, caught, meaning(caught.signal, asked));
            asked += usize::from(matches!(caught.signal, SIGTERM | SIGINT));
        }
    }
}

fn act(core: &Arc<Core>, errands: &Errands, caught: Caught, meaning: Meaning) {
    debug!(core.log, "caught {}", caught);
    match meaning {
        Meaning::Stop => core.begin_stop(Cause::Signal(caught)),
        Meaning::Hurry => core.hurry(caught),
        Meaning::EndAtOnce => core.end_at_once(caught),
        Meaning::Reload => errands.reload(core),
        Meaning::Report => errands.report(core),
        Meaning::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_stops_the_second_hurries_the_third_ends() {
        for signal in [SIGTERM, SIGINT] {
            let meanings = [0, 1, 2, 3].map(|asked| meaning(signal, asked));
            assert_eq!(meanings, [Meaning::Stop, Meaning::Hurry, Meaning::EndAtOnce, Meaning::EndAtOnce]);
        }
        for asked in 0..3 {
            assert_eq!(meaning(SIGQUIT, asked), Meaning::EndAtOnce);
            assert_eq!(meaning(SIGHUP, asked), Meaning::Reload);
            assert_eq!(meaning(SIGUSR1, asked), Meaning::Report);
            assert_eq!(meaning(SIGUSR2, asked), Meaning::Nothing);
            assert_eq!(meaning(SIGPIPE, asked), Meaning::Nothing);
        }
    }
}
