//! The queue and the socket, shared by the callers and the notify thread.
//!
//! Who has something to say sends it himself, behind what waits, while he holds the queue: so the order is that of the
//! calls, and what was said has left when the call returns, unless the socket takes nothing now. The socket never
//! blocks, thus nobody waits here for longer than a few system calls of others take. The notify thread sends what could
//! not be sent at once, and asks for signs of life.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use super::message::Message;
use super::queue::Queue;
use super::socket::{SendError, Socket};
use crate::event::Event;

/// What a repeated sign of life answers when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Send WATCHDOG=1.
    Watchdog,
    /// Send EXTEND_TIMEOUT_USEC= with this value.
    ExtendTimeout(Duration),
    /// Nothing this time.
    Skip,
    /// Nothing from now on.
    Done,
}

/// A sign of life and when it is due next.
pub(super) struct Repeat {
    pub(super) every: Duration,
    pub(super) next: Instant,
    pub(super) tick: Box<dyn FnMut() -> Tick + Send>,
}

pub(super) struct Outbox {
    state: Mutex<State>,
    /// Something waits, or nothing any more.
    changed: Condvar,
    socket: Socket,
    log: Logger,
}

struct State {
    queue: Queue,
    repeats: Vec<Repeat>,
    /// Before, all waits.
    open: bool,
    /// The last message could not be sent: it is logged once, until one can be sent again.
    broken: bool,
    /// File descriptors could not be sent: it is logged once, until they can.
    crowded: bool,
    /// What the notify thread is to log: who calls may hold a lock that the log waits for.
    remarks: Vec<Remark>,
}

/// What is to be logged of an attempt to send.
enum Remark {
    Usable,
    Broken(String),
    Uncrowded,
    Crowded,
}

impl Outbox {
    pub(super) fn new(socket: Socket, log: Logger) -> Outbox {
        let (open, broken, crowded) = (false, false, false);
        let (queue, repeats, remarks) = (Queue::new(), Vec::new(), Vec::new());
        let state = State { queue, repeats, open, broken, crowded, remarks };
        Outbox { state: Mutex::new(state), changed: Condvar::new(), socket, log }
    }

    /// From here on messages are sent, those that waited for it first. False: they were before.
    pub(super) fn open(&self) -> bool {
        let is_first = !std::mem::replace(&mut self.lock().open, true);
        self.say(|_| {});
        is_first
    }

    /// Puts something into the queue with `put`, and sends what can be sent.
    pub(super) fn say(&self, put: impl FnOnce(&mut Queue)) {
        let mut state = self.lock();
        put(&mut state.queue);
        state.send(&self.socket);
        // The notify thread is to know of what waits and of what is to be logged, and a flush that nothing does.
        let wakes = !state.queue.is_empty() || !state.remarks.is_empty() || state.queue.flushing > 0;
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    pub(super) fn add_repeat(&self, repeat: Repeat) {
        self.lock().repeats.push(repeat);
        self.changed.notify_all();
    }

    /// Waits until nothing waits to be sent, at most `bound`. True if so.
    pub(super) fn flush(&self, bound: Duration) -> bool {
        let until = Instant::now() + bound;
        self.say(|queue| queue.flushing += 1);
        let mut state = self.lock();
        while !state.queue.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.flushing -= 1;
        state.queue.is_empty()
    }

    /// The notify thread, for as long as the process lives.
    pub(super) fn serve(&self) {
        #[cfg(feature = "daemon")]
        crate::fault::strike("notify-hang", None);
        loop {
            let mut repeat = self.next_repeat();
            match (repeat.tick)() {
                Tick::Watchdog => self.say(|queue| queue.push_unless_waiting(super::watchdog())),
                Tick::ExtendTimeout(time) => {
                    self.say(|queue| queue.push_unless_waiting(super::extension(time)))
                }
                Tick::Skip => {}
                Tick::Done => continue,
            }
            repeat.next = Instant::now() + repeat.every;
            self.add_repeat(repeat);
        }
    }

    /// Sends what becomes due, until a sign of life is to be asked for.
    fn next_repeat(&self) -> Repeat {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(due) = state.repeats.iter().position(|r| r.next <= now) {
                return state.repeats.swap_remove(due);
            }
            state.send(&self.socket);
            if !state.remarks.is_empty() {
                let remarks = std::mem::take(&mut state.remarks);
                drop(state);
                self.log(remarks);
                state = self.lock();
                continue;
            }
            if state.queue.flushing > 0 && state.queue.is_empty() {
                self.changed.notify_all();
            }
            let due = state.repeats.iter().map(|r| r.next).chain(state.queue.due()).min();
            state = match due {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn log(&self, remarks: Vec<Remark>) {
        for remark in remarks {
            match remark {
                Remark::Usable => info!(self.log, "the notify socket can be used again"),
                Remark::Broken(why) => {
                    warn!(self.log, "the notify socket cannot be used: {}", why; Event::NotifyFailed);
                }
                Remark::Uncrowded => info!(self.log, "the service manager gets file descriptors again"),
                Remark::Crowded => {
                    warn!(self.log, "the service manager gets no file descriptors: too many of this user's \
                        are in flight (ETOOMANYREFS), more than LimitNOFILE="; Event::NotifyFailed);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends all that is due and that the socket takes.
    fn send(&mut self, socket: &Socket) {
        while let Some(message) = self.open.then(|| self.queue.take(Instant::now())).flatten() {
            let remarks = self.send_one(socket, message);
            self.remarks.extend(remarks.into_iter().flatten());
        }
    }

    fn send_one(&mut self, socket: &Socket, mut message: Message) -> [Option<Remark>; 2] {
        let result = socket.send(&mut message);
        match result {
            Ok(()) => {
                self.queue.is_sent(&message);
                let uncrowded = !message.fds.is_empty() && std::mem::take(&mut self.crowded);
                let usable = std::mem::take(&mut self.broken);
                [uncrowded.then_some(Remark::Uncrowded), usable.then_some(Remark::Usable)]
            }
            Err(SendError::Full) => {
                self.queue.was_full(message, Instant::now());
                [None, None]
            }
            Err(SendError::Crowded) => {
                self.queue.was_crowded(message, Instant::now());
                let is_new = !std::mem::replace(&mut self.crowded, true);
                [is_new.then_some(Remark::Crowded), None]
            }
            Err(SendError::Broken(why)) => {
                message.give_up();
                let is_new = !std::mem::replace(&mut self.broken, true);
                [is_new.then_some(Remark::Broken(why)), None]
            }
        }
    }
}
