//! A reload: other proxies in place of those of now.
//!
//! Everything that can fail comes first and changes nothing: listeners are opened, those that stay are found by
//! their addresses. Then all is swapped in at one instant, and each worker takes it in by its mailbox. What is
//! configured no longer is closed and drained at last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::fleet::{Command, Fleet, Proxy, lock};
use super::listener::{self, Closed, Left, Listener};
use super::retired::Upstreams;
use super::roster::{Change, Move, Roster};
use crate::config::{self, ListenAddress};
use crate::fault;
use crate::sys::socket;
use crate::{Error, Exit, Result};

/// How long a worker may take to take in other proxies. It takes as long as a turn of its loop.
const TAKE_IN: Duration = Duration::from_secs(2);
/// How long the backlogs of listeners that are to be closed may take.
const CLOSE: Duration = Duration::from_secs(2);
/// How long a worker may take to close them after that.
const CLOSE_LAST: Duration = Duration::from_millis(500);

/// A reload of which everything is done that can fail.
pub struct Prepared {
    roster: Roster,
    moves: Vec<Option<Move>>,
    /// Listeners that were not there before.
    opened: Vec<Arc<Listener>>,
    /// Listeners that no proxy has any more, each with the proxy that it had.
    closing: Vec<(Arc<Listener>, u16)>,
    /// Proxies that are configured no longer.
    removed: Vec<u16>,
}

/// What a reload still has to do once it holds.
pub struct Leftover {
    change: Arc<Change>,
    closing: Vec<(Arc<Listener>, u16)>,
    removed: Vec<u16>,
}

impl Fleet {
    /// Opens what is to be opened, and finds out what becomes of each proxy.
    ///
    /// # Errors
    /// A listener cannot be opened: nothing is, then. Or a worker still has to take in the last reload.
    pub fn prepare(&self, proxies: &[config::Proxy]) -> Result<Prepared> {
        if lock(&self.last_change).as_ref().is_some_and(|change| !change.is_done()) {
            let message = "a worker has not taken in the last configuration yet, it may hang";
            return Err(Error::new(Exit::Software, message));
        }
        let old = self.proxies();
        let mut pool = Pool::of(&old, &lock(&self.spare));
        let mut found = pool.take_known(proxies);
        let opened = self.open_missing(proxies, &mut found, &pool)?;
        let mut prepared = Prepared {
            roster: Roster::default(),
            moves: Vec::new(),
            opened,
            closing: pool.rest.into_iter().filter_map(|(number, one)| Some((one, number?))).collect(),
            removed: Vec::new(),
        };
        prepared.place(&old, proxies, found, self.workers())?;
        Ok(prepared)
    }

    /// Opens the addresses for which nothing was found.
    fn open_missing(
        &self,
        proxies: &[config::Proxy],
        found: &mut Found,
        pool: &Pool,
    ) -> Result<Vec<Arc<Listener>>> {
        let mut opened = Vec::new();
        let mut passed = lock(&self.passed);
        for (index, proxy) in proxies.iter().enumerate() {
            for (at, address) in proxy.listen.iter().enumerate() {
                if found.has(index, at) {
                    continue;
                }
                let none = &mut Left::new(Vec::new(), &[]);
                let result = pool
                    .check(&proxy.name, address)
                    .and_then(|()| listener::open(&proxy.name, address, &mut passed, none));
                match result {
                    Ok(listeners) => {
                        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
                        opened.extend(listeners.iter().cloned());
                        found.put(index, at, listeners);
                    }
                    Err(error) => {
                        // Systemd passes them once.
                        lock(&self.spare).extend(opened.into_iter().filter(|listener| listener.passed));
                        return Err(error);
                    }
                }
            }
        }
        Ok(opened)
    }

