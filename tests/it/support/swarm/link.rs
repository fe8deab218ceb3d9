//! One connection of a swarm: what it does with its life, and what its peers see.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use crate::support::load::pattern;

/// Kernel memory for each side of the peers.
const BUFFER: usize = 32 << 10;
/// What a hasty sender sends in a tick, and a hungry receiver reads.
pub const HASTE: usize = 64 << 10;
/// For as long as the swarm lives.
const ENDLESS: u64 = u64::MAX;

/// Numbers that are the same for the same seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// A client and, once it is served, its upstream's end.
pub struct Link {
    pub client: TcpStream,
    pub server: Option<TcpStream>,
    pub born: Instant,
    pub served_at: Option<Instant>,
    /// What the upstream is to hear first where the proxy says who the client is.
    pub greeting: String,
    /// The client has heard from the upstream.
    pub lives: bool,
    pub up: Flow,
    pub down: Flow,
    pub manner: Manner,
    /// The client, or else the upstream, resets it at that time.
    pub breaks: Option<(bool, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Both send what they have; the client, the upstream, or nobody waits for the other's end.
    Stream { client_waits: bool, server_waits: bool },
    /// A request of that size and its echo, with a pause.
    Talk { size: u64, pause: Duration, next: Instant },
}

/// One direction.
#[derive(Clone, Debug)]
pub struct Flow {
    pub seed: u64,
    pub total: u64,
    pub hurry: usize,
    pub appetite: usize,
    pub urgent: bool,
    pub sent: u64,
    pub got: u64,
    pub said_end: bool,
    pub saw_end: bool,
}

/// What decides whether a connection may be lost.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub born: Instant,
    pub served_at: Option<Instant>,
    pub urgent: bool,
    pub ending: bool,
}

/// How a direction stopped.
pub enum Stop {
    Lost(String),
    Clean(String),
    Wrong(String),
}

/// At the client's end or else the upstream's.
pub type Stopped = (bool, Stop);

impl Link {
    /// What a connection does with its life.
    pub fn plan(
        id: u64,
        client: TcpStream,
        born: Instant,
        unix: bool,
        crowded: bool,
        random: &mut Dice,
    ) -> Link {
        let slow = 512 << random.below(5);
        let some = 1 << random.below(19);
        let some = u64::from(random.below(some));
        let mut up = Flow::new(2 * id, ENDLESS, HASTE, slow);
        let mut down = Flow::new(2 * id + 1, ENDLESS, HASTE, slow);
        // Each kind has its share; from 12 on they come and go.
        let (first, pick) = (random.below(3), if crowded { 12 + random.below(12) } else { random.below(24) });
        let mut manner = Manner::Stream { client_waits: first == 1, server_waits: first == 2 };
        let mut breaks = None;
        match pick {
            0..7 => {
                // Idle ones, and busy ones.
                let pause =
                    Duration::from_millis(if pick < 4 { 100 + u64::from(random.below(900)) } else { 5 });
                manner = Manner::Talk { size: 1 + u64::from(random.below(500)), pause, next: born };
                up.appetite = HASTE;
                down.appetite = HASTE;
                up.total = if random.below(2) == 0 { ENDLESS } else { some };
            }
            7..10 => {}
            // One is half-closed early.
            10 => up.total = some,
            11 => down.total = some,
            12 => {
                (up.hurry, down.hurry) = (slow, slow);
                (up.appetite, down.appetite) = (HASTE, HASTE);
                (up.total, down.total) = (4 * some, 4 * some);
            }
            13..15 => {
                (up.hurry, down.hurry) = (slow, slow);
                up.urgent = true;
                down.urgent = random.below(2) == 0;
                (up.total, down.total) = (some, some);
            }
            15..18 => {
                let after = Duration::from_millis(u64::from(random.below(1_500)));
                breaks = Some((random.below(2) == 0, born + after));
            }
            _ => {
                (up.total, down.total) = (some, u64::from(random.below(100_000)));
                up.appetite = HASTE;
            }
        }
        if unix {
            // They know no urgent data.
            (up.urgent, down.urgent) = (false, false);
        }
        let greeting = greeting(&client);
        Link { client, greeting, server: None, born, served_at: None, lives: false, up, down, manner, breaks }
    }

    pub fn is_endless(&self) -> bool {
        self.up.total == ENDLESS || self.down.total == ENDLESS
    }

    pub fn fate(&self) -> Fate {
        let Link { up, down, .. } = self;
        Fate {
            born: self.born,
            served_at: self.served_at,
            urgent: up.urgent || down.urgent,
            ending: up.said_end && down.said_end && (up.saw_end || down.saw_end),
        }
    }

    pub fn text(&self) -> String {
        let Link { up, down, lives, .. } = self;
        let side = |f: &Flow| format!("{} of {} (ends: {} {})", f.got, f.sent, f.said_end, f.saw_end);
        let ages = self.served_at.map(|at| at.elapsed());
        format!("up {}, down {}, lives: {lives}, served since {ages:?}", side(up), side(down))
    }

