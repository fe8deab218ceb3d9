//! Cleanup steps: their phases, their bounds, and what a running one is given.
//!
//! A step is never killed: past its deadline it is left behind, and ends with the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, error, o};

use super::core::{Core, Task};
use super::thread;
use crate::Result;
use crate::event::Event;
use crate::systemd::notify::Notifier;

/// When in a stop a cleanup step runs. Phases run in this order, the steps of one at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Say that we are going while still serving.
    Announce,
    /// Take in no new work.
    Refuse,
    /// Finish work, say goodbye. The stop token fires when it begins; workers are joined at its end.
    Drain,
    /// Release.
    Finish,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Phase; 4] = [Phase::Announce, Phase::Refuse, Phase::Drain, Phase::Finish];

    /// The word for the phase, as in the journal field DRAINED_PHASE.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Announce => "announce",
            Phase::Refuse => "refuse",
            Phase::Drain => "drain",
            Phase::Finish => "finish",
        }
    }
}

/// A bound that is asked for when the stop begins: a [`Duration`], or a closure that computes one.
/// The closure must not wait for anything: the stop waits for it.
pub struct Bound(pub Box<dyn Fn() -> Duration + Send>);

impl From<Duration> for Bound {
    fn from(bound: Duration) -> Bound {
        Bound(Box::new(move || bound))
    }
}

impl Bound {
    /// The bound, a year at most. A closure that panics is as good as one that says 5 s.
    pub(super) fn ask(&self) -> Duration {
        let bound = thread::contain(|| (self.0)()).unwrap_or(Duration::from_secs(5));
        bound.min(Duration::from_secs(365 * 24 * 3600))
    }
}

/// A cleanup step as it was declared.
pub(super) struct Step {
    pub(super) phase: Phase,
    pub(super) name: String,
    pub(super) bound: Bound,
    pub(super) work: Work,
}

pub(super) type Work = Box<dyn FnOnce(&StepContext) -> Result<()> + Send>;

/// Starts a step on a thread of its own. Its end, good or bad, is told to `core` as `task`.
pub(super) fn start(core: &Arc<Core>, task: Task, step: Step, started: Instant, bound: Duration) {
    let Step { phase, name, work, .. } = step;
    let log = core.log.new(o!("DRAINED_STEP" => name.clone(), "DRAINED_PHASE" => phase.word()));
    let context = StepContext { core: core.clone(), log, started, bound };
    let spawned = thread::spawn(&name.clone(), {
        let name = name.clone();
        move || {
            let ended = thread::contain_result(|| work(&context));
            context.core.task_ended(task, ended.map_err(|why| failed(&context.core, phase, &name, &why)));
        }
    });
    if let Err(why) = spawned {
        core.task_ended(task, Err(failed(core, phase, &name, &why.to_string())));
    }
}

/// Logs the failure and returns the name for the outcome.
fn failed(core: &Core, phase: Phase, name: &str, why: &str) -> String {
    error!(core.log, "cleanup step {} failed: {}", name, why;
        Event::StepFailed, "DRAINED_STEP" => name, "DRAINED_PHASE" => phase.word());
    name.to_owned()
}

/// What a running cleanup step is given.
pub struct StepContext {
    core: Arc<Core>,
    log: Logger,
    started: Instant,
    bound: Duration,
}

impl StepContext {
    /// When the step is left behind. Moves nearer when the stop is hurried.
    pub fn deadline(&self) -> Instant {
        self.core.deadline(self.started, self.bound)
    }

    /// Whether the stop was asked for a second time: only what is quickly done should still be done.
    pub fn hurried(&self) -> bool {
        self.core.is_hurried()
    }

    /// Sleeps until `until`, the deadline or a hurry, whichever is first. True if `until` was reached.
    pub fn sleep_until(&self, until: Instant) -> bool {
        self.core.sleep_unless_hurried(until, self.started, self.bound)
    }

    /// For telling systemd how the step comes along.
    pub fn notifier(&self) -> &Notifier {
        &self.core.notifier
    }

    /// A log whose entries carry the step and its phase.
    pub fn log(&self) -> &Logger {
        &self.log
    }
}
