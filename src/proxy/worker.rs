//! A worker: one thread, one epoll, and the connections that live and die on it.
//!
//! Sockets are watched edge-triggered; what an edge said is remembered in the flows. Invariant: no call of
//! the loop blocks but epoll_wait, and that has a bound.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slog::{Logger, debug};

use super::accept::Door;
use super::check::Check;
use super::connection::{Connection, Turn};
use super::drain::{Goodbye, Plan, QUIET_AFTER};
use super::ending::{End, Failures};
use super::fleet::{Fleet, Proxy, lock};
use super::fronts::NOBODY;
use super::holding::Queue;
use super::looking::Look;
use super::means::{Means, Parking};
use super::pipes::Pipes;
use super::portable::record_of;
use super::roster::Roster;
use super::slab::{Key, Slab};
use super::source::Source;
use super::stats::Counters;
use super::timers::Timers;
use super::upstream::Probe;
use super::upstream_drain::UpstreamPlan;
use super::watching;
use crate::event::Event;
use crate::handover::keeper::Keeper;
use crate::lifecycle::{StopLevel, StopToken};
use crate::sys::clock::monotonic_ms;
use crate::{Error, Result};

const EVENTS_PER_WAIT: usize = 256;
/// Timers that are served before sockets have their turn again, and the watchdog its sign of life.
const TIMERS_PER_TURN: usize = 512;
/// Timers of connections that are gone: as many as those that live and this many are let be.
const STALE_TIMERS: usize = 1024;
/// The longest wait without a watchdog: nothing depends on it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long to wait for what ran out: file descriptors, ports, room in a backlog. Milliseconds.
pub(super) const RETRY_SCARCE: u64 = 50;

/// How often to look whether the client has received the end. Milliseconds.
const LOOK_AT_DELIVERY: u64 = 10;

/// A turn that is so late, in milliseconds, comes after a pause of the whole machine.
const PAUSE: u64 = QUIET_AFTER / 2;
/// While a proxy drains a turn comes at least so often, in milliseconds, so that a pause shows.
const TURN_IN_DRAIN: u64 = 250;

/// What a slot of the table holds.
pub(super) enum Entry {
    Connection(Connection),
    /// A background try whether an upstream that is down takes connections again.
    Probe(Probe),
    /// The checks of an upstream.
    Check(Check),
}

pub(super) struct Worker {
    pub fleet: Arc<Fleet>,
    /// The proxies, as this worker has taken them in.
    pub roster: Arc<Roster>,
    pub index: usize,
    pub log: Logger,
    pub epoll: Epoll,
    pub table: Slab<Entry>,
    pub connections: usize,
    pub timers: Timers,
    pub means: Means,
    pub keeper: Option<Arc<Keeper>>,
    /// From which age on connections outlive a crash, in milliseconds; None: they don't.
    pub crash_after: Option<u64>,
    /// Connections that are not parked yet, and since when they wait for it.
    pub young: VecDeque<(Key, u64)>,
    /// Parking has failed and is not tried before.
    pub parking_rests_until: u64,
    pub parking_failed: bool,
    /// The lots are being tidied.
    pub untidy: bool,
    /// Its work has not come to an orderly end.
    failed: bool,
    pub doors: Vec<Option<Door>>,
    /// Connections with more to move at once.
    pub ready: VecDeque<Key>,
    /// One a proxy, while it drains.
    pub plans: Vec<Option<Plan>>,
    /// The same of single upstreams, a list a proxy.
    pub upstream_plans: Vec<Vec<Option<UpstreamPlan>>>,
    /// Clients that no upstream takes now, a queue a proxy.
    pub queues: Vec<Queue>,
    pub hurried: bool,
    pub failures: Failures,
    /// Who is being shown its connections, a few a turn.
    pub looks: VecDeque<Look>,
    /// Milliseconds of CLOCK_MONOTONIC, read once a turn of the loop.
    pub now: u64,
    /// When a turn came so late that nobody knows what the peers would have done meanwhile.
    pub awake_since: u64,
    /// Counts the turns.
    pub turn: u64,
    /// Counts those in which epoll told all that it had to tell.
    pub told_all: u32,
}