    /// Until the client has heard the word that it said first.
    pub fn wait_for_life(&mut self, id: u64) -> Result<bool, Stopped> {
        let mut word = [0; 9];
        match (&self.client).read(&mut word) {
            Ok(0) => Err((true, Stop::Clean("an end before the first word".to_owned()))),
            // So short a word comes whole.
            Ok(8) if word[..8] == id.to_be_bytes() => {
                self.lives = true;
                Ok(false)
            }
            Ok(n) => Err((true, Stop::Wrong(format!("WRONG BYTES at first: {:?}", &word[..n])))),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err((true, Stop::Lost(format!("before the first word: {e}")))),
        }
    }

    /// Moves what may be moved. True once both directions have ended as they should.
    pub fn tick(&mut self, now: Instant, ends: bool) -> Result<bool, Stopped> {
        let Link { client, server: Some(server), up, down, manner, .. } = self else { return Ok(false) };
        if ends {
            for flow in [&mut *up, &mut *down] {
                (flow.total, flow.appetite) = (flow.total.min(flow.sent), HASTE);
            }
        }
        let (up_ends, down_ends) = match manner {
            Manner::Stream { client_waits, server_waits } => {
                up.send(client, up.total).map_err(|stop| (true, stop))?;
                down.send(server, down.total).map_err(|stop| (false, stop))?;
                let all = |flow: &Flow| flow.sent == flow.total;
                (all(up) && (!*client_waits || down.saw_end), all(down) && (!*server_waits || up.saw_end))
            }
            Manner::Talk { size, pause, next } => {
                let answered = down.got == up.sent;
                if !answered {
                    *next = now + *pause;
                } else if *next <= now {
                    up.send(client, up.total.min(up.sent + *size)).map_err(|stop| (true, stop))?;
                }
                down.total = up.got;
                down.send(server, up.got).map_err(|stop| (false, stop))?;
                (answered && up.sent >= up.total, up.saw_end && down.sent == up.got)
            }
        };
        if up_ends {
            up.end(client).map_err(|stop| (true, stop))?;
        }
        if down_ends {
            down.end(server).map_err(|stop| (false, stop))?;
        }
        down.receive(client, down.appetite).map_err(|stop| (true, stop))?;
        up.receive(server, up.appetite).map_err(|stop| (false, stop))?;
        Ok(up.saw_end && down.saw_end)
    }
}

impl Flow {
    fn new(seed: u64, total: u64, hurry: usize, appetite: usize) -> Flow {
        let (urgent, sent, got, said_end, saw_end) = (false, 0, 0, false, false);
        Flow { seed, total, hurry, appetite, urgent, sent, got, said_end, saw_end }
    }

    fn send(&mut self, stream: &TcpStream, limit: u64) -> Result<(), Stop> {
        let mut left = (limit.saturating_sub(self.sent)).min(self.hurry as u64) as usize;
        while left > 0 && !self.said_end {
            let bytes = pattern(self.seed, self.sent);
            let bytes = &bytes[..bytes.len().min(left)];
            let sent = match self.urgent {
                true => {
                    let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    let sent =
                        nix::sys::socket::send(stream.as_raw_fd(), &bytes[..bytes.len().min(100)], flags);
                    left = left.min(100);
                    sent.map_err(std::io::Error::from)
                }
                false => (&mut &*stream).write(bytes),
            };
            match sent {
                Ok(n) => (self.sent, left) = (self.sent + n as u64, left - n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(Stop::Lost(format!("sending: {e}"))),
            }
        }
        Ok(())
    }

    fn end(&mut self, stream: &TcpStream) -> Result<(), Stop> {
        if !self.said_end {
            self.said_end = true;
            stream.shutdown(Shutdown::Write).map_err(|e| Stop::Lost(format!("ending: {e}")))?;
        }
        Ok(())
    }

    pub fn receive(&mut self, stream: &TcpStream, appetite: usize) -> Result<(), Stop> {
        let mut buffer = [0; HASTE];
        let mut left = appetite;
        while left > 0 && !self.saw_end {
            let expected = pattern(self.seed, self.got);
            let wanted = expected.len().min(left);
            match (&mut &*stream).read(&mut buffer[..wanted]) {
                Ok(0) if self.said_end && self.got == self.sent => self.saw_end = true,
                Ok(0) => return Err(Stop::Clean(format!("an end at {} of {}", self.got, self.sent))),
                Ok(n) if buffer[..n] == expected[..n] => (self.got, left) = (self.got + n as u64, left - n),
                Ok(n) => {
                    return Err(Stop::Wrong(format!("WRONG BYTES: {n} at {} of {}", self.got, self.sent)));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(Stop::Lost(format!("receiving: {e}"))),
            }
        }
        Ok(())
    }
}

/// The header of send_proxy = "v1".
fn greeting(client: &TcpStream) -> String {
    match (client.local_addr(), client.peer_addr()) {
        (Ok(from), Ok(to)) => {
            format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        // A UNIX socket's.
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

pub fn is_unix(address: &str) -> bool {
    address.starts_with("unix:")
}

pub fn prepare(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    setsockopt(stream, sockopt::SndBuf, &BUFFER).unwrap();
    setsockopt(stream, sockopt::RcvBuf, &BUFFER).unwrap();
}
