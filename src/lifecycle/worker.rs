//! Workers: the threads that do the daemon's work until the stop token fires.
//!
//! "Joined" means that the worker's closure has returned and everything that it owned is dropped.
//! The thread behind it may still be on its last instructions; nobody waits for those, because
//! nothing bounds them.

use std::sync::Arc;

use slog::error;

use super::core::{Cause, Core, Task};
use super::step::Bound;
use super::thread;
use super::token::{Beat, StopToken};
use crate::Result;
use crate::event::Event;

/// A worker as it was declared.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) bound: Bound,
    pub(super) work: Box<dyn FnOnce(StopToken) -> Result<()> + Send>,
}

/// Starts a worker, unless a stop has begun. It counts as alive for one watchdog interval from here on.
pub(super) fn start(core: &Arc<Core>, number: usize, worker: Worker) -> Result<()> {
    let Worker { name, bound, work } = worker;
    let beat = Arc::new(Beat::new());
    let token = core.switch.token_for(Some(beat.clone()), core.signals.clone());
    let task = Task::Worker(number);
    if !core.enlist(task, &name, bound, Some(beat)) {
        return Ok(());
    }
    let spawned = thread::spawn(&name.clone(), {
        let core = core.clone();
        move || {
            let ended = thread::contain_result(|| work(token)).map_err(|why| failed(&core, &name, &why));
            let broken = ended.is_err();
            core.task_ended(task, ended);
            if broken {
                core.begin_stop(Cause::Worker(name));
            }
        }
    });
    spawned.inspect_err(|_| core.task_ended(task, Ok(())))
}

/// Logs the failure and returns the name for the outcome.
fn failed(core: &Core, name: &str, why: &str) -> String {
    error!(core.log, "worker {} failed: {}", name, why; Event::WorkerFailed, "DRAINED_WORKER" => name);
    name.to_owned()
}