/// Runs worker `index` until the stop token has fired and its last connection has ended. `roster` are the
/// proxies from before the first reload: what was adopted goes by their numbers.
///
/// # Errors
/// Exit 71 when the system refuses what every worker needs: an epoll.
pub fn run(
    fleet: Arc<Fleet>,
    roster: Arc<Roster>,
    index: usize,
    stop: &StopToken,
    log: Logger,
) -> Result<()> {
    let epoll =
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| Error::system("making an epoll", e))?;
    let pipes = Pipes::new(fleet.pipes.clone()).map_err(|e| Error::system("making a pipe", e))?;
    let parking = fleet.keeper.as_ref().map(|keeper| Parking {
        keeper: keeper.clone(),
        worker: index,
        lots: lock(&fleet.lots[index]).take().unwrap_or_default(),
        free: Vec::new(),
    });
    let mut means = Means::new(pipes, parking).map_err(|e| Error::system("making a buffer", e))?;
    means.buffer().populate();
    means.pipes.keys().into_iter().for_each(|pipe| means.park_pipe(pipe, false));
    let mut worker = Worker {
        plans: vec![None; roster.size()],
        upstream_plans: vec![Vec::new(); roster.size()],
        queues: queues(&roster, index),
        keeper: fleet.keeper.clone(),
        crash_after: fleet.keeper.as_ref().and_then(|keeper| keeper.crash_after),
        young: VecDeque::new(),
        parking_rests_until: 0,
        parking_failed: false,
        untidy: false,
        failed: true,
        fleet,
        roster,
        index,
        log,
        epoll,
        table: Slab::default(),
        connections: 0,
        timers: Timers::default(),
        means,
        doors: Vec::new(),
        ready: VecDeque::new(),
        hurried: false,
        failures: Failures::default(),
        looks: VecDeque::new(),
        now: 0,
        awake_since: 0,
        turn: 0,
        told_all: 0,
    };
    let watch = |fd: std::os::fd::BorrowedFd<'_>, flags, source: Source| {
        let event = EpollEvent::new(flags, source.to_bits());
        worker.epoll.add(fd, event).map_err(|e| Error::system("watching an eventfd", e))
    };
    watch(stop.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Source::Stop)?;
    watch(worker.fleet.mailboxes[index].wake.as_fd(), EpollFlags::EPOLLIN, Source::Mailbox)?;
    worker.now = monotonic_ms();
    worker.drain_departed();
    worker.plan_all_upstreams();
    worker.adopt_all();
    worker.open_doors()?;
    worker.begin_checks();
    worker.work(stop)
}

/// Those who wait and are to be adopted yet are known to all.
fn queues(roster: &Roster, index: usize) -> Vec<Queue> {
    let front = |number| roster.get(number).map_or(NOBODY, |proxy| proxy.hold.fronts.of(index));
    (0..roster.size()).map(|number| Queue::behind(front(number))).collect()
}

