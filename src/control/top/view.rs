//! How `drainctl top` looks at any size: what does not fit is left out, the connections last.

use std::time::Duration;

use ratatui::Frame;
use ratatui::style::Modifier;
use ratatui::text::Span;

use super::model::{Mode, Rate, Top};
use super::page::Page;
use crate::control::connections::{Doing, Row};
use crate::control::paint::{Tone, printable};
use crate::control::screen::{tone, upstream_tone};
use crate::control::status::{ProxyStatus, Status, UpstreamStatus};
use crate::control::table::{Cell, Column, Shape};
use crate::control::words::{bytes, counted, shorten, time, wrap};

/// Lines that are not the proxies': two at the top, three of the connections with some rows, the keys.
const OTHER_LINES: usize = 11;

/// Names and addresses are never shortened to less: an IPv4 address with its port.
const SHORTEST_TEXT: usize = 21;

/// The second one where there is no room for the first.
const KEYS: [&str; 2] =
    ["q quit  s sort  / filter  d drain  ? help", "q quit s sort / filter d drain ? help"];

/// The second one where there is no room for the first.
const HELP: [&[&str]; 2] = [&LONG_HELP, &SHORT_HELP];

const SHORT_HELP: [&str; 8] = [
    "q, Esc, Ctrl-C   quit",
    "s                another order",
    "/                filter",
    "Up, Down, k, j   mark another one",
    "PgUp, PgDn, Home, End, g, G   move",
    "d                drain an upstream",
    "Ctrl-L           draw anew",
    "NEW/S: connections a second",
];

const LONG_HELP: [&str; 14] = [
    "q, Esc, Ctrl-C   quit",
    "s                sort by the next of age, idle,",
    "                 bytes, client, upstream",
    "/                filter: what is written must stand",
    "                 in an address, a name or a state",
    "Up, Down, k, j   mark another connection",
    "PgUp, PgDn       a page further",
    "Home, End, g, G  the first, the last",
    "d                drain the upstream of the marked",
    "                 connection, after a question",
    "Ctrl-L           draw anew",
    "",
    "NEW/S: connections a second. Bytes: a second",
    "above, of the whole connection below.",
];

const fn column(title: &'static str, is_number: bool, rank: u8) -> Column {
    Column { title, is_number, rank }
}

const OF_PROXIES: [Column; 10] = [
    column("PROXY", false, 0),
    column("STATE", false, 1),
    column("ACTIVE", true, 2),
    column("NEW/S", true, 3),
    column("UPSTREAM/S", true, 4),
    column("CLIENT/S", true, 5),
    column("HELD", true, 6),
    column("CUT", true, 8),
    column("FAILED", true, 7),
    column("PROTOCOL", false, 9),
];

const OF_CONNECTIONS: [Column; 9] = [
    column("CLIENT", false, 0),
    column("UPSTREAM", false, 4),
    column("PROXY", false, 7),
    column("PROTOCOL", false, 8),
    column("STATE", false, 1),
    column("AGE", true, 2),
    column("IDLE", true, 3),
    column("TO UPSTREAM", true, 6),
    column("TO CLIENT", true, 5),
];

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, top: &mut Top, has_colours: bool) {
    let area = frame.area();
    let mut page = Page { area, buffer: frame.buffer_mut(), y: area.top(), has_colours };
    head(&mut page, top);
    let below = page.y;
    if let Some(status) = &top.status {
        let room = usize::from(area.height).saturating_sub(OTHER_LINES);
        // A head and one line are the least that says anything.
        if room >= 2 && !status.proxies.is_empty() {
            page.blank();
            proxies(&mut page, status, top, room);
        }
    }
    connections(&mut page, top);
    if top.gone.is_some() {
        page.dim_from(below);
    }
    last_lines(&mut page, top);
    match &top.mode {
        Mode::Help => {
            let help = help(page.room());
            page.window(" Keys ", help);
        }
        Mode::Confirm { proxy, upstream } => {
            let text = question(top, proxy, upstream, page.room());
            page.window(" Drain ", text);
        }
        Mode::List | Mode::Filter { .. } => {}
    }
}

fn head(page: &mut Page<'_>, top: &Top) {
    let Some(status) = &top.status else { return };
    let name = format!("drained {}", printable(&status.version));
    let state = match &top.gone {
        Some(_) => ("no answer", Tone::Bad),
        None => (status.state.word(), tone(status.state)),
    };
    let up = format!("  up {}", time(Duration::from_secs(status.uptime_s)));
    let more = [format!("{up}  pid {}", status.pid), up, String::new()];
    let room = usize::from(page.area.width).saturating_sub(name.chars().count() + 2 + state.0.len());
    let more = first_in(more, room);
    page.line(vec![
        page.toned(name, Some(Tone::Strong)),
        Span::raw("  "),
        page.toned(state.0.to_owned(), Some(state.1)),
        Span::raw(more),
    ]);
    if let Some(why) = &top.gone {
        let why = format!("Asked again each second: {why}");
        // What it told last is worth most of the terminal.
        let most = usize::from(page.area.height * 2 / 5).max(1);
        for line in wrap(why.split(' '), usize::from(page.area.width)).into_iter().take(most) {
            page.line(vec![page.toned(line, Some(Tone::Bad))]);
        }
        return;
    }
    let active = status.proxies.values().map(|proxy| proxy.connections.active).fold(0, u64::saturating_add);
    let active = counted(active, "connection");
    let text = match top.rate() {
        None => active,
        Some(Rate { accepted, to_upstream, to_client }) => {
            let (up, down) = (a_second(to_upstream), a_second(to_client));
            let texts = [
                format!("{active}  {accepted:.1} new/s  to upstreams {up}/s  to clients {down}/s"),
                format!("{active}  {accepted:.1}/s  {up}/s  {down}/s"),
                format!("{accepted:.1} new/s  {up}/s  {down}/s"),
                active,
            ];
            first_in(texts, usize::from(page.area.width))
        }
    };
    page.line(vec![Span::raw(text)]);
}

