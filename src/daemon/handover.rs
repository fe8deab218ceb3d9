//! The daemon's side of a handover: what it leaves to the store, and what it finds there.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, Shutdown};
use slog::{Logger, info, warn};

use super::report;
use super::stop::ASK_MANAGER;
use crate::config::{Handover, OnRestart};
use crate::event::Event;
use crate::fault;
use crate::handover::adopt::Estate;
use crate::handover::{LEDGER, LISTENER, LOT};
use crate::lifecycle::Handle;
use crate::proxy::{Fleet, Listener};
use crate::sys::clock::monotonic_ms;
use crate::systemd::manager;
use crate::systemd::notify::Notifier;
use crate::{Error, Exit, Result};

/// How long the workers may take to park what they have.
const PARK: Duration = Duration::from_secs(5);
/// How long systemd may take to fetch it.
const FETCH: Duration = Duration::from_secs(5);

/// How long messages may take on their way to systemd.
const SENT: Duration = Duration::from_millis(200);
/// How long systemd may take to let go of closed listeners.
const LET_GO: Duration = Duration::from_secs(1);

/// Nothing outlives the process, whatever ends it.
pub const NEVER: Handover = Handover { on_restart: OnRestart::Never, crash_after: None };

/// Prepares what outlives the process, and takes over what the last incarnation left.
///
/// # Errors
/// It cannot be taken over: the next try may do better.
pub fn keep(
    fleet: &mut Fleet,
    estate: &mut Estate,
    config: Handover,
    notifier: &Notifier,
    log: &Logger,
) -> Result<()> {
    let has_store = notifier.is_connected() && config != NEVER;
    let is_heir = fleet.adopted_counts.1 > 0 || estate.ledger.is_some();
    if !has_store && !is_heir {
        return Ok(());
    }
    match fleet.keep(estate, config.crash_after, notifier) {
        Err(error) if !is_heir => {
            warn!(log, "connections end with this process: {error}");
            Ok(())
        }
        result => result,
    }
}

/// Leaves everything to the next incarnation. `stopped` is when the stop began, in milliseconds of
/// CLOCK_MONOTONIC.
///
/// # Errors
/// A worker did not park in time, or systemd did not fetch: what it had is lost with the process.
pub fn leave(fleet: &Fleet, notifier: &Notifier, log: &Logger, stopped: u64) -> Result<()> {
    let Some(keeper) = fleet.keeper() else { return Ok(()) };
    keeper.ledger.set_stopped(stopped);
    fault::pass("leave-stopping");
    let before = keeper.lots_stored();
    let hung = || Error::new(Exit::Software, "a worker did not hand over its connections");
    let count = fleet.hand_over(Instant::now() + PARK).ok_or_else(hung)?;
    fault::pass("leave-gathered");
    fault::strike("leave-hang", None);
    // What was stored before is there: systemd reads its mail before it sees that somebody has died.
    if keeper.lots_stored() != before {
        notifier.barrier(FETCH)?;
    } else if !notifier.flush(FETCH) {
        return Err(Error::new(Exit::Unavailable, "the service manager does not take messages"));
    }
    fault::pass("leave-fetched");
    info!(log, "handed over {}", report::count(count, "connection", "connections"); Event::HandedOver,
        "DRAINED_DURATION_US" => (monotonic_ms() - stopped) * 1_000);
    Ok(())
}

/// Says what was found by a process that began at `began`. Listeners that are left over are closed, and `staying`
/// alone are stored.
pub fn say_adopted(
    fleet: &Fleet,
    (estate, staying): (&Estate, &[Arc<Listener>]),
    began: Instant,
    handle: &Handle,
    log: &Logger,
) {
    for what in &estate.let_go {
        warn!(log, "let go of {what}"; Event::LetGo);
    }
    if !estate.listeners.is_empty() {
        warn!(log, "let go of {} listeners that are not configured any more", estate.listeners.len(); Event::LetGo);
    }
    let (listeners, connections) = fleet.adopted_counts;
    if listeners + connections > 0 {
        let pause = estate.stopped.or(estate.alive).map(|at| monotonic_ms().saturating_sub(at));
        pause.iter().for_each(|pause| _ = fleet.pause_ms.set(*pause));
        // Without a word at the end, the last sign of life says when that was at the earliest.
        let most = if estate.stopped.is_none() { "at most " } else { "" };
        let ours = began.elapsed().as_millis();
        let after = pause.map_or(String::new(), |pause| {
            format!(" after a pause of {most}{pause} ms, {ours} ms of it since this process began")
        });
        let what = [(connections, "connection", "connections"), (listeners, "listener", "listeners")];
        let [connections, listeners] = what.map(|(n, one, many)| report::count(n, one, many));
        info!(log, "adopted {connections} and {listeners}{after}"; Event::Adopted,
            "DRAINED_DURATION_US" => pause.map(|pause| pause * 1_000));
    }
    if !estate.listeners.is_empty() {
        store_alone(staying, handle.notifier(), log);
        // Until it is out of the store too, shutdown(2) alone has clients refused.
        estate.listeners.iter().for_each(|fd| _ = socket::shutdown(fd.as_raw_fd(), Shutdown::Both));
    }
}

/// Has the store keep the listeners, so that nobody is refused while no process listens. Says it once
/// if there is none.
pub fn store_listeners(fleet: &Fleet, notifier: &Notifier, log: &Logger) {
    if !notifier.is_connected() {
        return;
    }
    // What came out of the store shows that there is one: then clients need not wait for the answer.
    let is_first = fleet.adopted_counts == (0, 0);
    if is_first && manager::ask(ASK_MANAGER, || false).is_some_and(|manager| manager.store_max == 0) {
        warn!(log, "a restart will drain instead of handing over: the unit needs FileDescriptorStoreMax=512");
        return;
    }
    store_more(&fleet.own_listeners(), notifier, log);
}

/// Has the store keep listeners in addition.
pub fn store_more(listeners: &[Arc<Listener>], notifier: &Notifier, log: &Logger) {
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|listener| Listener::as_fd(listener)).collect();
    if let Err(error) = notifier.fdstore(LISTENER, &fds) {
        warn!(log, "cannot store the listeners: {error}");
    }
}

/// Takes all listeners but those that stay out of the store, before nobody is let into their backlogs any more:
/// one that lets in nobody would be of no use to the next incarnation.
pub fn store_only(staying: &[Arc<Listener>], notifier: &Notifier, log: &Logger) {
    store_alone(staying, notifier, log);
    notifier.flush(SENT);
}

fn store_alone(staying: &[Arc<Listener>], notifier: &Notifier, log: &Logger) {
    let fds: Vec<BorrowedFd<'_>> = staying.iter().map(|listener| Listener::as_fd(listener)).collect();
    if let Err(error) = notifier.fdstore_only(LISTENER, &fds) {
        warn!(log, "cannot store the listeners that stay: {error}");
    }
}

/// Waits until systemd has let go of them, so that their addresses are free.
pub fn wait_removed(notifier: &Notifier) {
    // Late it does no harm but to those who want the same address at once.
    let _ = notifier.barrier(LET_GO);
}

/// Takes ledger and lots out of the store: nobody is left whom they could serve.
pub fn remove_all(fleet: &Fleet, notifier: &Notifier, log: &Logger) {
    if fleet.keeper().is_some() {
        remove(notifier, LEDGER, log);
        remove(notifier, LOT, log);
    }
}

fn remove(notifier: &Notifier, name: &str, log: &Logger) {
    if let Err(error) = notifier.fdstore_remove(name) {
        warn!(log, "cannot take {name} out of the store: {error}");
    }
}
