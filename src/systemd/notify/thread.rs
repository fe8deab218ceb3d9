//! The notify thread's loop: send, try again later, ask for signs of life.

use std::time::{Duration, Instant};

use slog::{info, warn};

use super::queue::{Next, Tick};
use super::socket::SendError;
use super::{Message, Notifier, Shared};
use crate::event::Event;

/// The first and the longest pause before a full socket is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// Serves the queue for as long as the process lives.
pub(super) fn run(shared: &std::sync::Arc<Shared>) {
    let notifier = Notifier { shared: Some(shared.clone()) };
    let mut sender =
        Sender { shared, pause: RETRY.0, retry: None, broken: false, aside: RETRY.0, crowded: false };
    loop {
        match shared.queue.next(sender.retry) {
            Next::Send(message) => sender.send(message),
            Next::Ask(mut repeat) => {
                match (repeat.tick)() {
                    Tick::Watchdog => notifier.watchdog(),
                    Tick::ExtendTimeout(time) => notifier.extend_timeout(time),
                    Tick::Skip => {}
                    Tick::Done => continue,
                }
                repeat.next = Instant::now() + repeat.every;
                shared.queue.add_repeat(repeat);
            }
        }
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    pause: Duration,
    retry: Option<Instant>,
    /// The last message could not be sent: it is logged once, until one can be sent again.
    broken: bool,
    /// The pause before file descriptors are tried again that could not be sent.
    aside: Duration,
    /// They could not: it is logged once, until they can.
    crowded: bool,
}

impl Sender<'_> {
    fn send(&mut self, mut message: Message) {
        let has_fds = !message.fds.is_empty();
        match self.shared.socket.send(&mut message) {
            Ok(()) => {
                if has_fds {
                    self.aside = RETRY.0;
                    if std::mem::take(&mut self.crowded) {
                        info!(self.shared.log, "the service manager gets file descriptors again");
                    }
                }
                (self.pause, self.retry) = (RETRY.0, None);
                if std::mem::take(&mut self.broken) {
                    info!(self.shared.log, "the notify socket can be used again");
                }
            }
            Err(SendError::Full) => {
                self.retry = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(RETRY.1);
                self.shared.queue.put_back(message);
            }
            Err(SendError::Crowded) => {
                self.shared.queue.set_aside(message, Instant::now() + self.aside);
                self.aside = (self.aside * 2).min(RETRY.1);
                if !std::mem::replace(&mut self.crowded, true) {
                    warn!(self.shared.log, "the service manager gets no file descriptors: too many of this user's \
                        are in flight (ETOOMANYREFS), more than LimitNOFILE="; Event::NotifyFailed);
                }
            }
            Err(SendError::Broken(why)) => {
                message.give_up();
                if !std::mem::replace(&mut self.broken, true) {
                    warn!(self.shared.log, "the notify socket cannot be used: {}", why; Event::NotifyFailed);
                }
            }
        }
    }
}
