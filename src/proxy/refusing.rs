//! Listeners are closed so that nobody who was let in is reset: first nobody enters their backlogs any more, then
//! what stands there is served, then they are closed.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::{Command, Fleet, lock};
use super::listener::Listener;
use crate::sys::{self, socket};

/// How long handshakes that had begun may take to their end.
const HANDSHAKE: Duration = Duration::from_secs(1);
const HANDSHAKE_LOOK: Duration = Duration::from_millis(5);
/// How often to look whether the stop is hurried while backlogs are served.
const REFUSE_LOOK: Duration = Duration::from_millis(50);
/// How long a worker may take to close its listeners, whoever stands in their backlogs.
const REFUSE_LAST: Duration = Duration::from_millis(500);

impl Fleet {
    /// Takes in no new work: nobody enters the backlogs any more, what stands there is served, the
    /// listeners are closed. Handshakes that had begun may end first. Those that systemd passed are
    /// left as they are. A proxy without room serves its backlog during the drain. Returns when it is
    /// done, or false at `until`, which comes at once when the stop is `hurried`.
    pub fn refuse(&self, until: Instant, hurried: impl Fn() -> bool) -> bool {
        let roster = self.proxies();
        let all = roster.iter().flat_map(|p| std::mem::take(&mut *lock(&p.listeners)));
        let ours: Vec<_> = all.filter(|listener| !listener.passed).collect();
        self.shut_out(ours, until);
        self.tell_all(Command::Refuse { until });
        let shut = || roster.iter().all(|p| !p.is_listening() || !self.has_room(p));
        while !hurried() && Instant::now() < until {
            if self.wait_until(until.min(Instant::now() + REFUSE_LOOK), shut) {
                return true;
            }
        }
        self.tell_all(Command::Refuse { until: Instant::now() });
        self.wait_until(Instant::now() + REFUSE_LAST, shut)
    }

    /// Nobody enters the backlogs of these listeners any more. Returns when handshakes that had begun have ended,
    /// at `until` at the latest.
    pub(super) fn shut_out(&self, listeners: Vec<Arc<Listener>>, until: Instant) {
        // Without the filter the backlog is served all the same; only the instant of the close is
        // less exact.
        let refuse = |listener: &Listener| drop(socket::refuse_new(listener.as_fd()));
        let address = |listener: &Arc<Listener>| socket::local_address(listener.as_fd());
        let (tcp, unix): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(|listener| address(listener).is_some());
        tcp.iter().for_each(|listener| refuse(listener));
        self.let_handshakes_end(&tcp.iter().filter_map(address).collect::<Vec<_>>(), until);
        // A UNIX listener that refuses counts as readable for ever, so not before it is to close.
        unix.iter().for_each(|listener| refuse(listener));
    }

    fn let_handshakes_end(&self, listeners: &[SocketAddr], until: Instant) {
        let settled = until.min(Instant::now() + HANDSHAKE);
        loop {
            let began = Instant::now();
            if !sys::handshakes::pending(listeners, settled) || Instant::now() >= settled {
                return;
            }
            // A machine with many sockets has a long table: no more than a fifth of the time is read.
            let pause = HANDSHAKE_LOOK.max(began.elapsed() * 4);
            self.wait_until(settled.min(Instant::now() + pause), || false);
        }
    }
}
