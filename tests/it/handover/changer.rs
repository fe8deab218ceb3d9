//! What an administrator does between and around kills and restarts, chosen by a seed: other configurations, drains,
//! holds and resumptions.
//!
//! Two proxies. Behind `p` is the swarm of the killer: its upstream comes and goes, its listener moves to another
//! proxy and back, its clients are held; none of this may cost it a connection or a byte. Behind `q` are guests:
//! quiet connections to two upstreams, which are drained, taken out and brought back. A guest ends only where its
//! upstream was drained or its proxy taken out. At the end all is resumed, and nothing is left.
//!
//! `cargo test` takes some seconds of it; `make killer` runs on. See [`super::killer`] for the variables.

use std::collections::VecDeque;
use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use drained::control::by_hand::ByHand;
use drained::control::client;
use drained::control::protocol::Call;
use drained::control::reload::Reload;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use super::killer::points;
use super::{ALWAYS, Port};
use crate::support::SOON;
use crate::support::drained::{Setup, alone, raise_descriptors, until};
use crate::support::peers::{Ended, Listener, accept_any, connect, read_to_end, talk};
use crate::support::store::{LEDGER, LISTENER, Store};
use crate::support::swarm::{Dice, Swarm, Tally, Terms};

/// Incarnations of a seed.
const STEPS: u32 = 32;
const MOST_WORKERS: u32 = 4;
/// So often everything is as the swarm needs it: nobody is held for longer.
const RELIEF: u32 = 4;
const MOST_GUESTS: usize = 12;
/// Sockets of an idle daemon: listeners, lots, control, log and the like.
const IDLE_SOCKETS: usize = 40;
const CALL: Duration = Duration::from_secs(15);
/// Where in the ledger the number of starts in a row stands that did not get through.
const TRIES: u64 = 4;

/// What is configured.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The swarm's listener is that of `r`.
    moved: bool,
    /// The swarm's upstream is taken out, and only one is left that is down.
    upstream_out: bool,
    /// The same of the guests' proxy, and of their upstreams.
    guests_out: bool,
    guests: [bool; 2],
    /// One proxy more.
    more: bool,
    /// Another number.
    hold: u32,
}

impl Shape {
    const WHOLE: Shape = Shape {
        moved: false,
        upstream_out: false,
        guests_out: false,
        guests: [true; 2],
        more: false,
        hold: 60,
    };

    fn chosen(dice: &mut Dice) -> Shape {
        let mut one_in = |n| dice.below(n) == 0;
        let (moved, upstream_out, guests_out, more) = (one_in(2), one_in(4), one_in(8), one_in(2));
        let guests = match (one_in(3), one_in(2)) {
            (true, first) => [first, !first],
            (false, _) => [true; 2],
        };
        Shape { moved, upstream_out, guests_out, guests, more, hold: 60 + dice.below(60) }
    }

    fn listeners(self) -> usize {
        2 + usize::from(!self.guests_out) + usize::from(self.more)
    }
}

struct Guest {
    client: TcpStream,
    server: TcpStream,
    at: usize,
    /// It may end, as a drain ends it.
    may_end: bool,
}

struct Run<'a> {
    seed: u64,
    step: u32,
    dice: Dice,
    points: &'a [String],
    ports: [Port; 4],
    /// The swarm's upstream, and one that is down.
    upstreams: [String; 2],
    /// Bound for as long.
    _down: Listener,
    hosts: [Listener; 2],
    guests: Vec<Guest>,
    shape: Shape,
    store: Store,
    swarm: Option<Swarm>,
    history: VecDeque<String>,
}

#[test]
fn not_one_byte_is_wrong_whatever_is_changed_meanwhile() {
    let _alone = alone();
    raise_descriptors();
    let number = |name, default| env::var(name).map_or(default, |value| value.parse().unwrap());
    let bound = Instant::now() + Duration::from_secs(number("DRAINED_KILLER_SECONDS", 15));
    let wanted = env::var("DRAINED_KILLER_POINT").unwrap_or_default();
    let points: Vec<_> = points().into_iter().filter(|point| point.starts_with(&wanted)).collect();
    let (mut tally, mut seeds) = (Tally::default(), 0);
    for seed in number("DRAINED_KILLER_SEED", 1).. {
        if Instant::now() > bound {
            break;
        }
        let mut run = Run::new(seed, &points);
        for _ in 0..STEPS {
            run.step();
        }
        tally.add(run.finish());
        seeds += 1;
        if seed % 20 == 0 {
            println!("{seeds} seeds: {tally:?}");
        }
    }
    println!("{seeds} seeds: {tally:?}");
    assert!(tally.whole > 0, "little was done");
}

