//! Declaring a daemon, and running it.

use std::sync::Arc;
use std::time::Duration;

use slog::Logger;

use super::cleanup;
use super::core::{Cause, Core, Task};
use super::errand::Errands;
use super::exit::{self, Hook};
use super::handle::Handle;
use super::outcome::Outcome;
use super::pulse;
use super::signals::{self, BlockedSignals};
use super::step::{Bound, Phase, Step, StepContext};
use super::thread;
use super::token::StopToken;
use super::worker::{self, Worker};
use crate::systemd::notify::Notifier;
use crate::{Exit, Result};

/// A daemon before it runs: its workers, cleanup steps and at-exit hooks.
pub struct Lifecycle {
    core: Arc<Core>,
    workers: Vec<Worker>,
    steps: Vec<Step>,
    main_bound: Bound,
    stop_status: Box<dyn FnOnce() -> String + Send>,
    reload: Option<Box<dyn FnMut() -> Result<()> + Send>>,
    report: Option<Box<dyn FnMut() + Send>>,
}

impl Lifecycle {
    /// A daemon without anything. Starts no thread.
    pub fn new(signals: BlockedSignals, log: Logger) -> Lifecycle {
        let notifier = Notifier::from_env(log.clone());
        Lifecycle {
            core: Arc::new(Core::new(log, notifier, signals.switch, signals.source)),
            workers: Vec::new(),
            steps: Vec::new(),
            main_bound: Duration::from_secs(5).into(),
            stop_status: Box::new(|| "Stopping".to_owned()),
            reload: None,
            report: None,
        }
    }

    /// A handle before run, for closures that are declared before it.
    pub fn handle(&self) -> Handle {
        Handle(self.core.clone())
    }

    /// How long steps and workers get after a second SIGTERM or SIGINT; a phase that has not begun
    /// by then gets as much again, at most. Default 2 s.
    pub fn hurry(&mut self, hurry: Duration) -> &mut Self {
        self.core.facts().hurry = hurry;
        self
    }

    /// How long main may go on after the beginning of the phase Drain. Default 5 s. A main that does
    /// not return is left behind like a worker; run then ends the process itself, after the at-exit
    /// hooks, with code 70.
    pub fn main_bound(&mut self, bound: impl Into<Bound>) -> &mut Self {
        self.main_bound = bound.into();
        self
    }

    /// The text of STATUS= in the first message of a stop, beside STOPPING=1. Default `Stopping`.
    /// The closure must not wait for anything: the stop waits for it.
    pub fn stop_status(&mut self, text: impl FnOnce() -> String + Send + 'static) -> &mut Self {
        self.stop_status = Box::new(text);
        self
    }

    /// A thread that works until its token fires and is then joined within `bound`, counted from
    /// the beginning of the phase Drain. A panic or an error starts the stop and is named; one that
    /// returns early without an error is done.
    pub fn worker(
        &mut self,
        name: &str,
        bound: impl Into<Bound>,
        work: impl FnOnce(StopToken) -> Result<()> + Send + 'static,
    ) -> &mut Self {
        self.workers.push(Worker { name: name.to_owned(), bound: bound.into(), work: Box::new(work) });
        self
    }

    /// A cleanup step, run on a thread of its own, with `bound` counted from the beginning of its phase.
    pub fn step(
        &mut self,
        phase: Phase,
        name: &str,
        bound: impl Into<Bound>,
        step: impl FnOnce(&StepContext) -> Result<()> + Send + 'static,
    ) -> &mut Self {
        self.steps.push(Step { phase, name: name.to_owned(), bound: bound.into(), work: Box::new(step) });
        self
    }

    /// A simple thing, done last, once, on every way out of run. In reverse order of declaration;
    /// after 1 s a hook is left behind.
    pub fn at_exit(&mut self, name: &str, hook: impl FnOnce() + Send + 'static) -> &mut Self {
        let hook = Hook { name: name.to_owned(), work: Box::new(hook) };
        self.core.hooks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hook);
        self
    }

    /// What SIGHUP and [`Handle::reload`] do, on a thread of its own. An error says why nothing was changed.
    /// Without one a SIGHUP is logged and ignored.
    pub fn on_reload(&mut self, reload: impl FnMut() -> Result<()> + Send + 'static) -> &mut Self {
        self.reload = Some(Box::new(reload));
        self
    }

    /// What SIGUSR1 does, on a thread of its own: write a report into the log.
    pub fn on_report(&mut self, report: impl FnMut() + Send + 'static) -> &mut Self {
        self.report = Some(Box::new(report));
        self
    }

    /// Starts the threads, calls `main` on this one, and returns when the stop is over, at-exit
    /// hooks included. `main` may return early or run until it sees the stop. An error of `main`, or
    /// a panic, starts the stop; so does a thread that could not be started, and `main` is then not
    /// called at all.
    pub fn run(self, main: impl FnOnce(&Handle) -> Result<()>) -> Outcome {
        let Lifecycle { core, workers, steps, main_bound, stop_status, reload, report } = self;
        let cleanup = thread::spawn("cleanup", {
            let core = core.clone();
            move || cleanup::run(&core, steps, stop_status)
        });
        if let Err(error) = cleanup {
            // Nothing else runs yet, so there is nothing to clean up but this.
            core.fail("cannot start", error.exit(), error.to_string(), Cause::Start);
            return cleanup::outcome(&core, exit::run_hooks(&core));
        }
        match start(&core, workers, Errands::new(reload, report)) {
            Ok(()) => call_main(&core, main_bound, main),
            Err(error) => core.fail("cannot start", error.exit(), error.to_string(), Cause::Start),
        }
        wait_for_outcome(&core)
    }
}

/// The threads of a running daemon, in the order in which they are needed.
fn start(core: &Arc<Core>, workers: Vec<Worker>, errands: Errands) -> Result<()> {
    core.notifier.start()?;
    pulse::watch(core);
    let errands = Arc::new(errands);
    // Set once: a life cycle starts once.
    let _ = core.errands.set(Arc::downgrade(&errands));
    thread::spawn("signals", {
        let core = core.clone();
        move || signals::run(&core, &errands)
    })?;
    workers.into_iter().enumerate().try_for_each(|(number, worker)| worker::start(core, number, worker))
}

fn call_main(core: &Arc<Core>, bound: Bound, main: impl FnOnce(&Handle) -> Result<()>) {
    if !core.enlist(Task::Main, "main", bound, None) {
        return;
    }
    match thread::contain(|| main(&Handle(core.clone()))) {
        Ok(Ok(())) => core.task_ended(Task::Main, Ok(())),
        Ok(Err(error)) => {
            core.fail("main failed", error.exit(), error.to_string(), Cause::Main);
            core.task_ended(Task::Main, Ok(()));
        }
        Err(panic) => {
            core.fail("main failed", Exit::Software, format!("main {panic}"), Cause::Main);
            core.task_ended(Task::Main, Err("main".into()));
        }
    }
}

/// Waits for the stop, however long it takes to come, and for its end.
fn wait_for_outcome(core: &Core) -> Outcome {
    let mut facts = core.facts();
    loop {
        if let Some(outcome) = &facts.outcome {
            return outcome.clone();
        }
        facts = core.wait(facts, None);
    }
}
