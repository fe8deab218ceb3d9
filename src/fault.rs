//! Faults on purpose, for the tests of what follows from them. Not in a release build.
//!
//! `DRAINED_TEST_FAULT=worker-panic:3` has the worker panic that takes in the third connection; `worker-hang:3` has
//! it hang; `adopt-hang` the workers with something to adopt. `step-hang` has the phase Drain hang, and `leave-hang` a
//! handover whose workers have done their part; `notify-hang` the notify thread, from its start; and with `park-fails`
//! no connection can be parked. `kill:POINT:5` has the process kill itself when it passes POINT for the
//! fifth time: the points are where [`pass`] is called, and what is said there is what was just done.

/// What the environment asks for.
#[cfg(debug_assertions)]
fn wanted() -> Option<&'static str> {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    WANTED.get_or_init(|| std::env::var("DRAINED_TEST_FAULT").ok()).as_deref()
}

/// Fails here if the environment asks for the fault `name`, with the number `at` where it has one.
#[cfg(debug_assertions)]
pub fn strike(name: &str, at: Option<u64>) {
    let Some(wanted) = wanted() else { return };
    if wanted != at.map_or_else(|| name.to_owned(), |at| format!("{name}:{at}")) {
        return;
    }
    assert!(!name.ends_with("panic"), "a panic on purpose");
    loop {
        std::thread::park();
    }
}

/// Whether the environment asks that `name` fails.
#[cfg(debug_assertions)]
pub fn fails(name: &str) -> bool {
    wanted().and_then(|wanted| wanted.strip_suffix("-fails")) == Some(name)
}

/// Kills the process if the environment asks for it: here, and this time.
#[cfg(debug_assertions)]
pub fn pass(point: &str) {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some((at, number)) = wanted().and_then(|w| w.strip_prefix("kill:")?.split_once(':')) else { return };
    if at == point && number.parse() == Ok(PASSED.fetch_add(1, Relaxed) + 1) {
        // The thread doesn't return from it.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn strike(_: &str, _: Option<u64>) {}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn fails(_: &str) -> bool {
    false
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn pass(_: &str) {}