    /// Has everything that was prepared hold, from one instant on.
    ///
    /// # Errors
    /// A stop has begun, or the ledger has no room for the names: nothing has changed.
    pub fn commit(&self, prepared: Prepared) -> Result<Leftover> {
        let Prepared { roster: new, moves, opened, closing, removed } = prepared;
        let mut roster = lock(&self.roster);
        let failed = |error| {
            lock(&self.spare).extend(opened.iter().filter(|listener| listener.passed).cloned());
            Err(error)
        };
        if self.stopping.load(Relaxed) {
            return failed(Error::new(Exit::Unavailable, "a stop has begun"));
        }
        if let Some(keeper) = &self.keeper {
            // Workers go over to the new numbers one after the other: until then both hold.
            let (before, mut names) = (roster.names(), new.names());
            names.resize_with(names.len().max(before.len()), Default::default);
            for (number, name) in
                before.into_iter().enumerate().filter(|(number, _)| new.get(*number).is_none())
            {
                names[number] = name;
            }
            fault::pass("reload-names");
            if !keeper.ledger.rename(&names) {
                let message =
                    "the ledger has no room for so many names: restart drained, connections live on";
                return failed(Error::new(Exit::System, message));
            }
        }
        fault::pass("reload-named");
        let change = Change { roster: Arc::new(new), moves, behind: AtomicUsize::new(self.workers()) };
        let change = Arc::new(change);
        *roster = change.roster.clone();
        *lock(&self.last_change) = Some(change.clone());
        self.tell_all(Command::Renew(change.clone()));
        drop(roster);
        fault::pass("reload-told");
        lock(&self.spare).retain(|spare| !opened.iter().any(|listener| Arc::ptr_eq(spare, listener)));
        let (passed, closing): (Vec<_>, Vec<_>) =
            closing.into_iter().partition(|(listener, _)| listener.passed);
        lock(&self.spare).extend(passed.into_iter().map(|(listener, _)| listener));
        self.forget_used_spares(&change.roster);
        Ok(Leftover { change, closing, removed })
    }

    fn forget_used_spares(&self, roster: &Roster) {
        let homes = roster.homes();
        lock(&self.spare).retain(|spare| !homes.contains_key(&Arc::as_ptr(spare)));
    }

    /// Waits until all workers have taken it in, closes the listeners that no proxy has any more, once their
    /// backlogs are served, and begins to drain proxies that are configured no longer. False: a worker has not
    /// taken it in yet, or clients stood in a backlog that was closed.
    pub fn finish(&self, leftover: Leftover) -> bool {
        let Leftover { change, closing, removed } = leftover;
        let is_stopping = || self.stopping.load(Relaxed);
        self.wait_until(Instant::now() + TAKE_IN, || change.is_done() || is_stopping());
        let until = Instant::now() + CLOSE;
        let ours: Vec<_> = closing.iter().map(|(listener, _)| listener.clone()).collect();
        if !ours.is_empty() {
            self.shut_out(ours, until);
            fault::pass("reload-shut");
        }
        let waiting: Vec<(Closed, u16)> =
            closing.iter().map(|(listener, number)| (listener.closed(), *number)).collect();
        drop(closing);
        // Those of .socket units are let go of by this too.
        self.tell_all(Command::CloseStrays { until });
        let is_shut = |(closed, number): &(Closed, u16)| {
            closed.is_so() || change.roster.get(usize::from(*number)).is_some_and(|p| !self.has_room(p))
        };
        let shut = || is_stopping() || waiting.iter().all(is_shut);
        let in_time = self.wait_until(until, shut) || {
            self.tell_all(Command::CloseStrays { until: Instant::now() });
            self.wait_until(Instant::now() + CLOSE_LAST, shut);
            false
        };
        self.drain_removed(&change.roster, &removed);
        in_time && change.is_done()
    }

