//! What the threads of a life cycle know in common, under one lock with one condition variable.
//!
//! Invariant: nothing is done under the lock but to change or read [`Facts`] and to tell the notifier,
//! which doesn't block, so that the messages have the order of the state changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use slog::{Logger, error, warn};

use super::errand::Errands;
use super::exit::Hook;
use super::outcome::Outcome;
use super::pending::{Caught, SignalSource};
use super::signals::name;
use super::state::{IllegalTransition, State, Transition};
use super::step::{Bound, Phase};
use super::token::{Beat, StopLevel, StopSwitch};
use crate::Exit;
use crate::event::Event;
use crate::systemd::notify::Notifier;

/// How long what still runs gets when the stop must end at once.
const AT_ONCE: Duration = Duration::from_millis(100);

pub(super) struct Core {
    pub(super) log: Logger,
    pub(super) notifier: Notifier,
    pub(super) since: Instant,
    pub(super) switch: StopSwitch,
    pub(super) signals: Arc<SignalSource>,
    pub(super) hooks: Mutex<Vec<Hook>>,
    /// From the start on, as long as signals are read.
    pub(super) errands: OnceLock<Weak<Errands>>,
    facts: Mutex<Facts>,
    changed: Condvar,
}

/// Why a stop began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Signal(Caught),
    Asked(String),
    Worker(String),
    Main(String),
    Start(String),
}

/// Something that a stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    Main,
    Worker(usize),
    Step(Phase, usize),
    Cleanup,
}

/// Main or a worker: what the stop will have to wait for.
pub(super) struct Member {
    pub(super) task: Task,
    pub(super) name: String,
    pub(super) bound: Bound,
}

/// The changing part.
pub(super) struct Facts {
    pub(super) state: State,
    pub(super) cause: Option<Cause>,
    pub(super) hurry: Duration,
    pub(super) hurried: Option<Instant>,
    pub(super) at_once: Option<Instant>,
    /// What has begun and not ended, and the names and beats of workers among it.
    pub(super) running: HashMap<Task, Option<(String, Arc<Beat>)>>,
    pub(super) crew: Vec<Member>,
    pub(super) failed: Vec<String>,
    pub(super) left_behind: Vec<String>,
    /// The signal that the process is to end by, if any.
    pub(super) signal: Option<i32>,
    /// The exit code of an error of main or of the start.
    pub(super) error: Option<Exit>,
    pub(super) outcome: Option<Outcome>,
}

