//! What all workers share: the proxies with their upstreams and counters, the room for connections,
//! and the mailboxes through which the stop reaches the workers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::by_hand::Hold;
use super::listener::{self, Left, Listener};
use super::looking::Requests;
use super::means::{self, Item};
use super::roster::{Change, Roster};
use super::stats::{Counters, Distribution, Totals};
use super::upstream::Upstream;
use super::worker::RETRY_SCARCE;
use crate::handover::adopt::{Adopted, Estate};
use crate::handover::keeper::Keeper;
use crate::handover::lot::Lots;
use crate::systemd::listen_fds::PassedFd;
use crate::{Error, Result, config};

/// Everything that the workers share.
pub struct Fleet {
    /// The proxies of now. A stop takes the lock when it begins: no reload changes them from then on.
    pub(super) roster: Mutex<Arc<Roster>>,
    /// Listeners and connections that the last incarnation left.
    pub adopted_counts: (u64, u64),
    /// How long those connections had to wait, once that is known.
    pub pause_ms: OnceLock<u64>,
    pub(super) mailboxes: Vec<Mailbox>,
    /// How many connections fit the file descriptor limit, all proxies together.
    pub(super) limit: u32,
    pub(super) active: AtomicU32,
    /// Pipes of all workers: those of slow receivers leave less room for connections.
    pub(super) pipes: Arc<AtomicU32>,
    pub(super) next_id: AtomicU64,
    /// What systemd passed and no proxy listens on, for a reload that names it.
    pub(super) passed: Mutex<Vec<PassedFd>>,
    /// The same of what a proxy had before.
    pub(super) spare: Mutex<Vec<Arc<Listener>>>,
    /// What the last reload changed.
    pub(super) last_change: Mutex<Option<Arc<Change>>>,
    /// What outlives the process, where there is a store.
    pub(super) keeper: Option<Arc<Keeper>>,
    /// What is to be adopted, with its proxy and its upstream.
    pub(super) adoptable: Vec<(Box<Adopted>, u16, Option<u16>)>,
    /// What each worker is to adopt.
    pub(super) adopted: Vec<Mutex<Vec<Placed>>>,
    /// The lots that each worker begins with.
    pub(super) lots: Vec<Mutex<Option<Lots<Item>>>>,
    pub(super) have_adopted: AtomicUsize,
    /// Workers that have handed over or failed.
    pub(super) have_parked: Mutex<BTreeSet<usize>>,
    pub(super) handed_over: AtomicU64,
    pub(super) failed: AtomicBool,
    /// How long connections live after the stop was hurried.
    pub(super) hurry: Duration,
    /// Until when nobody is taken in, for those who are in lack file descriptors.
    pub(super) scarce_until: AtomicU64,
    pub(super) stopping: AtomicBool,
    ended_in_stop: AtomicU64,
    change: Mutex<()>,
    changed: Condvar,
}

/// A connection to adopt.
pub(super) struct Placed {
    pub adopted: Box<Adopted>,
    pub proxy: u16,
    pub upstream: Option<u16>,
    /// The number of its record.
    pub slot: u32,
    /// Where its sockets stand: the lot of its worker, and the message in it.
    pub places: [Option<(usize, usize)>; 2],
    /// The same of its pipes.
    pub pipes: Option<(usize, usize)>,
}

/// One proxy, shared by all workers.
pub struct Proxy {
    /// As the administrator wrote it.
    pub config: config::Proxy,
    /// In the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Those that it had before.
    pub(super) retired: Vec<Arc<Upstream>>,
    pub(super) listeners: Mutex<Vec<Arc<Listener>>>,
    /// It is not configured any more; only connections are left.
    pub(super) departed: bool,
    // What follows goes on when a reload changes the settings.
    pub(super) counters: Arc<[Counters]>,
    /// Doors of workers that are open.
    listening: Arc<AtomicUsize>,
    pub(super) active: Arc<AtomicU32>,
    pub(super) rotation: Arc<AtomicUsize>,
    pub(super) draining: Arc<AtomicBool>,
    /// The number of connections at which accepting last had to wait; 0: it doesn't.
    pub(super) full_at: Arc<AtomicU32>,
    pub(super) hold: Arc<Hold>,
}