impl Worker {
    fn work(&mut self, stop: &StopToken) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS_PER_WAIT];
        let longest = stop.beat_interval().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        self.now = monotonic_ms();
        while !(stop.level() >= StopLevel::Stopping && self.connections == 0 && self.is_shut()) {
            let timeout = self.timeout(longest.as_millis() as u64);
            let next_turn = self.now + timeout;
            let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(Error::system("waiting for events", errno)),
            };
            stop.beat();
            self.turn += 1;
            self.told_all = self.told_all.wrapping_add(u32::from(n < events.len()));
            self.now = monotonic_ms();
            if self.now >= next_turn + PAUSE {
                self.awake_since = self.now;
            }
            if let Some(keeper) = &self.keeper {
                keeper.ledger.beat(self.index, self.now);
            }
            for event in &events[..n] {
                self.dispatch(Source::from_bits(event.data()), event.events(), stop);
            }
            for _ in 0..self.ready.len() {
                let Some(key) = self.ready.pop_front() else { break };
                if let Some(connection) = self.connection(key) {
                    connection.queued = false;
                }
                self.advance(key);
            }
            for _ in 0..TIMERS_PER_TURN {
                let Some((at, key)) = self.timers.due(self.now) else { break };
                self.timer(at, key);
            }
            self.forget_stale_timers();
            self.tend_queues();
            self.tend_doors();
            self.park_aged();
            self.tidy_lots();
            self.look_on();
        }
        self.failed = false;
        Ok(())
    }

    fn forget_stale_timers(&mut self) {
        if self.timers.len() <= 2 * self.connections + STALE_TIMERS {
            return;
        }
        self.timers.retain(|at, key| match self.table.get_mut(key) {
            Some(Entry::Connection(connection)) => connection.wake_at == at,
            Some(Entry::Check(check)) => check.wake_at == at,
            Some(Entry::Probe(_)) => true,
            None => false,
        });
    }

    pub(super) fn at(&self, instant: Instant) -> u64 {
        let now = Instant::now();
        let after = instant.saturating_duration_since(now).as_millis() as u64;
        let before = now.saturating_duration_since(instant).as_millis() as u64;
        (monotonic_ms() + after).saturating_sub(before)
    }

    /// Milliseconds until the next turn, events apart.
    fn timeout(&self, longest: u64) -> u64 {
        let mut wait = match self.timers.next() {
            _ if self.untidy || !self.ready.is_empty() || !self.looks.is_empty() => 0,
            Some(at) => at.saturating_sub(self.now).min(longest),
            None => longest,
        };
        if let Some(at) = self.parks_at() {
            wait = wait.min(at.max(self.parking_rests_until).saturating_sub(self.now));
        }
        wait = wait.min(self.queues_wait().unwrap_or(wait));
        let drains = self.upstream_plans.iter().flatten().flatten().map(|drain| &drain.plan);
        if drains.chain(self.plans.iter().flatten()).any(|plan| self.now < plan.deadline) {
            wait = wait.min(TURN_IN_DRAIN);
        }
        if self.doors_wait() {
            wait = wait.min(RETRY_SCARCE);
        }
        wait
    }

    fn dispatch(&mut self, source: Source, flags: EpollFlags, stop: &StopToken) {
        match source {
            Source::Entry(key, side) => self.socket_event(key, side, flags),
            Source::Door(index) => self.answer_door(index as usize),
            Source::Mailbox => self.read_mail(),
            Source::Stop if stop.level() == StopLevel::Hurried => self.hurry(),
            Source::Stop => {}
        }
    }

    /// Relays what can be relayed, and ends the connection if it is over.
    pub(super) fn advance(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        if connection.connect_until.is_some() {
            return;
        }
        let sent = (connection.to_upstream.flow.bytes, connection.to_client.flow.bytes);
        let record = record_of(&self.keeper, connection);
        let turn = connection.relay(&mut self.means, record, self.now);
        watching::mind(&self.epoll, key, connection);
        let counters = &self.roster[connection.proxy].counters[self.index];
        counters.bytes_to_upstream.add(connection.to_upstream.flow.bytes - sent.0);
        counters.bytes_to_client.add(connection.to_client.flow.bytes - sent.1);
        match turn {
            // Nothing of the client will come any more, and nothing can go to it.
            Turn::Waits if connection.client_broke && connection.gave_all() => self.end(key, End::Broken),
            // The upstream broke off after the end of its stream: no read will tell.
            Turn::Waits if connection.server_broke && connection.to_client.flow.is_over() => {
                self.end(key, End::Broken);
            }
            Turn::Waits => {}
            Turn::More => {
                if !std::mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(key);
                }
            }
            Turn::NoPipe => {
                self.fleet.descriptors_ran_out(self.now);
                self.arm(key, self.now + RETRY_SCARCE);
            }
            Turn::Failed(errno) => {
                debug!(self.log, "relay broke off: {}", errno.desc(); Event::RelayFailed,
                    "DRAINED_CLIENT" => %connection.peer, "DRAINED_CONNECTION" => connection.id);
                self.end(key, End::Broken);
            }
            Turn::Ended if connection.broken => self.end(key, End::Broken),
            // The end of the process may be the end of the network: what is on its way comes first.
            Turn::Ended if self.plans[usize::from(connection.proxy)].is_some() && connection.delivers() => {
                self.arm(key, self.now + LOOK_AT_DELIVERY);
            }
            // The FIN of a goodbye is answered by the client's, which is waited for within a bound.
            Turn::Ended if connection.goodbye != Goodbye::None && !connection.client_ended => {
                if !matches!(connection.goodbye, Goodbye::Client(_)) {
                    connection.goodbye = Goodbye::Client(self.now);
                }
                self.look_at_drain(key);
            }
            Turn::Ended => self.end(key, End::Done),
        }
    }

    fn timer(&mut self, at: u64, key: Key) {
        match self.table.get_mut(key) {
            Some(Entry::Probe(_)) => self.probe_due(key),
            Some(Entry::Check(check)) if check.wake_at == at => self.check_due(key),
            Some(Entry::Connection(connection)) if connection.wake_at == at => {
                connection.wake_at = u64::MAX;
                match connection.connect_until {
                    Some(_) => self.connect_due(key),
                    None => {
                        self.advance(key);
                        self.look_at_idle(key);
                    }
                }
                self.look_at_drain(key);
            }
            _ => {}
        }
    }

    /// Looks at an entry again at `at`, or earlier if that was asked for already.
    pub(super) fn arm(&mut self, key: Key, at: u64) {
        if let Some(Entry::Connection(connection)) = self.table.get_mut(key) {
            if at >= connection.wake_at {
                return;
            }
            connection.wake_at = at;
        }
        self.timers.arm(at, key);
    }

    pub(super) fn look_at_idle(&mut self, key: Key) {
        let Some(Entry::Connection(connection)) = self.table.get_mut(key) else { return };
        let proxy = &self.roster[connection.proxy];
        let Some(limit) = proxy.config.idle_timeout else { return };
        let due = connection.last + limit.as_millis() as u64;
        if due <= self.now { self.end(key, End::Idle) } else { self.arm(key, due) }
    }

    pub(super) fn proxy(&self, index: u16) -> &Proxy {
        &self.roster[index]
    }

    pub(super) fn counters(&self, proxy: u16) -> &Counters {
        &self.proxy(proxy).counters[self.index]
    }

    pub(super) fn connection(&mut self, key: Key) -> Option<&mut Connection> {
        match self.table.get_mut(key) {
            Some(Entry::Connection(connection)) => Some(connection),
            _ => None,
        }
    }
}

impl Drop for Worker {
    /// Leaves nothing to do after an orderly end. After a panic or an error the next incarnation goes on
    /// with what is parked; the peers of the others see a reset, not an end that passes for the whole, and
    /// nobody waits for what this worker had.
    fn drop(&mut self) {
        self.fleet.mailboxes[self.index].looks.close();
        for key in self.table.keys() {
            self.let_go(key);
            if let Some(Entry::Connection(connection)) = self.table.remove(key) {
                let roster = self.roster.clone();
                let proxy = &roster[connection.proxy];
                if !connection.is_whole() {
                    let upstream = connection.upstream.map(|index| proxy.upstream(index));
                    self.release(connection, (true, true));
                    upstream.iter().for_each(|upstream| upstream.leave());
                }
                self.fleet.connection_closed(proxy);
            }
        }
        self.leave_fronts();
        self.fleet.mailboxes[self.index].ended.store(true, SeqCst);
        for index in 0..self.doors.len() {
            self.shut_door(index);
        }
        match self.failed {
            true => self.fleet.worker_has_failed(self.index),
            // It may have ended before it could be told to park.
            false => self.fleet.worker_has_parked(self.index, 0),
        }
    }
}
