//! Processors that do not halt: on each a process spins that gives way to anybody else at once.
//!
//! Where few clients wait for each reply, most of the time is that of waking a processor that has halted, which in a
//! virtual machine is the hypervisor's to do, and the scheduler may put up with a queue to avoid it.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::meter;

/// Who spins, if anybody does.
static PIDS: OnceLock<Vec<u32>> = OnceLock::new();

/// All that spin, until it is dropped.
pub struct Awake(Vec<Child>);

impl Awake {
    /// One on each processor, of the policy SCHED_IDLE: sched(7).
    ///
    /// # Errors
    /// taskset of util-linux cannot be run.
    pub fn start() -> io::Result<Awake> {
        let one = |processor: usize| {
            let mut command = Command::new("taskset");
            command.args(["-c", &processor.to_string(), "chrt", "--idle", "0"]);
            command.args(["setpriv", "--pdeathsig", "KILL"]);
            command.args(["sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn()
        };
        let mut awake = Awake(Vec::new());
        for processor in 0..meter::processors() {
            awake.0.push(one(processor)?);
        }
        PIDS.get_or_init(|| awake.0.iter().map(Child::id).collect());
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What spinning took: time in which nobody worked.
pub fn spent() -> Duration {
    PIDS.get().into_iter().flatten().map(|pid| meter::time_of(*pid)).sum()
}
