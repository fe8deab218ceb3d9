//! `drainctl status` for people: a line of the daemon, a table of the proxies with their upstreams.
//!
//! The words are not an interface; programs read the JSON.

use std::time::Duration;

use super::paint::{Paint, Tone, printable};
use super::status::{ProxyStatus, State, Status, UpstreamState};

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
pub fn render(status: &Status, paint: Paint) -> String {
    let uptime = age(Duration::from_secs(status.uptime_s));
    let mut lines = vec![
        format!(
            "{} {}, {}, pid {}, up {uptime}",
            paint.tone(Tone::Strong, "drained"),
            printable(&status.version),
            state(status.state, 0, paint),
            status.pid
        ),
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
        lines.extend(proxies(status, paint));
    }
    lines.join("\n")
}

/// What the daemon does, in a sentence.
fn summary(status: &Status) -> String {
    let active: u64 = status.proxies.values().map(|proxy| proxy.connections.active).sum();
    let active = counted(active, "connection");
    match status.state {
        State::Draining => format!("Draining: {active} left"),
        State::HandingOver => format!("Handing over {active}"),
        _ if status.proxies.is_empty() => "No proxy is configured, see drained.toml(5)".to_string(),
        _ => format!("Serving {active} of {}", counted(status.proxies.len() as u64, "proxy")),
    }
}

fn proxies(status: &Status, paint: Paint) -> Vec<String> {
    let rows: Vec<[String; HEAD.len()]> =
        status.proxies.iter().map(|(name, proxy)| row(name, proxy)).collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|i| rows.iter().map(|row| row[i].chars().count()).chain([HEAD[i].len()]).max().unwrap_or(0))
        .collect();
    let mut lines = vec![paint.tone(Tone::Strong, &align(&HEAD, &widths, None))];
    let address_width =
        status.proxies.values().flat_map(|p| &p.upstreams).map(|u| printable(&u.address).chars().count());
    let address_width = address_width.max().unwrap_or(0);
    let words = status.proxies.values().flat_map(|p| &p.upstreams).map(|u| u.state.word().len());
    let word_width = words.max().unwrap_or(0);
    for (row, proxy) in rows.iter().zip(status.proxies.values()) {
        lines.push(align(row, &widths, Some(&|width| state(proxy.state, width, paint))));
        if proxy.holding {
            lines.push("  new clients are held by hand: drainctl resume ends it".to_string());
        }
        for upstream in &proxy.upstreams {
            let (address, state) =
                (printable(&upstream.address), upstream_state(upstream.state, word_width, paint));
            let connections = counted(upstream.connections, "connection");
            lines.push(format!("  -> {address:address_width$}  {state}  {connections}"));
        }
    }
    lines
}

fn row(name: &str, proxy: &ProxyStatus) -> [String; HEAD.len()] {
    let count = &proxy.connections;
    [
        printable(name).into_owned(),
        proxy.state.word().to_string(),
        printable(&proxy.protocol).into_owned(),
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

/// `state` writes the second cell, as wide as it is told.
fn align<S: AsRef<str>>(cells: &[S], widths: &[usize], state: Option<&dyn Fn(usize) -> String>) -> String {
    let cells =
        cells.iter().zip(widths).enumerate().map(|(i, (cell, width))| match (i, cell.as_ref(), state) {
            (1, _, Some(state)) => state(*width),
            (i, cell, _) if i < FIRST_NUMBER => format!("{cell:width$}"),
            (_, cell, _) => format!("{cell:>width$}"),
        });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
}

/// Padded first: what colours it takes no room.
fn state(state: State, width: usize, paint: Paint) -> String {
    paint.tone(tone(state), &format!("{:width$}", state.word()))
}

fn upstream_state(state: UpstreamState, width: usize, paint: Paint) -> String {
    paint.tone(upstream_tone(state), &format!("{:width$}", state.word()))
}

pub(super) fn tone(state: State) -> Tone {
    match state {
        State::Running => Tone::Good,
        State::Starting | State::Reloading | State::Draining | State::HandingOver => Tone::Warning,
    }
}

pub(super) fn upstream_tone(state: UpstreamState) -> Tone {
    match state {
        UpstreamState::Up => Tone::Good,
        UpstreamState::Draining | UpstreamState::Drained => Tone::Warning,
        UpstreamState::Down => Tone::Bad,
    }
}

pub(super) fn counted(n: u64, noun: &str) -> String {
    match (n, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// `999 B`, `1.0 KiB`, `15.9 GiB`.
pub(super) fn bytes(n: u64) -> String {
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
pub(super) fn age(duration: Duration) -> String {
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
            holding: false,
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
        assert_eq!(render(&status, Paint(false)), screen);
        let coloured = render(&status, Paint(true));
        assert!(coloured.contains("  \x1b[31mdown\x1b[0m  1 conn"), "{coloured}");
        assert!(coloured.contains("  \x1b[32mup  \x1b[0m  12 conn"), "{coloured}");
        let plain =
            ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"].iter().fold(coloured, |c, s| c.replace(s, ""));
        assert_eq!(plain, screen);

        status.state = State::Draining;
        status.adopted.connections = 1;
        assert!(render(&status, Paint(false)).contains(
            "Draining: 13 connections left\nTaken over at the start: 0 listeners and 1 connection\n"
        ));
        status.adopted.pause_ms = Some(31);
        assert!(render(&status, Paint(false)).contains("1 connection, after a pause of 31 ms\n"));
        status.state = State::Running;
        status.proxies.clear();
        assert!(render(&status, Paint(false)).contains("No proxy is configured"));
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
