//! Connections that come and go while what is between them is killed again and again.
//!
//! One thread moves them all. Each byte is checked against its position, each clean end against the
//! length of its stream, and each client is served by one connection of the upstream, greeted once.
//! A connection that is lost must have been young when a kill came, or be one of the few kinds that
//! cannot be kept ([`Tally`] counts them); it may never look as if it had ended well.

mod link;

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use self::link::Dice;
use self::link::{Fate, Flow, HASTE, Link, Stop, is_unix, prepare};
use super::peers::{Listener, reset, try_connect};

const TICK: Duration = Duration::from_millis(3);
/// Who is not served, or does not learn of an end, within this time will not be.
const PATIENCE: Duration = Duration::from_secs(30);
/// A loss may be seen before the kill that it comes from is noted.
const JUDGE_AFTER: Duration = Duration::from_secs(1);
/// How many at the same time.
const SIZE: usize = 60;

/// Between whom, and what they may expect.
pub struct Terms {
    pub seed: u64,
    /// Where the proxy listens.
    pub listen: String,
    pub upstream: Listener,
    /// The proxy says who the client is, with send_proxy = "v1".
    pub greeted: bool,
    /// So old a connection survives; zero: once the upstream has heard of it.
    pub youth: Duration,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub connections: u64,
    pub bytes: u64,
    /// Ended whole, both ways.
    pub whole: u64,
    /// Reset by a peer, which the other one learned.
    pub broken: u64,
    /// Lost before their upstream had heard of them.
    pub unserved: u64,
    /// Lost after that, while they were young.
    pub young: u64,
    /// Lost though not young, with urgent data on their way: a byte of it passes through the process.
    pub urgent: u64,
    /// Both peers had said all, and the last of it was under way.
    pub ending: u64,
    /// Connections to the upstream that were given up before a byte came.
    pub repeated: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        for (sum, more) in [
            (&mut self.connections, other.connections),
            (&mut self.bytes, other.bytes),
            (&mut self.whole, other.whole),
            (&mut self.broken, other.broken),
            (&mut self.unserved, other.unserved),
            (&mut self.young, other.young),
            (&mut self.urgent, other.urgent),
            (&mut self.ending, other.ending),
            (&mut self.repeated, other.repeated),
        ] {
            *sum += more;
        }
    }
}

/// The connections, at work.
pub struct Swarm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Tally>>,
}

#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    kills: Mutex<Vec<Instant>>,
    errors: Mutex<Vec<String>>,
}

impl Swarm {
    pub fn start(terms: Terms) -> Swarm {
        let shared = Arc::new(Shared::default());
        let hive = Hive::new(terms, Arc::clone(&shared));
        Swarm { shared, thread: Some(thread::spawn(move || hive.live())) }
    }

    /// Somebody was killed just now.
    pub fn killed(&self) {
        self.shared.kills.lock().unwrap().push(Instant::now());
    }

    /// Panics with what has gone wrong so far, if anything did.
    pub fn check(&self) {
        let errors = self.shared.errors.lock().unwrap();
        assert!(errors.is_empty(), "{} failed: {:#?}", errors.len(), &errors[..errors.len().min(20)]);
    }

    /// Has all of them end; panics where something has gone wrong.
    pub fn finish(mut self) -> Tally {
        self.shared.ending.store(true, Ordering::Relaxed);
        let tally = self.thread.take().expect("it runs").join().unwrap();
        self.check();
        tally
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
    }
}

/// What the thread has.
struct Hive {
    terms: Terms,
    shared: Arc<Shared>,
    random: Dice,
    links: HashMap<u64, Link>,
    next: u64,
    arrivals: Vec<Arrival>,
    /// Clients that were served.
    served: HashSet<u64>,
    orphans: Vec<Orphan>,
    losses: Vec<Loss>,
    tally: Tally,
}

/// A connection to the upstream of which nobody knows yet whose it is.
struct Arrival {
    stream: TcpStream,
    heard: Vec<u8>,
}

/// One end of a connection whose other end is gone: it must learn of it.
struct Orphan {
    id: u64,
    side: &'static str,
    stream: TcpStream,
    flow: Flow,
    since: Instant,
    /// A clean end would be a lie, wherever there are others.
    must_reset: bool,
    fate: Fate,
}

#[derive(Debug)]
struct Loss {
    at: Instant,
    what: String,
    /// It looked like an end of the stream.
    clean: bool,
    fate: Fate,
}

