//! What `drainctl top` shows, and what a key does: no terminal, no socket, no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::control::connections::{Listing, Query, Row, Sort};
use crate::control::paint::printable;
use crate::control::status::Status;

/// Rows that are asked for: more than anybody scrolls through.
const MOST_ROWS: usize = 1_000;
/// Rates over less than this would jump.
const SHORTEST_MEASURE: Duration = Duration::from_millis(500);
const LONGEST_FILTER: usize = 64;

/// One answer of the daemon.
pub struct Told {
    pub at: Instant,
    pub status: Status,
    pub listing: Listing,
}

/// What happens a second, of one proxy or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub accepted: f64,
    pub to_upstream: f64,
    pub to_client: f64,
}

/// What the keys do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    List,
    /// The filter is being written; what it was before.
    Filter {
        before: String,
    },
    /// It is asked whether an upstream is to be drained.
    Confirm {
        proxy: String,
        upstream: String,
    },
    Help,
}

/// What is to be done after something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Stay,
    /// Take the terminal anew.
    Redraw,
    /// There is another [query](Top::query).
    Ask,
    Drain {
        proxy: String,
        upstream: String,
    },
    Quit,
}

/// All that is shown.
#[derive(Default)]
pub struct Top {
    pub status: Option<Status>,
    pub listing: Listing,
    /// None: not known yet.
    pub rates: Option<BTreeMap<String, Rate>>,
    /// Why the daemon did not answer last.
    pub gone: Option<String>,
    pub sort: Sort,
    pub filter: String,
    pub mode: Mode,
    /// Shown until the next key.
    pub note: Option<String>,
    /// The row that is marked.
    pub selected: usize,
    /// The first row that is seen.
    pub first: usize,
    /// How many rows are seen; who draws says so.
    pub page: usize,
    /// Something else was asked for: what is told next begins with its first row.
    asked_anew: bool,
    measured: Option<Measure>,
}

/// What was counted when.
struct Measure {
    at: Instant,
    pid: u32,
    counts: BTreeMap<String, [u64; 3]>,
}

impl Top {
    /// What to ask the daemon.
    pub fn query(&self) -> Query {
        let text = (!self.filter.is_empty()).then(|| self.filter.clone());
        Query { text, sort: self.sort, limit: Some(MOST_ROWS), ..Query::default() }
    }

    /// The daemon answered.
    pub fn told(&mut self, told: Told) -> Step {
        let Told { at, status, listing } = told;
        self.measure(at, &status);
        let marked = self.marked().map(|row| row.id);
        let found = marked.and_then(|id| listing.connections.iter().position(|row| row.id == id));
        self.selected = match std::mem::take(&mut self.asked_anew) {
            true => 0,
            false => found.unwrap_or(self.selected),
        };
        (self.status, self.listing, self.gone) = (Some(status), listing, None);
        self.go(0);
        Step::Stay
    }

    /// It did not, and `why`. What it told last stays.
    pub fn gone(&mut self, why: String) -> Step {
        (self.gone, self.rates, self.measured) = (Some(printable(&why).into_owned()), None, None);
        Step::Stay
    }

    /// Something to say.
    pub fn note(&mut self, note: String) -> Step {
        self.note = Some(printable(&note).into_owned());
        Step::Stay
    }

    /// The row that is marked, if there is one.
    pub fn marked(&self) -> Option<&Row> {
        self.listing.connections.get(self.selected)
    }

    /// All proxies together.
    pub fn rate(&self) -> Option<Rate> {
        let sum = |sum: Rate, rate: &Rate| Rate {
            accepted: sum.accepted + rate.accepted,
            to_upstream: sum.to_upstream + rate.to_upstream,
            to_client: sum.to_client + rate.to_client,
        };
        Some(self.rates.as_ref()?.values().fold(Rate::default(), sum))
    }

