//! The cleanup thread: a stop from its first message to the last hook.
//!
//! It starts with the daemon and sleeps until the stop, so that a stop never depends on being given
//! a thread for it. While it works everything else still runs. It waits for nothing without a
//! deadline, and does nothing itself that could hang: steps and hooks have threads of their own.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{error, info, warn};

use super::core::{Core, Member, Task};
use super::exit::{self, Bad, HOOK_BOUND};
use super::outcome::Outcome;
use super::pulse::{self, EXTEND, PULSE};
use super::state::Transition;
use super::step::{self, Phase, Step};
use super::thread;
use super::token::{Beat, StopLevel};
use crate::event::Event;
use crate::systemd::notify::watchdog_interval;

/// How long the last words to systemd may take.
const FLUSH: Duration = Duration::from_millis(200);

/// A wait that ends so late says that the whole machine has paused, or this process.
const PAUSE: Duration = Duration::from_millis(250);
/// What was waited for could do nothing in a pause: it has so long after it, whatever its bound.
const AFTER_PAUSE: Duration = Duration::from_millis(500);
/// For so many pauses of a stop: together less than [`EXTEND`].
const PAUSES: u32 = 6;

/// Waits for the stop, cleans up, and leaves the outcome in `core`. Ends the process where main
/// doesn't return.
pub(super) fn run(core: &Arc<Core>, steps: Vec<Step>, status: impl FnOnce() -> String) {
    let cause = wait_for_stop(core);
    let began = Instant::now();
    let beat = Arc::new(Beat::new());
    beat.now();
    let plan = Plan::new(core, steps);
    // A text that cannot be had must not keep the stop from going on.
    let status = thread::contain(status).unwrap_or_else(|_| "Stopping".to_owned());
    // The only state in which this is illegal has ended before this thread began.
    let _ = core.change(Transition::Drain, |notifier| notifier.stopping(EXTEND, &status));
    core.task_began(Task::Cleanup, "cleanup", beat.clone());
    pulse::extend(core, beat.clone(), began + plan.longest());
    info!(core.log, "stopping: {}", cause; Event::Stopping);
    let left_behind = Stop { core, beat: &beat, pauses: Cell::new(PAUSES) }.phases(plan);
    let _ = core.change(Transition::End, |_| ());
    core.facts().left_behind = left_behind;
    say_stopped(core, began.elapsed());
    let bad_hooks = exit::run_hooks(core);
    core.notifier.flush(FLUSH);
    end(core, bad_hooks);
}

fn wait_for_stop(core: &Core) -> String {
    let mut facts = core.facts();
    loop {
        if let Some(cause) = &facts.cause {
            return cause.to_string();
        }
        facts = core.wait(facts, None);
    }
}

/// Everything that the stop will wait for, with its bounds.
struct Plan {
    /// In the order of the phases.
    steps: Vec<(Step, Duration)>,
    /// Main and the workers: waited for in the phase Drain.
    crew: Vec<Waited>,
    hooks: u32,
}

/// Something that is waited for.
struct Waited {
    task: Task,
    name: String,
    bound: Duration,
}

impl Plan {
    /// From here on nothing joins the crew.
    fn new(core: &Core, steps: Vec<Step>) -> Plan {
        let crew = std::mem::take(&mut core.facts().crew);
        let hooks = core.hooks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() as u32;
        let with_bound = |step: Step| (step.bound.ask(), step);
        let mut steps: Vec<_> =
            steps.into_iter().map(with_bound).map(|(bound, step)| (step, bound)).collect();
        steps.sort_by_key(|(step, _)| step.phase);
        let crew =
            crew.into_iter().map(|Member { task, name, bound }| Waited { task, name, bound: bound.ask() });
        Plan { steps, crew: crew.collect(), hooks }
    }

    /// The longest time that the stop can take.
    fn longest(&self) -> Duration {
        let phase = |phase| {
            let steps = self.steps.iter().filter(|(step, _)| step.phase == phase).map(|(_, bound)| *bound);
            let crew = self.crew.iter().filter(|_| phase == Phase::Drain).map(|waited| waited.bound);
            steps.chain(crew).max().unwrap_or_default()
        };
        Phase::ALL.map(phase).into_iter().sum::<Duration>() + HOOK_BOUND * self.hooks + FLUSH
    }
}

/// A stop in progress.
struct Stop<'a> {
    core: &'a Arc<Core>,
    beat: &'a Beat,
    /// After how many more pauses there is time.
    pauses: Cell<u32>,
}