/// A worker's way to be told something.
pub(super) struct Mailbox {
    pub wake: EventFd,
    commands: Mutex<Vec<Command>>,
    /// How many were sent that are not done.
    open: AtomicUsize,
    /// Its worker has ended.
    pub ended: AtomicBool,
    /// Who wants to see its connections.
    pub looks: Requests,
}

/// What a worker is asked to do.
#[derive(Clone)]
pub(super) enum Command {
    /// The proxies are others.
    Renew(Arc<Change>),
    /// Serve the backlog of the listeners that no proxy has any more and close them, at `until` at the latest.
    CloseStrays { until: Instant },
    /// Park all connections and let go of the listeners.
    HandOver,
    /// Serve the backlog and close the listeners, at `until` at the latest.
    Refuse { until: Instant },
    /// Drain the connections of a proxy and cut what is left at the deadline.
    Drain { proxy: u16, since: Instant, deadline: Instant },
    /// Look at what an administrator has set.
    ByHand,
    /// An upstream is back: look at who waits.
    Look,
}

impl Fleet {
    /// Opens all listeners. Nothing is accepted before the workers run.
    ///
    /// # Errors
    /// What is wrong with the first listener that could not be opened; none is open then.
    pub fn open(
        config: &config::Config,
        workers: usize,
        fd_limit: u64,
        hurry: Duration,
        passed: &mut Vec<PassedFd>,
        estate: &mut Estate,
    ) -> Result<Fleet> {
        let before = estate.listeners.len();
        let mut left = Left::new(std::mem::take(&mut estate.listeners), &config.proxies);
        let open = |proxy: &config::Proxy| Proxy::open(proxy.clone(), workers, passed, &mut left);
        let mailbox = |_| {
            let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
            let wake = wake.map_err(|e| Error::system("making an eventfd", e))?;
            let (commands, open, ended, looks) = Default::default();
            Ok(Mailbox { wake, commands, open, ended, looks })
        };
        let mut fleet = Fleet {
            roster: Mutex::new(Arc::new(config.proxies.iter().map(open).collect::<Result<_>>()?)),
            adopted_counts: (0, 0),
            pause_ms: OnceLock::new(),
            adopted: (0..workers).map(|_| Mutex::default()).collect(),
            passed: Mutex::default(),
            spare: Mutex::default(),
            last_change: Mutex::default(),
            keeper: None,
            adoptable: Vec::new(),
            lots: (0..workers).map(|_| Mutex::default()).collect(),
            have_adopted: AtomicUsize::new(0),
            have_parked: Mutex::default(),
            handed_over: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            mailboxes: (0..workers).map(mailbox).collect::<Result<_>>()?,
            limit: means::room(fd_limit, workers),
            active: AtomicU32::new(0),
            pipes: Arc::default(),
            next_id: AtomicU64::new(1),
            hurry,
            scarce_until: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            ended_in_stop: AtomicU64::new(0),
            change: Mutex::default(),
            changed: Condvar::new(),
        };
        estate.listeners = left.listeners;
        let connections = std::mem::take(&mut estate.connections);
        fleet.adopted_counts = ((before - estate.listeners.len()) as u64, connections.len() as u64);
        fleet.adopt(connections.into_iter(), &estate.names);
        Ok(fleet)
    }

    /// The proxies of now, those that are leaving included.
    pub fn proxies(&self) -> Arc<Roster> {
        lock(&self.roster).clone()
    }

    /// The listeners that are not a .socket unit's, to be stored.
    pub fn own_listeners(&self) -> Vec<Arc<Listener>> {
        let roster = self.proxies();
        let all = roster.iter().flat_map(|p| lock(&p.listeners).clone());
        all.filter(|listener| !listener.passed).collect()
    }

    /// Connections that live, of all proxies.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// How many connections fit the limit on file descriptors.
    pub fn room(&self) -> u32 {
        self.limit
    }

    /// The stop has begun: from here on it is counted how many connections end.
    pub fn begin_stop(&self) {
        let _roster = lock(&self.roster);
        self.stopping.store(true, Relaxed);
    }