    fn drain_removed(&self, roster: &Roster, removed: &[u16]) {
        // From the beginning of a stop on, it is the stop that drains.
        let _guard = lock(&self.roster);
        if self.stopping.load(Relaxed) {
            return;
        }
        let since = Instant::now();
        for number in removed {
            let proxy = &roster[*number];
            proxy.draining.store(true, Relaxed);
            let deadline = since + proxy.config.drain.deadline;
            self.tell_all(Command::Drain { proxy: *number, since, deadline });
        }
    }
}

impl Leftover {
    /// The listeners that are to be closed and are not a .socket unit's.
    pub fn closing(&self) -> Vec<Arc<Listener>> {
        let own = self.closing.iter().filter(|(listener, _)| !listener.passed);
        own.map(|(listener, _)| listener.clone()).collect()
    }

    /// Whether there are some.
    pub fn closes(&self) -> bool {
        !self.closing.is_empty()
    }
}

impl Prepared {
    /// The listeners that were opened and are not a .socket unit's, to be stored.
    pub fn opened(&self) -> Vec<Arc<Listener>> {
        self.opened.iter().filter(|listener| !listener.passed).cloned().collect()
    }

    /// Gives each proxy its number.
    fn place(
        &mut self,
        old: &Roster,
        proxies: &[config::Proxy],
        mut found: Found,
        workers: usize,
    ) -> Result<()> {
        let mut is_new: Vec<bool> = vec![true; proxies.len()];
        let mut renumbered = Vec::new();
        for number in 0..old.size() {
            let Some(proxy) = old.get(number) else {
                self.moves.push(None);
                continue;
            };
            let stay = Some(Move { to: number as u16, upstreams: None });
            if proxy.departed {
                self.moves.push(if proxy.is_gone() { None } else { stay });
                if !proxy.is_gone() {
                    self.roster.set(number, proxy.clone());
                }
                continue;
            }
            let Some(index) = proxies.iter().position(|config| config.name == proxy.config.name) else {
                self.moves.push(stay);
                self.removed.push(number as u16);
                let mut left = proxy.renewed(proxy.config.clone(), proxy.upstreams.clone(), Vec::new());
                left.departed = true;
                self.roster.set(number, Arc::new(left));
                continue;
            };
            is_new[index] = false;
            let config = &proxies[index];
            let listeners = found.take(index, config.listen.len());
            if config.upstream == proxy.config.upstream {
                let upstreams = proxy.upstreams.clone();
                self.moves.push(stay);
                self.roster.set(number, Arc::new(proxy.renewed(config.clone(), upstreams, listeners)));
            } else {
                let before: Vec<_> = proxy.all_upstreams().cloned().collect();
                let upstreams = Upstreams::renewed(config, &before, proxy.upstreams.len())?;
                let places = before.iter().map(|upstream| upstreams.place(upstream)).collect();
                self.moves.push(Some(Move { to: 0, upstreams: Some(places) }));
                let Upstreams { configured, retired } = upstreams;
                let mut renewed = proxy.renewed(config.clone(), configured, listeners);
                renewed.retired = retired;
                renumbered.push((number, renewed));
            }
        }
        // Numbers that anybody may still go by are not given to another.
        let mut free = (0..).filter(|number| old.get(*number).is_none());
        let mut next = || free.next().unwrap_or_default();
        for (before, proxy) in renumbered {
            let number = next();
            self.roster.set(number, Arc::new(proxy));
            if let Some(Some(to)) = self.moves.get_mut(before) {
                to.to = number as u16;
            }
        }
        for (index, config) in proxies.iter().enumerate().filter(|(index, _)| is_new[*index]) {
            let listeners = found.take(index, config.listen.len());
            let left = old.left_of(&config.name);
            let Upstreams { configured, retired } = Upstreams::renewed(config, &left, left.len())?;
            let mut proxy = Proxy::new(config.clone(), configured, listeners, workers);
            proxy.retired = retired;
            self.roster.set(next(), Arc::new(proxy));
        }
        if self.roster.size() > usize::from(u16::MAX) {
            return Err(Error::new(Exit::Config, "there are more than 65535 proxies"));
        }
        Ok(())
    }
}

