//! What SIGHUP and SIGUSR1 ask for, on a thread of its own each, so that no signal waits for it.
//!
//! A request during one that runs isn't lost and doesn't pile up: it is served once, afterwards.

use std::sync::{Arc, Mutex, PoisonError};

use slog::{info, warn};

use super::core::Core;
use super::state::Transition;
use super::thread;
use crate::Result;
use crate::event::Event;

/// The errands of a daemon; None where it declared none.
pub(super) struct Errands {
    reload: Option<Errand>,
    report: Option<Errand>,
}

impl Errands {
    pub(super) fn new(
        reload: Option<Box<dyn FnMut() -> Result<()> + Send>>,
        report: Option<Box<dyn FnMut() + Send>>,
    ) -> Errands {
        Errands {
            reload: reload
                .map(|mut reload| Errand::new("reload", move |core| reload_once(core, &mut reload))),
            report: report
                .map(|mut report| Errand::new("report", move |core| report_once(core, &mut report))),
        }
    }

    pub(super) fn reload(&self, core: &Arc<Core>) {
        match &self.reload {
            Some(reload) => reload.request(core),
            None => info!(core.log, "there is nothing to reload: SIGHUP is ignored"),
        }
    }

    pub(super) fn report(&self, core: &Arc<Core>) {
        match &self.report {
            Some(report) => report.request(core),
            None => info!(core.log, "there is no report: SIGUSR1 is ignored"),
        }
    }
}

fn reload_once(core: &Core, reload: &mut (dyn FnMut() -> Result<()> + Send)) {
    if let Err(illegal) = core.change(Transition::Reload, |notifier| notifier.reloading()) {
        warn!(core.log, "not reloaded: {}", illegal; Event::ReloadRefused);
        return;
    }
    if let Err(why) = thread::contain_result(reload) {
        warn!(core.log, "not reloaded: {}", why; Event::ReloadRefused);
    }
    // Illegal when a stop has begun meanwhile: then systemd must not hear READY=1 after STOPPING=1.
    let _ = core.change(Transition::Reloaded, |notifier| notifier.ready());
}

fn report_once(core: &Core, report: &mut (dyn FnMut() + Send)) {
    if let Err(why) = thread::contain(report) {
        warn!(core.log, "no report: {}", why);
    }
}

struct Errand {
    name: &'static str,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    running: bool,
    again: bool,
    /// None while the errand's thread has it.
    work: Option<Work>,
}

type Work = Box<dyn FnMut(&Core) + Send>;

impl Errand {
    fn new(name: &'static str, work: impl FnMut(&Core) + Send + 'static) -> Errand {
        let inner = Inner { running: false, again: false, work: Some(Box::new(work)) };
        Errand { name, inner: Arc::new(Mutex::new(inner)) }
    }

    fn request(&self, core: &Arc<Core>) {
        let mut inner = lock(&self.inner);
        if inner.running {
            inner.again = true;
            return;
        }
        inner.running = true;
        drop(inner);
        let started = thread::spawn(self.name, {
            let (core, inner) = (core.clone(), self.inner.clone());
            move || run(&core, &inner)
        });
        if let Err(error) = started {
            warn!(core.log, "{} not done: {}", self.name, error);
            lock(&self.inner).running = false;
        }
    }
}

fn run(core: &Core, inner: &Mutex<Inner>) {
    let Some(mut work) = lock(inner).work.take() else { return };
    loop {
        work(core);
        let mut inner = lock(inner);
        if !std::mem::take(&mut inner.again) {
            inner.work = Some(work);
            inner.running = false;
            return;
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