    /// Connections that have ended since the stop began, however they did.
    pub fn ended_in_stop(&self) -> u64 {
        self.ended_in_stop.load(Relaxed)
    }

    /// The stop has begun.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Keeps what systemd passed and no proxy listens on: a reload may name it.
    pub fn keep_passed(&self, passed: Vec<PassedFd>) {
        *lock(&self.passed) = passed;
    }

    /// How many workers share it.
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// Drains all connections, each proxy by its deadline as `deadline_of` tells it.
    pub fn drain(&self, deadline_of: impl Fn(&config::Drain) -> Duration) {
        let since = Instant::now();
        for (number, proxy) in self.proxies().numbered() {
            proxy.draining.store(true, Relaxed);
            let deadline = since + deadline_of(&proxy.config.drain);
            self.tell_all(Command::Drain { proxy: number, since, deadline });
        }
    }

    /// Waits until `true` or `until`; looked at whenever a listener closes or the last connection
    /// ends.
    pub fn wait_until(&self, until: Instant, done: impl Fn() -> bool) -> bool {
        let mut guard = lock(&self.change);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match done() {
                true => return true,
                false if left.is_zero() => return false,
                false => {
                    guard = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
            }
        }
    }

    pub(super) fn tell_all(&self, command: Command) {
        (0..self.workers()).for_each(|worker| self.tell(worker, command.clone()));
    }

    pub(super) fn tell(&self, worker: usize, command: Command) {
        let mailbox = &self.mailboxes[worker];
        mailbox.open.fetch_add(1, SeqCst);
        lock(&mailbox.commands).push(command);
        // Fails only when the counter is full, and then it is readable.
        let _ = mailbox.wake.write(1);
    }

    pub(super) fn listener_closed(&self, proxy: &Proxy) {
        proxy.listening.fetch_sub(1, Relaxed);
        self.notify();
    }

    /// Connections live, or clients still wait for room in a backlog.
    pub fn is_busy(&self) -> bool {
        self.active() > 0 || self.proxies().iter().any(|proxy| proxy.is_listening())
    }

    /// Takes the place of one connection in `proxy`, if there is one.
    pub(super) fn admit(&self, proxy: &Proxy) -> bool {
        let one_more = |n| (n < proxy.limit()).then(|| n + 1);
        self.fits() && proxy.active.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Gives the place back: nobody stood in the backlog.
    pub(super) fn not_admitted(&self, proxy: &Proxy) {
        proxy.active.fetch_sub(1, Relaxed);
    }

    /// A connection found no file descriptor and will try again soon: before anybody else is taken in.
    pub(super) fn descriptors_ran_out(&self, now: u64) {
        self.scarce_until.fetch_max(now + 2 * RETRY_SCARCE, Relaxed);
    }

    /// A connection that was admitted is there.
    pub(super) fn connection_opened(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub(super) fn connection_closed(&self, proxy: &Proxy) {
        proxy.active.fetch_sub(1, Relaxed);
        self.ended_in_stop.fetch_add(u64::from(self.stopping.load(Relaxed)), Relaxed);
        if self.active.fetch_sub(1, Relaxed) == 1 {
            self.notify();
        }
    }

    /// Has whoever [waits](Self::wait_until) look again.
    pub fn notify(&self) {
        drop(lock(&self.change));
        self.changed.notify_all();
    }

    /// Whether `proxy` may take in one more.
    pub(super) fn has_room(&self, proxy: &Proxy) -> bool {
        self.fits() && proxy.active() < proxy.limit()
    }

    /// A pipe takes as many file descriptors as a connection. Those that every worker has at hand are
    /// among the reserved.
    fn fits(&self) -> bool {
        let pipes = self.pipes.load(Relaxed).saturating_sub(2 * self.workers() as u32);
        self.active() + pipes < self.limit
    }
}

impl Mailbox {
    pub fn take(&self) -> Vec<Command> {
        // Empties the counter; EAGAIN says that it was empty.
        let _ = self.wake.read();
        std::mem::take(&mut *lock(&self.commands))
    }

    /// So many that were taken are done.
    pub fn done(&self, count: usize) {
        self.open.fetch_sub(count, SeqCst);
    }

    /// All that was sent is done, or there is no worker any more that could.
    pub fn is_settled(&self) -> bool {
        self.ended.load(SeqCst) || self.open.load(SeqCst) == 0
    }
}

impl Proxy {
    /// One that the configuration no longer has, for the connections that it left.
    pub(super) fn departed(name: &str, workers: usize) -> Proxy {
        let mut proxy = Proxy::new(config::Proxy::departed(name), Vec::new(), Vec::new(), workers);
        proxy.departed = true;
        proxy.draining.store(true, Relaxed);
        proxy
    }

    fn open(
        config: config::Proxy,
        workers: usize,
        passed: &mut Vec<PassedFd>,
        left: &mut Left,
    ) -> Result<Proxy> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.extend(listener::open(&config.name, address, passed, left)?.into_iter().map(Arc::new));
        }
        let upstream = |a: &config::UpstreamAddress| {
            Ok(Arc::new(Upstream::new(listener::upstream_address(a)?, a.to_string())))
        };
        let upstreams = config.upstream.iter().map(upstream).collect::<Result<_>>()?;
        Ok(Proxy::new(config, upstreams, listeners, workers))
    }

