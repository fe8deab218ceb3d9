//! SIGKILL at points chosen by a seed, under connections of which every byte is checked.
//!
//! Incarnation after incarnation is killed: while it adopts, while it serves, in an orderly stop, or
//! by itself at one of the points of the program where src/fault.rs is asked ([`points`] finds them in
//! the source). After each death the store must hold as much as before and no more, and a start that
//! is let live becomes ready. `cargo test` takes some seconds of it; `make killer` runs on:
//!
//! - `DRAINED_KILLER_SECONDS`: for how long. Default 20.
//! - `DRAINED_KILLER_SEED`: the first seed; the next ones follow. Default 1. Seeds choose what is done and when, not
//!   how threads and peers meet in it: a seed that failed may have to be run many times.
//! - `DRAINED_KILLER_POINT`: only kills at points whose name begins with this.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{ALWAYS, Port, adopted, pair, proxy};
use crate::support::SOON;
use crate::support::drained::{Setup, alone, raise_descriptors, until};
use crate::support::peers::{Ended, Listener, end_of, talk};
use crate::support::scratch::Scratch;
use crate::support::store::{LEDGER, LISTENER, LOT, Store};
use crate::support::swarm::{Dice, Swarm, Tally, Terms};

/// Incarnations of a seed.
const STEPS: u32 = 60;
const MOST_WORKERS: u32 = 4;
/// After READY=1, until a point that was not reached is waited for no more.
const REACHED: Duration = Duration::from_millis(80);
/// Where in the ledger the number of starts in a row stands that did not get through.
const TRIES: u64 = 4;
/// One more, and the next start lets go of all connections.
const MOST_TRIES: u64 = 2;
/// Both ends of each lot that may be stored.
const MOST_LOT_ENDS: usize = 64;

/// How an incarnation is to end. Times are milliseconds.
#[derive(Clone, Debug)]
enum Doom {
    /// At a point, by itself.
    Point { name: String, pass: u32 },
    /// So long after it was started, ready or not.
    Early { after: u64 },
    /// So long after it was ready.
    Late { after: u64 },
    /// In the midst of an orderly stop.
    Halfway { after: u64, stopping: u64 },
    /// Orderly.
    Restart { after: u64 },
}

/// What was done, for the words at the end.
#[derive(Default)]
struct Done {
    kills: BTreeMap<String, u64>,
    restarts: u64,
    most_lots: usize,
    let_go: BTreeMap<String, u64>,
    tally: Tally,
}

#[test]
fn not_one_byte_is_wrong_wherever_it_is_killed() {
    let _alone = alone();
    raise_descriptors();
    let number = |name, default| env::var(name).map_or(default, |value| value.parse().unwrap());
    let bound = Instant::now() + Duration::from_secs(number("DRAINED_KILLER_SECONDS", 20));
    let wanted = env::var("DRAINED_KILLER_POINT").unwrap_or_default();
    let points: Vec<_> = points().into_iter().filter(|point| point.starts_with(&wanted)).collect();
    let mut done = Done::default();
    for seed in number("DRAINED_KILLER_SEED", 1).. {
        if Instant::now() > bound {
            break;
        }
        let mut run = Run::new(seed, &points);
        for _ in 0..STEPS {
            run.step(&mut done);
        }
        run.finish(&mut done);
        if seed % 20 == 0 {
            done.say();
        }
    }
    done.say();
    assert!(done.kills.len() > 3, "little was done");
}

#[test]
fn after_three_starts_that_died_the_fourth_begins_with_nothing() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || {
        let handover = format!("{ALWAYS}crash_after = \"0s\"\n");
        Setup::new(&(handover + &proxy("p", &[port.address()], &upstream.address)))
    };
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let old = pair(port.address(), &upstream);
    store.daemon().signal(Signal::SIGKILL);
    store.wait_killed();
    for _ in 0..3 {
        store.spawn_unready(setup().env("DRAINED_TEST_FAULT", "kill:start-counted:1"));
        store.wait_killed();
    }
    store.spawn(setup());
    assert_eq!(adopted(&store), (1, 0));
    store.daemon().wait_line("let go of 1 connections, because 3 starts in a row did not get through");
    assert_eq!((end_of(&old.0), end_of(&old.1)), (Ended::Reset, Ended::Reset));
    let new = pair(port.address(), &upstream);
    store.kill(setup());
    assert_eq!(adopted(&store), (1, 1));
    talk(&new.0, &new.1);
}

