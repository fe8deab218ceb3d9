//! `drainctl status` for people: a line of the daemon, a table of the proxies with their upstreams.
//!
//! The words are not an interface; programs read the JSON.

use std::time::Duration;

use super::paint::{Paint, Tone, printable};
use super::status::{ProxyStatus, State, Status, UpstreamState, UpstreamStatus};
use super::table::{self, Cell, Column, Shape};
use super::words::{bytes, counted, time, wrap};

const fn column(title: &'static str, is_number: bool, rank: u8) -> Column {
    Column { title, is_number, rank }
}

const COLUMNS: [Column; 11] = [
    column("PROXY", false, 0),
    column("STATE", false, 1),
    column("PROTOCOL", false, 8),
    column("ACTIVE", true, 2),
    column("HELD", true, 3),
    column("ACCEPTED", true, 7),
    column("DRAINED", true, 6),
    column("CUT", true, 4),
    column("FAILED", true, 5),
    column("TO UPSTREAM", true, 9),
    column("TO CLIENT", true, 10),
];

/// The whole screen, without the last line's end, in lines of at most `width` characters: what has no room in the
/// table is told beneath its row.
pub fn render(status: &Status, paint: Paint, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let uptime = time(Duration::from_secs(status.uptime_s));
    let mut lines = vec![format!(
        "{} {}, {}, pid {}, up {uptime}",
        paint.tone(Tone::Strong, "drained"),
        printable(&status.version),
        paint.tone(tone(status.state), status.state.word()),
        status.pid
    )];
    lines.extend(wrap(summary(status).split(' '), width));
    let adopted = &status.adopted;
    if adopted.listeners + adopted.connections > 0 {
        let pause = adopted.pause_ms.map_or(String::new(), |pause| format!(", after a pause of {pause} ms"));
        let taken_over = format!(
            "Taken over at the start: {} and {}{pause}",
            counted(adopted.listeners, "listener"),
            counted(adopted.connections, "connection")
        );
        lines.extend(wrap(taken_over.split(' '), width));
    }
    if !status.proxies.is_empty() {
        lines.push(String::new());
        lines.extend(proxies(status, paint, width));
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

fn proxies(status: &Status, paint: Paint, width: usize) -> Vec<String> {
    let rows: Vec<Vec<Cell>> = status.proxies.iter().map(|(name, proxy)| row(name, proxy)).collect();
    let shape = Shape::of(&COLUMNS, &rows, width);
    let mut lines = vec![paint.tone(Tone::Strong, shape.head(&COLUMNS).trim_end())];
    let upstreams = Upstreams::of(status, width);
    for (row, proxy) in rows.iter().zip(status.proxies.values()) {
        lines.push(table::print(shape.line(&COLUMNS, row), paint));
        lines.extend(shape.beneath(&COLUMNS, row, width));
        if proxy.holding {
            let told = wrap(
                "new clients are held by hand: drainctl resume ends it".split(' '),
                width.saturating_sub(2),
            );
            lines.extend(told.iter().map(|line| format!("  {line}")));
        }
        proxy.upstreams.iter().for_each(|upstream| upstreams.tell(upstream, paint, &mut lines));
    }
    lines
}

fn row(name: &str, proxy: &ProxyStatus) -> Vec<Cell> {
    let count = &proxy.connections;
    vec![
        printable(name).into_owned().into(),
        Cell { text: proxy.state.word().to_owned(), tone: Some(tone(proxy.state)) },
        printable(&proxy.protocol).into_owned().into(),
        count.active.to_string().into(),
        count.held.to_string().into(),
        count.accepted.to_string().into(),
        count.drained.to_string().into(),
        count.cut.to_string().into(),
        count.failed.to_string().into(),
        bytes(proxy.bytes.to_upstream).into(),
        bytes(proxy.bytes.to_client).into(),
    ]
}

/// What stands before the address of an upstream.
const ARROW: &str = "  -> ";

/// How wide the parts of an upstream's line are, the same for all.
struct Upstreams {
    address: usize,
    state: usize,
}

impl Upstreams {
    /// The longest address that leaves room for what stands behind it decides.
    fn of(status: &Status, width: usize) -> Upstreams {
        let all = || status.proxies.values().flat_map(|proxy| &proxy.upstreams);
        let state = all().map(|upstream| upstream.state.word().len()).max().unwrap_or_default();
        let behind =
            all().map(|u| 4 + state + counted(u.connections, "connection").len()).max().unwrap_or_default();
        let room = width.saturating_sub(ARROW.len() + behind);
        let lengths = all().map(|upstream| printable(&upstream.address).chars().count());
        Upstreams { address: lengths.filter(|length| *length <= room).max().unwrap_or_default(), state }
    }

    /// In a line, or in two where the address is too long for one.
    fn tell(&self, upstream: &UpstreamStatus, paint: Paint, lines: &mut Vec<String>) {
        let (wide, of_state) = (self.address, self.state);
        let state = format!("{:of_state$}", upstream.state.word());
        let state = paint.tone(upstream_tone(upstream.state), &state);
        let behind = format!("  {state}  {}", counted(upstream.connections, "connection"));
        let address = printable(&upstream.address);
        if address.chars().count() <= wide {
            lines.push(format!("{ARROW}{address:wide$}{behind}"));
        } else {
            lines.push(format!("{ARROW}{address}"));
            lines.push(format!("{:indent$}{behind}", "", indent = ARROW.len() + wide));
        }
    }
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
        assert_eq!(render(&status, Paint(false), None), screen);
        let coloured = render(&status, Paint(true), None);
        assert!(coloured.contains("  \x1b[31mdown\x1b[0m  1 conn"), "{coloured}");
        assert!(coloured.contains("  \x1b[32mup  \x1b[0m  12 conn"), "{coloured}");
        let plain =
            ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"].iter().fold(coloured, |c, s| c.replace(s, ""));
        assert_eq!(plain, screen);

        status.state = State::Draining;
        status.adopted.connections = 1;
        assert!(render(&status, Paint(false), None).contains(
            "Draining: 13 connections left\nTaken over at the start: 0 listeners and 1 connection\n"
        ));
        status.adopted.pause_ms = Some(31);
        assert!(render(&status, Paint(false), None).contains("1 connection, after a pause of 31 ms\n"));
        status.state = State::Running;
        status.proxies.clear();
        assert!(render(&status, Paint(false), None).contains("No proxy is configured"));
    }

    /// All that a wide screen has, at any width.
    #[test]
    fn a_narrow_screen_says_nothing_less() {
        let upstream = |address: &str| UpstreamStatus {
            address: address.to_string(),
            state: UpstreamState::Draining,
            connections: 12_345,
        };
        let proxy = |state, addresses: &[&str]| ProxyStatus {
            state,
            holding: true,
            protocol: "tcp".to_string(),
            connections: Connections {
                active: 10_001,
                held: 10_002,
                accepted: 10_003,
                drained: 10_004,
                cut: 10_005,
                failed: 10_006,
            },
            bytes: Bytes { to_upstream: 1_288_490_189, to_client: 17 },
            upstreams: addresses.iter().map(|address| upstream(address)).collect(),
        };
        let v6 = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let path = format!("unix:/run/{}", "x".repeat(98));
        let name = "n".repeat(64);
        for proxies in [
            vec![("web".to_owned(), proxy(State::Running, &["127.0.0.1:8000"]))],
            vec![("web".to_owned(), proxy(State::HandingOver, &[v6, "127.0.0.1:8000"]))],
            vec![(name, proxy(State::Running, &[&path])), ("b".to_owned(), proxy(State::Draining, &[v6]))],
        ] {
            let status = Status {
                version: "0.1.0".to_string(),
                pid: 812,
                state: State::Running,
                uptime_s: 11_530,
                adopted: Adopted { listeners: 100, connections: 100_000, pause_ms: Some(1_031) },
                proxies: proxies.into_iter().collect(),
            };
            let words = |text: &str| {
                text.to_lowercase().split_whitespace().map(|word| word.replace(',', "")).collect()
            };
            let wide: std::collections::BTreeSet<String> = words(&render(&status, Paint(false), None));
            for width in [60, 79, 80, 100, 132, 200] {
                let narrow = render(&status, Paint(false), Some(width));
                let told = words(&narrow);
                let missing: Vec<_> =
                    wide.iter().filter(|word| !told.contains(*word) && word.len() < 30).collect();
                assert!(missing.is_empty(), "{missing:?} at {width}:\n{narrow}");
                let addresses = |line: &str| line.starts_with(ARROW) || line.starts_with("nnn");
                let long = narrow.lines().find(|line| line.chars().count() > width && !addresses(line));
                assert_eq!(long, None, "{width}:\n{narrow}");
                assert_eq!(render(&status, Paint(true), Some(width)).lines().count(), narrow.lines().count());
            }
        }
    }

    #[test]
    fn it_fits_into_80_columns() {
        let upstream = |address: &str, connections| UpstreamStatus {
            address: address.to_string(),
            state: UpstreamState::Up,
            connections,
        };
        let status = Status {
            version: "0.1.0".to_string(),
            pid: 812,
            state: State::Running,
            uptime_s: 60,
            adopted: Adopted::default(),
            proxies: [(
                "web".to_string(),
                ProxyStatus {
                    state: State::Running,
                    holding: false,
                    protocol: "tcp".to_string(),
                    connections: Connections { active: 12, accepted: 1234, ..Connections::default() },
                    bytes: Bytes { to_upstream: 1_288_490_189, to_client: 17 },
                    upstreams: vec![
                        upstream("127.0.0.1:8000", 12),
                        upstream("unix:/run/a/very/long/path/to/the/socket/of/the/application.sock", 0),
                    ],
                },
            )]
            .into(),
        };
        let screen = "\
drained 0.1.0, running, pid 812, up 1m
Serving 12 connections of 1 proxy

PROXY  STATE    PROTOCOL  ACTIVE  HELD  ACCEPTED  DRAINED  CUT  FAILED
web    running  tcp           12     0      1234        0    0       0
  to upstream 1.2 GiB, to client 17 B
  -> 127.0.0.1:8000  up  12 connections
  -> unix:/run/a/very/long/path/to/the/socket/of/the/application.sock
                     up  0 connections";
        assert_eq!(render(&status, Paint(false), Some(80)), screen);
    }
}