    pub(super) fn new(
        config: config::Proxy,
        upstreams: Vec<Arc<Upstream>>,
        listeners: Vec<Arc<Listener>>,
        workers: usize,
    ) -> Proxy {
        Proxy {
            config,
            upstreams,
            retired: Vec::new(),
            counters: (0..workers).map(|_| Counters::default()).collect(),
            listeners: Mutex::new(listeners),
            listening: Arc::default(),
            active: Arc::default(),
            rotation: Arc::default(),
            departed: false,
            draining: Arc::default(),
            full_at: Arc::default(),
            hold: Arc::new(Hold::new(workers)),
        }
    }

    /// The same proxy with other settings. Who goes through it goes on, and so do its counters.
    pub(super) fn renewed(
        &self,
        config: config::Proxy,
        upstreams: Vec<Arc<Upstream>>,
        listeners: Vec<Arc<Listener>>,
    ) -> Proxy {
        Proxy {
            config,
            upstreams,
            retired: self.retired.clone(),
            listeners: Mutex::new(listeners),
            departed: self.departed,
            counters: self.counters.clone(),
            listening: self.listening.clone(),
            active: self.active.clone(),
            rotation: self.rotation.clone(),
            draining: self.draining.clone(),
            full_at: self.full_at.clone(),
            hold: self.hold.clone(),
        }
    }

    /// It is not configured any more: its connections are drained.
    pub fn is_departed(&self) -> bool {
        self.departed
    }

    /// It is not configured any more, and nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.departed && self.active() == 0 && !self.is_listening()
    }

    /// Its name and those of its upstreams, for the ledger.
    pub(super) fn names(&self) -> (String, Vec<String>) {
        (self.config.name.clone(), self.all_upstreams().map(|u| u.name.clone()).collect())
    }

    /// Connections that live, those that wait for their upstream included.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(super) fn listener_opened(&self) {
        self.listening.fetch_add(1, Relaxed);
    }

    /// Another proxy has the listener from now on.
    pub(super) fn listener_moved(&self, to: &Proxy) {
        to.listener_opened();
        self.listening.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_listening(&self) -> bool {
        self.listening.load(Relaxed) > 0
    }

    fn limit(&self) -> u32 {
        self.config.max_connections.unwrap_or(u32::MAX)
    }

    /// The sums of what all workers counted.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.counters)
    }

    /// How long connects to its upstreams took.
    pub fn connects(&self) -> Distribution {
        Distribution::of_connects(&self.counters)
    }

    /// How long its connections lived that have ended.
    pub fn lives(&self) -> Distribution {
        Distribution::of_lives(&self.counters)
    }

    /// Its drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The addresses that it takes connections on.
    pub fn listening_on(&self) -> Vec<String> {
        lock(&self.listeners).iter().map(|l| l.name.clone()).collect()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
