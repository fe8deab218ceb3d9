//! What is measured.

use std::time::Duration;

use crate::contender::{Contender, Kind};
use crate::load::{self, Course, Outcome, Result};
use crate::meter;

/// Some figures that are taken together.
#[derive(Clone, Copy)]
pub struct Task {
    /// As it is asked for: `requests-64`.
    pub name: &'static str,
    /// As a reader wants it.
    pub title: &'static str,
    /// What is counted, and of how many of it the costs are told.
    pub unit: Unit,
    /// How many connections there are at a time.
    pub connections: usize,
    /// It belongs to the core, which `--quick` measures.
    pub core: bool,
    work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Requests,
    /// At a rate that is given: only latency and costs tell.
    Paced,
    Connections,
    Bytes,
    /// Bytes of memory for a connection: the fewer the better.
    Memory,
}

#[derive(Clone, Copy)]
enum Work {
    Requests,
    Paced(u32),
    Connections,
    Bulk { down: bool },
    Idle,
}

/// So many connections need longer for a turn of each.
const MANY: usize = 1_000;

/// What one run gave.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    /// A second, or bytes of memory for a connection.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Microseconds of processor time, of the whole machine and of the proxy's processes, for one: a request,
    /// a connection, a megabyte.
    pub machine: f64,
    pub processes: f64,
    /// Bytes of the kernel's for a connection.
    pub kernel: f64,
    /// The share of the time that was stolen, of all processors.
    pub stolen: f64,
}

/// All of them, in the order of the report.
pub const ALL: [Task; 19] = [
    // First, and the fewest first: memory that was freed is not always given back.
    idle_crowd("idle-10", "Memory for an idle connection, of 10", 10),
    idle_crowd("idle-100", "Memory for an idle connection, of 100", 100),
    idle_crowd("idle-1000", "Memory for an idle connection, of 1,000", 1_000).of_the_core(),
    idle_crowd("idle-4000", "Memory for an idle connection, of 4,000", 4_000),
    idle_crowd("idle-8000", "Memory for an idle connection, of 8,000", 8_000),
    requests("requests-1", "Requests, 1 connection", 1).of_the_core(),
    requests("requests-10", "Requests, 10 connections", 10),
    requests("requests-64", "Requests, 64 connections", 64).of_the_core(),
    requests("requests-100", "Requests, 100 connections", 100),
    requests("requests-1000", "Requests, 1,000 connections", 1_000).of_the_core(),
    requests("requests-8000", "Requests, 8,000 connections", 8_000),
    task("connections-16", "New connections, 16 at once", Unit::Connections, 16, Work::Connections)
        .of_the_core(),
    bulk("down-1", "Bulk from the upstream, 1 stream", 1, true).of_the_core(),
    bulk("down-8", "Bulk from the upstream, 8 streams", 8, true),
    bulk("up-1", "Bulk to the upstream, 1 stream", 1, false),
    bulk("up-8", "Bulk to the upstream, 8 streams", 8, false).of_the_core(),
    paced("paced-500", "500 requests a second, 16 connections, open loop", 500),
    paced("paced-2000", "2,000 requests a second, 16 connections, open loop", 2_000).of_the_core(),
    paced("paced-5000", "5,000 requests a second, 16 connections, open loop", 5_000),
];

const fn task(name: &'static str, title: &'static str, unit: Unit, connections: usize, work: Work) -> Task {
    Task { name, title, unit, connections, core: false, work }
}

const fn requests(name: &'static str, title: &'static str, connections: usize) -> Task {
    task(name, title, Unit::Requests, connections, Work::Requests)
}

const fn paced(name: &'static str, title: &'static str, rate: u32) -> Task {
    task(name, title, Unit::Paced, 16, Work::Paced(rate))
}

const fn bulk(name: &'static str, title: &'static str, streams: usize, down: bool) -> Task {
    task(name, title, Unit::Bytes, streams, Work::Bulk { down })
}

const fn idle_crowd(name: &'static str, title: &'static str, connections: usize) -> Task {
    task(name, title, Unit::Memory, connections, Work::Idle)
}

impl Task {
    const fn of_the_core(self) -> Task {
        Task { core: true, ..self }
    }

    /// How often it is measured, and how long each time, where requests are so often and so long.
    pub fn course(&self, rounds: usize, lasts: Duration) -> (usize, Duration) {
        match self.work {
            // As many requests as its quantiles need.
            Work::Paced(_) => (rounds.div_ceil(3), lasts * 5),
            // Each connection has its turn several times.
            Work::Requests if self.connections >= MANY => (rounds.div_ceil(3), lasts * 5),
            // It hardly differs.
            Work::Idle => (rounds.div_ceil(3), lasts),
            Work::Requests | Work::Connections | Work::Bulk { .. } => (rounds, lasts),
        }
    }

    /// Whether this one is measured at it. What outliving a crash costs shows where connections last.
    pub fn concerns(&self, kind: Kind) -> bool {
        kind != Kind::Parked || matches!(self.unit, Unit::Requests | Unit::Memory)
    }

    /// Has it done once through the contender.
    ///
    /// # Errors
    /// A connection broke, or nothing moved any more.
    pub fn run(&self, contender: &Contender, lasts: Duration) -> Result<Measured> {
        let (to, pids, connections) = (contender.addresses, contender.pids(), self.connections);
        let course = Course { lasts, pids: &pids };
        let outcome = match self.work {
            Work::Requests => load::requests(to.echo, connections, &course),
            Work::Paced(rate) => load::paced(to.echo, connections, rate, &course),
            Work::Connections => load::connections(to.echo, connections, &course),
            Work::Bulk { down: true } => load::bulk(to.source, connections, true, &course),
            Work::Bulk { down: false } => load::bulk(to.sink, connections, false, &course),
            Work::Idle => return idle(contender, connections),
        }?;
        Ok(self.measured(&outcome))
    }

    fn measured(&self, outcome: &Outcome) -> Measured {
        let took = outcome.took.as_secs_f64();
        let count = outcome.count as f64 / if self.unit == Unit::Bytes { 1e6 } else { 1.0 };
        let quantile = |q| outcome.latency.value_at_quantile(q) as f64 / 1e3;
        let for_one = |time: Duration| time.as_secs_f64() * 1e6 / count.max(1.0);
        Measured {
            rate: count / took,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            machine: for_one(outcome.spent.machine),
            processes: for_one(outcome.spent.processes),
            kernel: 0.0,
            stolen: outcome.spent.stolen.as_secs_f64() / took / meter::processors() as f64,
        }
    }
}

/// What memory has grown by since the beginning, and the kernel's by these connections, that of the
/// benchmark's own sockets included: "no proxy" tells how much those are.
fn idle(contender: &Contender, connections: usize) -> Result<Measured> {
    let kernel = meter::kernel_memory();
    let held = load::idle(contender.addresses.echo, connections)?;
    let for_one = |now: u64, before: u64| now.saturating_sub(before) as f64 / connections as f64;
    let rate = for_one(meter::memory(&contender.pids()), contender.fresh);
    let kernel = for_one(meter::kernel_memory(), kernel);
    drop(held);
    Ok(Measured { rate, kernel, ..Measured::default() })
}
