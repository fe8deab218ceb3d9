//! What a run costs: processor time of the machine and of a process, memory.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// A tick of /proc, 1/100 s.
const TICK: Duration = Duration::from_millis(10);

/// Processor time, as far as it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// All that the machine worked, interrupts included.
    pub machine: Duration,
    /// What the hypervisor kept for itself.
    pub stolen: Duration,
    /// These processes alone.
    pub processes: Duration,
}

impl Spent {
    pub fn now(pids: &[u32]) -> Spent {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let words = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let fields: Vec<u32> = words.filter_map(|n| n.parse().ok()).collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal: proc_stat(5). What is neither idle nor stolen is
        // work; the kernel measures those, and samples the others.
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        let stolen = TICK * field(7);
        let machine =
            (since_boot * processors() as u32).saturating_sub(TICK * (field(3) + field(4)) + stolen);
        Spent { machine, stolen, processes: pids.iter().map(|pid| time_of(*pid)).sum() }
    }

    /// Had the machine not worked on something for so long.
    pub fn without(self, other: Duration) -> Spent {
        Spent { machine: self.machine.saturating_sub(other), ..self }
    }

    pub fn since(self, before: Spent) -> Spent {
        Spent {
            machine: self.machine.saturating_sub(before.machine),
            stolen: self.stolen.saturating_sub(before.stolen),
            processes: self.processes.saturating_sub(before.processes),
        }
    }
}

/// What its threads have run, as the scheduler counts it, in nanoseconds.
pub fn time_of(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| {
        let counts = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        counts.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(of).sum()
}

/// A process and all below it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", all[at])).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    all
}

/// Memory that these processes have for themselves, their shares of what they share included: PSS, in bytes.
pub fn memory(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let kib = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok())?;
        Some(kib * 1024)
    };
    pids.iter().filter_map(of).sum()
}

/// What the kernel has for sockets, their queues, epoll and pipes: Slab and PageTables of proc_meminfo(5),
/// in bytes.
pub fn kernel_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let is_ours = |line: &&str| line.starts_with("Slab:") || line.starts_with("PageTables:");
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    meminfo.lines().filter(is_ours).filter_map(kib).sum::<u64>() * 1024
}

/// How many there are, whichever this thread is bound to.
pub fn processors() -> usize {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)
}

/// Keeps this thread on one processor.
pub fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// As many file descriptors as there may be.
pub fn raise_descriptors() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
