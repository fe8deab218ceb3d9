//! The steps of the daemon's stop, phase by phase.
//!
//! Announce waits out the lame duck while everything is served. Refuse serves the backlogs and
//! closes the listeners. Drain hands each connection to the drain policy; the workers end with
//! their last connection. (A stop for a restart skips all that and hands over.) Finish closes the control socket, which answers until then.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::intent::{Intent, decide};
use super::{GRACE, by_hand, handover, report};
use crate::config::{self, OnRestart};
use crate::control::server::Running;
use crate::fault;
use crate::lifecycle::{Bound, Handle, Lifecycle, Phase, StepContext};
use crate::proxy::Fleet;
use crate::sys::clock::monotonic_ms;
use crate::systemd::manager;
use crate::{Error, Exit, Result};

/// How long the backlogs may take.
const REFUSE: Duration = Duration::from_secs(5);
/// How often a drain looks at what is left, to say it in STATUS=.
const LOOK: Duration = Duration::from_millis(200);
/// What to cut a connection at the deadline may take: several times what it does.
const CUT: Duration = Duration::from_micros(500);
/// What a handover may take: parking, and the service manager's fetching.
const HAND_OVER: Duration = Duration::from_secs(10);
const CLOSE_CONTROL: Duration = Duration::from_secs(1);

/// How long the bus may take to say what the stop is for. It takes milliseconds; where the machine is
/// overloaded a drain in place of a handover would refuse clients, so patience is better than haste.
const ASK_FIRST: Duration = Duration::from_secs(5);
/// How long it may take while something else is waiting too.
pub(super) const ASK_MANAGER: Duration = Duration::from_millis(200);

/// How often a drain asks whether it has become a restart, should the bus not tell.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a stop needs to know: whom it drains, by when, or whether it hands over.
#[derive(Clone)]
pub struct Stop {
    fleet: Arc<Fleet>,
    handle: Handle,
    on_restart: Arc<Mutex<OnRestart>>,
    first: Arc<OnceLock<(Intent, u64)>>,
    /// Where what is set by hand is kept.
    kept: Option<PathBuf>,
}

impl Stop {
    pub fn new(
        fleet: &Arc<Fleet>,
        handle: Handle,
        on_restart: Arc<Mutex<OnRestart>>,
        kept: Option<PathBuf>,
    ) -> Stop {
        Stop { fleet: fleet.clone(), handle, on_restart, first: Arc::default(), kept }
    }