/// The listeners that are open, each with the number of its proxy if it has one.
struct Pool {
    rest: Vec<(Option<u16>, Arc<Listener>)>,
    /// The names of the proxies by their numbers.
    names: HashMap<u16, String>,
}

/// The listeners of each address, by the places of the proxy and of the address in it.
#[derive(Default)]
struct Found(HashMap<(usize, usize), Vec<Arc<Listener>>>);

impl Pool {
    fn of(old: &Roster, spare: &[Arc<Listener>]) -> Pool {
        let names = old.numbered().map(|(number, proxy)| (number, proxy.config.name.clone())).collect();
        let mut rest: Vec<_> = spare.iter().map(|listener| (None, listener.clone())).collect();
        for (number, proxy) in old.numbered() {
            rest.extend(lock(&proxy.listeners).iter().map(|listener| (Some(number), listener.clone())));
        }
        Pool { rest, names }
    }

    /// Finds what stays open: first where the proxy is the same too, for port 0 may stand in several; then by the
    /// address alone, and then by what the kernel chose for port 0.
    fn take_known(&mut self, proxies: &[config::Proxy]) -> Found {
        let mut found = Found::default();
        let names = std::mem::take(&mut self.names);
        let is_bound_to = |listener: &Listener, address: &ListenAddress| match address {
            ListenAddress::Tcp(wanted) => {
                !listener.passed && socket::local_address(listener.as_fd()) == Some(*wanted)
            }
            _ => false,
        };
        for round in 0..3 {
            for (index, proxy) in proxies.iter().enumerate() {
                for (at, address) in proxy.listen.iter().enumerate() {
                    if found.has(index, at) {
                        continue;
                    }
                    let is_meant = |(number, listener): &(Option<u16>, Arc<Listener>)| match round {
                        _ if !listener.is_reachable() => false,
                        0 => {
                            listener.address == *address
                                && number.is_some_and(|number| names.get(&number) == Some(&proxy.name))
                        }
                        1 => listener.address == *address,
                        _ => is_bound_to(listener, address),
                    };
                    let all_of_a_unit = matches!(address, ListenAddress::Systemd(_));
                    let mut taken = Vec::new();
                    while let Some(position) =
                        self.rest.iter().position(is_meant).filter(|_| taken.is_empty() || all_of_a_unit)
                    {
                        taken.push(self.rest.swap_remove(position).1);
                    }
                    if !taken.is_empty() {
                        found.put(index, at, taken);
                    }
                }
            }
        }
        found
    }

    /// An address that overlaps one which is open until the reload is over cannot be opened.
    fn check(&self, proxy: &str, address: &ListenAddress) -> Result<()> {
        let ListenAddress::Tcp(wanted) = address else { return Ok(()) };
        let of_pool = |(_, listener): &(Option<u16>, Arc<Listener>)| socket::local_address(listener.as_fd());
        let Some(open) = self.rest.iter().filter_map(of_pool).find(|open| overlap(open, wanted)) else {
            return Ok(());
        };
        let message = format!(
            "proxy {proxy}: listening on {wanted}: it overlaps {open}, which stays open until this reload is over: restart drained, or reload first without either"
        );
        Err(Error::new(Exit::System, message))
    }
}

fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a != b && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && any
}

impl Found {
    fn has(&self, proxy: usize, at: usize) -> bool {
        self.0.contains_key(&(proxy, at))
    }

    fn put(&mut self, proxy: usize, at: usize, listeners: Vec<Arc<Listener>>) {
        self.0.insert((proxy, at), listeners);
    }

    /// All of a proxy with so many addresses.
    fn take(&mut self, proxy: usize, addresses: usize) -> Vec<Arc<Listener>> {
        (0..addresses).filter_map(|at| self.0.remove(&(proxy, at))).flatten().collect()
    }
}
