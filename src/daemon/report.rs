//! What the daemon says of itself: STATUS=, `drainctl status`, and the report of SIGUSR1.

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, info};

use crate::control::status::{
    Adopted, Bytes, Connections, ProxyStatus, State, Status, UpstreamState, UpstreamStatus,
};
use crate::control::words::time;
use crate::event::Event;
use crate::lifecycle::Handle;
use crate::proxy::{Fleet, Proxy, Upstream};
use crate::sys::clock::monotonic_ms;

/// Said where there is nothing to do.
pub const NO_PROXY: &str = "No proxy is configured: add one to /etc/drained/drained.toml and reload";

/// STATUS= while serving.
pub fn running_text(fleet: &Fleet) -> String {
    let is_down = |u: &&Arc<Upstream>| !u.is_up() && !u.is_closed();
    let down = fleet.proxies().iter().flat_map(|p| &p.upstreams).filter(is_down).count();
    let down = if down > 0 {
        format!("; {}", count(down as u64, "upstream is down", "upstreams are down"))
    } else {
        String::new()
    };
    match fleet.proxies().iter().filter(|p| !p.is_departed()).count() {
        0 => NO_PROXY.to_owned(),
        n => format!(
            "Serving {} through {}{down}",
            count(u64::from(fleet.active()), "connection", "connections"),
            count(n as u64, "proxy", "proxies")
        ),
    }
}

/// STATUS= in the lame duck.
pub fn lame_duck_text(fleet: &Fleet, until: Instant) -> String {
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
    format!("{}, still accepting for {}", draining_text(fleet), time(left))
}

/// STATUS= while draining.
pub fn draining_text(fleet: &Fleet) -> String {
    let (active, ended) = (u64::from(fleet.active()), fleet.ended_in_stop());
    let cut: u64 = fleet.proxies().iter().map(|p| p.totals().cut).sum();
    let cut = if cut > 0 { format!(", {cut} cut") } else { String::new() };
    format!("Draining: {active} of {} connections left{cut}", active + ended)
}

/// STATUS= of a handover.
pub fn handing_over_text(fleet: &Fleet) -> String {
    format!("Handing over {}", count(u64::from(fleet.active()), "connection", "connections"))
}

/// A number with its noun.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// What `drainctl status` shows.
pub fn status(fleet: &Fleet, handle: &Handle) -> Status {
    let state = State::from(handle.state());
    let settled = fleet.is_settled();
    let mut proxies = BTreeMap::new();
    let (leaving, staying): (Vec<_>, Vec<_>) =
        fleet.proxies().iter().filter(|p| !p.is_gone()).cloned().partition(|p| p.is_departed());
    for proxy in staying.iter().chain(&leaving) {
        let status = proxy_status(proxy, state, settled);
        // One that was removed and came back has connections of before.
        proxies
            .entry(proxy.config.name.clone())
            .and_modify(|known: &mut ProxyStatus| {
                known.connections.active += status.connections.active;
                known.connections.held += status.connections.held;
            })
            .or_insert(status);
    }
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        state,
        uptime_s: handle.since().elapsed().as_secs(),
        adopted: Adopted {
            listeners: fleet.adopted_counts.0,
            connections: fleet.adopted_counts.1,
            pause_ms: fleet.pause_ms.get().copied(),
        },
        proxies,
    }
}

fn proxy_status(proxy: &Proxy, daemon: State, settled: bool) -> ProxyStatus {
    let totals = proxy.totals();
    ProxyStatus {
        state: if proxy.is_draining() { State::Draining } else { daemon },
        holding: proxy.hold_until(monotonic_ms()).is_some(),
        protocol: proxy.config.protocol.to_string(),
        connections: Connections {
            active: u64::from(proxy.active()),
            held: u64::from(proxy.held()),
            accepted: totals.accepted,
            drained: totals.drained,
            cut: totals.cut,
            failed: totals.failed,
        },
        bytes: Bytes { to_upstream: totals.bytes_to_upstream, to_client: totals.bytes_to_client },
        upstreams: proxy.upstreams.iter().map(|u| upstream_status(u, settled)).collect(),
    }
}

fn upstream_status(upstream: &Upstream, settled: bool) -> UpstreamStatus {
    let state = upstream_state(upstream, settled);
    UpstreamStatus { address: upstream.name.clone(), state, connections: u64::from(upstream.active()) }
}

/// Whether it takes connections; `settled` once all workers know what was set by hand.
pub fn upstream_state(upstream: &Upstream, settled: bool) -> UpstreamState {
    match upstream.is_closed() {
        true if settled && upstream.active() == 0 => UpstreamState::Drained,
        true => UpstreamState::Draining,
        false if upstream.is_up() => UpstreamState::Up,
        false => UpstreamState::Down,
    }
}

/// SIGUSR1: the same as `drainctl status`, a line a proxy, into the journal.
pub fn write(fleet: &Fleet, handle: &Handle, log: &Logger) {
    let status = status(fleet, handle);
    info!(log, "report: {}, up for {}, {}", status.state.word(), time(Duration::from_secs(status.uptime_s)),
        count(u64::from(fleet.active()), "connection", "connections");
        Event::Report);
    for (name, proxy) in &status.proxies {
        let Connections { active, accepted, drained, cut, failed, .. } = proxy.connections;
        info!(log, "report: proxy {name}: {active} active, {accepted} accepted, {drained} drained, {cut} cut, {failed} failed";
            Event::Report, "DRAINED_PROXY" => &name,
            "DRAINED_BYTES_TO_UPSTREAM" => proxy.bytes.to_upstream,
            "DRAINED_BYTES_TO_CLIENT" => proxy.bytes.to_client);
        for upstream in &proxy.upstreams {
            info!(log, "report: upstream {}: {}, {}", upstream.address, upstream.state.word(),
                count(upstream.connections, "connection", "connections"); Event::Report, "DRAINED_PROXY" => &name,
                "DRAINED_UPSTREAM" => &upstream.address);
        }
    }
}
