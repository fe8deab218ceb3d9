//! How `drainctl top` looks at any size: what does not fit is left out, the connections last.

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{Mode, Rate, Top};
use crate::control::connections::{Doing, Row};
use crate::control::paint::{Tone, printable};
use crate::control::screen::{tone, upstream_tone};
use crate::control::status::{ProxyStatus, Status};
use crate::control::table::{Cell, Column, Shape};
use crate::control::words::{bytes, counted, time};

/// Lines that are not the proxies': two at the top, three of the connections with some rows, the keys.
const OTHER_LINES: usize = 11;

/// The second one where there is no room for the first.
const KEYS: [&str; 2] =
    ["q quit  s sort  / filter  d drain  ? help", "q quit s sort / filter d drain ? help"];

const HELP: [&str; 14] = [
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
    column("UPSTREAM", false, 2),
    column("PROXY", false, 7),
    column("PROTOCOL", false, 8),
    column("STATE", false, 1),
    column("AGE", true, 3),
    column("IDLE", true, 4),
    column("TO UPSTREAM", true, 6),
    column("TO CLIENT", true, 5),
];

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, top: &mut Top, has_colours: bool) {
    let area = frame.area();
    let mut page = Page { area, buffer: frame.buffer_mut(), y: area.top(), has_colours };
    head(&mut page, top);
    if let Some(status) = &top.status {
        let room = usize::from(area.height).saturating_sub(OTHER_LINES);
        // A head and one line are the least that says anything.
        if room >= 2 && !status.proxies.is_empty() {
            page.blank();
            proxies(&mut page, status, top, room);
        }
    }
    connections(&mut page, top);
    last_line(&mut page, top);
    match &top.mode {
        Mode::Help => page.window(" Keys ", &HELP.map(str::to_owned)),
        Mode::Confirm { proxy, upstream } => {
            let text = question(top, proxy, upstream);
            page.window(" Drain ", &text);
        }
        Mode::List | Mode::Filter { .. } => {}
    }
}

fn head(page: &mut Page<'_>, top: &Top) {
    let Some(status) = &top.status else { return };
    let uptime = time(Duration::from_secs(status.uptime_s));
    let version = printable(&status.version);
    page.line(vec![
        page.toned(format!("drained {version}"), Some(Tone::Strong)),
        Span::raw("  "),
        match &top.gone {
            Some(_) => page.toned("no answer".to_owned(), Some(Tone::Bad)),
            None => page.toned(status.state.word().to_owned(), Some(tone(status.state))),
        },
        Span::raw(format!("  up {uptime}  pid {}", status.pid)),
    ]);
    if let Some(why) = &top.gone {
        page.line(vec![page.toned(format!("Asked again each second: {why}"), Some(Tone::Bad))]);
        return;
    }
    let active = status.proxies.values().map(|proxy| proxy.connections.active).fold(0, u64::saturating_add);
    let active = counted(active, "connection");
    let text = match top.rate() {
        None => active,
        Some(Rate { accepted, to_upstream, to_client }) => {
            let (up, down) = (a_second(to_upstream), a_second(to_client));
            let long = format!("{active}  {accepted:.1} new/s  to upstreams {up}/s  to clients {down}/s");
            let is_wide = long.chars().count() <= usize::from(page.area.width);
            if is_wide { long } else { format!("{active}  {accepted:.1}/s  {up}/s  {down}/s") }
        }
    };
    page.line(vec![Span::raw(text)]);
}

fn a_second(rate: f64) -> String {
    bytes(rate.round() as u64)
}

