//! Medians, how far the rounds lie apart, and the ratio to the best peer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use crate::contender::Kind;
use crate::meter;
use crate::tasks::{Measured, Task, Unit};

/// Who was measured how.
pub struct Setting {
    pub versions: Vec<String>,
    pub rounds: usize,
    /// How long each run took.
    pub lasts: Duration,
    pub workers: usize,
}

/// All that was measured, by task and contender.
#[derive(Default)]
pub struct Figures {
    tasks: Vec<Task>,
    runs: BTreeMap<(&'static str, &'static str), Vec<Measured>>,
    errors: BTreeMap<(&'static str, &'static str), Vec<String>>,
}

/// A figure of all rounds.
pub struct Column {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Figures {
    pub fn add(&mut self, task: &Task, kind: Kind, measured: Measured) {
        self.know(task);
        self.runs.entry((task.name, kind.name())).or_default().push(measured);
    }

    pub fn failed(&mut self, task: &Task, kind: Kind, error: String) {
        self.know(task);
        self.errors.entry((task.name, kind.name())).or_default().push(error);
    }

    fn know(&mut self, task: &Task) {
        if !self.tasks.iter().any(|known| known.name == task.name) {
            self.tasks.push(*task);
        }
    }

    /// In no round an error of drained.
    pub fn is_sound(&self) -> bool {
        !self.errors.keys().any(|(_, kind)| *kind == Kind::Drained.name())
    }

    /// The tasks of a unit, by the number of their connections.
    pub fn tasks_of(&self, unit: Unit) -> Vec<Task> {
        let mut all: Vec<_> = self.tasks.iter().filter(|task| task.unit == unit).copied().collect();
        all.sort_by_key(|task| task.connections);
        all
    }

    /// Of all rounds of one contender, None where one of them failed.
    pub fn column(&self, task: &Task, kind: Kind, which: fn(&Measured) -> f64) -> Option<Column> {
        let key = (task.name, kind.name());
        let runs = self.runs.get(&key).filter(|_| !self.errors.contains_key(&key))?;
        let mut all: Vec<_> = runs.iter().map(which).collect();
        all.sort_by(f64::total_cmp);
        Some(Column { median: all[all.len() / 2], least: all[0], most: all[all.len() - 1] })
    }

    /// Microseconds of the machine's processor time for one, above what no proxy takes.
    pub fn machine_above_none(&self, task: &Task, kind: Kind) -> Option<f64> {
        let without = self.column(task, Kind::Direct, |m| m.machine)?;
        Some(self.column(task, kind, |m| m.machine)?.median - without.median)
    }

    /// The kernel's bytes for one connection, above what no proxy takes.
    fn kernel_above_none(&self, task: &Task, kind: Kind) -> f64 {
        let of = |kind| self.column(task, kind, |m| m.kernel).map_or(0.0, |column| column.median);
        of(kind) - of(Kind::Direct)
    }

    /// The report, as Markdown.
    pub fn report(&self, setting: &Setting) -> String {
        let mut text = format!("{}{}{}", head(setting), self.summary(), self.scaling());
        for task in &self.tasks {
            let _ = write!(text, "\n### {} (`{}`)\n\n{}\n", task.title, task.name, task.unit.head());
            for kind in Kind::ALL {
                if let Some(line) = self.line(task, kind) {
                    let _ = writeln!(text, "{line}");
                }
            }
            for ((_, kind), errors) in self.errors.iter().filter(|((name, _), _)| *name == task.name) {
                let _ = writeln!(text, "\n{kind} is not compared: {}", errors[0]);
            }
        }
        text
    }

    /// drained to the best of the others, one line a task.
    fn summary(&self) -> String {
        let mut text = "\n### drained to the best of the others\n\n\
            | | rate | p99 | CPU above no proxy |\n|---|---|---|---|\n"
            .to_owned();
        for task in &self.tasks {
            let ours = |which| Some(self.column(task, Kind::Drained, which)?.median);
            let ratio = |ours: Option<f64>, best: Option<f64>| match (ours, best) {
                (Some(ours), Some(best)) if best > 0.0 => format!("{:.2}", ours / best),
                _ => "-".to_owned(),
            };
            let rate = match task.unit {
                Unit::Paced => "-".to_owned(),
                _ => ratio(ours(|m| m.rate), self.best(task, |m| m.rate, task.unit != Unit::Memory)),
            };
            let p99 = ratio(ours(|m| m.p99), self.best(task, |m| m.p99, false));
            let costs = Kind::PEERS.iter().filter_map(|kind| self.machine_above_none(task, *kind));
            let cost = ratio(self.machine_above_none(task, Kind::Drained), costs.min_by(f64::total_cmp));
            let _ = writeln!(text, "| {} | {rate} | {p99} | {cost} |", task.title);
        }
        text
    }

