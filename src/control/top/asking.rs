//! What `drainctl top` asks of the daemon, and when.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use super::model::Told;
use crate::Result;
use crate::control::client;
use crate::control::connections::Query;
use crate::control::protocol::Call;

const EVERY: Duration = Duration::from_secs(1);

/// The state of all, once.
///
/// # Errors
/// Exit 69 where no daemon answers.
pub fn ask(socket: &Path, query: &Query) -> Result<Told> {
    let status = client::status(socket)?;
    let listing = client::call(socket, &Call::Connections(query.clone()))?;
    Ok(Told { at: Instant::now(), status, listing })
}

/// Each second, and at once when there is something else to ask. Ends when nobody wants to be told.
pub fn ask_again_and_again(
    socket: &Path,
    queries: &Receiver<Query>,
    tell: impl Fn(Result<Box<Told>>) -> bool,
) {
    let mut query = None;
    loop {
        match queries.recv_timeout(EVERY) {
            // Of those that came meanwhile the last one counts.
            Ok(first) => query = queries.try_iter().last().or(Some(first)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let query = query.get_or_insert_with(|| super::Top::default().query());
        if !tell(ask(socket, query).map(Box::new)) {
            return;
        }
    }
}

/// Has an upstream drained; returns what became of it, for people.
pub fn drain(socket: &Path, proxy: String, upstream: String) -> String {
    let call = Call::Drain { proxy, upstream: Some(upstream.clone()), timeout_ms: None };
    match client::call::<IgnoredAny>(socket, &call) {
        Ok(_) => format!("{upstream} is being drained"),
        Err(error) => format!("{upstream} is not drained: {error}"),
    }
}
