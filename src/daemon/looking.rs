//! `drainctl connections`: what the workers tell, put in order on a thread of its own.
//!
//! Neither the workers nor the control thread wait for it. At most [`MOST_AT_ONCE`] answers are made at the
//! same time, so that no crowd of askers costs more memory than that.

use std::cmp::Reverse;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::control::connections::{self, Listing, Query, Sort};
use crate::control::operator::Reply;
use crate::control::protocol::LONGEST_REPLY;
use crate::control::status::Bytes;
use crate::proxy::{Doing, Fleet, Looked, Roster, Row};
use crate::sys::socket::Peer;

/// How long the workers may take: less than the one who asks would wait.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_AT_ONCE: usize = 8;
/// Of a row in JSON, in bytes: its names, numbers and words, all but the proxy's name and the upstream's address.
const LONGEST_ROW: usize = 400;
/// What is around the rows.
const REST_OF_REPLY: usize = 1 << 10;

/// Answers the calls.
pub struct Looking {
    fleet: Arc<Fleet>,
    /// Held by each answer that is being made, and by this.
    places: Arc<()>,
}

impl Looking {
    pub fn new(fleet: Arc<Fleet>) -> Looking {
        Looking { fleet, places: Arc::default() }
    }

    /// Answers later.
    pub fn answer(&self, query: Query, reply: Reply) {
        let upstreams = |proxy: &'_ crate::proxy::Proxy| {
            proxy.all_upstreams().map(|u| u.name.clone()).collect::<Vec<_>>()
        };
        let names: Vec<_> =
            self.fleet.proxies().iter().map(|p| (p.config.name.clone(), upstreams(p))).collect();
        let known: Vec<_> = names
            .iter()
            .map(|(name, upstreams)| (name.as_str(), upstreams.iter().map(String::as_str).collect()))
            .collect();
        if let Err(message) = query.check(&known) {
            return reply.refuse(&message);
        }
        // Taken by this one thread alone, so nobody comes in between.
        if Arc::strong_count(&self.places) > MOST_AT_ONCE {
            return reply.refuse("too many ask for the connections at the same time: try again");
        }
        let (fleet, place) = (self.fleet.clone(), self.places.clone());
        let answer = move || {
            let looked = fleet.look(Instant::now() + PATIENCE);
            reply.ok(&listing(&fleet.proxies(), looked, &query));
            drop(place);
        };
        // Without a thread the reply is dropped, and that is told.
        let _ = thread::Builder::new().name("looking".to_string()).spawn(answer);
    }
}

fn listing(fleet: &Roster, looked: Looked, query: &Query) -> Listing {
    let Looked { mut rows, silent } = looked;
    // A reload may have come meanwhile, and let go of a proxy with its last connection.
    rows.retain(|row| fleet.get(usize::from(row.proxy)).is_some());
    let total = rows.len() as u64;
    rows.retain(|row| fits(fleet, row, query));
    let matching = rows.len() as u64;
    sort(fleet, &mut rows, query.sort);
    rows.truncate(query.limit.unwrap_or(usize::MAX));
    let told = rows.iter().map(|row| told(fleet, row));
    let connections = as_many_as_fit(told, LONGEST_REPLY - REST_OF_REPLY);
    Listing { total, matching, silent_workers: silent as u64, connections }
}

