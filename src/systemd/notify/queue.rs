//! The queue between the callers and the notify thread.
//!
//! Invariant: messages leave in the order in which they were put in; the text of STATUS= is not in
//! the queue but beside it, only the latest is kept. While file descriptors can't be sent, the messages about
//! them are set aside in their order, and the others pass: READY=1 and signs of life must arrive. It knows
//! no socket.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::message::Message;

/// The shortest time between two STATUS= messages: 5 a second.
const STATUS_GAP: Duration = Duration::from_millis(200);

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

/// What the notify thread should do next.
pub(super) enum Next {
    Send(Message),
    Ask(Repeat),
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    messages: VecDeque<Message>,
    /// Messages about file descriptors that wait until the first of them can be sent.
    aside: VecDeque<Message>,
    /// When that is tried again.
    aside_due: Instant,
    repeats: Vec<Repeat>,
    status: Option<String>,
    last_status: String,
    status_due: Instant,
    /// The thread is sending something that it has taken out.
    busy: bool,
    /// How many flushes wait; STATUS= is then sent without the gap.
    flushing: usize,
}

impl Queue {
    pub(super) fn new() -> Queue {
        let waiting = Waiting {
            messages: VecDeque::new(),
            aside: VecDeque::new(),
            aside_due: Instant::now(),
            repeats: Vec::new(),
            status: None,
            last_status: String::new(),
            status_due: Instant::now(),
            busy: false,
            flushing: 0,
        };
        Queue { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    pub(super) fn push(&self, message: Message) {
        self.lock().messages.push_back(message);
        self.changed.notify_all();
    }

    pub(super) fn push_unless_waiting(&self, text: String) {
        let mut waiting = self.lock();
        if !waiting.messages.iter().any(|m| m.text == text) {
            waiting.messages.push_back(Message::new(text));
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// The status to be sent when its time comes, in place of one that still waits.
    pub(super) fn set_status(&self, text: String) {
        let mut waiting = self.lock();
        waiting.status = (text != waiting.last_status).then_some(text);
        drop(waiting);
        self.changed.notify_all();
    }

    /// The status that another message carries.
    pub(super) fn status_is(&self, text: String) {
        let mut waiting = self.lock();
        waiting.status = None;
        waiting.last_status = text;
    }

    pub(super) fn add_repeat(&self, repeat: Repeat) {
        self.lock().repeats.push(repeat);
        self.changed.notify_all();
    }

    /// Waits until nothing waits to be sent, at most `bound`. True if so.
    pub(super) fn flush(&self, bound: Duration) -> bool {
        let until = Instant::now() + bound;
        let mut waiting = self.lock();
        waiting.flushing += 1;
        self.changed.notify_all();
        while !waiting.is_sent() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.flushing -= 1;
        waiting.is_sent()
    }

    /// Waits for the next thing to do. While `retry` lies in the future nothing is sent.
    pub(super) fn next(&self, retry: Option<Instant>) -> Next {
        let mut waiting = self.lock();
        waiting.busy = false;
        self.changed.notify_all();
        loop {
            let now = Instant::now();
            if let Some(next) = waiting.take(now, retry) {
                waiting.busy = matches!(next, Next::Send(_));
                return next;
            }
            waiting = match waiting.due(retry) {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Sets aside, until then, a message whose file descriptors can't be sent, and all about file descriptors
    /// that follow.
    pub(super) fn set_aside(&self, message: Message, until: Instant) {
        let mut waiting = self.lock();
        waiting.aside.push_front(message);
        waiting.aside_due = until;
    }

    #[cfg(test)]
    pub(super) fn try_again(&self) {
        self.lock().aside_due = Instant::now();
    }

    /// Puts back at the head a message that the socket had no room for. A status that was overtaken
    /// meanwhile is dropped.
    pub(super) fn put_back(&self, message: Message) {
        let mut waiting = self.lock();
        match &message.status {
            // Where some are set aside, it was the first of them.
            None if message.is_about_fds() && !waiting.aside.is_empty() => waiting.aside.push_front(message),
            None => waiting.messages.push_front(message),
            Some(text) if waiting.status.is_none() && waiting.last_status == *text => {
                waiting.status = message.status
            }
            Some(_) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_sent(&self) -> bool {
        self.messages.is_empty() && self.aside.is_empty() && self.status.is_none() && !self.busy
    }

    fn take(&mut self, now: Instant, retry: Option<Instant>) -> Option<Next> {
        if let Some(due) = self.repeats.iter().position(|r| r.next <= now) {
            return Some(Next::Ask(self.repeats.swap_remove(due)));
        }
        if retry.is_some_and(|at| at > now) {
            return None;
        }
        if self.aside_due <= now
            && let Some(message) = self.aside.pop_front()
        {
            return Some(Next::Send(message));
        }
        while let Some(message) = self.messages.pop_front() {
            match message.is_about_fds() && !self.aside.is_empty() {
                true => self.aside.push_back(message),
                false => return Some(Next::Send(message)),
            }
        }
        if self.status_due > now && self.flushing == 0 {
            return None;
        }
        let status = self.status.take()?;
        self.last_status.clone_from(&status);
        self.status_due = now + STATUS_GAP;
        Some(Next::Send(Message::status(status)))
    }

    /// When something is due that is not due yet.
    fn due(&self, retry: Option<Instant>) -> Option<Instant> {
        let repeat = self.repeats.iter().map(|r| r.next).min();
        let aside = (!self.aside.is_empty()).then(|| retry.max(Some(self.aside_due))).flatten();
        let send = match (self.messages.is_empty(), &self.status) {
            (false, _) => retry,
            (true, Some(_)) => retry.max(Some(self.status_due)),
            (true, None) => None,
        };
        repeat.into_iter().chain(send).chain(aside).min()
    }
}
