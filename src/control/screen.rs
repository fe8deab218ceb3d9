//! `drainctl status` for people: a line of the daemon, a table of the proxies with their upstreams.
//!
//! The words are not an interface; programs read the JSON.

use std::time::Duration;

use super::status::{ProxyStatus, Status};

const HEAD: [&str; 11] = [
    "PROXY",
    "STATE",
    "PROTOCOL",
    "ACTIVE",
    "HELD",
    "ACCEPTED",
    "DRAINED",
    "CUT",
    "FAILED",
    "TO UPSTREAM",
    "TO CLIENT",
];

/// Columns from this one on are numbers and stand to the right.
const FIRST_NUMBER: usize = 3;

/// The whole screen, without the last line's end.
pub fn render(status: &Status) -> String {
    let uptime = age(Duration::from_secs(status.uptime_s));
    let mut lines = vec![
        format!("drained {}, {}, pid {}, up {uptime}", status.version, status.state.word(), status.pid),
        summary(status),
    ];
    let adopted = &status.adopted;
    if adopted.listeners + adopted.connections > 0 {
        let pause = adopted.pause_ms.map_or(String::new(), |pause| format!(", after a pause of {pause} ms"));
        lines.push(format!(
            "Taken over at the start: {} and {}{pause}",
            counted(adopted.listeners, "listener"),
            counted(adopted.connections, "connection")
        ));
    }
    if !status.proxies.is_empty() {
        lines.push(String::new());
        lines.extend(proxies(status));
    }
    lines.join("\n")
}

/// What the daemon does, in a sentence.
fn summary(status: &Status) -> String {
    use super::status::State;
    let active: u64 = status.proxies.values().map(|proxy| proxy.connections.active).sum();
    let active = counted(active, "connection");
    match status.state {
        State::Draining => format!("Draining: {active} left"),
        State::HandingOver => format!("Handing over {active}"),
        _ if status.proxies.is_empty() => "No proxy is configured, see drained.toml(5)".to_string(),
        _ => format!("Serving {active} of {}", counted(status.proxies.len() as u64, "proxy")),
    }
}

fn proxies(status: &Status) -> Vec<String> {
    let rows: Vec<[String; HEAD.len()]> =
        status.proxies.iter().map(|(name, proxy)| row(name, proxy)).collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|i| rows.iter().map(|row| row[i].len()).chain([HEAD[i].len()]).max().unwrap_or(0))
        .collect();
    let mut lines = vec![align(&HEAD, &widths)];
    let address_width =
        status.proxies.values().flat_map(|p| &p.upstreams).map(|u| u.address.len()).max().unwrap_or(0);
    let states = status.proxies.values().flat_map(|p| &p.upstreams).map(|u| u.state.word().len());
    let state_width = states.max().unwrap_or(0).max(4);
    for (row, proxy) in rows.iter().zip(status.proxies.values()) {
        lines.push(align(row, &widths));
        for upstream in &proxy.upstreams {
            let (address, state) = (&upstream.address, upstream.state.word());
            let connections = counted(upstream.connections, "connection");
            lines.push(format!("  -> {address:address_width$}  {state:state_width$}  {connections}"));
        }
    }
    lines
}

fn row(name: &str, proxy: &ProxyStatus) -> [String; HEAD.len()] {
    let count = &proxy.connections;
    [
        name.to_string(),
        proxy.state.word().to_string(),
        proxy.protocol.clone(),
        count.active.to_string(),
        count.held.to_string(),
        count.accepted.to_string(),
        count.drained.to_string(),
        count.cut.to_string(),
        count.failed.to_string(),
        bytes(proxy.bytes.to_upstream),
        bytes(proxy.bytes.to_client),
    ]
}

fn align<S: AsRef<str>>(cells: &[S], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(i, (cell, width))| {
        let cell = cell.as_ref();
        if i < FIRST_NUMBER { format!("{cell:width$}") } else { format!("{cell:>width$}") }
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
}

fn counted(n: u64, noun: &str) -> String {
    match (n, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// `999 B`, `1.0 KiB`, `15.9 GiB`.
fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and more would show as 1024.0.
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// The two largest units: `3d 4h`, `12m 5s`, `8s`.
fn age(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        86_400.. => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
        3600.. => format!("{}h {}m", s / 3600, s % 3600 / 60),
        60.. => format!("{}m {}s", s / 60, s % 60),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::*;
    use super::*;

    #[test]
    fn a_screen_is_aligned() {
        let proxy = |active, address: &str, state| ProxyStatus {
            state: State::Running,
            protocol: "tcp".to_string(),
            connections: Connections { active, accepted: 1234, ..Connections::default() },
            bytes: Bytes { to_upstream: 1_288_490_189, to_client: 17 },
            upstreams: vec![UpstreamStatus { address: address.to_string(), state, connections: active }],
        };
        let mut status = Status {
            version: "0.1.0".to_string(),
            pid: 812,
            state: State::Running,
            uptime_s: 11_530,
            adopted: Adopted::default(),
            proxies: [
                ("web".to_string(), proxy(12, "127.0.0.1:8000", UpstreamState::Up)),
                ("database".to_string(), proxy(1, "unix:/run/postgresql/.s.PGSQL.5432", UpstreamState::Down)),
            ]
            .into(),
        };
        let screen = "\
drained 0.1.0, running, pid 812, up 3h 12m
Serving 13 connections of 2 proxies

PROXY     STATE    PROTOCOL  ACTIVE  HELD  ACCEPTED  DRAINED  CUT  FAILED  TO UPSTREAM  TO CLIENT
database  running  tcp            1     0      1234        0    0       0      1.2 GiB       17 B
  -> unix:/run/postgresql/.s.PGSQL.5432  down  1 connection
web       running  tcp           12     0      1234        0    0       0      1.2 GiB       17 B
  -> 127.0.0.1:8000                      up    12 connections";
        assert_eq!(render(&status), screen);

        status.state = State::Draining;
        status.adopted.connections = 1;
        assert!(render(&status).contains(
            "Draining: 13 connections left\nTaken over at the start: 0 listeners and 1 connection\n"
        ));
        status.adopted.pause_ms = Some(31);
        assert!(render(&status).contains("1 connection, after a pause of 31 ms\n"));
        status.state = State::Running;
        status.proxies.clear();
        assert!(render(&status).contains("No proxy is configured"));
    }

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3661, "1h 1m"), (90_000, "1d 1h")] {
            assert_eq!(age(Duration::from_secs(s)), text);
        }
    }
}
