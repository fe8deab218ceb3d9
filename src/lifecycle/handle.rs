//! What a running daemon is given: its state, and the ways to change it.

use std::sync::{Arc, Weak};
use std::time::Instant;

use slog::info;

use super::core::{Cause, Core};
use super::state::{State, Transition};
use super::token::StopToken;
use crate::event::Event;
use crate::systemd::notify::Notifier;
use crate::{Error, Exit, Result};

/// What the daemon's own main is given. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Core>);

impl Handle {
    /// The daemon is up: READY=1 and the state Running. Without effect once a stop has begun.
    pub fn ready(&self) {
        if self.0.change(Transition::Ready, |notifier| notifier.ready()).is_ok() {
            info!(self.0.log, "ready"; Event::Started);
        }
    }

    /// The state of the daemon now.
    pub fn state(&self) -> State {
        self.0.facts().state
    }

    /// The way to say something to systemd.
    pub fn notifier(&self) -> &Notifier {
        &self.0.notifier
    }

    /// Since when the process runs.
    pub fn since(&self) -> Instant {
        self.0.since
    }

    /// Whether the stop was asked for a second time: only what is quickly done should still be waited for.
    pub fn hurried(&self) -> bool {
        self.0.is_hurried()
    }

    /// Says that the stop in progress is a handover: the next incarnation goes on.
    pub fn hand_over(&self) {
        // Illegal where there is no stop, or it is one already: then there is nothing to say.
        let _ = self.0.change(Transition::HandOver, |_| ());
    }

    /// Reloads as SIGHUP would. `told` is called, on another thread, with what came of a reload that began after
    /// this; several who ask meanwhile share one. An error says why nothing was changed.
    pub fn reload(&self, told: impl FnOnce(&Result<()>) + Send + 'static) {
        match self.0.errands.get().and_then(Weak::upgrade) {
            Some(errands) => errands.reload_and_tell(&self.0, Box::new(told)),
            None => {
                told(&Err(Error::new(Exit::Unavailable, format!("cannot reload while {}", self.state()))))
            }
        }
    }

    /// Starts the stop as SIGTERM would.
    pub fn stop(&self, reason: &str) {
        self.0.begin_stop(Cause::Asked(reason.to_owned()));
    }

    /// A stop token, for main to wait on.
    pub fn token(&self) -> StopToken {
        self.0.switch.token_for(None, self.0.signals.clone())
    }
}
