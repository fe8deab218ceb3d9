//! At-exit hooks: simple things, last, each exactly once on every way out of run().

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slog::{Logger, error};

use super::core::Core;
use super::thread;
use crate::event::Event;

/// How long one hook may take.
pub(super) const HOOK_BOUND: Duration = Duration::from_secs(1);

/// A hook as it was declared.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

/// How a hook ended, where it did not end well.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Failed(String),
    LeftBehind(String),
}

/// Runs the hooks, the last declared first; nothing on a second call. Returns what did not end well.
pub(super) fn run_hooks(core: &Core) -> Vec<Bad> {
    let hooks = std::mem::take(&mut *core.hooks.lock().unwrap_or_else(PoisonError::into_inner));
    hooks.into_iter().rev().filter_map(|hook| run_hook(&core.log, hook, HOOK_BOUND)).collect()
}

fn run_hook(log: &Logger, hook: Hook, bound: Duration) -> Option<Bad> {
    let Hook { name, work } = hook;
    let work = Arc::new(Mutex::new(Some(work)));
    let (ended, end) = mpsc::channel();
    let spawned = thread::spawn(&name, {
        let work = work.clone();
        move || {
            // The receiver is gone only when the hook was left behind.
            let _ = ended.send(call(&work));
        }
    });
    let result = match spawned {
        Ok(()) => end.recv_timeout(bound),
        // No thread to be had: better without a bound than not at all.
        Err(_) => Ok(call(&work)),
    };
    match result {
        Ok(Ok(())) => None,
        Ok(Err(why)) => {
            error!(log, "at-exit hook {} {}", name, why; Event::StepFailed, "DRAINED_STEP" => &name);
            Some(Bad::Failed(name))
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            error!(log, "at-exit hook {} left behind after {:?}", name, bound;
                Event::StepLeftBehind, "DRAINED_STEP" => &name);
            Some(Bad::LeftBehind(name))
        }
    }
}

type Work = Mutex<Option<Box<dyn FnOnce() + Send>>>;

fn call(work: &Work) -> Result<(), String> {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    work.map_or(Ok(()), thread::contain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(work: impl FnOnce() + Send + 'static) -> Hook {
        Hook { name: "h".into(), work: Box::new(work) }
    }

    #[test]
    fn a_hook_that_panics_or_hangs_is_contained_and_named() {
        let log = Logger::root(slog::Discard, slog::o!());
        let minute = Duration::from_secs(60);
        assert_eq!(run_hook(&log, hook(|| ()), minute), None);
        assert_eq!(run_hook(&log, hook(|| panic!("no")), minute), Some(Bad::Failed("h".into())));
        let (release, held) = mpsc::channel::<()>();
        let hang = hook(move || assert!(held.recv().is_err()));
        assert_eq!(run_hook(&log, hang, Duration::from_millis(20)), Some(Bad::LeftBehind("h".into())));
        drop(release);
    }
}
