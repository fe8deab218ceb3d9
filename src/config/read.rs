//! From a document to a draft: what each key of a file means.

use std::path::Path;
use std::str;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address;
use super::document::{Table, kind, suggest};
use super::draft::{Draft, DrainDraft, ProxyDraft};
use super::duration;
use super::health;
use super::place::{At, Report, Source};
use super::{OnRestart, Protocol, SendProxy};

const TOP_KEYS: &[&str] = &["daemon", "drain", "handover", "proxy"];
const DAEMON_KEYS: &[&str] = &["workers", "control", "metrics"];
const DRAIN_KEYS: &[&str] = &["lame_duck", "deadline", "deadline_on_shutdown", "spread"];
const PROXY_KEYS: &[&str] = &[
    "listen",
    "upstream",
    "protocol",
    "connect_timeout",
    "idle_timeout",
    "max_connections",
    "hold",
    "send_proxy",
    "check",
    "drain",
];
const PROTOCOLS: &[&str] = &["tcp"];

/// Of the fixed interface, and not done by this version: told, never silently ignored.
const HANDOVER_KEYS: &[&str] = &["on_restart", "crash_after"];
const LATER_PROTOCOLS: &[&str] = &["http1", "http2", "postgres", "redis", "mqtt", "smtp", "imap"];

/// What a duration that cannot be zero is at least.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
const MOST_WORKERS: u32 = 1024;
const MOST_CONNECTIONS: u32 = 10_000_000;
const LONGEST_NAME: usize = 64;

/// Every key that is read, for the tests that hold the texts to them.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    [DAEMON_KEYS, DRAIN_KEYS, PROXY_KEYS].into_iter().flatten().copied()
}

/// Reads one file into the draft.
pub(super) fn file(order: usize, path: &Path, content: &[u8], draft: &mut Draft, report: &mut Report) {
    let text = match str::from_utf8(content) {
        Ok(text) => text,
        Err(e) => {
            let valid = str::from_utf8(&content[..e.valid_up_to()]).unwrap_or_default();
            let place = Source::new(order, path, valid).place(valid.len());
            return report.error(&place, "this is not UTF-8 text");
        }
    };
    let source = Source::new(order, path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map_or(source.whole(), |span| source.place(span.start));
        report.broken(&place, syntax(error.message(), source.line(&place)));
    }
    let table = Table::new("the file", document.get_ref(), &source);
    read_top(&table, draft, report);
}

/// A syntax error, and the mistake that is mostly behind it: a string without quotes.
fn syntax(message: &str, line: &str) -> String {
    if message == "duplicate key" {
        let hint = if line.contains('=') { "; several values are one list" } else { "" };
        return format!("duplicate key: it stands above already{hint}");
    }
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    if !value.starts_with(|c: char| c.is_ascii_alphanumeric() || "/:.*@-".contains(c)) {
        return message.to_string();
    }
    let value = value.split(['#', ' ']).next().unwrap_or_default().replace(['"', '\''], "");
    let hint = format!("a string stands in quotes: \"{value}\"");
    if message.contains("quoted") {
        hint
    } else {
        format!("{}; {hint}", message.trim_end_matches(", expected nothing"))
    }
}

