//! What SIGHUP and SIGUSR1 ask for, on a thread of its own each, so that no signal waits for it.
//!
//! A request during one that runs isn't lost and doesn't pile up: it is served once, afterwards.

use std::sync::{Arc, Mutex, PoisonError};

use slog::{info, warn};

use super::core::Core;
use super::state::Transition;
use super::thread;
use crate::event::Event;
use crate::{Error, Exit, Result};

/// The errands of a daemon; None where it declared none.
pub(super) struct Errands {
    reload: Option<Errand>,
    /// Who asked for a reload that has not begun.
    waiting: Arc<Mutex<Vec<Told>>>,
    report: Option<Errand>,
}

/// Is told what came of a reload.
pub(super) type Told = Box<dyn FnOnce(&Result<()>) + Send>;

impl Errands {
    pub(super) fn new(
        reload: Option<Box<dyn FnMut() -> Result<()> + Send>>,
        report: Option<Box<dyn FnMut() + Send>>,
    ) -> Errands {
        let waiting: Arc<Mutex<Vec<Told>>> = Arc::default();
        let asked = waiting.clone();
        let reload = reload.map(|mut reload| {
            Errand::new("reload", move |core| {
                // Who asks from here on may mean a later file, and waits for the next one.
                let asked = std::mem::take(&mut *lock(&asked));
                let result = reload_once(core, &mut reload);
                tell(core, asked, &result);
            })
        });
        Errands {
            waiting,
            reload,
            report: report
                .map(|mut report| Errand::new("report", move |core| report_once(core, &mut report))),
        }
    }

    pub(super) fn reload(&self, core: &Arc<Core>) {
        match &self.reload {
            Some(reload) => _ = reload.request(core),
            None => info!(core.log, "there is nothing to reload: SIGHUP is ignored"),
        }
    }

    /// The same for somebody who is to be told.
    pub(super) fn reload_and_tell(&self, core: &Arc<Core>, told: Told) {
        let Some(reload) = &self.reload else {
            return told(&Err(Error::new(Exit::Unavailable, "there is nothing to reload")));
        };
        lock(&self.waiting).push(told);
        if let Err(error) = reload.request(core) {
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            tell(core, waiting, &Err(error));
        }
    }

    pub(super) fn report(&self, core: &Arc<Core>) {
        match &self.report {
            Some(report) => _ = report.request(core),
            None => info!(core.log, "there is no report: SIGUSR1 is ignored"),
        }
    }
}

fn reload_once(core: &Core, reload: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<()> {
    if let Err(illegal) = core.change(Transition::Reload, |notifier| notifier.reloading()) {
        warn!(core.log, "not reloaded: {}", illegal; Event::ReloadRefused);
        return Err(Error::new(Exit::Unavailable, illegal.to_string()));
    }
    let result = thread::contain(reload)
        .unwrap_or_else(|panic| Err(Error::new(Exit::Software, format!("it {panic}"))));
    if let Err(why) = &result {
        warn!(core.log, "not reloaded: {}", why; Event::ReloadRefused);
    }
    // Illegal when a stop has begun meanwhile: then systemd must not hear READY=1 after STOPPING=1.
    let _ = core.change(Transition::Reloaded, |notifier| notifier.ready());
    result
}

fn tell(core: &Core, waiting: Vec<Told>, result: &Result<()>) {
    for told in waiting {
        if let Err(why) = thread::contain(|| told(result)) {
            warn!(core.log, "not told what came of a reload: {}", why);
        }
    }
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

    fn request(&self, core: &Arc<Core>) -> Result<()> {
        let mut inner = lock(&self.inner);
        if inner.running {
            inner.again = true;
            return Ok(());
        }
        inner.running = true;
        drop(inner);
        let started = thread::spawn(self.name, {
            let (core, inner) = (core.clone(), self.inner.clone());
            move || run(&core, &inner)
        });
        started.inspect_err(|error| {
            warn!(core.log, "{} not done: {}", self.name, error);
            lock(&self.inner).running = false;
        })
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
