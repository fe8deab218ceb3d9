//! Time is measured here on machines whose hypervisor may keep them from running for a second or two.
//! What is late then says nothing of the program.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// A test that measures time is tried so often, if the machine was kept from running meanwhile.
const TRIES: u32 = 3;
/// Of all processors together. A machine of its own has none.
const STOLEN: Duration = Duration::from_millis(100);

/// Runs a test that measures time. One that fails is run again if the hypervisor gave the processors to
/// others for [`STOLEN`] or longer while it ran.
pub fn steady(test: impl Fn()) {
    for tries in 1..=TRIES {
        let before = stolen();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&test)) else { return };
        let stolen = stolen() - before;
        if tries == TRIES || stolen < STOLEN {
            resume_unwind(panic);
        }
        super::say(&format!("tried again, for {stolen:?} of its processors' time were stolen"));
    }
}

/// The time for which the processors of this machine had work and did not run: "steal" in proc_stat(5).
pub fn stolen() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks = stat.lines().next().and_then(|line| line.split_whitespace().nth(8)).unwrap();
    Duration::from_millis(10 * ticks.parse::<u64>().unwrap())
}