fn read_top(file: &Table<'_>, draft: &mut Draft, report: &mut Report) {
    for (At { place, value: key }, value) in file.entries() {
        // Behind a broken header, the keys of its table seem to stand outside one.
        if !TOP_KEYS.contains(&key) && !report.is_broken_above(&place) {
            report.error(&place, unknown_top(key, value));
        }
    }
    if let Some(table) = file.table("daemon", "[daemon]", report) {
        table.check_keys(DAEMON_KEYS, &[], report);
        let workers = table.integer("workers", 1..=MOST_WORKERS, report);
        set_once("workers", &mut draft.workers, workers, report);
        let control = table.string("control", report);
        let control = control.and_then(|at| judge("control", at, report, address::socket_path));
        set_once("control", &mut draft.control, control, report);
        let metrics = table.string("metrics", report);
        let metrics = metrics.and_then(|at| judge("metrics", at, report, address::metrics));
        set_once("metrics", &mut draft.metrics, metrics, report);
    }
    if let Some(table) = file.table("drain", "[drain]", report) {
        let DrainDraft { lame_duck, deadline, deadline_on_shutdown, spread } = read_drain(&table, report);
        set_once("lame_duck", &mut draft.drain.lame_duck, lame_duck, report);
        set_once("deadline", &mut draft.drain.deadline, deadline, report);
        set_once("deadline_on_shutdown", &mut draft.drain.deadline_on_shutdown, deadline_on_shutdown, report);
        set_once("spread", &mut draft.drain.spread, spread, report);
    }
    if let Some(table) = file.table("handover", "[handover]", report) {
        table.check_keys(HANDOVER_KEYS, &[], report);
        let on_restart = table.string("on_restart", report);
        let on_restart = on_restart.and_then(|at| judge("on_restart", at, report, on_restart_word));
        set_once("on_restart", &mut draft.on_restart, on_restart, report);
        let crash_after = table.string("crash_after", report);
        let crash_after = crash_after.and_then(|at| judge("crash_after", at, report, crash_after_word));
        set_once("crash_after", &mut draft.crash_after, crash_after, report);
    }
    if let Some(table) = file.table("proxy", "[proxy]", report) {
        read_proxies(&table, draft, report);
    }
}

fn on_restart_word(word: &str) -> Result<OnRestart, String> {
    match word {
        "auto" => Ok(OnRestart::Auto),
        "always" => Ok(OnRestart::Always),
        "never" => Ok(OnRestart::Never),
        _ => Err(format!("{word:?}: write \"auto\", \"always\" or \"never\"")),
    }
}

fn crash_after_word(word: &str) -> Result<Option<Duration>, String> {
    if word == "never" {
        return Ok(None);
    }
    duration::parse(word, Duration::ZERO)
        .map(Some)
        .map_err(|message| format!("{message}; or write \"never\""))
}

fn read_drain(table: &Table<'_>, report: &mut Report) -> DrainDraft {
    table.check_keys(DRAIN_KEYS, &[], report);
    DrainDraft {
        lame_duck: table.duration("lame_duck", Duration::ZERO, report),
        deadline: table.duration("deadline", SHORTEST, report),
        deadline_on_shutdown: table.duration("deadline_on_shutdown", SHORTEST, report),
        spread: table.duration("spread", Duration::ZERO, report),
    }
}

fn read_proxies(table: &Table<'_>, draft: &mut Draft, report: &mut Report) {
    for (At { place, value: name }, value) in table.entries() {
        if !matches!(value.get_ref(), DeValue::Table(_)) && PROXY_KEYS.contains(&name) {
            report
                .error(&place, format!("{name} stands in [proxy] itself: a proxy has a name, [proxy.NAME]"));
            continue;
        }
        if let Err(message) = check_name(name) {
            report.error(&place, message);
        }
        if let Some(first) = draft.proxies.iter().find(|proxy| proxy.name.value == name) {
            let first = &first.name.place;
            report.error(&place, format!("the proxy {name:?} is defined twice, first at {first}"));
            continue;
        }
        if let Some(table) = table.table(name, format!("[proxy.{name}]"), report) {
            let name = At { place, value: name.to_string() };
            draft.proxies.push(read_proxy(name, &table, report));
        }
    }
}

