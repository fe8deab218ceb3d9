//! A reload, as the daemon does it: the file is read and checked whole, then all of it holds or nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use super::{by_hand, handover, report};
use crate::config::{self, Config, Errors, OnRestart};
use crate::control::operator::Reply;
use crate::control::reload::{Reload, needs_restart};
use crate::event::Event;
use crate::fault;
use crate::lifecycle::Handle;
use crate::proxy::Fleet;
use crate::{Error, Exit, Result};

/// Errors of one configuration that are told, at the most.
const MOST_ERRORS: usize = 200;
/// How long READY=1 may take on its way before the one who asked is answered.
const FLUSH: Duration = Duration::from_millis(200);

/// Whoever reloads, and what it goes by.
pub struct Reloader {
    pub fleet: Arc<Fleet>,
    pub handle: Handle,
    pub log: Logger,
    /// None: the configuration is on the command line.
    pub file: Option<PathBuf>,
    pub in_force: Config,
    /// Where what is set by hand is kept.
    pub kept: Option<PathBuf>,
    pub on_restart: Arc<Mutex<OnRestart>>,
    pub last: Last,
}

/// What the last reload that went well did, for those who asked for it.
#[derive(Clone, Default)]
pub struct Last(Arc<Mutex<Reload>>);

impl Last {
    /// Asks for a reload; `reply` is told what came of it, and before that `say` whether it was done.
    pub fn ask(&self, handle: &Handle, say: impl FnOnce(Result<&str, &str>) + Send + 'static, reply: Reply) {
        let (last, notifier) = (self.clone(), handle.notifier().clone());
        handle.reload(move |result| {
            // Then systemd has heard of the end of the reload before `systemctl reload` is over.
            notifier.flush(FLUSH);
            match result {
                Ok(()) => {
                    say(Ok("done"));
                    reply.ok(&*lock(&last.0));
                }
                Err(error) => {
                    let text = error.to_string();
                    say(Err(text.lines().next().unwrap_or_default()));
                    reply.ok(&refused(error));
                }
            }
        });
    }
}

fn refused(error: &Error) -> Reload {
    let errors = error.to_string().lines().map(str::to_owned).collect();
    Reload { errors, exit: error.exit() as u8, ..Reload::default() }
}

impl Reloader {
    /// Has the store keep the listeners of now, and no others.
    fn store_own(&self) {
        let stores = self.in_force.handover != handover::NEVER;
        let own = if stores { self.fleet.own_listeners() } else { Vec::new() };
        handover::store_only(&own, self.handle.notifier(), &self.log);
    }

    /// Reads the file and has it hold. The error says why all is as it was.
    ///
    /// # Errors
    /// Exit 78: the configuration is wrong; all errors, a line each. Exit 71: the system refused a listener. Exit
    /// 69: a stop has begun.
    pub fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        let file = self.file.as_ref().ok_or_else(|| {
            let message = "the configuration is on the command line: there is no file to reload";
            Error::new(Exit::Config, message)
        })?;
        let next = config::load(file).map_err(|Errors(lines)| Error::new(Exit::Config, told(lines)))?;
        fault::pass("reload-read");
        let prepared = self.fleet.prepare(&next.proxies)?;
        fault::pass("reload-prepared");
        let (notifier, log) = (self.handle.notifier(), &self.log);
        let stores = self.in_force.reloaded(next.clone()).handover != handover::NEVER;
        // Before they are used: a crash from then on finds them there.
        let opened = prepared.opened();
        if stores {
            handover::store_more(&opened, notifier, log);
        }
        fault::pass("reload-stored");
        let leftover = self.fleet.commit(prepared).inspect_err(|_| {
            self.store_own();
        })?;
        drop(opened);
        let difference = self.in_force.difference(&next);
        self.in_force = self.in_force.reloaded(next);
        *lock(&self.on_restart) = self.in_force.handover.on_restart;
        if let Some(kept) = &self.kept {
            by_hand::keep_or_warn(&self.fleet, kept, log);
        }
        let closes = leftover.closes();
        if closes {
            self.store_own();
        }
        fault::pass("reload-removed");
        if !self.fleet.finish(leftover) {
            warn!(
                log,
                "a worker is slow to take in the configuration, or closes listeners with clients in their backlogs"
            );
        }
        if closes {
            handover::wait_removed(notifier);
        }
        notifier.status(report::running_text(&self.fleet));
        let took = began.elapsed();
        let config::Difference { added, removed, changed, kept, needs_restart: keys } = difference;
        for key in &keys {
            warn!(log, "{}", needs_restart(key));
        }
        let (n_added, n_removed, n_changed, n_kept) = (added.len(), removed.len(), changed.len(), kept.len());
        info!(log, "reloaded: of the proxies {n_added} added, {n_removed} removed, {n_changed} changed, {n_kept} as before";
            Event::Reloaded, "DRAINED_DURATION_US" => took.as_micros() as u64);
        *lock(&self.last.0) = Reload {
            reloaded: true,
            added,
            removed,
            changed,
            kept,
            needs_restart: keys,
            ..Reload::default()
        };
        Ok(())
    }
}

/// A line each, and not more than somebody would read.
fn told(mut lines: Vec<String>) -> String {
    let more = lines.len().saturating_sub(MOST_ERRORS);
    lines.truncate(MOST_ERRORS);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_errors_comes_to_an_end() {
        let text = told((0..1_000).map(|n| format!("error {n}")).collect());
        assert_eq!(text.lines().count(), MOST_ERRORS + 1);
        assert!(text.ends_with("and 800 more"));
    }
}
