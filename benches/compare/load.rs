//! The clients: requests and replies one after the other or at a fixed rate, connections that come and go,
//! bulk.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::awake;
use crate::meter::Spent;
use crate::server::{PIECE, swallow};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A request and its reply.
const MESSAGE: usize = 100;
/// Before anything is counted: caches fill, windows open.
const WARM_UP: Duration = Duration::from_millis(200);
/// A reply that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
pub struct Outcome {
    /// Requests, connections or bytes.
    pub count: u64,
    pub took: Duration,
    /// From request to reply, in nanoseconds.
    pub latency: Histogram<u64>,
    pub spent: Spent,
}

/// How long to work, and whose processor time to look at.
pub struct Course<'a> {
    pub lasts: Duration,
    pub pids: &'a [u32],
}

impl Course<'_> {
    /// Has `work` done with whatever is ready until the time is over. It tells how much it has done, and
    /// when what was done was asked for.
    fn run(
        &self,
        epoll: &Epoll,
        mut work: impl FnMut(usize) -> Result<(u64, Option<Instant>)>,
    ) -> Result<Outcome> {
        let mut events = [EpollEvent::empty(); 256];
        let (mut count, mut latency) = (0, Histogram::new(3)?);
        let warm = Instant::now() + WARM_UP;
        let mut began = None;
        let spent = || Spent::now(self.pids).without(awake::spent());
        loop {
            let ready = wait(epoll, &mut events)?;
            let now = Instant::now();
            if began.is_none() && now >= warm {
                began = Some((spent(), Instant::now()));
            }
            if let Some((before, began)) = began
                && now >= began + self.lasts
            {
                let spent = spent().since(before);
                return Ok(Outcome { count, took: began.elapsed(), latency, spent });
            }
            for event in &events[..ready] {
                let (done, asked) = work(event.data() as usize)?;
                if let Some((_, began)) = began {
                    count += done;
                    let took = asked.filter(|asked| *asked >= began).map(|asked| asked.elapsed());
                    took.iter().try_for_each(|took| latency.record(took.as_nanos() as u64))?;
                }
            }
        }
    }
}

fn new_epoll() -> Result<Epoll> {
    Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)
}

/// How many are ready.
fn wait(epoll: &Epoll, events: &mut [EpollEvent]) -> Result<usize> {
    match epoll.wait(events, EpollTimeout::try_from(PATIENCE)?)? {
        0 => Err("nothing moves".into()),
        ready => Ok(ready),
    }
}

/// `connections` clients, each of which asks anew as soon as it has its reply.
pub fn requests(address: SocketAddr, connections: usize, course: &Course<'_>) -> Result<Outcome> {
    let epoll = new_epoll()?;
    let mut clients = Client::open_all(address, connections, &epoll)?;
    for client in &mut clients {
        client.ask(Instant::now())?;
    }
    course.run(&epoll, |n| {
        let client = &mut clients[n];
        if !client.hear()? {
            return Ok((0, None));
        }
        let asked = client.asked;
        client.ask(Instant::now())?;
        Ok((1, Some(asked)))
    })
}

/// So many requests a second, whether the replies come or not: a request that finds no connection free
/// waits for one, and its time counts from when it was due.
pub fn paced(address: SocketAddr, connections: usize, rate: u32, course: &Course<'_>) -> Result<Outcome> {
    let epoll = new_epoll()?;
    let mut clients = Client::open_all(address, connections, &epoll)?;
    let mut free: Vec<usize> = (0..connections).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let interval = Duration::from_secs(1) / rate;
    let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    let every = Expiration::Interval(TimeSpec::from(interval));
    let mut due = Instant::now();
    clock.set(every, TimerSetTimeFlags::empty())?;
    epoll.add(&clock, EpollEvent::new(EpollFlags::EPOLLIN, connections as u64))?;
    course.run(&epoll, |n| {
        let mut done = (0, None);
        if n == connections {
            let mut times = [0; 8];
            nix::unistd::read(&clock, &mut times)?;
            for _ in 0..u64::from_ne_bytes(times) {
                due += interval;
                waiting.push_back(due);
            }
        } else if clients[n].hear()? {
            done = (1, Some(clients[n].asked));
            free.push(n);
        }
        while !waiting.is_empty()
            && let Some(n) = free.pop()
            && let Some(due) = waiting.pop_front()
        {
            clients[n].ask(due)?;
        }
        Ok(done)
    })
}

