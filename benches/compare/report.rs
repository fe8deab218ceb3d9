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
    /// Rounds that were taken anew.
    pub repeated: usize,
}

/// A figure of all rounds.
pub struct Column {
    pub median: f64,
    least: f64,
    most: f64,
    /// The bounds between which the true median lies, with a probability of 95 % at the least; of fewer than six
    /// rounds, the least and the most.
    sure: (f64, f64),
}

impl Column {
    /// None: nothing was measured.
    fn of(mut all: Vec<f64>) -> Option<Column> {
        all.sort_by(f64::total_cmp);
        let (least, most) = (*all.first()?, *all.last()?);
        // Each round is above or below the true median like a coin's sides: so many of `n` lie on one side
        // by chance alone in 2.5 % of all cases at the most.
        let n = all.len();
        let (mut chance, mut sum, mut outside) = (0.5_f64.powi(n as i32), 0.0, 0);
        while sum + chance <= 0.025 {
            sum += chance;
            chance *= (n - outside) as f64 / (outside + 1) as f64;
            outside += 1;
        }
        let at = outside.saturating_sub(1);
        Some(Column { median: all[n / 2], least, most, sure: (all[at], all[n - 1 - at]) })
    }

    /// The ratios of pairs. None where there are none: a divisor is nothing, or less.
    fn of_pairs(pairs: &[(f64, f64)]) -> Option<Column> {
        let ratio = |(ours, theirs): &(f64, f64)| (*theirs > 0.0).then(|| ours / theirs);
        Column::of(pairs.iter().map(ratio).collect::<Option<Vec<_>>>()?)
    }

    fn ratio(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.sure.0, self.sure.1)
    }
}

/// Whether more of something is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
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
        Column::of(self.rounds(task, kind)?.iter().map(which).collect())
    }

    /// What each round gave.
    fn rounds(&self, task: &Task, kind: Kind) -> Option<&[Measured]> {
        let key = (task.name, kind.name());
        self.runs.get(&key).filter(|_| !self.errors.contains_key(&key)).map(Vec::as_slice)
    }

    /// What it is of another's in each round, so that a machine that is slow for a while is so for both.
    fn ratio(&self, task: &Task, (kind, to): (Kind, Kind), which: fn(&Measured) -> f64) -> Option<Column> {
        let pairs = self.rounds(task, kind)?.iter().zip(self.rounds(task, to)?);
        let pairs: Vec<_> = pairs.map(|(ours, theirs)| (which(ours), which(theirs))).collect();
        Column::of_pairs(&pairs)
    }

    /// The same of the machine's processor time above what no proxy takes.
    fn cost_ratio(&self, task: &Task, (kind, to): (Kind, Kind)) -> Option<Column> {
        let pairs = self.rounds(task, kind)?.iter().zip(self.rounds(task, to)?);
        let all = pairs.zip(self.rounds(task, Kind::Direct)?);
        let above = |((ours, theirs), none): ((&Measured, &Measured), &Measured)| {
            (ours.machine - none.machine, theirs.machine - none.machine)
        };
        Column::of_pairs(&all.map(above).collect::<Vec<_>>())
    }

    /// A contender to the best of the others.
    fn to_best(
        &self,
        task: &Task,
        kind: Kind,
        (which, better): (fn(&Measured) -> f64, Better),
    ) -> Option<Column> {
        let all = self.peers(task).map(|peer| self.ratio(task, (kind, peer), which));
        worst(all.collect::<Option<_>>()?, better)
    }

    /// Those that showed no error.
    fn peers(&self, task: &Task) -> impl Iterator<Item = Kind> {
        Kind::PEERS.into_iter().filter(|peer| self.rounds(task, *peer).is_some())
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
        let mut text = format!("{}{}{}", head(setting, self.repeated), self.summary(), self.scaling());
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
        let told = |column: Option<Column>| column.map_or("-".to_owned(), |column| column.ratio());
        for task in &self.tasks {
            let rate = match task.unit {
                Unit::Paced => None,
                _ => self.to_best(task, Kind::Drained, (|m| m.rate, task.unit.better())),
            };
            let p99 = self.to_best(task, Kind::Drained, (|m| m.p99, Better::Less));
            let costs = self.peers(task).map(|peer| self.cost_ratio(task, (Kind::Drained, peer)));
            let cost = costs.collect::<Option<_>>().and_then(|costs| worst(costs, Better::Less));
            let _ = writeln!(text, "| {} | {} | {} | {} |", task.title, told(rate), told(p99), told(cost));
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
            let ratio = |which| Some(self.ratio(task, (Kind::Drained, Kind::Single), which)?.ratio());
            let busy = |kind| of(kind, |m| m.rate * m.machine / 1e6);
            let columns =
                (ratio(|m| m.rate), ratio(|m| m.processes), busy(Kind::Drained), busy(Kind::Single));
            if let (Some(rate), Some(cost), Some(all), Some(one)) = columns {
                let _ = writeln!(text, "| {} | {rate} | {cost} | {all:.1} | {one:.1} |", task.title);
            }
        }
        if text.len() == before { String::new() } else { text }
    }

    fn line(&self, task: &Task, kind: Kind) -> Option<String> {
        let rate = self.column(task, kind, |m| m.rate)?;
        let median = |which| self.column(task, kind, which).map_or(0.0, |column: Column| column.median);
        let ratio = self.to_best(task, kind, (|m| m.rate, task.unit.better()));
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median));
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
}

/// The ratio to the best: that by which one looks worst.
fn worst(ratios: Vec<Column>, better: Better) -> Option<Column> {
    let ratios = ratios.into_iter();
    match better {
        Better::More => ratios.min_by(|a, b| a.median.total_cmp(&b.median)),
        Better::Less => ratios.max_by(|a, b| a.median.total_cmp(&b.median)),
    }
}

impl Unit {
    fn better(self) -> Better {
        match self {
            Unit::Memory => Better::Less,
            _ => Better::More,
        }
    }

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
fn head(setting: &Setting, repeated: usize) -> String {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.rsplit_once(':').map_or(line.clone(), |(_, value)| value.trim().to_owned())
    };
    let Setting { versions, rounds, lasts, workers } = setting;
    let mut text = format!(
        "{} × {}, {} of memory, Linux {}; {workers} worker(s) each, {rounds} rounds of {lasts:?}, and {repeated} anew for stolen time.\n\n",
        meter::processors(),
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
        first("/proc/sys/kernel/osrelease", ""),
    );
    versions.iter().for_each(|version| _ = writeln!(text, "- {version}"));
    text
}
