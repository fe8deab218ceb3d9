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
use crate::proxy::{Doing, Fleet, Looked, Row};
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
            proxy.upstreams.iter().map(|u| u.name.clone()).collect::<Vec<_>>()
        };
        let names: Vec<_> =
            self.fleet.proxies.iter().map(|p| (p.config.name.clone(), upstreams(p))).collect();
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
            reply.ok(&listing(&fleet, looked, &query));
            drop(place);
        };
        // Without a thread the reply is dropped, and that is told.
        let _ = thread::Builder::new().name("looking".to_string()).spawn(answer);
    }
}

fn listing(fleet: &Fleet, looked: Looked, query: &Query) -> Listing {
    let Looked { mut rows, silent } = looked;
    let total = rows.len() as u64;
    rows.retain(|row| fits(fleet, row, query));
    let matching = rows.len() as u64;
    sort(fleet, &mut rows, query.sort);
    rows.truncate(query.limit.unwrap_or(usize::MAX));
    let mut left = LONGEST_REPLY - REST_OF_REPLY;
    let mut room = |row: &connections::Row| {
        // A character of a path takes six bytes at the most: as \u001b.
        let needs = LONGEST_ROW + row.proxy.len() + row.upstream.as_ref().map_or(0, |name| 6 * name.len());
        left.checked_sub(needs).map(|rest| left = rest).is_some()
    };
    let connections = rows.iter().map(|row| told(fleet, row)).take_while(&mut room).collect();
    Listing { total, matching, silent_workers: silent as u64, connections }
}

fn fits(fleet: &Fleet, row: &Row, query: &Query) -> bool {
    let proxy = || {
        query.proxy.as_ref().is_none_or(|asked| *asked == fleet.proxies[usize::from(row.proxy)].config.name)
    };
    let upstream = || query.upstream.as_deref().is_none_or(|asked| upstream(fleet, row) == Some(asked));
    let client = || query.client.is_none_or(|asked| asked.has(&row.client));
    let state = || query.state.is_none_or(|asked| asked == word(row.doing));
    let text = || query.text.as_ref().is_none_or(|text| told(fleet, row).has(text));
    proxy() && upstream() && client() && state() && text()
}

fn sort(fleet: &Fleet, rows: &mut [Row], by: Sort) {
    let name = |row: &Row| (upstream(fleet, row), &fleet.proxies[usize::from(row.proxy)].config.name);
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

fn upstream<'a>(fleet: &'a Fleet, row: &Row) -> Option<&'a str> {
    let upstreams = &fleet.proxies[usize::from(row.proxy)].upstreams;
    Some(&upstreams.get(usize::from(row.upstream?))?.name)
}

fn told(fleet: &Fleet, row: &Row) -> connections::Row {
    let config = &fleet.proxies[usize::from(row.proxy)].config;
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
