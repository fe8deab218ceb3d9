//! The steps of the daemon's stop, phase by phase.
//!
//! Announce waits out the lame duck while everything is served. Refuse serves the backlogs and
//! closes the listeners. Drain hands each connection to the drain policy; the workers end with
//! their last connection. Finish closes the control socket, which answers until then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{GRACE, report};
use crate::config;
use crate::control::server::Running;
use crate::lifecycle::{Lifecycle, Phase, StepContext};
use crate::proxy::Fleet;
use crate::{Error, Exit, Result};

/// How long the backlogs may take.
const REFUSE: Duration = Duration::from_secs(5);
/// How often a drain looks at what is left, to say it in STATUS=.
const LOOK: Duration = Duration::from_millis(200);
const CLOSE_CONTROL: Duration = Duration::from_secs(1);

/// Declares the steps.
pub fn declare(life: &mut Lifecycle, fleet: &Arc<Fleet>, control: Option<Running>) {
    let shared = fleet.clone();
    life.step(Phase::Announce, "lame-duck", lame_duck(fleet) + GRACE, move |context| {
        announce(&shared, context);
        Ok(())
    });
    let shared = fleet.clone();
    life.step(Phase::Refuse, "close-listeners", REFUSE + GRACE, move |context| {
        let until = context.deadline().min(Instant::now() + REFUSE);
        match shared.refuse(until) {
            true => Ok(()),
            false => Err(Error::new(Exit::Software, "a worker did not close its listeners")),
        }
    });
    let shared = fleet.clone();
    life.step(Phase::Drain, "drain-connections", drain_bound(fleet), move |context| drain(&shared, context));
    if let Some(control) = control {
        life.step(Phase::Finish, "close-control-socket", CLOSE_CONTROL + GRACE, move |_| {
            control
                .close(CLOSE_CONTROL)
                .unwrap_or_else(|| Err(Error::new(Exit::Software, "the control thread hangs")))
        });
    }
}

/// How long a worker may take from the beginning of the phase Drain.
pub fn worker_bound(fleet: &Fleet) -> Duration {
    drain_bound(fleet) + GRACE
}

fn drain_bound(fleet: &Fleet) -> Duration {
    longest(fleet, |drain| drain.deadline) + GRACE
}

fn lame_duck(fleet: &Fleet) -> Duration {
    longest(fleet, |drain| drain.lame_duck)
}

fn longest(fleet: &Fleet, which: fn(&config::Drain) -> Duration) -> Duration {
    fleet.proxies.iter().map(|proxy| which(&proxy.config.drain)).max().unwrap_or_default()
}

/// Serves on for as long as the longest lame duck of all proxies.
fn announce(fleet: &Fleet, context: &StepContext) {
    let until = Instant::now() + lame_duck(fleet);
    while !context.hurried() && Instant::now() < until {
        context.notifier().status(report::lame_duck_text(fleet, until));
        context.sleep_until(until.min(Instant::now() + LOOK));
    }
}

fn drain(fleet: &Fleet, context: &StepContext) -> Result<()> {
    fleet.drain(|drain| drain.deadline);
    while fleet.active() > 0 && Instant::now() < context.deadline() {
        context.notifier().status(report::draining_text(fleet));
        fleet.wait_until(Instant::now() + LOOK, || fleet.active() == 0);
    }
    context.notifier().status(report::draining_text(fleet));
    match fleet.active() {
        0 => Ok(()),
        left => Err(Error::new(Exit::Software, format!("{left} connections outlived the deadline"))),
    }
}
