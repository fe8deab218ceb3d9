//! The steps of the daemon's stop, phase by phase.
//!
//! Announce waits out the lame duck while everything is served. Refuse serves the backlogs and
//! closes the listeners. Drain hands each connection to the drain policy; the workers end with
//! their last connection. Finish closes the control socket, which answers until then.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::{GRACE, report};
use crate::config;
use crate::control::server::Running;
use crate::lifecycle::{Bound, Lifecycle, Phase, StepContext};
use crate::proxy::{Fleet, fault};
use crate::systemd::manager;
use crate::{Error, Exit, Result};

/// How long the backlogs may take.
const REFUSE: Duration = Duration::from_secs(5);
/// How often a drain looks at what is left, to say it in STATUS=.
const LOOK: Duration = Duration::from_millis(200);
/// What to cut a connection at the deadline may take: several times what it does.
const CUT: Duration = Duration::from_micros(500);
const CLOSE_CONTROL: Duration = Duration::from_secs(1);

/// How long the bus may take to say whether the machine shuts down.
const ASK_MANAGER: Duration = Duration::from_millis(200);

/// What a stop needs to know: whom it drains, and by when.
#[derive(Clone)]
pub struct Stop {
    fleet: Arc<Fleet>,
    shutdown: Arc<OnceLock<bool>>,
}

impl Stop {
    pub fn new(fleet: &Arc<Fleet>) -> Stop {
        Stop { fleet: fleet.clone(), shutdown: Arc::default() }
    }

    /// Declares the steps.
    pub fn declare(&self, life: &mut Lifecycle, control: Option<Running>) {
        let fleet = self.fleet.clone();
        life.stop_status(move || {
            fleet.begin_stop();
            report::draining_text(&fleet)
        });
        let bound = lame_duck(&self.fleet) + GRACE;
        let fleet = self.fleet.clone();
        life.step(Phase::Announce, "lame-duck", bound, move |context| {
            announce(&fleet, context);
            Ok(())
        });
        let fleet = self.fleet.clone();
        life.step(Phase::Refuse, "close-listeners", REFUSE + GRACE, move |context| {
            let until = context.deadline().min(Instant::now() + REFUSE);
            match fleet.refuse(until, || context.hurried()) {
                true => Ok(()),
                false => Err(Error::new(Exit::Software, "a worker did not close its listeners")),
            }
        });
        let stop = self.clone();
        life.step(Phase::Drain, "drain-connections", self.bound(GRACE), move |context| stop.drain(context));
        if let Some(control) = control {
            let hangs = || Err(Error::new(Exit::Software, "the control thread hangs"));
            life.step(Phase::Finish, "close-control-socket", CLOSE_CONTROL + GRACE, move |_| {
                control.close(CLOSE_CONTROL).unwrap_or_else(hangs)
            });
        }
    }

    /// The longest deadline of all proxies and `grace`, for whoever drains.
    pub fn bound(&self, grace: Duration) -> Bound {
        let stop = self.clone();
        let deadline = move || {
            let cutting = CUT * stop.fleet.active().max(stop.fleet.workers() as u32);
            longest(&stop.fleet, |drain| stop.deadline(drain)) + cutting + grace
        };
        Bound(Box::new(deadline))
    }

    fn deadline(&self, drain: &config::Drain) -> Duration {
        match self.is_shutdown() {
            true => drain.deadline_on_shutdown,
            false => drain.deadline,
        }
    }

    /// Whether the whole machine goes down, asked once, and not while there is nobody to drain.
    fn is_shutdown(&self) -> bool {
        let nobody = self.fleet.active() == 0 && lame_duck(&self.fleet).is_zero();
        let ask = || manager::system_state(ASK_MANAGER).is_some_and(|state| state == "stopping");
        match self.shutdown.get() {
            Some(shutdown) => *shutdown,
            None if nobody => false,
            None => *self.shutdown.get_or_init(ask),
        }
    }

    fn drain(&self, context: &StepContext) -> Result<()> {
        let fleet = &self.fleet;
        fault::strike("step-hang", None);
        fleet.drain(|drain| self.deadline(drain));
        while fleet.is_busy() && Instant::now() < context.deadline() {
            context.notifier().status(report::draining_text(fleet));
            fleet.wait_until(Instant::now() + LOOK, || !fleet.is_busy());
        }
        context.notifier().status(report::draining_text(fleet));
        match fleet.active() {
            0 => Ok(()),
            left => Err(Error::new(Exit::Software, format!("{left} connections outlived the deadline"))),
        }
    }
}

fn lame_duck(fleet: &Fleet) -> Duration {
    longest(fleet, |drain| drain.lame_duck)
}

fn longest(fleet: &Fleet, which: impl Fn(&config::Drain) -> Duration) -> Duration {
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
