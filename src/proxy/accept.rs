//! A worker's doors: the listeners that it takes connections from, and what makes them wait.
//!
//! When there is no room (max_connections, the file descriptor limit, EMFILE) nothing is accepted:
//! the backlog is the queue, and the log says it once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use slog::{info, warn};

use super::connection::Connection;
use super::ending::End;
use super::fleet::{Proxy, lock};
use super::listener::Listener;
use super::roster::{Change, Roster};
use super::source::{Side, Source};
use super::watching::SOCKET_EVENTS;
use super::worker::{Entry, RETRY_SCARCE, Worker};
use crate::event::Event;
use crate::fault;
use crate::sys::socket::{self, Peer};
use crate::{Error, Result};

/// Connections taken from one door before others have their turn.
const ACCEPTS_PER_TURN: usize = 16;

/// A worker may have so much more than its share of the connections: a sixteenth.
const SLACK: usize = 16;

/// One listener as one worker sees it.
pub(super) struct Door {
    listener: Arc<Listener>,
    proxy: u16,
    /// Not watched until there is room again, looked for from this time on.
    waits: Option<u64>,
    /// It closes when its backlog is empty, at this time at the latest.
    closing: Option<u64>,
    pace: Pace,
}

/// How many connections are taken at once by a worker that an event has called. To ask for one where there is none
/// costs nearly as much as to take one, so the first is taken alone, and twice as many where epoll says the next time
/// that there are more. It says so in the turn after, or as soon as it comes to it among more than it tells at once.
#[derive(Default)]
struct Pace {
    /// How often epoll will have told all then.
    next: u32,
    /// 0: there were fewer than might be taken.
    last: usize,
}

impl Pace {
    fn most(&mut self, told_all: u32) -> usize {
        let is_next = self.next.wrapping_sub(told_all) <= 1;
        let last = std::mem::take(&mut self.last);
        if is_next { (2 * last).clamp(1, ACCEPTS_PER_TURN) } else { 1 }
    }

    fn took_all(&mut self, told_all: u32, most: usize) {
        *self = Pace { next: told_all.wrapping_add(1), last: most };
    }
}

impl Worker {
    pub(super) fn open_doors(&mut self) -> Result<()> {
        let roster = self.roster.clone();
        for (index, proxy) in roster.numbered() {
            for listener in lock(&proxy.listeners).iter() {
                let door = self.open_door(listener.clone(), index, proxy);
                self.watch_door(door).map_err(|e| Error::system("watching a listener", e))?;
            }
        }
        Ok(())
    }

    fn open_door(&mut self, listener: Arc<Listener>, number: u16, proxy: &Proxy) -> usize {
        let index = self.doors.iter().position(Option::is_none).unwrap_or_else(|| {
            self.doors.push(None);
            self.doors.len() - 1
        });
        self.doors[index] =
            Some(Door { listener, proxy: number, waits: None, closing: None, pace: Pace::default() });
        proxy.listener_opened();
        index
    }

    /// Brings the doors in line with the proxies that it has taken in, in place of those of `old`. Those that no
    /// proxy has any more stay open until they are told to close.
    pub(super) fn renew_doors(&mut self, old: &Roster, change: &Change) {
        let roster = self.roster.clone();
        let mut homes = roster.homes();
        for door in self.doors.iter_mut().flatten() {
            let home = homes.remove(&Arc::as_ptr(&door.listener)).map(|(number, _)| number);
            let Some(number) = home.or_else(|| Some(change.of(door.proxy)?.to)) else { continue };
            old[door.proxy].listener_moved(&roster[number]);
            door.proxy = number;
        }
        for (number, listener) in homes.into_values() {
            let index = self.open_door(listener, number, &roster[number]);
            if self.watch_door(index).is_err() {
                self.wait_for_room(index, self.now + RETRY_SCARCE, "the listener could not be watched");
            }
        }
    }

    /// Closes the doors that no proxy has any more, as the phase Refuse would.
    pub(super) fn close_strays(&mut self, until: u64) {
        let homes = self.roster.clone().homes();
        let is_stray = |door: &Door| !homes.contains_key(&Arc::as_ptr(&door.listener));
        for index in 0..self.doors.len() {
            if self.doors[index].as_ref().is_some_and(is_stray) {
                self.close_door(index, until);
            }
        }
    }

    /// EPOLLEXCLUSIVE: one worker wakes for a connection, not all.
    fn watch_door(&self, index: usize) -> Result<(), Errno> {
        let Some(door) = &self.doors[index] else { return Ok(()) };
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        self.epoll.add(&*door.listener, EpollEvent::new(flags, Source::Door(index as u32).to_bits()))
    }