    /// Declares the steps.
    pub fn declare(&self, life: &mut Lifecycle, control: Option<Running>) {
        let fleet = self.fleet.clone();
        life.stop_status(move || {
            fleet.begin_stop();
            report::draining_text(&fleet)
        });
        let (stop, fleet) = (self.clone(), self.fleet.clone());
        let longest = Bound(Box::new(move || lame_duck(&fleet) + ASK_FIRST + GRACE));
        life.step(Phase::Announce, "lame-duck", longest, move |context| {
            if stop.intent() != Intent::HandOver {
                announce(&stop.fleet, context);
            }
            Ok(())
        });
        let stop = self.clone();
        life.step(Phase::Refuse, "close-listeners", REFUSE + GRACE, move |context| stop.refuse(context));
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
            match stop.intent() {
                Intent::HandOver => HAND_OVER + grace,
                _ => longest(&stop.fleet, |drain| stop.deadline(drain)) + cutting + grace,
            }
        };
        Bound(Box::new(deadline))
    }

    fn deadline(&self, drain: &config::Drain) -> Duration {
        match self.intent() {
            Intent::DrainForShutdown => drain.deadline_on_shutdown,
            Intent::Drain | Intent::HandOver => drain.deadline,
        }
    }

    /// What the stop is for, as it was when it began.
    fn intent(&self) -> Intent {
        self.first.get_or_init(|| (self.ask(ASK_FIRST), monotonic_ms())).0
    }

    /// A reload may have changed it.
    fn on_restart(&self) -> OnRestart {
        *self.on_restart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, bound: Duration) -> Intent {
        let outlives = self.fleet.keeper().is_some_and(|keeper| keeper.crash_after.is_some());
        // In a stop that goes on already it is too late to change it for that.
        let failed = self.fleet.has_failed() && outlives && self.first.get().is_none();
        let connected = self.may_hand_over();
        // Nobody else than the service manager can want anything but a drain.
        let manager = if connected { manager::ask(bound, || self.handle.hurried()) } else { None };
        decide(self.on_restart(), connected, failed, manager.as_ref())
    }

    fn refuse(&self, context: &StepContext) -> Result<()> {
        if self.intent() == Intent::HandOver {
            return Ok(());
        }
        let until = context.deadline().min(Instant::now() + REFUSE);
        handover::store_only(&[], context.notifier(), context.log());
        let refused = self.fleet.refuse(until, || context.hurried());
        match refused {
            true => Ok(()),
            false => Err(Error::new(Exit::Software, "a worker did not close its listeners")),
        }
    }

    fn drain(&self, context: &StepContext) -> Result<()> {
        let fleet = &self.fleet;
        fault::strike("step-hang", None);
        if self.intent() == Intent::HandOver {
            return self.hand_over(context);
        }
        fleet.drain(|drain| self.deadline(drain));
        let (mut asked, has_new_job) = (Instant::now(), self.watch_job());
        while fleet.is_busy() && Instant::now() < context.deadline() {
            context.notifier().status(report::draining_text(fleet));
            fleet.wait_until(Instant::now() + LOOK, || !fleet.is_busy() || has_new_job.load(Relaxed));
            let is_told = has_new_job.swap(false, Relaxed);
            if (is_told || asked.elapsed() >= ASK_AGAIN) && fleet.is_busy() {
                if self.ask(ASK_MANAGER) == Intent::HandOver {
                    return self.hand_over(context);
                }
                asked = Instant::now();
            }
        }
        context.notifier().status(report::draining_text(fleet));
        match fleet.active() {
            0 if self.fleet.has_failed() => Ok(()),
            0 => {
                handover::remove_all(fleet, context.notifier(), context.log());
                self.kept.iter().for_each(|kept| by_hand::forget(kept));
                Ok(())
            }
            left => Err(Error::new(Exit::Software, format!("{left} connections outlived the deadline"))),
        }
    }

    /// Becomes true when the unit gets another job.
    fn watch_job(&self) -> Arc<AtomicBool> {
        let has_new_job = Arc::new(AtomicBool::new(false));
        if self.on_restart() == OnRestart::Auto && self.may_hand_over() && self.fleet.is_busy() {
            let (fleet, changed) = (self.fleet.clone(), has_new_job.clone());
            manager::watch_job(move || {
                changed.store(true, Relaxed);
                fleet.notify();
            });
        }
        has_new_job
    }

    /// There is a service manager who may keep what is handed over.
    fn may_hand_over(&self) -> bool {
        self.handle.notifier().is_connected() && self.fleet.keeper().is_some()
    }

    fn hand_over(&self, context: &StepContext) -> Result<()> {
        self.handle.hand_over();
        context.notifier().status(report::handing_over_text(&self.fleet));
        let stopped = self.first.get().map_or_else(monotonic_ms, |(_, at)| *at);
        handover::leave(&self.fleet, context.notifier(), context.log(), stopped)
    }
}

fn lame_duck(fleet: &Fleet) -> Duration {
    longest(fleet, |drain| drain.lame_duck)
}

fn longest(fleet: &Fleet, which: impl Fn(&config::Drain) -> Duration) -> Duration {
    fleet.proxies().iter().map(|proxy| which(&proxy.config.drain)).max().unwrap_or_default()
}

/// Serves on for as long as the longest lame duck of all proxies.
fn announce(fleet: &Fleet, context: &StepContext) {
    let until = Instant::now() + lame_duck(fleet);
    while !context.hurried() && Instant::now() < until {
        context.notifier().status(report::lame_duck_text(fleet, until));
        context.sleep_until(until.min(Instant::now() + LOOK));
    }
}
