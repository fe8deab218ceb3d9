//! Faults on purpose, for the tests of what follows from them. Not in a release build.
//!
//! `DRAINED_TEST_FAULT=worker-panic:3` has the worker panic that takes in the third connection;
//! `worker-hang:3` has it hang. `step-hang` has the phase Drain hang.

/// Fails here if the environment asks for the fault `name`, with the number `at` where it has one.
#[cfg(debug_assertions)]
pub fn strike(name: &str, at: Option<u64>) {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("DRAINED_TEST_FAULT").ok());
    let here = at.map_or_else(|| name.to_owned(), |at| format!("{name}:{at}"));
    if wanted.as_ref() != Some(&here) {
        return;
    }
    assert!(!name.ends_with("panic"), "a panic on purpose");
    loop {
        std::thread::park();
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn strike(_: &str, _: Option<u64>) {}
