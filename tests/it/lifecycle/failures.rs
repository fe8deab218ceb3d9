//! Workers, steps, hooks and mains that fail, hang or panic: named, bounded, exit code 70.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::contrary;
use crate::support::daemon::{End, example, unit};
use crate::support::steady::steady;

/// Every way out runs the hook once, and says why.
fn assert_end(end: &End, code: i32, why: &str) {
    assert_eq!((end.code, end.count("hook")), (Some(code), 1), "{:#?}", end.lines);
    assert!(end.says(why), "no {why:?} in {:#?}", end.lines);
}

/// Hazard: a worker that panics.
#[test]
fn a_worker_that_panics_or_fails_starts_the_stop() {
    steady(|| {
        let panics = unit(example("contrary"), &["worker-panics", "worker", "steps"], &[]).wait_end();
        assert_end(&panics, 70, "worker panicking failed: panicked: a worker's panic");
        assert!(
            panics.says("finish") && panics.says("stopping: worker panicking failed"),
            "{:#?}",
            panics.lines
        );
        let fails = unit(example("contrary"), &["worker-fails", "steps"], &[]).wait_end();
        assert_end(&fails, 70, "worker failing failed: broken on purpose");
    });
}

#[test]
fn a_worker_that_hangs_is_left_behind_at_its_bound() {
    steady(|| {
        let daemon = contrary(&["worker-hangs=300", "worker", "steps"]);
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_end(&end, 70, "worker hanging left behind");
        assert!(end.at - asked < Duration::from_secs(1), "it took {:?}", end.at - asked);
        assert!(end.says("worker done") && end.says("finish"), "{:#?}", end.lines);
    });
}

#[test]
fn a_step_that_fails_or_panics_is_named_and_the_rest_goes_on() {
    steady(|| {
        let daemon = contrary(&["step-fails", "step-panics", "steps"]);
        daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_end(&end, 70, "cleanup step failing-step failed: broken on purpose");
        assert!(end.says("cleanup step panicking-step failed: panicked: a step's panic"), "{:#?}", end.lines);
        assert!(end.says("finish"));
    });
}

#[test]
fn the_error_of_main_is_the_exit_code() {
    steady(|| {
        let end = unit(example("contrary"), &["main-fails", "steps"], &[]).wait_end();
        assert_end(&end, 78, "main failed: an error of main");
        assert!(end.says("finish"), "{:#?}", end.lines);
    });
}

#[test]
fn a_panic_of_main_is_contained() {
    steady(|| {
        let end = unit(example("contrary"), &["main-panics", "steps"], &[]).wait_end();
        assert_end(&end, 70, "main failed: main panicked: a panic of main");
        assert!(end.says("finish") && end.says("run returned"), "{:#?}", end.lines);
    });
}

#[test]
fn a_main_that_does_not_return_is_left_behind() {
    steady(|| {
        let daemon = contrary(&["main-hangs", "steps"]);
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        let took = (end.at - asked).as_secs_f64();
        assert!((5.0..6.5).contains(&took), "its bound is 5 s, the stop took {took} s");
        assert_eq!((end.code, end.count("hook")), (Some(70), 1), "{:#?}", end.lines);
        assert!(end.says("finish") && !end.says("run returned"), "{:#?}", end.lines);
    });
}

#[test]
fn hooks_that_panic_or_hang_do_not_keep_the_others_from_running() {
    steady(|| {
        let daemon = contrary(&["hook-hangs", "hook-panics"]);
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!(end.code, Some(70));
        assert_eq!(end.lines.iter().filter(|line| *line == "hook").count(), 1, "{:#?}", end.lines);
        assert!(end.says("at-exit hook hanging-hook left behind"), "{:#?}", end.lines);
        assert!(end.says("at-exit hook panicking-hook panicked"), "{:#?}", end.lines);
        assert!(end.at - asked < Duration::from_secs(2), "it took {:?}", end.at - asked);
    });
}

#[test]
fn where_the_system_gives_no_thread_the_hooks_are_still_run() {
    steady(|| {
        // No address space has room for a stack of that size.
        let environment = [("RUST_MIN_STACK", "140737488355328")];
        let end = unit(example("contrary"), &["no-log-thread", "steps"], &environment).wait_end();
        assert_end(&end, 71, "cannot start: start the thread cleanup");
        assert!(!end.says("main") && end.says("run returned"), "{:#?}", end.lines);
    });
}
