//! What both parts of the demo stand on: the daemon under its manager, the screen that shows what it
//! does, and notes of what was seen.

use std::process::ExitStatus;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::manager::{Happened, Manager};
use super::screen::Screen;
use crate::{Error, Exit, Result};

/// No single wait of the demo is longer.
pub const BOUND: Duration = Duration::from_secs(15);

pub struct Stage {
    pub screen: Screen,
    pub manager: Manager,
    /// Of the process that was started last.
    pub notes: Notes,
}

/// What was seen of a process and must have been.
#[derive(Default)]
pub struct Notes {
    pub ready: bool,
    pub stopping_asked_for_time: bool,
    /// The phase after Refuse has begun.
    pub listener_closed: bool,
    /// How many connections it took over, and how many it left.
    pub adopted: Option<u64>,
    pub handed_over: Option<u64>,
    pub exit: Option<ExitStatus>,
}

impl Stage {
    /// Starts the daemon with what is stored, and shows what it does until it is ready.
    pub fn start(&mut self, config: &str) -> Result<()> {
        self.notes = Notes::default();
        self.manager.start(config)?;
        self.follow_until(|notes| notes.ready || notes.exit.is_some())?;
        match self.notes.exit {
            Some(_) => Err(Error::new(Exit::Software, "demo: the daemon ended before it was ready")),
            None => Ok(()),
        }
    }

    /// Sends a signal, and says so.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.manager.signal(signal)?;
        self.screen.line(Instant::now(), "manager", signal.as_str());
        Ok(())
    }

    /// Shows what happens until then.
    pub fn follow(&mut self, until: Instant) -> Result<()> {
        while self.next(until)? {}
        Ok(())
    }

    /// Shows what happens until `done`, at most [`BOUND`].
    pub fn follow_until(&mut self, done: impl Fn(&Notes) -> bool) -> Result<()> {
        let until = Instant::now() + BOUND;
        while !done(&self.notes) {
            if !self.next(until)? {
                return Err(Error::new(
                    Exit::Software,
                    format!("demo: the daemon let us wait for {BOUND:?}"),
                ));
            }
        }
        Ok(())
    }

    /// Shows the next thing that happens. False if `until` came first.
    fn next(&mut self, until: Instant) -> Result<bool> {
        let (at, happened) = match self.manager.next(until) {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Exit::Software, "demo: nobody listens to the daemon any more"));
            }
        };
        match happened {
            Happened::Notified(message) => {
                self.notes.ready |= message.lines().any(|l| l == "READY=1");
                self.notes.stopping_asked_for_time |= message.lines().any(|l| l == "STOPPING=1")
                    && message.lines().any(|l| l.starts_with("EXTEND_TIMEOUT_USEC="));
                self.screen.line(at, "notify", &message.lines().collect::<Vec<_>>().join(" "));
            }
            Happened::Logged(line) => {
                self.notes.listener_closed |= line.contains(" phase=drain");
                self.notes.adopted = self.notes.adopted.or(count(&line, "adopted"));
                self.notes.handed_over = self.notes.handed_over.or(count(&line, "handed over"));
                // The time line has a time of its own.
                self.screen.line(at, "log", line.split_once(' ').map_or(&*line, |(_, rest)| rest));
            }
            Happened::Exited(status) => {
                self.screen.line(at, "manager", &format!("the daemon has ended: {status}"));
                self.notes.exit = Some(status);
            }
        }
        Ok(true)
    }
}

/// The N of "WORDS N connections".
fn count(line: &str, words: &str) -> Option<u64> {
    let (_, rest) = line.split_once(words)?;
    let (count, rest) = rest.trim_start().split_once(' ')?;
    count.parse().ok().filter(|_| rest.starts_with("connections"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_number_of_connections_is_read_from_the_log() {
        let line = "... INFO  adopted 60 connections and 1 listeners  event=adopted";
        assert_eq!(super::count(line, "adopted"), Some(60));
        assert_eq!(super::count(line, "handed over"), None);
        assert_eq!(super::count("handed over many connections", "handed over"), None);
    }
}
