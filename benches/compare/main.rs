//! drained beside what its users would take instead: haproxy, nginx's stream module,
//! systemd-socket-proxyd, and no proxy at all.
//!
//! With one worker the proxies have the first processor, the clients and servers of the benchmark the
//! second; with more nobody is bound. All contenders are measured one after the other, again and again, so
//! that they meet the same machine; a figure is the median of the rounds. Figures of a contender that showed
//! an error are not compared.
//!
//! `cargo bench --bench compare -- --help` tells the options, `make bench` runs all of it.

mod contender;
mod load;
mod meter;
mod plot;
mod report;
mod server;
mod tasks;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use contender::{Contender, Kind};
use report::{Figures, Setting};
use server::Servers;
use tasks::Task;

/// Measures proxies side by side.
#[derive(Parser)]
struct Options {
    /// How often each figure is taken of each contender.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each takes.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Workers of each proxy: with one they are bound to the first processor.
    #[arg(long, default_value_t = 1)]
    workers: usize,
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

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    meter::raise_descriptors()?;
    let is_bound = options.workers == 1 && meter::processors() > 1;
    let servers = Servers::start(is_bound.then_some(OF_LOAD))?;
    if is_bound {
        meter::pin(OF_LOAD)?;
    }
    let contenders = start(&options, is_bound.then_some(OF_PROXIES), &servers);
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
        Kind::Single => options.workers > 1,
        kind => kind.most_workers() >= options.workers,
    };
    Kind::ALL.iter().filter(is_meant).filter_map(one).collect()
}

fn measure(tasks: &[&Task], contenders: &[Contender], setting: &Setting) -> Figures {
    let mut figures = Figures::default();
    for task in tasks {
        for round in 0..setting.rounds {
            for contender in contenders {
                eprintln!("{} {}/{} {}", task.name, round + 1, setting.rounds, contender.kind.name());
                match task.run(contender, setting.lasts) {
                    Ok(measured) => figures.add(task, contender.kind, measured),
                    Err(error) => figures.failed(task, contender.kind, error.to_string()),
                }
                // What is closed shall be gone before the next one begins.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    figures
}