/// The first of the texts that goes into so many columns, or the last.
fn first_in<const N: usize>(texts: [String; N], width: usize) -> String {
    let fits = |text: &&String| text.chars().count() <= width;
    texts.iter().find(fits).or(texts.last()).cloned().unwrap_or_default()
}

fn a_second(rate: f64) -> String {
    bytes(rate.round() as u64)
}

/// In at most `room` lines.
fn proxies(page: &mut Page<'_>, status: &Status, top: &Top, room: usize) {
    let all_wide = usize::from(page.area.width);
    let longest_name = SHORTEST_TEXT.max(all_wide / 4);
    let rows: Vec<Vec<Cell>> = status
        .proxies
        .iter()
        .map(|(name, proxy)| proxy_row(&shorten(&printable(name), longest_name), name, proxy, top))
        .collect();
    let shape = Shape::of(&OF_PROXIES, &rows, all_wide);
    page.head(shape.head(&OF_PROXIES));
    let upstreams = || status.proxies.values().flat_map(|proxy| &proxy.upstreams);
    let wide = upstreams().map(|u| u.state.word().len()).max().unwrap_or_default();
    let connections =
        upstreams().map(|u| counted(u.connections, "connection").len()).max().unwrap_or_default();
    // Whether it is up is seen in any case.
    let beside = all_wide.saturating_sub(6 + wide + connections);
    let longest = if beside >= SHORTEST_TEXT { beside } else { all_wide.saturating_sub(4 + wide) };
    let shown = |u: &UpstreamStatus| shorten(&printable(&u.address), longest);
    let width = upstreams().map(|u| shown(u).chars().count()).max().unwrap_or_default();
    let mut lines: Vec<Vec<Span<'static>>> = Vec::new();
    for (row, proxy) in rows.iter().zip(status.proxies.values()) {
        lines.push(page.cells(shape.line(&OF_PROXIES, row)));
        lines.extend(proxy.upstreams.iter().map(|upstream| {
            let address = shown(upstream);
            let state =
                page.toned(format!("{:wide$}", upstream.state.word()), Some(upstream_tone(upstream.state)));
            let connections = counted(upstream.connections, "connection");
            vec![Span::raw(format!("  {address:width$}  ")), state, Span::raw(format!("  {connections}"))]
        }));
    }
    // The head has one.
    let room = room - 1;
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    let left_out = lines.len() - shown;
    lines.into_iter().take(shown).for_each(|line| page.line(line));
    if left_out > 0 {
        page.line(vec![Span::raw(format!("  {left_out} more lines have no room"))]);
    }
}

/// `shown` is the name as far as there is room.
fn proxy_row(shown: &str, name: &str, proxy: &ProxyStatus, top: &Top) -> Vec<Cell> {
    let rate = top.rates.as_ref().and_then(|rates| rates.get(name));
    let of_rate = |show: fn(&Rate) -> String| Cell::from(rate.map_or("-".to_owned(), show));
    let count = &proxy.connections;
    let bad = |n: u64| Cell { text: n.to_string(), tone: (n > 0).then_some(Tone::Bad) };
    vec![
        shown.to_owned().into(),
        Cell { text: proxy.state.word().to_owned(), tone: Some(tone(proxy.state)) },
        count.active.to_string().into(),
        of_rate(|rate| format!("{:.1}", rate.accepted)),
        of_rate(|rate| a_second(rate.to_upstream)),
        of_rate(|rate| a_second(rate.to_client)),
        count.held.to_string().into(),
        bad(count.cut),
        bad(count.failed),
        printable(&proxy.protocol).into_owned().into(),
    ]
}

/// In all lines but the last.
fn connections(page: &mut Page<'_>, top: &mut Top) {
    let left = page.left().saturating_sub(1);
    if left >= 5 {
        page.blank();
    }
    page.line(title(page, top));
    let longest = SHORTEST_TEXT.max(usize::from(page.area.width) / 3);
    let rows: Vec<Vec<Cell>> =
        top.listing.connections.iter().map(|row| connection_row(row, longest)).collect();
    let shape = Shape::of(&OF_CONNECTIONS, &rows, usize::from(page.area.width));
    if page.left() > 2 {
        page.head(shape.head(&OF_CONNECTIONS));
    }
    let room = page.left().saturating_sub(1);
    top.scroll(room);
    for (n, row) in rows.iter().enumerate().skip(top.first).take(room) {
        let line = page.cells(shape.line(&OF_CONNECTIONS, row));
        if n == top.selected { page.marked(line) } else { page.line(line) }
    }
}