/// Connects, asks once, closes, and again, `at_once` of them at the same time.
pub fn connections(address: SocketAddr, at_once: usize, course: &Course<'_>) -> Result<Outcome> {
    let epoll = new_epoll()?;
    let open = |n| {
        let began = Instant::now();
        let mut client = Client::open(address, &epoll, n)?;
        client.ask(began)?;
        Ok(client)
    };
    let mut clients = (0..at_once).map(open).collect::<Result<Vec<_>>>()?;
    course.run(&epoll, |n| {
        if !clients[n].hear()? {
            return Ok((0, None));
        }
        let asked = clients[n].asked;
        // Whoever closes first keeps the port for a minute, and there are few: a reset frees it.
        setsockopt(&clients[n].stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
        clients[n] = open(n)?;
        Ok((1, Some(asked)))
    })
}

/// `streams` at once that bring bytes, or swallow them.
pub fn bulk(address: SocketAddr, streams: usize, down: bool, course: &Course<'_>) -> Result<Outcome> {
    let epoll = new_epoll()?;
    let wanted = if down { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
    let open = |n| {
        let stream = connect(address)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(wanted, n as u64))?;
        Ok(stream)
    };
    let all = (0..streams).map(open).collect::<Result<Vec<_>>>()?;
    let mut buffer = vec![0; PIECE];
    course.run(&epoll, |n| {
        let mut stream = &all[n];
        let moved = if down { swallow(stream, &mut buffer) } else { stream.write(&buffer) };
        match moved {
            Ok(0) => Err("the stream has ended".into()),
            Ok(n) => Ok((n as u64, None)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok((0, None)),
            Err(e) => Err(e.into()),
        }
    })
}

/// So many connections, each of which has been used once and is idle.
pub fn idle(address: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    let one = |_| {
        let mut stream = connect(address)?;
        stream.write_all(&[0; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
        Ok(stream)
    };
    (0..connections).map(one).collect()
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Client {
    stream: TcpStream,
    asked: Instant,
    got: usize,
}

impl Client {
    /// So many, each of which has been answered once: one that the proxy has not taken in yet would leave the
    /// others more of it than they have from then on.
    fn open_all(address: SocketAddr, count: usize, epoll: &Epoll) -> Result<Vec<Client>> {
        let mut clients: Vec<_> =
            (0..count).map(|n| Client::open(address, epoll, n)).collect::<Result<_>>()?;
        for client in &mut clients {
            client.ask(Instant::now())?;
        }
        let mut unanswered = count;
        let mut events = [EpollEvent::empty(); 256];
        while unanswered > 0 {
            let ready = wait(epoll, &mut events)?;
            for event in &events[..ready] {
                unanswered -= usize::from(clients[event.data() as usize].hear()?);
            }
        }
        Ok(clients)
    }

    fn open(address: SocketAddr, epoll: &Epoll, n: usize) -> Result<Client> {
        let stream = connect(address)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64))?;
        Ok(Client { stream, asked: Instant::now(), got: 0 })
    }

    /// Sends what was to be sent at `due`.
    fn ask(&mut self, due: Instant) -> Result<()> {
        (self.got, self.asked) = (0, due);
        // It fits: the last one was answered.
        Ok(self.stream.write_all(&[0; MESSAGE])?)
    }

    /// True once the reply is whole.
    fn hear(&mut self) -> Result<bool> {
        match self.stream.read(&mut [0; MESSAGE]) {
            Ok(0) => Err("the connection was closed".into()),
            Ok(n) => {
                self.got += n;
                Ok(self.got == MESSAGE)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}