impl Stop<'_> {
    /// Runs the phases; returns the names of what was left behind.
    fn phases(&self, plan: Plan) -> Vec<String> {
        let Plan { mut steps, mut crew, .. } = plan;
        let mut left_behind = Vec::new();
        for phase in Phase::ALL {
            let rest = steps.partition_point(|(step, _)| step.phase <= phase);
            let steps_now = steps.drain(..rest).collect();
            let crew_now = if phase == Phase::Drain { std::mem::take(&mut crew) } else { Vec::new() };
            left_behind.extend(self.phase(phase, steps_now, crew_now));
        }
        left_behind
    }

    fn phase(&self, phase: Phase, steps: Vec<(Step, Duration)>, crew: Vec<Waited>) -> Vec<String> {
        let started = Instant::now();
        let (hurried, at_once) = {
            let facts = self.core.facts();
            (facts.hurried.is_some(), facts.at_once.is_some())
        };
        if !steps.is_empty() && !at_once {
            info!(self.core.log, "phase {}", phase.word(); Event::Phase, "DRAINED_PHASE" => phase.word());
        }
        if phase == Phase::Drain {
            self.core.switch.raise(if hurried { StopLevel::Hurried } else { StopLevel::Stopping });
            // A hurry between the look and the raise found the level too low to raise it.
            if self.core.is_hurried() {
                self.core.switch.raise(StopLevel::Hurried);
            }
        }
        let mut waited = crew;
        for (number, (step, bound)) in steps.into_iter().enumerate() {
            if at_once {
                warn!(self.core.log, "cleanup step {} not done", step.name;
                    "DRAINED_STEP" => &step.name, "DRAINED_PHASE" => phase.word());
                continue;
            }
            let task = Task::Step(phase, number);
            self.core.unwatched_task_began(task);
            waited.push(Waited { task, name: step.name.clone(), bound });
            step::start(self.core, task, step, started, bound);
        }
        self.wait(phase, waited, started)
    }

    /// Waits for each within its bound; names and returns what was left behind.
    fn wait(&self, phase: Phase, mut waited: Vec<Waited>, started: Instant) -> Vec<String> {
        let slice = watchdog_interval().map_or(PULSE, |interval| PULSE.min(interval / 4));
        let mut left_behind = Vec::new();
        // When this thread is to look again, which in a pause comes late; the first time at once.
        let (mut earliest, mut wake) = (started, started);
        loop {
            self.beat.now();
            let facts = self.core.facts();
            let now = Instant::now();
            if now >= wake + PAUSE && self.pauses.get() > 0 {
                self.pauses.set(self.pauses.get() - 1);
                earliest = now + AFTER_PAUSE;
            }
            waited.retain(|w| facts.running.contains_key(&w.task));
            let deadline = |w: &Waited| facts.deadline(started, w.bound).max(earliest);
            let late: Vec<Waited> = waited.extract_if(.., |w| deadline(w) <= now).collect();
            if late.is_empty() {
                let Some(next) = waited.iter().map(deadline).min() else { return left_behind };
                wake = next.min(now + slice);
                drop(self.core.wait(facts, Some(wake)));
                continue;
            }
            drop(facts);
            for late in late {
                self.leave_behind(phase, &late, now - started);
                left_behind.push(late.name);
            }
            wake = now;
        }
    }

    fn leave_behind(&self, phase: Phase, late: &Waited, after: Duration) {
        let (log, name) = (&self.core.log, &late.name);
        let us = after.as_micros() as u64;
        match late.task {
            Task::Step(..) => error!(log, "cleanup step {} left behind after {:.1?}", name, after;
                Event::StepLeftBehind, "DRAINED_STEP" => name, "DRAINED_PHASE" => phase.word(), "DRAINED_DURATION_US" => us),
            Task::Main | Task::Worker(_) | Task::Cleanup => {
                error!(log, "worker {} left behind after {:.1?}", name, after;
                    Event::WorkerLeftBehind, "DRAINED_WORKER" => name, "DRAINED_PHASE" => phase.word(),
                    "DRAINED_DURATION_US" => us);
            }
        }
    }
}

fn say_stopped(core: &Core, took: Duration) {
    let outcome = outcome(core, Vec::new());
    let list = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {what}: {}", names.join(", ")),
    };
    info!(core.log, "stopped after {:.1?}{}{}", took,
        list("left behind", outcome.left_behind()), list("failed", outcome.failed());
        Event::Stopped, "DRAINED_DURATION_US" => took.as_micros() as u64);
}

/// How it ended, hooks included.
pub(super) fn outcome(core: &Core, bad_hooks: Vec<Bad>) -> Outcome {
    let facts = core.facts();
    let mut outcome = Outcome {
        left_behind: facts.left_behind.clone(),
        failed: facts.failed.clone(),
        signal: facts.signal,
        error: facts.error,
    };
    for bad in bad_hooks {
        match bad {
            Bad::Failed(name) => outcome.failed.push(name),
            Bad::LeftBehind(name) => outcome.left_behind.push(name),
        }
    }
    outcome
}

/// Lets run() return. Where main has not come back there is no run() that could: the process ends here.
fn end(core: &Core, bad_hooks: Vec<Bad>) {
    let outcome = outcome(core, bad_hooks);
    let code = outcome.exit() as i32;
    let mut facts = core.facts();
    facts.outcome = Some(outcome);
    let main_is_back = !facts.running.contains_key(&Task::Main);
    drop(facts);
    if !main_is_back {
        signal_hook::low_level::exit(code);
    }
    core.notify();
    core.signals.wake();
}