    /// Somebody stands at a door.
    pub(super) fn answer_door(&mut self, index: usize) {
        let Some(Some(door)) = self.doors.get_mut(index) else { return };
        // Those that wait for the end of the backlog come to it.
        let goes_on = door.closing.is_some() || door.listener.has_early_clients.load(Relaxed);
        let most = if goes_on { ACCEPTS_PER_TURN } else { door.pace.most(self.told_all) };
        if self.accept_some(index, most)
            && let Some(Some(door)) = self.doors.get_mut(index)
        {
            door.pace.took_all(self.told_all, most);
        }
        if self.has_more_than_its_share() {
            self.stand_back(index);
        }
    }

    /// More connections than a worker has on average.
    fn has_more_than_its_share(&self) -> bool {
        let share = self.fleet.active() as usize / self.fleet.workers();
        self.connections > share + share / SLACK + 1
    }

    /// The kernel wakes the first of those that wait for a listener: always the same, as long as it keeps up. This
    /// one is the last from here on.
    fn stand_back(&mut self, index: usize) {
        let Some(Some(door @ Door { waits: None, closing: None, .. })) = self.doors.get(index) else {
            return;
        };
        let _ = self.epoll.delete(&*door.listener);
        if self.watch_door(index).is_err() {
            self.wait_for_room(index, self.now + RETRY_SCARCE, "the listener could not be watched");
        }
    }

    /// All doors are closed.
    pub(super) fn is_shut(&self) -> bool {
        self.doors.iter().all(Option::is_none)
    }

    /// Some door must be looked at without an event.
    pub(super) fn doors_wait(&self) -> bool {
        self.doors.iter().flatten().any(|door| door.waits.or(door.closing).is_some())
    }

    /// Takes in so many connections at the most. False: there were fewer, or no room.
    fn accept_some(&mut self, index: usize, most: usize) -> bool {
        (0..most).all(|_| self.accept_one(index))
    }