fn title(page: &Page<'_>, top: &Top) -> Vec<Span<'static>> {
    let listing = &top.listing;
    let mut text = match top.filter.is_empty() {
        true => format!("{} by {}", counted(listing.total, "connection"), top.sort.word()),
        false => {
            let filter = printable(&top.filter);
            format!("{} of {} with {filter:?} by {}", listing.matching, listing.total, top.sort.word())
        }
    };
    if listing.left_out() > 0 {
        text.push_str(&format!(", the first {}", listing.connections.len()));
    }
    let mut line = vec![page.toned(text, Some(Tone::Strong))];
    if listing.silent_workers > 0 {
        let silent = format!("  {} did not answer", counted(listing.silent_workers, "worker"));
        line.push(page.toned(silent, Some(Tone::Bad)));
    }
    line
}

/// With names and addresses of at most so many characters.
fn connection_row(row: &Row, longest: usize) -> Vec<Cell> {
    let tone = match row.state {
        Doing::Active | Doing::SendingToUpstream | Doing::SendingToClient => Some(Tone::Good),
        Doing::Held | Doing::Connecting | Doing::Closing => Some(Tone::Warning),
        Doing::WaitingForUpstream | Doing::HalfClosed | Doing::Quiet => None,
    };
    vec![
        shorten(&printable(&row.client), longest).into(),
        shorten(&printable(row.upstream.as_deref().unwrap_or("-")), longest).into(),
        shorten(&printable(&row.proxy), longest).into(),
        printable(&row.protocol).into_owned().into(),
        Cell { text: row.state.word().to_owned(), tone },
        time(Duration::from_millis(row.age_ms)).into(),
        time(Duration::from_millis(row.idle_ms)).into(),
        bytes(row.bytes.to_upstream).into(),
        bytes(row.bytes.to_client).into(),
    ]
}

fn last_lines(page: &mut Page<'_>, top: &Top) {
    let width = usize::from(page.area.width);
    let lines = match (&top.mode, &top.note) {
        (Mode::Filter { .. }, _) => {
            let text: Vec<char> = top.filter.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            let end: String = text[text.len().saturating_sub(width.saturating_sub(2))..].iter().collect();
            vec![vec![Span::raw(format!("/{end}")), Span::styled(" ", Modifier::REVERSED)]]
        }
        // Also where there is no room for the window.
        (Mode::Confirm { upstream, .. }, _) => {
            vec![vec![Span::raw(format!("y drains {}, any other key does not", printable(upstream)))]]
        }
        (Mode::Help, _) => vec![vec![Span::raw("any key closes this")]],
        (Mode::List, Some(note)) => {
            let most = usize::from(page.area.height / 3).max(1);
            let lines = wrap(note.split(' '), width).into_iter().take(most);
            lines.map(|line| vec![page.toned(line, Some(Tone::Warning))]).collect()
        }
        (Mode::List, None) => vec![vec![Span::raw(KEYS[usize::from(KEYS[0].len() > width)])]],
    };
    page.end_with(lines);
}

/// As much of it as goes into so many columns and lines.
fn help(room: (usize, usize)) -> Vec<String> {
    let help = HELP.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
    first_that_fits(help, room)
}

/// The same. The last line tells the keys.
fn question(top: &Top, proxy: &str, upstream: &str, room: (usize, usize)) -> Vec<String> {
    let of = top.status.as_ref().and_then(|status| status.proxies.get(proxy));
    let known = of.and_then(|proxy| proxy.upstreams.iter().find(|u| u.address == upstream));
    let mut asked = vec![format!("Drain {}", printable(upstream)), format!("of proxy {}?", printable(proxy))];
    asked.extend(known.map(|upstream| format!("It has {}.", counted(upstream.connections, "connection"))));
    let explained = "No new connection goes there, and those that are there come to their end.";
    let keys = "y yes   any other key no".to_owned();
    let wrapped =
        |lines: &[String]| lines.iter().flat_map(|line| wrap(line.split(' '), room.0)).collect::<Vec<_>>();
    let (asked, explained) = (wrapped(&asked), wrap(explained.split(' '), room.0.min(40)));
    let with = |blank: &[String], explained: &[String]| {
        [&asked, blank, explained, blank, std::slice::from_ref(&keys)].concat()
    };
    let blank = [String::new()];
    first_that_fits([with(&blank, &explained), with(&[], &explained), with(&[], &[])], room)
}

/// The last one where none does.
fn first_that_fits<const N: usize>(texts: [Vec<String>; N], (width, height): (usize, usize)) -> Vec<String> {
    let fits =
        |text: &&Vec<String>| text.len() <= height && text.iter().all(|line| line.chars().count() <= width);
    texts.iter().find(fits).or(texts.last()).cloned().unwrap_or_default()
}