impl Run<'_> {
    fn new(seed: u64, points: &[String]) -> Run<'_> {
        let mut dice = Dice::new(seed);
        let ports = [(); 4].map(|()| Port::reserve());
        let (upstream, down) = (Listener::new(), Listener::refusing("127.0.0.1:0"));
        let upstreams = [upstream.address.clone(), down.address.clone()];
        let hosts = [Listener::new(), Listener::new()];
        let config = config(Shape::WHOLE, &ports, &upstreams, &hosts);
        let workers = 1 + dice.below(MOST_WORKERS) as usize;
        let store = Store::start(Setup::new(&config).workers(workers));
        store.wait_count(LISTENER, Shape::WHOLE.listeners());
        let listen = ports[0].address().to_owned();
        let terms = Terms { seed, listen, upstream, greeted: false, youth: Duration::ZERO };
        Run {
            seed,
            step: 0,
            dice,
            points,
            ports,
            upstreams,
            _down: down,
            hosts,
            guests: Vec::new(),
            shape: Shape::WHOLE,
            store,
            swarm: Some(Swarm::start(terms)),
            history: VecDeque::new(),
        }
    }

    fn step(&mut self) {
        self.step += 1;
        self.swarm().check();
        let quiet = self.step % RELIEF == 1 || self.store.word(LEDGER, TRIES).unwrap_or_default() > 1;
        // A kill by itself, or one from outside.
        let point = (!quiet && self.dice.below(2) == 0).then(|| {
            let name = self.points[self.dice.below(self.points.len() as u32) as usize].clone();
            let most =
                if name.starts_with("relay") { 1 << self.dice.below(12) } else { 1 << self.dice.below(5) };
            format!("kill:{name}:{}", 1 + self.dice.below(most))
        });
        if self.step > 1 {
            let config = config(self.shape, &self.ports, &self.upstreams, &self.hosts);
            let setup = Setup::new(&config).workers(1 + self.dice.below(MOST_WORKERS) as usize);
            self.store.spawn_unready(match &point {
                Some(fault) => setup.env("DRAINED_TEST_FAULT", fault),
                None => setup,
            });
        }
        self.note(format!("step {}: {point:?}", self.step));
        until("it is ready or dead", || self.store.is_ready() || self.store.daemon().has_ended());
        if point.is_none() {
            assert!(self.store.is_ready(), "not ready: {:#?}", self.store.daemon().lines());
            until("tries are forgotten", || self.store.word(LEDGER, TRIES) == Some(0));
            self.check_guests();
        }
        if quiet && point.is_none() {
            self.relieve();
        }
        for _ in 0..self.dice.below(5) {
            if self.store.daemon().has_ended() {
                break;
            }
            self.change(point.is_none());
            sleep(Duration::from_millis(u64::from(self.dice.below(20))));
        }
        if point.is_none() {
            self.check_guests();
            self.invite();
        }
        self.end(point.as_deref());
    }

    /// The incarnation ends, one way or another.
    fn end(&mut self, point: Option<&str>) {
        let daemon = self.store.daemon();
        let orderly = self.dice.below(3) == 0;
        if orderly || point.is_some_and(|name| name.contains(":leave")) {
            daemon.signal(Signal::SIGTERM);
        }
        if !orderly {
            let bound = Instant::now() + Duration::from_millis(u64::from(self.dice.below(20)));
            while !daemon.has_ended() && Instant::now() < bound {
                sleep(Duration::from_millis(1));
            }
            daemon.signal(Signal::SIGKILL);
        }
        let end = self.store.wait_any_end();
        match (end.signal, end.code) {
            (Some(9), _) => self.swarm().killed(),
            (None, Some(0)) => {}
            _ => panic!("an end that nobody wanted: {end:#?}"),
        }
        assert!(!end.says("panicked"), "{end:#?}");
        assert_eq!(self.store.count(LEDGER), 1);
    }

    fn swarm(&self) -> &Swarm {
        self.swarm.as_ref().expect("it is there until the end")
    }

    fn note(&mut self, what: String) {
        self.history.truncate(40);
        self.history.push_front(what);
    }

    /// Asks for something. None: it died meanwhile.
    fn ask<T: DeserializeOwned>(&mut self, call: Call) -> Option<Result<T, String>> {
        let answer = client::call_within(&self.store.scratch.path("control.sock"), &call, CALL);
        let text = answer.as_ref().err().map(ToString::to_string);
        if !matches!(call, Call::Progress { .. }) {
            self.note(format!("    {}: {text:?}", call.words()));
        }
        match answer {
            Ok(answer) => Some(Ok(answer)),
            Err(error) if error.exit() == drained::Exit::Refused => Some(Err(error.to_string())),
            Err(error) => {
                until(&format!("it is dead, for {error}"), || self.store.daemon().has_ended());
                None
            }
        }
    }

    fn change(&mut self, sure: bool) {
        let at = self.dice.below(2) as usize;
        let upstream = || Some(self.hosts[at].address.clone());
        let timeout = [20, 200, 60_000][self.dice.below(3) as usize];
        let (p, q) = (|| "p".to_owned(), || "q".to_owned());
        let call = match self.dice.below(10) {
            0 => Call::Hold { proxy: p(), timeout_ms: [None, Some(50)][at] },
            1 => Call::Resume { proxy: p(), upstream: None },
            2 => Call::Hold { proxy: q(), timeout_ms: [None, Some(50)][at] },
            3 => Call::Resume { proxy: q(), upstream: [None, upstream()][at].clone() },
            4 | 5 => {
                let upstream = upstream();
                self.guests.iter_mut().filter(|guest| guest.at == at).for_each(|guest| guest.may_end = true);
                Call::Drain { proxy: q(), upstream, timeout_ms: Some(timeout) }
            }
            _ => {
                let shape = Shape::chosen(&mut self.dice);
                return self.reload(shape, sure);
            }
        };
        let drains = matches!(call, Call::Drain { .. });
        let Some(Ok(answer)) = self.ask::<ByHand>(call) else { return };
        // One that goes on already keeps its deadline.
        if drains && sure && answer.drains().all(|drain| drain.left_ms < 1_000) {
            self.wait_drained(at);
        }
    }

    /// Those that are drained end, and who asks is told the truth.
    fn wait_drained(&mut self, at: usize) {
        let bound = Instant::now() + SOON;
        loop {
            let upstream = Some(self.hosts[at].address.clone());
            let answer = self.ask::<ByHand>(Call::Progress { proxy: "q".to_owned(), upstream });
            let Some(Ok(answer)) = answer else { return };
            if answer.left() == 0 {
                break;
            }
            assert!(Instant::now() < bound, "{answer:?}");
            sleep(Duration::from_millis(5));
        }
        let (ended, others) = std::mem::take(&mut self.guests).into_iter().partition(|guest| guest.at == at);
        self.guests = others;
        ended.into_iter().for_each(Guest::has_ended);
    }

    fn reload(&mut self, shape: Shape, sure: bool) {
        // From here on it may hold, whatever comes.
        self.shape = shape;
        self.note(format!("    {shape:?}"));
        if shape.guests_out {
            self.guests.iter_mut().for_each(|guest| guest.may_end = true);
        }
        let control = self.store.scratch.path("control.sock");
        let config = config(shape, &self.ports, &self.upstreams, &self.hosts);
        let config = format!("[daemon]\nworkers = 2\ncontrol = \"{}\"\n{config}", control.display());
        let new = self.store.scratch.write("drained.new", config);
        std::fs::rename(new, self.store.scratch.path("drained.toml")).unwrap();
        let Some(answer) = self.ask::<Reload>(Call::Reload) else { return };
        let done = answer.unwrap();
        assert!(done.reloaded, "{done:?}");
        if sure {
            self.store.wait_count(LISTENER, shape.listeners());
        }
    }

    /// Nobody has to wait any more.
    fn relieve(&mut self) {
        self.reload(Shape { upstream_out: false, guests_out: false, ..self.shape }, true);
        for proxy in ["p", "q"] {
            let call = Call::Resume { proxy: proxy.to_owned(), upstream: None };
            self.ask::<ByHand>(call).expect("it lives").unwrap();
        }
    }

    /// Those that nothing has ended are there.
    fn check_guests(&mut self) {
        for guest in self.guests.iter().filter(|guest| !guest.may_end) {
            talk(&guest.client, &guest.server);
        }
        if self.shape.guests_out {
            return;
        }
        let answer = self.ask::<ByHand>(Call::Progress { proxy: "q".to_owned(), upstream: None });
        for upstream in answer.expect("it lives").unwrap().upstreams {
            let at = self.hosts.iter().position(|host| host.address == upstream.address).unwrap();
            let here = self.guests.iter().filter(|guest| guest.at == at && !guest.may_end).count();
            assert!(upstream.connections >= here as u64, "{here} guests: {upstream:?}");
        }
    }

    /// Another guest, where one can come.
    fn invite(&mut self) {
        if self.shape.guests_out || self.guests.len() == MOST_GUESTS {
            return;
        }
        let answer = self.ask::<ByHand>(Call::Progress { proxy: "q".to_owned(), upstream: None });
        let answer = answer.expect("it lives").unwrap();
        let is_open = |at: usize| {
            let is_drained = |u: &drained::control::by_hand::UpstreamByHand| {
                u.address == self.hosts[at].address && u.drain.is_some()
            };
            self.shape.guests[at] && !answer.upstreams.iter().any(is_drained)
        };
        if answer.holding || !(is_open(0) || is_open(1)) {
            return;
        }
        let client = connect(self.ports[2].address());
        (&client).write_all(b"hello").unwrap();
        loop {
            let (at, mut server) = accept_any(&self.hosts);
            // A try whether it is there says nothing.
            if server.read_exact(&mut [0; 5]).is_ok() {
                assert!(is_open(at), "{answer:?}");
                server.write_all(b"hello").unwrap();
                (&client).read_exact(&mut [0; 5]).unwrap();
                self.guests.push(Guest { client, server, at, may_end: false });
                return;
            }
        }
    }

    /// All is resumed and whole; then all ends, and nothing is left.
    fn finish(mut self) -> Tally {
        let config = config(Shape::WHOLE, &self.ports, &self.upstreams, &self.hosts);
        self.store.spawn(Setup::new(&config));
        self.reload(Shape::WHOLE, true);
        self.relieve();
        self.check_guests();
        self.guests.clear();
        self.invite();
        self.check_guests();
        self.guests.clear();
        let tally = self.swarm.take().expect("it was started").finish();
        let status = || self.store.status()["proxies"].clone();
        until("the last connection has ended", || {
            let active = |p: &serde_json::Value| p["connections"]["active"].as_u64().unwrap();
            status().as_object().unwrap().values().map(active).sum::<u64>() == 0
        });
        let held = status();
        assert!(held["p"]["holding"] == false && held["q"]["holding"] == false, "{held}");
        let sum = |name: &str| {
            let all = held[name]["upstreams"].as_array().unwrap();
            all.iter().map(|u| u["connections"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((sum("p"), sum("q")), (0, 0), "{held}");
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.store.daemon().pid())).unwrap();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        let sockets = links.filter(|link| link.to_str().unwrap().starts_with("socket:")).count();
        assert!(sockets <= IDLE_SOCKETS, "{sockets} sockets are open");
        assert_eq!(self.store.count(LISTENER), Shape::WHOLE.listeners());
        self.store.end();
        tally
    }
}