    /// What more workers than one are good for, and how busy that keeps the machine; nothing where there is
    /// one.
    fn scaling(&self) -> String {
        let mut text = "\n### drained with all workers to drained with one\n\n\
            | | rate | CPU of the proxy for each | processors in use: all workers | one |\n|---|---|---|---|---|\n"
            .to_owned();
        let before = text.len();
        for task in self.tasks.iter().filter(|task| !matches!(task.unit, Unit::Memory | Unit::Paced)) {
            let of = |kind, which| Some(self.column(task, kind, which)?.median);
            let ratio = |which| Some(of(Kind::Drained, which)? / of(Kind::Single, which)?);
            let busy = |kind| of(kind, |m| m.rate * m.machine / 1e6);
            let columns =
                (ratio(|m| m.rate), ratio(|m| m.processes), busy(Kind::Drained), busy(Kind::Single));
            if let (Some(rate), Some(cost), Some(all), Some(one)) = columns {
                let _ = writeln!(text, "| {} | {rate:.2} | {cost:.2} | {all:.1} | {one:.1} |", task.title);
            }
        }
        if text.len() == before { String::new() } else { text }
    }

    fn line(&self, task: &Task, kind: Kind) -> Option<String> {
        let rate = self.column(task, kind, |m| m.rate)?;
        let median = |which| self.column(task, kind, which).map_or(0.0, |column: Column| column.median);
        let ratio = self.best(task, |m| m.rate, task.unit != Unit::Memory);
        let ratio = ratio
            .filter(|best| *best > 0.0)
            .map_or("-".to_owned(), |best| format!("{:.2}", rate.median / best));
        let name = kind.name();
        let spread = format!("{:.0} to {:.0}", rate.least, rate.most);
        let above = self.machine_above_none(task, kind).map_or("-".to_owned(), |above| format!("{above:.2}"));
        let costs =
            format!("{above} | {:.2} | {:.0} %", median(|m| m.processes), 100.0 * median(|m| m.stolen));
        let latency =
            format!("{:.0} | {:.0} | {:.0}", median(|m| m.p50), median(|m| m.p99), median(|m| m.p999));
        Some(match task.unit {
            Unit::Memory => {
                let kernel = self.kernel_above_none(task, kind);
                format!("| {name} | {:.0} | {spread} | {ratio} | {kernel:.0} |", rate.median)
            }
            Unit::Bytes => format!("| {name} | {:.0} | {spread} | {ratio} | {costs} |", rate.median),
            Unit::Paced => format!("| {name} | {:.0} | {latency} | {costs} |", rate.median),
            Unit::Requests | Unit::Connections => {
                format!("| {name} | {:.0} | {spread} | {ratio} | {latency} | {costs} |", rate.median)
            }
        })
    }

    /// The best median of the others.
    fn best(&self, task: &Task, which: fn(&Measured) -> f64, more_is_better: bool) -> Option<f64> {
        let all = Kind::PEERS.iter().filter_map(|kind| Some(self.column(task, *kind, which)?.median));
        match more_is_better {
            true => all.max_by(f64::total_cmp),
            false => all.min_by(f64::total_cmp),
        }
    }
}

impl Unit {
    fn head(self) -> String {
        let costs = |one| format!("CPU µs a {one}, machine above no proxy | proxy | stolen");
        let latency = "p50 µs | p99 µs | p99.9 µs";
        let head = match self {
            Unit::Requests => format!("requests/s | spread | to the best | {latency} | {}", costs("request")),
            Unit::Paced => format!("requests/s | {latency} | {}", costs("request")),
            Unit::Connections => {
                format!("connections/s | spread | to the best | {latency} | {}", costs("connection"))
            }
            Unit::Bytes => format!("MB/s | spread | to the best | {}", costs("MB")),
            Unit::Memory => {
                "bytes of the process | spread | to the best | of the kernel above no proxy".to_owned()
            }
        };
        format!("| | {head} |\n|{}", "---|".repeat(head.matches('|').count() + 2))
    }
}

/// When, where and who.
fn head(setting: &Setting) -> String {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.rsplit_once(':').map_or(line.clone(), |(_, value)| value.trim().to_owned())
    };
    let Setting { versions, rounds, lasts, workers } = setting;
    let mut text = format!(
        "{} × {}, {} of memory, Linux {}; {workers} worker(s) each, {rounds} rounds of {lasts:?}.\n\n",
        meter::processors(),
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
        first("/proc/sys/kernel/osrelease", ""),
    );
    versions.iter().for_each(|version| _ = writeln!(text, "- {version}"));
    text
}