/// One seed.
struct Run<'a> {
    seed: u64,
    step: u32,
    dice: Dice,
    points: &'a [String],
    config: String,
    store: Store,
    swarm: Option<Swarm>,
    /// What the last incarnations met, and what they let go of; the latest first.
    history: VecDeque<String>,
    _port: Port,
    _scratch: Scratch,
}

impl Run<'_> {
    fn new(seed: u64, points: &[String]) -> Run<'_> {
        let mut dice = Dice::new(seed);
        let (port, scratch) = (Port::reserve(), Scratch::new());
        let unix = |name: &str| format!("unix:{}", scratch.path(name).display());
        let listen = if dice.below(3) == 0 { unix("in") } else { port.address().to_owned() };
        let upstream = if dice.below(3) == 0 { Listener::on(&unix("up")) } else { Listener::new() };
        let greeted = dice.below(3) == 0;
        let young = dice.below(6) == 0;
        let config = format!(
            "{ALWAYS}crash_after = \"{}\"\n{}send_proxy = \"{}\"\n",
            if young { "1s" } else { "0s" },
            proxy("p", &[&listen], &upstream.address),
            if greeted { "v1" } else { "off" },
        );
        let store = Store::start(Setup::new(&config).workers(1 + dice.below(MOST_WORKERS) as usize));
        store.wait_count(LISTENER, 1);
        // Twice what is promised: a worker may be late.
        let youth = if young { Duration::from_secs(2) } else { Duration::ZERO };
        let swarm = Some(Swarm::start(Terms { seed, listen, upstream, greeted, youth }));
        Run {
            seed,
            step: 0,
            dice,
            points,
            config,
            store,
            swarm,
            history: VecDeque::new(),
            _port: port,
            _scratch: scratch,
        }
    }

    /// Has an incarnation end as the seed wants it.
    fn step(&mut self, done: &mut Done) {
        self.step += 1;
        self.swarm().check();
        let settles = self.store.word(LEDGER, TRIES).unwrap_or_default() >= MOST_TRIES;
        let doom = self.choose(!settles);
        // The first one runs already.
        if self.step > 1 {
            self.start(&doom);
        }
        if settles {
            self.wait_ready();
            until("tries are forgotten", || self.store.word(LEDGER, TRIES) == Some(0));
        }
        let name = self.meet(&doom);
        let end = self.store.wait_any_end();
        let let_go: Vec<_> = end.lines.iter().filter(|line| line.contains("let go of ")).collect();
        self.history.truncate(7);
        self.history.push_front(format!("step {}: {doom:?}, {name}: {let_go:?}", self.step));
        match (end.signal, end.code) {
            (Some(9), _) => {
                self.swarm().killed();
                *done.kills.entry(name).or_default() += 1;
            }
            (None, Some(0)) if end.says("SIGTERM from") => done.restarts += 1,
            _ => panic!("an end that nobody wanted: {end:#?}"),
        }
        assert!(!end.says("panicked"), "{end:#?}");
        for line in end.lines.iter().filter_map(|line| Some(line.split_once("let go of ")?.1)) {
            let text = line.split("  ").next().unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "");
            *done.let_go.entry(text).or_default() += 1;
        }
        let lots = self.store.count(LOT);
        done.most_lots = done.most_lots.max(lots);
        assert_eq!((self.store.count(LEDGER), self.store.count(LISTENER)), (1, 1));
        assert!(lots <= MOST_LOT_ENDS, "the store grows: {lots} ends of lots");
    }

    fn swarm(&self) -> &Swarm {
        self.swarm.as_ref().expect("it is there until the end")
    }

    fn choose(&mut self, may_die_early: bool) -> Doom {
        let dice = &mut self.dice;
        let after = u64::from(dice.below(30));
        match dice.below(12) {
            6.. if may_die_early && self.step > 1 => {
                let name = self.points[dice.below(self.points.len() as u32) as usize].clone();
                let most = match name.split('-').next() {
                    Some("start") => 1,
                    Some("lot") => 2,
                    Some("relay" | "bounce") => 1 << dice.below(12),
                    _ => 1 << dice.below(6),
                };
                Doom::Point { name, pass: 1 + dice.below(most) }
            }
            5 if may_die_early => Doom::Early { after },
            0 => Doom::Restart { after },
            1 | 2 => Doom::Halfway { after, stopping: u64::from(dice.below(10)) },
            _ => Doom::Late { after },
        }
    }

    fn start(&mut self, doom: &Doom) {
        let setup = Setup::new(&self.config).workers(1 + self.dice.below(MOST_WORKERS) as usize);
        self.store.spawn_unready(match doom {
            Doom::Point { name, pass } => setup.env("DRAINED_TEST_FAULT", &format!("kill:{name}:{pass}")),
            _ => setup,
        });
    }

    /// Does what the doom says, and tells what will have ended it.
    fn meet(&self, doom: &Doom) -> String {
        let daemon = self.store.daemon();
        let pause = |ms: &u64| sleep(Duration::from_millis(*ms));
        match doom {
            Doom::Early { after } => {
                pause(after);
                daemon.signal(Signal::SIGKILL);
                "early".to_owned()
            }
            Doom::Late { after } => {
                self.wait_ready();
                pause(after);
                daemon.signal(Signal::SIGKILL);
                "late".to_owned()
            }
            Doom::Halfway { after, stopping } => {
                self.wait_ready();
                pause(after);
                daemon.signal(Signal::SIGTERM);
                pause(stopping);
                daemon.signal(Signal::SIGKILL);
                "halfway".to_owned()
            }
            Doom::Restart { after } => {
                self.wait_ready();
                pause(after);
                daemon.signal(Signal::SIGTERM);
                "orderly".to_owned()
            }
            Doom::Point { name, .. } => {
                let bound = Instant::now() + SOON;
                wait_until(bound, || daemon.has_ended() || self.store.is_ready());
                wait_until(Instant::now() + REACHED, || daemon.has_ended());
                if name.starts_with("leave") && !daemon.has_ended() {
                    daemon.signal(Signal::SIGTERM);
                    wait_until(bound, || daemon.has_ended());
                }
                if daemon.has_ended() {
                    return name.clone();
                }
                assert!(self.store.is_ready(), "not ready: {:#?}", daemon.lines());
                daemon.signal(Signal::SIGKILL);
                "point not reached".to_owned()
            }
        }
    }

    fn wait_ready(&self) {
        let daemon = self.store.daemon();
        wait_until(Instant::now() + SOON, || daemon.has_ended() || self.store.is_ready());
        assert!(self.store.is_ready(), "not ready: {:#?}", daemon.lines());
    }

    /// Has all connections end, and the last incarnation.
    fn finish(mut self, done: &mut Done) {
        self.store.spawn(Setup::new(&self.config));
        let tally = self.swarm.take().expect("it was started").finish();
        self.store.end();
        done.tally.add(tally);
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed with DRAINED_KILLER_SEED={} in step {}:\n{}",
                self.seed, self.step, self.config
            );
            eprintln!("the last incarnations: {:#?}", self.history);
        }
    }
}

impl Done {
    fn say(&self) {
        println!(
            "{} kills, {} orderly restarts, {} ends of lots at the most",
            self.kills.values().sum::<u64>(),
            self.restarts,
            self.most_lots
        );
        println!("{:?}\nkilled at {:#?}\nlet go of {:#?}", self.tally, self.kills, self.let_go);
    }
}

fn wait_until(bound: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < bound {
        sleep(Duration::from_millis(1));
    }
}

/// The points of the program, by name.
pub(super) fn points() -> Vec<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut points = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let calls = text.split("fault::pass(\"").skip(1);
            points.extend(calls.map(|call| call.split('"').next().unwrap_or_default().to_owned()));
        }
    }
    points.sort();
    points.dedup();
    assert!(points.len() > 20, "{points:?}");
    points
}