impl Core {
    pub(super) fn new(
        log: Logger,
        notifier: Notifier,
        switch: StopSwitch,
        signals: Arc<SignalSource>,
    ) -> Core {
        let facts = Facts {
            state: State::Starting,
            cause: None,
            hurry: Duration::from_secs(2),
            hurried: None,
            at_once: None,
            running: HashMap::new(),
            crew: Vec::new(),
            failed: Vec::new(),
            left_behind: Vec::new(),
            signal: None,
            error: None,
            outcome: None,
        };
        let since = Instant::now();
        let (hooks, facts, changed) = (Mutex::default(), Mutex::new(facts), Condvar::new());
        let errands = OnceLock::new();
        Core { log, notifier, since, switch, signals, hooks, errands, facts, changed }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and, in the same instant, tells systemd by `tell`.
    pub(super) fn change(
        &self,
        transition: Transition,
        tell: impl FnOnce(&Notifier),
    ) -> Result<(), IllegalTransition> {
        let mut facts = self.facts();
        facts.state = facts.state.on(transition)?;
        tell(&self.notifier);
        Ok(())
    }

    /// Starts the stop. Without effect once one has begun.
    pub(super) fn begin_stop(&self, cause: Cause) {
        let mut facts = self.facts();
        if let Cause::Signal(caught) = &cause {
            facts.signal.get_or_insert(caught.signal);
        }
        facts.cause.get_or_insert(cause);
        drop(facts);
        self.changed.notify_all();
    }

    /// The second signal: every deadline moves to `hurry` from now.
    pub(super) fn hurry(&self, caught: Caught) {
        // Said first: what it wakes may be the end of the log.
        warn!(self.log, "hurried by {}", caught; Event::Hurried);
        self.facts().hurried.get_or_insert_with(Instant::now);
        if self.switch.token().level() > StopLevel::Running {
            self.switch.raise(StopLevel::Hurried);
        }
        self.changed.notify_all();
    }

    /// The third signal, or SIGQUIT: nothing more is waited for.
    pub(super) fn end_at_once(&self, caught: Caught) {
        warn!(self.log, "{}: ending at once", caught; Event::Hurried);
        let mut facts = self.facts();
        let now = Instant::now();
        facts.hurried.get_or_insert(now);
        facts.at_once.get_or_insert(now);
        facts.signal = Some(caught.signal);
        facts.cause.get_or_insert(Cause::Signal(caught));
        drop(facts);
        self.switch.raise(StopLevel::Hurried);
        self.changed.notify_all();
    }

    /// Takes main or a worker in, before it begins. False once a stop has begun: it must not begin.
    pub(super) fn enlist(&self, task: Task, name: &str, bound: Bound, beat: Option<Arc<Beat>>) -> bool {
        let mut facts = self.facts();
        if facts.cause.is_some() {
            return false;
        }
        facts.crew.push(Member { task, name: name.to_owned(), bound });
        facts.running.insert(task, beat.map(|beat| (name.to_owned(), beat)));
        true
    }

    pub(super) fn task_began(&self, task: Task, name: &str, beat: Arc<Beat>) {
        self.facts().running.insert(task, Some((name.to_owned(), beat)));
    }

    pub(super) fn unwatched_task_began(&self, task: Task) {
        self.facts().running.insert(task, None);
    }

    /// The task is over; an error is the name of what failed.
    pub(super) fn task_ended(&self, task: Task, ended: Result<(), String>) {
        let mut facts = self.facts();
        facts.running.remove(&task);
        facts.failed.extend(ended.err());
        drop(facts);
        self.changed.notify_all();
    }

    /// The error by which the daemon ends, if nothing worse happens.
    pub(super) fn fail(&self, what: &str, exit: Exit, why: String, cause: fn(String) -> Cause) {
        error!(self.log, "{}: {}", what, why);
        self.facts().error.get_or_insert(exit);
        self.begin_stop(cause(why));
    }

    /// The deadline of what began at `started` and may take `bound`.
    pub(super) fn deadline(&self, started: Instant, bound: Duration) -> Instant {
        self.facts().deadline(started, bound)
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.facts().hurried.is_some()
    }

    /// See [`StepContext::sleep_until`](super::StepContext::sleep_until).
    pub(super) fn sleep_unless_hurried(&self, until: Instant, started: Instant, bound: Duration) -> bool {
        let mut facts = self.facts();
        let was_hurried = facts.hurried.is_some();
        loop {
            let now = Instant::now();
            if now >= until {
                return true;
            }
            let deadline = facts.deadline(started, bound);
            if now >= deadline || facts.hurried.is_some() != was_hurried {
                return false;
            }
            facts = self.wait(facts, Some(deadline.min(until)));
        }
    }

    /// Waits for a change, at most until `until`.
    pub(super) fn wait<'a>(
        &self,
        facts: MutexGuard<'a, Facts>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Facts> {
        match until {
            None => self.changed.wait(facts).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(facts, left).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Wakes everything that waits for a change.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }
}

impl Facts {
    pub(super) fn deadline(&self, started: Instant, bound: Duration) -> Instant {
        let moved = |at: Option<Instant>, by| at.map(|at| at.max(started) + by);
        let ordinary = started + bound;
        [moved(self.hurried, self.hurry), moved(self.at_once, AT_ONCE)]
            .into_iter()
            .flatten()
            .fold(ordinary, Ord::min)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Signal(caught) => caught.fmt(f),
            Cause::Asked(reason) => f.write_str(reason),
            Cause::Worker(name) => write!(f, "worker {name} failed"),
            Cause::Main(why) | Cause::Start(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(self.signal))?;
        match self.sender {
            Some(pid) => write!(f, " from process {pid}"),
            None => Ok(()),
        }
    }
}