/// In at most `room` lines.
fn proxies(page: &mut Page<'_>, status: &Status, top: &Top, room: usize) {
    let rows: Vec<Vec<Cell>> =
        status.proxies.iter().map(|(name, proxy)| proxy_row(name, proxy, top)).collect();
    let shape = Shape::of(&OF_PROXIES, &rows, usize::from(page.area.width));
    page.head(shape.head(&OF_PROXIES));
    let addresses = status.proxies.values().flat_map(|proxy| &proxy.upstreams);
    let width = addresses.map(|u| printable(&u.address).chars().count()).max().unwrap_or_default();
    let words = status.proxies.values().flat_map(|proxy| &proxy.upstreams).map(|u| u.state.word().len());
    let wide = words.max().unwrap_or_default();
    let mut lines: Vec<Vec<Span<'static>>> = Vec::new();
    for (row, proxy) in rows.iter().zip(status.proxies.values()) {
        lines.push(page.cells(shape.line(&OF_PROXIES, row)));
        lines.extend(proxy.upstreams.iter().map(|upstream| {
            let address = printable(&upstream.address);
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

fn proxy_row(name: &str, proxy: &ProxyStatus, top: &Top) -> Vec<Cell> {
    let rate = top.rates.as_ref().and_then(|rates| rates.get(name));
    let of_rate = |show: fn(&Rate) -> String| Cell::from(rate.map_or("-".to_owned(), show));
    let count = &proxy.connections;
    let bad = |n: u64| Cell { text: n.to_string(), tone: (n > 0).then_some(Tone::Bad) };
    vec![
        printable(name).into_owned().into(),
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
    let rows: Vec<Vec<Cell>> = top.listing.connections.iter().map(connection_row).collect();
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

fn connection_row(row: &Row) -> Vec<Cell> {
    let tone = match row.state {
        Doing::Active | Doing::SendingToUpstream | Doing::SendingToClient => Some(Tone::Good),
        Doing::Held | Doing::Connecting | Doing::Closing => Some(Tone::Warning),
        Doing::WaitingForUpstream | Doing::HalfClosed | Doing::Quiet => None,
    };
    vec![
        printable(&row.client).into_owned().into(),
        printable(row.upstream.as_deref().unwrap_or("-")).into_owned().into(),
        printable(&row.proxy).into_owned().into(),
        printable(&row.protocol).into_owned().into(),
        Cell { text: row.state.word().to_owned(), tone },
        time(Duration::from_millis(row.age_ms)).into(),
        time(Duration::from_millis(row.idle_ms)).into(),
        bytes(row.bytes.to_upstream).into(),
        bytes(row.bytes.to_client).into(),
    ]
}

fn last_line(page: &mut Page<'_>, top: &Top) {
    let Some(last) = page.area.bottom().checked_sub(1) else { return };
    if page.y > last {
        return;
    }
    page.y = last;
    let line = match (&top.mode, &top.note) {
        (Mode::Filter { .. }, _) => {
            let width = usize::from(page.area.width).saturating_sub(2);
            let text: Vec<char> = top.filter.chars().collect();
            let end: String = text[text.len().saturating_sub(width)..].iter().collect();
            vec![Span::raw(format!("/{end}")), Span::styled(" ", Modifier::REVERSED)]
        }
        (_, Some(note)) => vec![page.toned(note.clone(), Some(Tone::Warning))],
        (_, None) => vec![Span::raw(KEYS[usize::from(KEYS[0].len() > usize::from(page.area.width))])],
    };
    page.line(line);
}

fn question(top: &Top, proxy: &str, upstream: &str) -> Vec<String> {
    let of = top.status.as_ref().and_then(|status| status.proxies.get(proxy));
    let known = of.and_then(|proxy| proxy.upstreams.iter().find(|u| u.address == upstream));
    let mut lines = vec![
        format!("Drain {}", printable(upstream)),
        format!("of proxy {}?", printable(proxy)),
        String::new(),
        "No new connection goes there, and those".to_owned(),
        "that are there come to their end.".to_owned(),
        String::new(),
        "y yes   any other key no".to_owned(),
    ];
    if let Some(upstream) = known {
        lines.insert(2, format!("It has {}.", counted(upstream.connections, "connection")));
    }
    lines
}

/// The terminal, from its first line down.
struct Page<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    y: u16,
    has_colours: bool,
}

impl Page<'_> {
    fn left(&self) -> usize {
        usize::from(self.area.bottom().saturating_sub(self.y))
    }

    fn blank(&mut self) {
        self.y = self.y.saturating_add(1);
    }

    /// What does not fit is cut off.
    fn line(&mut self, line: Vec<Span<'static>>) {
        if self.left() > 0 {
            self.buffer.set_line(self.area.left(), self.y, &Line::from(line), self.area.width);
            self.blank();
        }
    }

    fn head(&mut self, text: String) {
        let head = self.toned(text, Some(Tone::Strong));
        self.line(vec![head]);
    }

    fn marked(&mut self, line: Vec<Span<'static>>) {
        let row = Rect { y: self.y, height: 1, ..self.area }.intersection(self.area);
        self.line(line);
        self.buffer.set_style(row, Modifier::REVERSED);
    }

    fn cells(&self, cells: Vec<(String, Option<Tone>)>) -> Vec<Span<'static>> {
        cells.into_iter().map(|(text, tone)| self.toned(text, tone)).collect()
    }

    fn toned(&self, text: String, tone: Option<Tone>) -> Span<'static> {
        let colour = match tone {
            None => return Span::raw(text),
            Some(Tone::Strong) => return Span::styled(text, Modifier::BOLD),
            Some(Tone::Good) => Color::Green,
            Some(Tone::Warning) => Color::Yellow,
            Some(Tone::Bad) => Color::Red,
        };
        // Without colours what is bad is still seen.
        let style = match (self.has_colours, tone) {
            (true, _) => Style::new().fg(colour),
            (false, Some(Tone::Bad)) => Modifier::BOLD.into(),
            (false, _) => Style::new(),
        };
        Span::styled(text, style)
    }

    /// A frame in the middle with these lines, as far as they fit.
    fn window(&mut self, title: &str, lines: &[String]) {
        let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        let fit = |n: usize, most: u16| u16::try_from(n).unwrap_or(most).min(most);
        let (width, height) = (fit(longest + 4, self.area.width), fit(lines.len() + 2, self.area.height));
        let left = self.area.left() + (self.area.width - width) / 2;
        let above = self.area.top() + (self.area.height - height) / 2;
        let frame = Rect { x: left, y: above, width, height };
        for at in frame.positions() {
            self.buffer[at].reset();
        }
        if width < 4 || height < 3 {
            return;
        }
        let inner = usize::from(width) - 2;
        let rule = |left: char, right: char, title: &str| {
            let title: String = title.chars().take(inner).collect();
            format!("{left}{title:─<inner$}{right}")
        };
        let mut row =
            |y: u16, text: String| self.buffer.set_stringn(left, y, text, usize::from(width), Style::new());
        row(above, rule('┌', '┐', title));
        for (y, line) in (above + 1..above + height - 1).zip(lines) {
            let room = inner - 2;
            let line: String = line.chars().take(room).collect();
            row(y, format!("│ {line:room$} │"));
        }
        row(above + height - 1, rule('└', '┘', ""));
    }
}