    fn measure(&mut self, at: Instant, status: &Status) {
        let counts = status.proxies.iter().map(|(name, proxy)| {
            let counts = [proxy.connections.accepted, proxy.bytes.to_upstream, proxy.bytes.to_client];
            (name.clone(), counts)
        });
        let now = Measure { at, pid: status.pid, counts: counts.collect() };
        let Some(then) = self.measured.take() else {
            self.measured = Some(now);
            return;
        };
        let passed = at.saturating_duration_since(then.at);
        if then.pid != now.pid {
            (self.rates, self.measured) = (None, Some(now));
        } else if passed < SHORTEST_MEASURE {
            self.measured = Some(then);
        } else {
            self.rates = Some(now.since(&then, passed));
            self.measured = Some(now);
        }
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Step {
        self.note = None;
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if has_control => return Step::Quit,
            KeyCode::Char('l') if has_control => return Step::Redraw,
            KeyCode::Char(_) if has_control => return Step::Stay,
            _ => {}
        }
        match std::mem::take(&mut self.mode) {
            Mode::List => self.key_in_list(key.code),
            Mode::Filter { before } => self.key_in_filter(key.code, before),
            Mode::Confirm { proxy, upstream } => match key.code {
                KeyCode::Char('y' | 'Y') => Step::Drain { proxy, upstream },
                _ => self.note("nothing is drained".to_owned()),
            },
            Mode::Help => Step::Stay,
        }
    }

    fn key_in_list(&mut self, key: KeyCode) -> Step {
        let page = isize::try_from(self.page.max(1)).unwrap_or(isize::MAX);
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter { before: self.filter.clone() },
            KeyCode::Char('s') => {
                (self.sort, self.asked_anew) = (self.sort.next(), true);
                return Step::Ask;
            }
            KeyCode::Char('d') => return self.want_drain(),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(page),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            _ => {}
        }
        Step::Stay
    }

    /// What is written counts at once.
    fn key_in_filter(&mut self, key: KeyCode, before: String) -> Step {
        match key {
            KeyCode::Enter => return Step::Stay,
            KeyCode::Esc => {
                let changed = before != self.filter;
                self.filter = before;
                return if changed { Step::Ask } else { Step::Stay };
            }
            KeyCode::Backspace if self.filter.pop().is_none() => return Step::Stay,
            KeyCode::Backspace => {}
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < LONGEST_FILTER => {
                self.filter.push(c);
            }
            _ => {
                self.mode = Mode::Filter { before };
                return Step::Stay;
            }
        }
        (self.mode, self.asked_anew) = (Mode::Filter { before }, true);
        Step::Ask
    }

    fn want_drain(&mut self) -> Step {
        match self.marked() {
            None => self.note("no connection is marked".to_owned()),
            Some(Row { upstream: None, .. }) => self.note("this connection has no upstream".to_owned()),
            Some(Row { proxy, upstream: Some(upstream), .. }) => {
                self.mode = Mode::Confirm { proxy: proxy.clone(), upstream: upstream.clone() };
                Step::Stay
            }
        }
    }

    /// Marks a row so many further down, as far as there are any.
    fn go(&mut self, by: isize) {
        let last = self.listing.connections.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// So many rows are seen from now on, and the marked one is among them.
    pub fn scroll(&mut self, page: usize) {
        self.page = page;
        let last = self.listing.connections.len().saturating_sub(page);
        let lowest = (self.selected + 1).saturating_sub(page);
        self.first = self.first.clamp(lowest.min(self.selected), self.selected).min(last.max(lowest));
    }
}

impl Measure {
    /// A proxy that was not there counts from nothing.
    fn since(&self, then: &Measure, passed: Duration) -> BTreeMap<String, Rate> {
        let rate = |(name, now): (&String, &[u64; 3])| {
            let before = then.counts.get(name).copied().unwrap_or_default();
            let a_second = |n: usize| now[n].saturating_sub(before[n]) as f64 / passed.as_secs_f64();
            let rate = Rate { accepted: a_second(0), to_upstream: a_second(1), to_client: a_second(2) };
            (name.clone(), rate)
        };
        self.counts.iter().map(rate).collect()
    }
}
