//! drained beside what its users would take instead: haproxy, nginx's stream module,
//! systemd-socket-proxyd, and no proxy at all.
//!
//! With one worker the proxies have the first processor, the clients and servers of the benchmark the
//! second; with more nobody is bound. All contenders are measured one after the other, again and again and in
//! changing order, so that they meet the same machine; a figure is the median of the rounds, a ratio the median
//! of what it is in each. Figures of a contender that showed an error are not compared.
//!
//! `cargo bench --bench compare -- --help` tells the options, `make bench` runs all of it.

mod awake;
mod contender;
mod load;
mod meter;
mod plot;
mod report;
mod server;
mod tasks;

#[path = "../../tests/it/support"]
#[allow(dead_code, clippy::unwrap_used, reason = "written for the tests, which use all of it")]
mod support {
    pub mod manager;

    pub const SOON: std::time::Duration = std::time::Duration::from_secs(30);

    pub fn tell_failures() {}
}

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use awake::Awake;
use contender::{Contender, Kind};
use report::{Figures, Setting};
use server::Servers;
use tasks::{Measured, Task};

/// Measures proxies side by side.
#[derive(Parser)]
struct Options {
    /// How often each figure is taken of each contender; a third of that for memory, an open loop, and 1,000
    /// connections or more.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// How long each takes; five times that in an open loop, and with 1,000 connections or more.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Workers of each proxy: with one they are bound to the first processor.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Keep the processors from halting, so that a wake-up costs the same everywhere.
    #[arg(long)]
    awake: bool,
    /// Only the core.
    #[arg(long)]
    quick: bool,
    /// Only tasks whose name begins with this.
    #[arg(long, default_value = "")]
    only: String,
    /// The program of another build of drained, to be measured too.
    #[arg(long, default_value = "")]
    other: String,
    /// Report and plots are written into this folder besides.
    #[arg(long)]
    into: Option<PathBuf>,
    /// What `cargo bench` passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The proxies have this processor to themselves, as far as the machine leaves it to them.
const OF_PROXIES: usize = 0;
/// Clients and servers.
const OF_LOAD: usize = 1;
/// A round in which the hypervisor took a larger share of the processors from anybody is taken anew, as often as
/// there are rounds at the most.
const MOST_STOLEN: f64 = 0.03;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    meter::raise_descriptors()?;
    let is_bound = options.workers == 1 && meter::processors() > 1;
    let servers = Servers::start(is_bound.then_some(OF_LOAD))?;
    if is_bound {
        meter::pin(OF_LOAD)?;
    }
    let mut contenders = start(&options, is_bound.then_some(OF_PROXIES), &servers);
    let _awake = options.awake.then(Awake::start).transpose()?;
    // Not before all run: some share the memory of their program.
    contenders.iter_mut().for_each(Contender::begin);
    let tasks = tasks::ALL.iter().filter(|task| !options.quick || task.core);
    let tasks: Vec<_> = tasks.filter(|task| task.name.starts_with(&options.only)).collect();
    let setting = Setting {
        versions: contenders.iter().map(|contender| contender.version(&options.other)).collect(),
        rounds: options.rounds,
        lasts: Duration::from_secs_f64(options.seconds),
        workers: options.workers,
    };
    let figures = measure(&tasks, &contenders, &setting);
    let text = figures.report(&setting);
    println!("{text}");
    if let Some(folder) = options.into {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("report.md"), &text)?;
        plot::all(&figures, &folder)?;
    }
    match figures.is_sound() {
        true => Ok(()),
        false => Err("drained showed errors".into()),
    }
}

/// Whoever is installed; who is not is named.
fn start(options: &Options, processor: Option<usize>, servers: &Servers) -> Vec<Contender> {
    let one = |kind: &Kind| match Contender::start(*kind, options.workers, processor, servers, &options.other)
    {
        Ok(contender) => Some(contender),
        Err(why) => {
            eprintln!("{} is left out: {why}", kind.name());
            None
        }
    };
    let is_meant = |kind: &&Kind| match kind {
        Kind::Other => !options.other.is_empty(),
        Kind::Parked => options.workers == 1,
        Kind::Single => options.workers > 1,
        kind => kind.most_workers() >= options.workers,
    };
    Kind::ALL.iter().filter(is_meant).filter_map(one).collect()
}

fn measure(tasks: &[&Task], contenders: &[Contender], setting: &Setting) -> Figures {
    let mut figures = Figures::default();
    for task in tasks {
        let (rounds, lasts) = task.course(setting.rounds, setting.lasts);
        let concerned: Vec<_> = contenders.iter().filter(|contender| task.concerns(contender.kind)).collect();
        let (mut round, mut again) = (0, 0);
        while round < rounds {
            let results: Vec<_> = in_turn(&concerned, round)
                .into_iter()
                .map(|contender| {
                    eprintln!("{} {}/{rounds} {}", task.name, round + 1, contender.kind.name());
                    let result = task.run(contender, lasts);
                    // What is closed shall be gone before the next one begins.
                    std::thread::sleep(Duration::from_millis(100));
                    (contender.kind, result)
                })
                .collect();
            let is_stolen = |measured: &Measured| measured.stolen > MOST_STOLEN;
            if again < rounds && results.iter().any(|(_, result)| result.as_ref().is_ok_and(is_stolen)) {
                again += 1;
                // It often lasts for seconds.
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            round += 1;
            for (kind, result) in results {
                match result {
                    Ok(measured) => figures.add(task, kind, measured),
                    Err(error) => figures.failed(task, kind, error.to_string()),
                }
            }
        }
        figures.repeated += again;
    }
    figures
}

/// Another one begins each round, and each comes as often after one as after any other in as many rounds as there are
/// contenders, or twice as many: a balanced Latin square. Whoever was before leaves the machine something to clear up.
fn in_turn<'a>(contenders: &[&'a Contender], round: usize) -> Vec<&'a Contender> {
    let n = contenders.len();
    let zigzag = |place: usize| if place % 2 == 1 { place.div_ceil(2) } else { n - place / 2 };
    let mut all: Vec<_> = (0..n).map(|place| contenders[(zigzag(place) + round) % n]).collect();
    if round / n % 2 == 1 {
        all.reverse();
    }
    all
}