    /// False: nobody else is to be taken in now.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(Some(door)) = self.doors.get(index) else { return false };
        let proxy = door.proxy;
        let scarce_until = self.fleet.scarce_until.load(Relaxed);
        if scarce_until > self.now {
            self.wait_for_room(index, scarce_until, "file descriptors ran out");
            return false;
        }
        if !self.fleet.admit(self.proxy(proxy)) {
            // Another worker may have looked into an empty backlog just then.
            if self.fleet.has_room(self.proxy(proxy)) {
                return true;
            }
            if socket::is_readable(door.listener.as_fd()) {
                let why = "max_connections or the file descriptor limit is reached";
                self.wait_for_room(index, self.now, why);
            } else {
                // Nobody waits: whoever comes is an event of its own.
                self.backlog_is_empty(index);
            }
            return false;
        }
        let may_be_early = door.listener.has_early_clients.load(Relaxed);
        let errno = match socket::accept(door.listener.as_fd()) {
            Ok((client, peer)) => {
                if may_be_early && matches!(peer, Peer::Tcp(_)) {
                    // One that is gone by now says so when it is read.
                    let _ = socket::prepare_client(&client);
                }
                self.say_resumed(index);
                self.open(proxy, client, peer);
                return true;
            }
            Err(errno) => errno,
        };
        self.fleet.not_admitted(self.proxy(proxy));
        let why = match errno {
            Errno::EAGAIN => {
                self.backlog_is_empty(index);
                return false;
            }
            Errno::EMFILE | Errno::ENFILE => "file descriptors ran out",
            Errno::ENOBUFS | Errno::ENOMEM => "memory ran out",
            errno => errno.desc(),
        };
        self.wait_for_room(index, self.now + RETRY_SCARCE, why);
        false
    }

    /// Says that a listener which waited takes in connections again, when that is seen and well
    /// below the mark: or a full proxy would say it with every connection.
    fn say_resumed(&self, index: usize) {
        let Some(Some(door)) = self.doors.get(index) else { return };
        let proxy = self.proxy(door.proxy);
        let full_at = proxy.full_at.load(Relaxed);
        let mark = (full_at - full_at.div_ceil(10)).max(1);
        if full_at != 0 && proxy.active() <= mark && proxy.full_at.swap(0, Relaxed) != 0 {
            info!(self.log, "{} takes in connections again", door.listener.name; Event::AcceptResumed,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_LISTENER" => &door.listener.name);
        }
    }

    fn open(&mut self, proxy: u16, client: OwnedFd, peer: Peer) {
        let id = self.fleet.next_id.fetch_add(1, Relaxed);
        self.counters(proxy).accepted.add(1);
        self.fleet.connection_opened();
        self.connections += 1;
        let connect_timeout = self.proxy(proxy).config.connect_timeout.as_millis() as u64;
        let mut connection = Connection::new(id, client, peer, proxy, self.now);
        connection.connect_until = Some(self.now + connect_timeout);
        let key = self.table.insert(Entry::Connection(connection));
        let event = EpollEvent::new(SOCKET_EVENTS, Source::Entry(key, Side::Client).to_bits());
        let watched = match self.table.get_mut(key) {
            Some(Entry::Connection(connection)) => self.epoll.add(&connection.client, event),
            _ => return,
        };
        fault::pass("accept-watched");
        fault::strike("worker-panic", Some(id));
        fault::strike("worker-hang", Some(id));
        match watched {
            Ok(()) => {
                self.will_park(key);
                self.seek(key);
                self.look_at_drain(key);
            }
            Err(_) => self.end(key, End::Failed),
        }
    }

    fn backlog_is_empty(&mut self, index: usize) {
        if let Some(Some(door)) = self.doors.get(index) {
            door.listener.has_early_clients.store(false, Relaxed);
        }
        if let Some(Some(Door { closing: Some(_), .. })) = self.doors.get(index) {
            self.shut_door(index);
        }
    }

    fn wait_for_room(&mut self, index: usize, until: u64, why: &str) {
        let Some(Some(door)) = self.doors.get_mut(index) else { return };
        if door.waits.replace(until).is_none() {
            // It was added and is open, so this can't fail.
            let _ = self.epoll.delete(&*door.listener);
        }
        let proxy = &self.roster[door.proxy];
        if proxy.full_at.swap(proxy.active().max(1), Relaxed) == 0 {
            warn!(self.log, "{} waits in the backlog: {why}", door.listener.name; Event::AcceptPaused,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_LISTENER" => &door.listener.name);
        }
    }

    /// Looks at the doors that no event tells of: those that wait for room, and those that close.
    pub(super) fn tend_doors(&mut self) {
        for index in 0..self.doors.len() {
            let Some(door) = &mut self.doors[index] else { continue };
            let proxy = &self.roster[door.proxy];
            let again = door.waits.is_some_and(|at| at <= self.now) && self.fleet.has_room(proxy);
            if let Some(until) = door.closing {
                // While the proxy drains its room is made by connections that end.
                let until = self.plans[usize::from(door.proxy)].map_or(until, |plan| plan.deadline);
                if self.now >= until {
                    warn!(self.log, "{} closes with clients in its backlog", door.listener.name;
                        "DRAINED_PROXY" => &proxy.config.name);
                    self.shut_door(index);
                } else {
                    self.accept_some(index, ACCEPTS_PER_TURN);
                }
            } else if again {
                door.waits = None;
                if self.watch_door(index).is_err() {
                    self.wait_for_room(index, self.now + RETRY_SCARCE, "the listener could not be watched");
                }
            }
        }
    }

    /// The phase Refuse: what systemd passed is left untouched, the others serve their backlog first.
    pub(super) fn refuse(&mut self, until: u64) {
        for index in 0..self.doors.len() {
            self.close_door(index, until);
        }
    }

    fn close_door(&mut self, index: usize, until: u64) {
        let Some(door) = &mut self.doors[index] else { return };
        if door.listener.passed {
            self.shut_door(index);
        } else {
            door.closing = Some(until);
            self.accept_some(index, ACCEPTS_PER_TURN);
        }
    }

    /// Lets go of a listener that the next incarnation will have.
    pub(super) fn keep_door_for_the_next(&mut self, index: usize) {
        if let Some(Some(door)) = self.doors.get(index) {
            door.listener.keep_file();
        }
        self.shut_door(index);
    }

    pub(super) fn shut_door(&mut self, index: usize) {
        let Some(door) = self.doors.get_mut(index).and_then(Option::take) else { return };
        if door.waits.is_none() {
            let _ = self.epoll.delete(&*door.listener);
        }
        let proxy = door.proxy;
        drop(door);
        self.fleet.listener_closed(self.proxy(proxy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of a worker: how many more times epoll has told all, and whether all that might be taken were there.
    fn most<const N: usize>(pace: &mut Pace, told_all: &mut u32, turns: [(u32, bool); N]) -> [usize; N] {
        turns.map(|(more, takes_all)| {
            *told_all = told_all.wrapping_add(more);
            let most = pace.most(*told_all);
            if takes_all {
                pace.took_all(*told_all, most);
            }
            most
        })
    }

    #[test]
    fn one_alone_is_taken_alone_and_of_a_crowd_soon_many_at_once() {
        let (mut pace, mut told_all) = (Pace::default(), u32::MAX - 5);
        let mut most = |turns| most(&mut pace, &mut told_all, turns);
        assert_eq!(most([(1, true), (2, true), (3, true), (9, true)]), [1; 4]);
        assert_eq!(most([(1, true); 4]), [2, 4, 8, 16]);
        assert_eq!(
            most([(1, true), (1, false), (1, true), (2, true)]),
            [ACCEPTS_PER_TURN, ACCEPTS_PER_TURN, 1, 1]
        );
    }

    #[test]
    fn a_crowd_is_taken_in_many_at_once_though_epoll_never_comes_to_an_end() {
        let (mut pace, mut told_all) = (Pace::default(), 7);
        assert_eq!(most(&mut pace, &mut told_all, [(0, true); 6]), [1, 2, 4, 8, 16, ACCEPTS_PER_TURN]);
    }
}