fn read_proxy(name: At<String>, table: &Table<'_>, report: &mut Report) -> ProxyDraft {
    table.check_keys(PROXY_KEYS, &[], report);
    let mut proxy = ProxyDraft::new(name);
    proxy.listen = table
        .strings("listen", report)
        .map(|list| list.into_iter().filter_map(|at| judge("listen", at, report, address::listen)).collect());
    proxy.upstream = table.strings("upstream", report).map(|list| {
        list.into_iter().filter_map(|at| judge("upstream", at, report, address::upstream)).collect()
    });
    for (key, value) in [("listen", proxy.listen.is_some()), ("upstream", proxy.upstream.is_some())] {
        if !value && !report.is_broken(&proxy.name.place) {
            let text = format!("{} has no {key}: write {key} = \"127.0.0.1:8000\" or the like", table.name());
            report.error(&proxy.name.place, text);
        }
    }
    if let Some(at) = table.string("protocol", report) {
        judge("protocol", at, report, protocol);
    }
    if let Some(at) = table.duration("connect_timeout", SHORTEST, report) {
        proxy.connect_timeout = at.value;
    }
    if let Some(at) = table.duration("idle_timeout", Duration::ZERO, report) {
        proxy.idle_timeout = at.value;
    }
    if let Some(at) = table.integer("max_connections", 0..=MOST_CONNECTIONS, report) {
        proxy.max_connections = at.value;
    }
    if let Some(at) = table.duration("hold", Duration::ZERO, report) {
        proxy.hold = at.value;
    }
    if let Some(at) =
        table.string("send_proxy", report).and_then(|at| judge("send_proxy", at, report, send_proxy))
    {
        proxy.send_proxy = at.value;
    }
    if let Some(check) = table.table("check", format!("check of {}", table.name()), report) {
        proxy.check = Some(health::check(&check, report));
    }
    if let Some(drain) = table.table("drain", format!("drain of {}", table.name()), report) {
        proxy.drain = read_drain(&drain, report);
    }
    proxy
}

/// A protocol's name as the file and `--protocol` take it.
pub(super) fn protocol(name: &str) -> Result<Protocol, String> {
    match name {
        "tcp" => Ok(Protocol::Tcp),
        _ if LATER_PROTOCOLS.contains(&name) => {
            Err(format!("{name:?} is not available in this version: write \"tcp\""))
        }
        _ => Err(format!("unknown protocol {name:?}, {}", suggest(name, PROTOCOLS.iter().copied()))),
    }
}

fn send_proxy(name: &str) -> Result<SendProxy, String> {
    match name {
        "off" => Ok(SendProxy::Off),
        "v1" => Ok(SendProxy::V1),
        "v2" => Ok(SendProxy::V2),
        _ => Err(format!("unknown version {name:?}: off, v1 and v2 are possible")),
    }
}

fn judge<T>(
    key: &str,
    text: At<&str>,
    report: &mut Report,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<At<T>> {
    match read(text.value) {
        Ok(value) => Some(text.map(|_| value)),
        Err(message) => {
            report.error(&text.place, format!("{key}: {message}"));
            None
        }
    }
}

/// A key of [daemon] or [drain] may be set in one file alone.
fn set_once<T>(key: &str, slot: &mut Option<At<T>>, new: Option<At<T>>, report: &mut Report) {
    let Some(new) = new else { return };
    match slot {
        Some(first) => report.error(&new.place, format!("{key} is set twice, first at {}", first.place)),
        None => *slot = Some(new),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(format!(
            "the name {name:?} of a proxy is {} long: 1 to {LONGEST_NAME} characters",
            name.len()
        ));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-' && *c != '_') {
        Some(bad) => {
            Err(format!("the name {name:?} of a proxy has {bad:?} in it: A-Z a-z 0-9 _ - are possible"))
        }
        None => Ok(()),
    }
}

/// A key at the top that is none: mostly one that lacks its table, or a proxy without `proxy.`.
fn unknown_top(key: &str, value: &Spanned<DeValue<'_>>) -> String {
    if let DeValue::Table(table) = value.get_ref()
        && table.keys().any(|k| matches!(k.get_ref().as_ref(), "listen" | "upstream"))
    {
        return format!("unknown table [{key}]: write a proxy as [proxy.{key}]");
    }
    for (keys, table) in [(PROXY_KEYS, "[proxy.NAME]"), (DAEMON_KEYS, "[daemon]"), (DRAIN_KEYS, "[drain]")] {
        if keys.contains(&key) {
            return format!("{key} stands outside a table: it belongs under {table}");
        }
    }
    let what = if kind(value.get_ref()) == "a table" { "table" } else { "key" };
    format!("unknown {what} {key:?}, {}", suggest(key, TOP_KEYS.iter().copied()))
}