impl Guest {
    /// Each peer has learned of the end, and of nothing else.
    fn has_ended(self) {
        for stream in [&self.client, &self.server] {
            let (bytes, ended) = read_to_end(stream);
            assert!(bytes.is_empty() && matches!(ended, Ended::Fin | Ended::Reset), "{bytes:?} {ended:?}");
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with DRAINED_KILLER_SEED={} in step {}", self.seed, self.step);
            eprintln!("what was done, the last first: {:#?}", self.history);
        }
    }
}

fn config(shape: Shape, ports: &[Port; 4], upstreams: &[String; 2], hosts: &[Listener; 2]) -> String {
    let Shape { moved, upstream_out, guests_out, guests, more, hold } = shape;
    let of_swarm = if upstream_out { &upstreams[1..] } else { &upstreams[..] };
    let listen = |moved| ports[usize::from(moved)].address();
    let proxy = |name: &str, listen: &str, upstream: &[String]| {
        let times = format!("hold = \"{hold}s\"\nconnect_timeout = \"60s\"");
        format!("[proxy.{name}]\nlisten = \"{listen}\"\nupstream = {upstream:?}\n{times}\n")
    };
    let mut text = format!("{ALWAYS}crash_after = \"0s\"\n");
    text += &proxy("p", listen(moved), of_swarm);
    text += &proxy("r", listen(!moved), of_swarm);
    if !guests_out {
        let hosts = hosts.iter().zip(guests).filter(|(_, there)| *there);
        let hosts: Vec<_> = hosts.map(|(host, _)| host.address.clone()).collect();
        text += &proxy("q", ports[2].address(), &hosts);
    }
    if more {
        text += &proxy("s", ports[3].address(), &upstreams[..1]);
    }
    text
}