impl Hive {
    fn new(terms: Terms, shared: Arc<Shared>) -> Hive {
        let random = Dice::new(terms.seed);
        nonblocking(&terms.upstream.fd);
        Hive {
            terms,
            shared,
            random,
            links: HashMap::new(),
            next: 1,
            arrivals: Vec::new(),
            served: HashSet::new(),
            orphans: Vec::new(),
            losses: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn live(mut self) -> Tally {
        let mut late = None;
        loop {
            let next = Instant::now() + TICK;
            let ends = self.shared.ending.load(Ordering::Relaxed);
            while !ends && self.links.len() < SIZE {
                self.bear();
            }
            self.welcome();
            self.move_all(ends);
            self.mind_orphans();
            self.judge(ends && self.links.is_empty() && self.orphans.is_empty());
            if ends && self.links.is_empty() && self.orphans.is_empty() {
                return self.tally;
            }
            if ends && Instant::now() > *late.get_or_insert_with(|| Instant::now() + 2 * PATIENCE) {
                let left: Vec<_> = self.links.iter().map(|(id, l)| format!("{id}: {}", l.text())).collect();
                self.fail(format!("{} did not end: {:#?}", left.len(), left));
                return self.tally;
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn fail(&self, what: String) {
        self.shared.errors.lock().unwrap().push(what);
    }

    /// One more client.
    fn bear(&mut self) {
        let (id, born) = (self.next, Instant::now());
        self.next += 1;
        self.tally.connections += 1;
        let client = match try_connect(&self.terms.listen) {
            Ok(client) => client,
            Err(errno) => return self.fail(format!("client {id} was refused: {errno}")),
        };
        prepare(&client);
        if let Err(e) = (&client).write_all(&id.to_be_bytes()) {
            self.losses.push(Loss {
                at: born,
                what: format!("client {id}: {e}"),
                clean: false,
                fate: Fate { born, served_at: None, urgent: false, ending: false },
            });
            return;
        }
        let unix = is_unix(&self.terms.listen) || is_unix(&self.terms.upstream.address);
        let crowded = self.links.values().filter(|link| link.is_endless()).count() > SIZE / 2;
        let link = Link::plan(id, client, born, unix, crowded, &mut self.random);
        self.links.insert(id, link);
    }

    /// Takes in what came to the upstream, and answers whose first word is there.
    fn welcome(&mut self) {
        while let Some(stream) = self.terms.upstream.accept_within(Duration::ZERO) {
            prepare(&stream);
            self.arrivals.push(Arrival { stream, heard: Vec::new() });
        }
        for mut arrival in std::mem::take(&mut self.arrivals) {
            let mut bytes = [0; 256];
            match (&arrival.stream).read(&mut bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.arrivals.push(arrival);
                    continue;
                }
                // Given up. Its client is served by another one, or was lost itself.
                Ok(0) | Err(_) => {
                    self.tally.repeated += 1;
                    continue;
                }
                Ok(n) => arrival.heard.extend(&bytes[..n]),
            }
            let line = if self.terms.greeted {
                arrival.heard.iter().position(|b| *b == b'\n').map(|at| at + 1)
            } else {
                Some(0)
            };
            match line {
                Some(line) if arrival.heard.len() >= line + 8 => self.serve(arrival, line),
                _ => self.arrivals.push(arrival),
            }
        }
    }

    fn serve(&mut self, Arrival { stream, heard }: Arrival, line: usize) {
        let (greeting, word) = heard.split_at(line);
        let id = u64::from_be_bytes(word[..8].try_into().unwrap());
        if word.len() > 8 || id == 0 || id >= self.next {
            return self.fail(format!("WRONG BYTES: an upstream heard {heard:?} first"));
        }
        if !self.served.insert(id) {
            return self.fail(format!("client {id} was served twice"));
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if self.terms.greeted && greeting != link.greeting.as_bytes() {
            let (greeting, expected) =
                (String::from_utf8_lossy(greeting).into_owned(), link.greeting.clone());
            return self.fail(format!("WRONG BYTES: client {id} was greeted {greeting:?}, not {expected:?}"));
        }
        link.served_at = Some(Instant::now());
        // What goes wrong here shows when it is read.
        let _ = (&stream).write_all(&id.to_be_bytes());
        link.server = Some(stream);
    }

    fn move_all(&mut self, ends: bool) {
        let now = Instant::now();
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let result = if link.lives { link.tick(now, ends) } else { link.wait_for_life(id) };
            let fate = link.fate();
            match result {
                Ok(false) => {
                    let breaks = link.breaks.filter(|(_, at)| link.lives && (*at <= now || ends));
                    if let Some((by_client, _)) = breaks {
                        self.break_off(id, by_client);
                    } else if link.served_at.is_none() && now - link.born > PATIENCE {
                        self.links.remove(&id);
                        self.fail(format!("client {id} was never served"));
                    }
                }
                Ok(true) => {
                    self.tally.whole += 1;
                    self.tally.bytes += link.up.got + link.down.got;
                    self.links.remove(&id);
                }
                Err((at_client, stop)) => {
                    let link = self.links.remove(&id).expect("it was there");
                    let text = link.text();
                    let told = |what| {
                        format!(
                            "connection {id}, {}: {what}; {text}",
                            if at_client { "client" } else { "server" }
                        )
                    };
                    let (clean, what) = match stop {
                        Stop::Wrong(what) => return self.fail(told(what)),
                        Stop::Lost(what) => (false, told(what)),
                        // UNIX sockets know no other end.
                        Stop::Clean(what) => {
                            let unix = is_unix(if at_client {
                                &self.terms.listen
                            } else {
                                &self.terms.upstream.address
                            });
                            (!unix, told(what))
                        }
                    };
                    self.losses.push(Loss { at: now, what, clean, fate });
                    let (stream, flow) =
                        if at_client { (link.server, link.up) } else { (Some(link.client), link.down) };
                    let left = if at_client { &self.terms.upstream.address } else { &self.terms.listen };
                    let must_reset = link.lives && !is_unix(left);
                    let side = if at_client { "server" } else { "client" };
                    self.orphan(id, side, stream, flow, fate, must_reset);
                }
            }
        }
    }

    /// The client, or else the upstream, breaks off.
    fn break_off(&mut self, id: u64, by_client: bool) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.tally.broken += 1;
        let fate = link.fate();
        let unix = is_unix(&self.terms.listen) || is_unix(&self.terms.upstream.address);
        let server = link.server.take();
        let (goes, stays) = if by_client { (Some(link.client), server) } else { (server, Some(link.client)) };
        goes.into_iter().for_each(reset);
        let flow = if by_client { link.up } else { link.down };
        let side = if by_client { "server, left by its client" } else { "client, left by its server" };
        self.orphan(id, side, stays, flow, fate, !unix);
    }

    /// Sees that who is left learns of the end.
    fn orphan(
        &mut self,
        id: u64,
        side: &'static str,
        stream: Option<TcpStream>,
        flow: Flow,
        fate: Fate,
        must_reset: bool,
    ) {
        self.tally.bytes += flow.got;
        // It may have seen its end, and be done.
        if let Some(stream) = stream.filter(|_| !flow.saw_end) {
            self.orphans.push(Orphan { id, side, stream, flow, since: Instant::now(), must_reset, fate });
        }
    }

    fn mind_orphans(&mut self) {
        for mut orphan in std::mem::take(&mut self.orphans) {
            let (got, sent) = (orphan.flow.got, orphan.flow.sent);
            match orphan.flow.receive(&orphan.stream, HASTE) {
                Ok(()) if orphan.flow.saw_end => {}
                Err(Stop::Clean(_)) if !orphan.must_reset => {}
                Err(Stop::Lost(_)) => {}
                Err(Stop::Clean(_)) => {
                    let what = format!("connection {} at {got} of {sent}: its other end was gone", orphan.id);
                    self.losses.push(Loss { at: Instant::now(), what, clean: true, fate: orphan.fate });
                }
                Err(Stop::Wrong(what)) => self.fail(format!("connection {}: {what}", orphan.id)),
                Ok(()) if orphan.since.elapsed() > PATIENCE => {
                    self.fail(format!(
                        "connection {} at {got} of {sent}: the {} never learned of the end",
                        orphan.id, orphan.side
                    ));
                }
                Ok(()) => self.orphans.push(orphan),
            }
        }
    }

    /// Decides which losses are failures.
    fn judge(&mut self, all: bool) {
        let kills = self.shared.kills.lock().unwrap().clone();
        for loss in std::mem::take(&mut self.losses) {
            if !all && loss.at.elapsed() < JUDGE_AFTER {
                self.losses.push(loss);
                continue;
            }
            let Fate { born, served_at, urgent, ending } = loss.fate;
            let was_young = |kill: &Instant| {
                *kill >= born
                    && served_at.is_none_or(|at| !self.terms.youth.is_zero() && *kill < at + self.terms.youth)
            };
            match () {
                () if kills.iter().any(was_young) && served_at.is_none() => self.tally.unserved += 1,
                () if kills.iter().any(was_young) => self.tally.young += 1,
                () if loss.clean => self.fail(format!("A CLEAN END before the whole: {}", loss.what)),
                () if urgent => self.tally.urgent += 1,
                () if ending => self.tally.ending += 1,
                () => self.fail(format!("lost: {}", loss.what)),
            }
        }
    }
}

fn nonblocking(fd: &impl std::os::fd::AsFd) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
}
