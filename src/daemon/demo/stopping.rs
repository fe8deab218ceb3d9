//! The first part of the demo: a stop under load.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::clients::{Clients, Fate};
use super::stage::{BOUND, Stage};
use super::table;
use crate::Result;

/// What the daemon gets to end its connections.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long clients and daemon work before the stop.
const WORK: Duration = Duration::from_secs(2);

/// Shows it, the daemon listening on `address`; returns what was not as it should be.
pub fn show(stage: &mut Stage, address: SocketAddr, upstream: SocketAddr) -> Result<Vec<String>> {
    stage.screen.heading("start: what the service manager sees", Instant::now());
    stage.start(&super::config(
        address,
        upstream,
        &format!("[drain]\ndeadline = \"{}s\"\n", DEADLINE.as_secs()),
    ))?;

    let stop = Instant::now() + WORK;
    let clients = Clients::start(address, stop);
    stage.screen.heading("at work", stop - WORK);
    for second in 1..=WORK.as_secs() {
        stage.follow(stop - WORK + Duration::from_secs(second))?;
        stage.screen.line(Instant::now(), "clients", &clients.figures());
    }

    let stop = Instant::now();
    stage.screen.heading(&format!("stop: SIGTERM, with a deadline of {} seconds", DEADLINE.as_secs()), stop);
    stage.signal(Signal::SIGTERM)?;
    stage.follow_until(|notes| notes.listener_closed || notes.exit.is_some())?;
    let refused = try_a_new_client(stage, address);
    stage.follow_until(|notes| notes.exit.is_some())?;

    let fates = clients.fates(BOUND)?;
    stage.screen.plain(&table::of(&fates, stop));
    let faults = faults(stage, &fates, stop, refused);
    stage.screen.verdict(&faults, &table::summary(&fates));
    stage.manager.forget();
    Ok(faults)
}

/// A new client is refused from the phase Drain on.
fn try_a_new_client(stage: &Stage, address: SocketAddr) -> bool {
    let tried = TcpStream::connect_timeout(&address, BOUND);
    let refused = tried.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    let outcome = match tried {
        Ok(_) => "connected".into(),
        Err(_) if refused => "refused".into(),
        Err(e) => e.to_string(),
    };
    stage.screen.line(Instant::now(), "clients", &format!("a new client tries to connect: {outcome}"));
    refused
}

fn faults(stage: &Stage, fates: &[Fate], stop: Instant, refused: bool) -> Vec<String> {
    let mut faults = table::faults(fates, stop, DEADLINE);
    if !stage.notes.stopping_asked_for_time {
        faults.push("STOPPING=1 did not come together with EXTEND_TIMEOUT_USEC".into());
    }
    if !refused {
        faults.push("a new client was not refused after the stop began".into());
    }
    if let Some(exit) = stage.notes.exit
        && !exit.success()
    {
        faults.push(format!("the daemon ended with {exit}"));
    }
    let stored = stage.manager.stored();
    if !stored.is_empty() {
        faults.push(format!("{} file descriptors are left in the store", stored.len()));
    }
    faults
}
