//! The life cycle of a daemon: start, run, and a stop in phases with deadlines.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::Logger;

use crate::Result;
use crate::systemd::notify::Notifier;

/// Proof that the signals of a daemon are blocked in this thread and in all that it starts.
pub struct BlockedSignals(());

/// Blocks HUP INT QUIT TERM USR1 USR2 PIPE. The first statement of main.
pub fn block_signals() -> Result<BlockedSignals> {
    todo!()
}

/// When in a stop a cleanup step runs. Phases run in this order, the steps of one at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// What a worker, or anything else that runs, sees of the stop.
#[derive(Clone)]
pub struct StopToken(Arc<()>);

/// How far the stop has come, as a worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// No stop: work on.
    Running,
    /// Finish the work at hand and return.
    Stopping,
    /// Asked a second time: return as soon as it can be done.
    Hurried,
}

impl StopToken {
    pub fn level(&self) -> StopLevel {
        todo!()
    }
    /// Waits until the level is above Running, at most `timeout`; returns the level. Counts as life.
    pub fn wait(&self, _timeout: Duration) -> StopLevel {
        todo!()
    }
    /// Shows life to the watchdog. A store; may be called as often as one likes.
    pub fn beat(&self) {
        todo!()
    }
    /// The longest time that this worker may go without a [`beat`](Self::beat); None without a watchdog.
    pub fn beat_interval(&self) -> Option<Duration> {
        todo!()
    }
}

impl AsFd for StopToken {
    /// An eventfd for the worker's own epoll: readable from Stopping on, never to be read. Written
    /// again when the level rises, so that an edge-triggered watcher sees each rise.
    fn as_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}

/// What a running cleanup step is given.
pub struct StepContext(());

impl StepContext {
    /// When the step is left behind. Moves nearer when the stop is hurried.
    pub fn deadline(&self) -> Instant {
        todo!()
    }
    pub fn hurried(&self) -> bool {
        todo!()
    }
    /// Sleeps until `until`, the deadline or a hurry, whichever is first. True if `until` was reached.
    pub fn sleep_until(&self, _until: Instant) -> bool {
        todo!()
    }
    pub fn notifier(&self) -> &Notifier {
        todo!()
    }
    pub fn log(&self) -> &Logger {
        todo!()
    }
}

/// The state of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Running,
    Reloading,
    Draining,
    HandingOver,
    Stopped,
}

/// What the daemon's own main is given. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Handle(Arc<()>);

impl Handle {
    /// The daemon is up: READY=1 and the state Running. Without effect once a stop has begun.
    pub fn ready(&self) {
        todo!()
    }
    pub fn state(&self) -> State {
        todo!()
    }
    pub fn notifier(&self) -> &Notifier {
        todo!()
    }
    /// Since when the process runs.
    pub fn since(&self) -> Instant {
        todo!()
    }
    /// Starts the stop as SIGTERM would.
    pub fn stop(&self, _reason: &str) {
        todo!()
    }
}

/// A daemon before it runs: its workers, cleanup steps and at-exit hooks.
pub struct Lifecycle(());

/// A bound that is asked for when the stop begins: a [`Duration`], or a closure that computes one.
pub struct Bound(pub Box<dyn Fn() -> Duration + Send>);

impl From<Duration> for Bound {
    fn from(bound: Duration) -> Bound {
        Bound(Box::new(move || bound))
    }
}

impl Lifecycle {
    pub fn new(_signals: BlockedSignals, _log: Logger) -> Lifecycle {
        todo!()
    }
    /// A handle before run, for closures that are declared before it.
    pub fn handle(&self) -> Handle {
        todo!()
    }
    /// How long steps and workers get after a second SIGTERM or SIGINT. Default 2 s.
    pub fn hurry(&mut self, _hurry: Duration) -> &mut Self {
        todo!()
    }
    /// A thread that works until its token fires and is then joined within `bound`, counted from
    /// the beginning of the phase Drain. A panic or an error starts the stop and is named.
    pub fn worker(
        &mut self,
        _name: &str,
        _bound: impl Into<Bound>,
        _work: impl FnOnce(StopToken) -> Result<()> + Send + 'static,
    ) -> &mut Self {
        todo!()
    }
    /// A cleanup step, run on a thread of its own.
    pub fn step(
        &mut self,
        _phase: Phase,
        _name: &str,
        _bound: impl Into<Bound>,
        _step: impl FnOnce(&StepContext) -> Result<()> + Send + 'static,
    ) -> &mut Self {
        todo!()
    }
    /// A simple thing, done last, once, on every way out of run. In reverse order of declaration.
    pub fn at_exit(&mut self, _name: &str, _hook: impl FnOnce() + Send + 'static) -> &mut Self {
        todo!()
    }
    /// What SIGHUP does. Without one a SIGHUP is logged and ignored.
    pub fn on_reload(&mut self, _reload: impl FnMut() -> Result<()> + Send + 'static) -> &mut Self {
        todo!()
    }
    /// What SIGUSR1 does: write a report into the log.
    pub fn on_report(&mut self, _report: impl FnMut() + Send + 'static) -> &mut Self {
        todo!()
    }
    /// Starts the threads, calls `main` on this one, and returns when the stop is over, at-exit
    /// hooks included. `main` may return early or run until it sees the stop.
    pub fn run(self, _main: impl FnOnce(&Handle) -> Result<()>) -> Outcome {
        todo!()
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome(());

impl Outcome {
    /// 0 orderly; 70 when a worker or step was left behind or failed; else what main's error says.
    pub fn exit(&self) -> crate::Exit {
        todo!()
    }
    /// Ends the process as the outcome asks: by the signal itself where it came from a terminal.
    pub fn finish(self) -> ExitCode {
        todo!()
    }
}
