//! How a life cycle ended, and what the process makes of it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::Exit;

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub(super) left_behind: Vec<String>,
    pub(super) failed: Vec<String>,
    pub(super) signal: Option<i32>,
    pub(super) error: Option<Exit>,
}

impl Outcome {
    /// 0 orderly; 70 when a worker or step was left behind or failed; else what main's error says.
    pub fn exit(&self) -> Exit {
        match self.error {
            _ if !self.left_behind.is_empty() || !self.failed.is_empty() => Exit::Software,
            Some(exit) => exit,
            None => Exit::Orderly,
        }
    }

    /// The names of the workers, steps and hooks that did not end within their bound; `main` for main.
    pub fn left_behind(&self) -> &[String] {
        &self.left_behind
    }

    /// The names of the workers, steps and hooks that panicked or ended with an error; `main` for a
    /// main that panicked.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// The signal that ended it, a number as in signal(7).
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Ends the process as the outcome asks: where an orderly end was caused by a signal and
    /// standard error is a terminal, by that signal itself, so that the shell sees an interrupted
    /// program. Otherwise returns the exit code for main.
    pub fn finish(self) -> ExitCode {
        match self.signal {
            Some(signal) if self.exit() == Exit::Orderly && std::io::stderr().is_terminal() => {
                // The end by a signal flushes nothing.
                let _ = std::io::stdout().flush();
                // Unblocks the signal in this thread and raises it. It returns only for a signal
                // without a default action, which none of ours is.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            _ => {}
        }
        self.exit().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_or_failed_outweighs_the_error_of_main() {
        let some = || vec!["x".to_owned()];
        let error = Some(Exit::Config);
        assert_eq!(Outcome::default().exit(), Exit::Orderly);
        assert_eq!(Outcome { error, ..Outcome::default() }.exit(), Exit::Config);
        assert_eq!(Outcome { error, failed: some(), ..Outcome::default() }.exit(), Exit::Software);
        assert_eq!(Outcome { error, left_behind: some(), ..Outcome::default() }.exit(), Exit::Software);
    }
}
