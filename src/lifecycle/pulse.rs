//! The signs of life that the notify thread sends: WATCHDOG=1 and EXTEND_TIMEOUT_USEC=.
//!
//! They vouch for others. WATCHDOG=1 is sent only while every worker, and during a stop the cleanup,
//! has shown life within the interval; EXTEND_TIMEOUT_USEC= only while the cleanup shows life and
//! is inside its own deadline. So systemd ends a daemon that hangs, and waits for one that works.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::error;

use super::core::{Core, Task};
use super::token::Beat;
use crate::event::Event;
use crate::systemd::notify::{Tick, watchdog_interval};

/// What EXTEND_TIMEOUT_USEC= says, each second: how long systemd waits after the last sign of life.
pub(super) const EXTEND: Duration = Duration::from_secs(5);

/// How often the cleanup shows life and EXTEND_TIMEOUT_USEC= is sent.
pub(super) const PULSE: Duration = Duration::from_secs(1);

/// Without life for this long the cleanup is taken for dead.
const DEAD: Duration = Duration::from_secs(3);

/// Feeds the watchdog, if systemd has one for this process.
pub(super) fn watch(core: &Arc<Core>) {
    let Some(interval) = watchdog_interval() else { return };
    let mut named = HashSet::new();
    let watched = core.clone();
    core.notifier.repeat(interval / 3, move || {
        let hung = hung_workers(&watched, interval);
        let alive = hung.is_empty();
        for (task, name) in hung {
            if named.insert(task) {
                error!(watched.log, "worker {} shows no life: the watchdog is no longer fed", name;
                    Event::WorkerHung, "DRAINED_WORKER" => &name);
            }
        }
        if alive { Tick::Watchdog } else { Tick::Skip }
    });
}

/// Asks systemd for time while the stop shows life, until `deadline`.
pub(super) fn extend(core: &Core, cleanup: Arc<Beat>, deadline: Instant) {
    core.notifier.repeat(PULSE, move || extension(Instant::now(), deadline, cleanup.is_within(DEAD)));
}

fn extension(now: Instant, deadline: Instant, alive: bool) -> Tick {
    match alive {
        _ if now >= deadline => Tick::Done,
        true => Tick::ExtendTimeout(EXTEND),
        false => Tick::Skip,
    }
}

/// Workers, and the cleanup as one of them, that have not shown life within `interval`.
fn hung_workers(core: &Core, interval: Duration) -> Vec<(Task, String)> {
    let facts = core.facts();
    let watched = facts.running.iter().filter_map(|(task, watched)| watched.as_ref().map(|w| (*task, w)));
    watched
        .filter(|(_, (_, beat))| !beat.is_within(interval))
        .map(|(task, (name, _))| (task, name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_asked_for_while_the_cleanup_lives_and_inside_its_deadline() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let before = deadline - Duration::from_millis(1);
        assert_eq!(extension(before, deadline, true), Tick::ExtendTimeout(Duration::from_secs(5)));
        assert_eq!(extension(before, deadline, false), Tick::Skip);
        assert_eq!(extension(deadline, deadline, true), Tick::Done);
    }
}