/// Rows whose JSON takes `room` bytes at the most.
fn as_many_as_fit(rows: impl Iterator<Item = connections::Row>, room: usize) -> Vec<connections::Row> {
    let mut left = room;
    let fits = |row: &connections::Row| match left.checked_sub(longest(row)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    rows.take_while(fits).collect()
}

/// What a row takes at the most in JSON: without writing it, since it is written but once.
fn longest(row: &connections::Row) -> usize {
    // A character of a path takes six bytes at the most, as in \u001b.
    LONGEST_ROW + row.proxy.len() + row.upstream.as_ref().map_or(0, |name| 6 * name.len())
}

fn fits(fleet: &Roster, row: &Row, query: &Query) -> bool {
    let proxy = || query.proxy.as_ref().is_none_or(|asked| *asked == fleet[row.proxy].config.name);
    let upstream = || query.upstream.as_deref().is_none_or(|asked| upstream(fleet, row) == Some(asked));
    let client = || query.client.is_none_or(|asked| asked.has(&row.client));
    let state = || query.state.is_none_or(|asked| asked == word(row.doing));
    let text = || query.text.as_ref().is_none_or(|text| told(fleet, row).has(text));
    proxy() && upstream() && client() && state() && text()
}

fn sort(fleet: &Roster, rows: &mut [Row], by: Sort) {
    let name = |row: &Row| (upstream(fleet, row), &fleet[row.proxy].config.name);
    rows.sort_unstable_by_key(|row| row.id);
    match by {
        Sort::Age => rows.sort_by_key(|row| Reverse(row.age)),
        Sort::Idle => rows.sort_by_key(|row| Reverse(row.idle)),
        Sort::Bytes => rows.sort_by_key(|row| Reverse(row.to_upstream.saturating_add(row.to_client))),
        Sort::Client => rows.sort_by_key(|row| match row.client {
            Peer::Tcp(address) => (Some(address), 0),
            Peer::Unix(pid) => (None, pid),
        }),
        Sort::Upstream => rows.sort_by(|one, other| name(one).cmp(&name(other))),
    }
}

fn upstream<'a>(fleet: &'a Roster, row: &Row) -> Option<&'a str> {
    Some(&fleet[row.proxy].upstream_at(row.upstream?)?.name)
}

fn told(fleet: &Roster, row: &Row) -> connections::Row {
    let config = &fleet[row.proxy].config;
    connections::Row {
        id: row.id,
        proxy: config.name.clone(),
        protocol: config.protocol.to_string(),
        client: row.client.to_string(),
        upstream: upstream(fleet, row).map(str::to_owned),
        state: word(row.doing),
        age_ms: row.age.as_millis() as u64,
        idle_ms: row.idle.as_millis() as u64,
        bytes: Bytes { to_upstream: row.to_upstream, to_client: row.to_client },
        parked: row.parked,
    }
}

fn word(doing: Doing) -> connections::Doing {
    match doing {
        Doing::Held => connections::Doing::Held,
        Doing::Connecting => connections::Doing::Connecting,
        Doing::SendingToUpstream => connections::Doing::SendingToUpstream,
        Doing::SendingToClient => connections::Doing::SendingToClient,
        Doing::WaitingForUpstream => connections::Doing::WaitingForUpstream,
        Doing::HalfClosed => connections::Doing::HalfClosed,
        Doing::Active => connections::Doing::Active,
        Doing::Quiet => connections::Doing::Quiet,
        Doing::Closing => connections::Doing::Closing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_longer_than_what_is_counted_for_it() {
        let row = connections::Row {
            id: u64::MAX,
            proxy: "p".repeat(64),
            protocol: "postgres".to_owned(),
            client: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".to_owned(),
            upstream: Some("\x1b".repeat(112)),
            state: connections::Doing::WaitingForUpstream,
            age_ms: u64::MAX,
            idle_ms: u64::MAX,
            bytes: Bytes { to_upstream: u64::MAX, to_client: u64::MAX },
            parked: false,
        };
        // A comma follows each but the last.
        let json = row.to_json().len() + 1;
        assert!(json <= longest(&row), "{json}");
        assert!(json + 200 > longest(&row), "{json}: too much is left out");
        let rows = |room| as_many_as_fit(std::iter::repeat_n(row.clone(), 9), room).len();
        assert_eq!(
            (rows(0), rows(longest(&row) * 3), rows(longest(&row) * 3 - 1), rows(1 << 20)),
            (0, 3, 2, 9)
        );
    }
}
