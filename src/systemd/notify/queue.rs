//! What waits to be told to the service manager, and what of it is next.
//!
//! Invariant: messages leave in the order in which they were put in; the text of STATUS= is not in
//! the queue but beside it, only the latest is kept. While file descriptors can't be sent, the messages about
//! them are set aside in their order, and the others pass: READY=1 and signs of life must arrive. It knows
//! no socket and no thread.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::Message;

/// The shortest time between two STATUS= messages: 5 a second.
const STATUS_GAP: Duration = Duration::from_millis(200);

/// The first and the longest pause before that is tried again which could not be sent.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// When something is tried again, and the pause before the time after that.
struct Pause {
    until: Option<Instant>,
    next: Duration,
}

impl Pause {
    const NONE: Pause = Pause { until: None, next: RETRY.0 };

    /// Begins here, longer than the last time.
    fn begin(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(RETRY.1);
    }

    fn lasts(&self, now: Instant) -> bool {
        self.until.is_some_and(|at| at > now)
    }
}

pub(super) struct Queue {
    messages: VecDeque<Message>,
    /// Messages about file descriptors that wait until the first of them can be sent.
    aside: VecDeque<Message>,
    /// The socket was full: nothing is tried.
    full: Pause,
    /// File descriptors could not be sent: what is set aside is not tried.
    crowded: Pause,
    status: Option<String>,
    last_status: String,
    status_due: Instant,
    /// How many flushes wait; STATUS= is then sent without the gap.
    pub(super) flushing: usize,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            messages: VecDeque::new(),
            aside: VecDeque::new(),
            full: Pause::NONE,
            crowded: Pause::NONE,
            status: None,
            last_status: String::new(),
            status_due: Instant::now(),
            flushing: 0,
        }
    }

    pub(super) fn push(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    pub(super) fn push_unless_waiting(&mut self, text: String) {
        if !self.messages.iter().any(|m| m.text == text) {
            self.push(Message::new(text));
        }
    }

    /// The status to be sent when its time comes, in place of one that still waits.
    pub(super) fn set_status(&mut self, text: String) {
        self.status = (text != self.last_status).then_some(text);
    }

    /// The status that another message carries.
    pub(super) fn status_is(&mut self, text: String) {
        self.status = None;
        self.last_status = text;
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.aside.is_empty() && self.status.is_none()
    }

    /// Takes out what is to be sent now. What came of it is to be said with one of the three that follow.
    pub(super) fn take(&mut self, now: Instant) -> Option<Message> {
        if self.full.lasts(now) {
            return None;
        }
        if !self.crowded.lasts(now)
            && let Some(message) = self.aside.pop_front()
        {
            return Some(message);
        }
        while let Some(message) = self.messages.pop_front() {
            match message.is_about_fds() && !self.aside.is_empty() {
                true => self.aside.push_back(message),
                false => return Some(message),
            }
        }
        if self.status_due > now && self.flushing == 0 {
            return None;
        }
        let status = self.status.take()?;
        self.last_status.clone_from(&status);
        self.status_due = now + STATUS_GAP;
        Some(Message::status(status))
    }

    /// It was sent.
    pub(super) fn is_sent(&mut self, message: &Message) {
        self.full = Pause::NONE;
        if !message.fds.is_empty() {
            self.crowded = Pause::NONE;
        }
    }

    /// The socket had no room for it: it is the next again. A status that was overtaken meanwhile is dropped.
    pub(super) fn was_full(&mut self, message: Message, now: Instant) {
        self.full.begin(now);
        match &message.status {
            // Where some are set aside, it was the first of them.
            None if message.is_about_fds() && !self.aside.is_empty() => self.aside.push_front(message),
            None => self.messages.push_front(message),
            Some(text) if self.status.is_none() && self.last_status == *text => self.status = message.status,
            Some(_) => {}
        }
    }

    /// Its file descriptors can't be sent: it is set aside, and so are all about file descriptors that follow.
    pub(super) fn was_crowded(&mut self, message: Message, now: Instant) {
        self.crowded.begin(now);
        self.aside.push_front(message);
    }

    /// When something that waits is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let full = self.full.until;
        let messages = (!self.messages.is_empty()).then_some(full);
        let aside = (!self.aside.is_empty()).then_some(full.max(self.crowded.until));
        let status = self.status.as_ref().map(|_| full.max(Some(self.status_due)));
        [messages, aside, status].into_iter().flatten().flatten().min()
    }
}
