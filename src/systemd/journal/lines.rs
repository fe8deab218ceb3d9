//! Records as readable lines: `12:03:04.123 WARN  cut at the deadline  event=cut proxy=web`.
//!
//! For a terminal, a file, and journald's stream when its native socket can't be reached. A line is
//! written by one write. Values come from the network and from files, so control characters are
//! escaped: nothing that a peer sends reaches the terminal as a command.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;
use std::time::{Duration, SystemTime};

use slog::{Drain, KV, Key, Level, Never, OwnedKVList, Record, Serializer};

use crate::sys::clock;

/// What stands around the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    None,
    /// ANSI escape sequences.
    Ansi,
    /// No time and no level but `<4>` at the beginning, as journald reads from a stream, see sd-daemon(3).
    Priorities,
}

impl Colour {
    /// Colours on a terminal that knows them, unless $NO_COLOR is set to something.
    pub fn for_terminal(is_terminal: bool) -> Colour {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if is_terminal && !dumb && !set("NO_COLOR") { Colour::Ansi } else { Colour::None }
    }
}

/// A drain that writes lines to `W`. What can't be written is lost.
pub struct Lines<W> {
    colour: Colour,
    out: RefCell<(W, String)>,
}

impl<W: io::Write> Lines<W> {
    pub fn new(out: W, colour: Colour) -> Lines<W> {
        Lines { colour, out: RefCell::new((out, String::new())) }
    }
}

impl<W: io::Write> Drain for Lines<W> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let (out, line) = &mut *self.out.borrow_mut();
        line.clear();
        // Neither a String nor these serializers fail; and a log has nobody to complain to.
        let _ = format_line(line, self.colour, record, values, SystemTime::now());
        let _ = out.write_all(line.as_bytes());
        Ok(())
    }
}

fn format_line(
    line: &mut String,
    colour: Colour,
    record: &Record<'_>,
    values: &OwnedKVList,
    now: SystemTime,
) -> slog::Result {
    let level = record.level();
    match colour {
        Colour::None => write!(line, "{} {:<5} ", clock::local_time(now), name(level))?,
        Colour::Ansi => {
            write!(
                line,
                "\x1b[2m{}\x1b[0m {}{:<5}\x1b[0m ",
                clock::local_time(now),
                ansi(level),
                name(level)
            )?;
        }
        Colour::Priorities => write!(line, "<{}>", priority(level))?,
    }
    push_message(line, record, if colour == Colour::Priorities { " | " } else { "\n    " })?;
    let mut gap = "  ";
    for kv in [&record.kv() as &dyn KV, values] {
        let mut pairs = Pairs(Vec::new());
        kv.serialize(record, &mut pairs)?;
        // slog hands the pairs out last one first.
        for (key, value) in pairs.0.iter().rev() {
            line.push_str(gap);
            push_pair(line, colour, key, value)?;
            gap = " ";
        }
    }
    line.push('\n');
    Ok(())
}

/// The message, its own lines (a report has several) parted by `newline`.
fn push_message(line: &mut String, record: &Record<'_>, newline: &str) -> fmt::Result {
    let message = record.msg().to_string();
    for (n, part) in message.lines().enumerate() {
        if n > 0 {
            line.push_str(newline);
        }
        push_escaped(line, part);
    }
    Ok(())
}

fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Critical => "CRIT",
        Level::Error => "ERROR",
        Level::Warning => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    }
}

fn ansi(level: Level) -> &'static str {
    match level {
        Level::Critical | Level::Error => "\x1b[1;31m",
        Level::Warning => "\x1b[1;33m",
        Level::Info => "\x1b[32m",
        Level::Debug | Level::Trace => "\x1b[2m",
    }
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Appends `key=value` under a name for people.
fn push_pair(line: &mut String, colour: Colour, key: &str, value: &str) -> fmt::Result {
    let name = key.strip_prefix("DRAINED_").unwrap_or(key).to_ascii_lowercase();
    let (name, value) = match (name.strip_suffix("_us"), value.parse()) {
        (Some(name), Ok(0)) => (name, "0s".to_owned()),
        (Some(name), Ok(us)) => (name, format!("{:.3?}", Duration::from_micros(us))),
        _ => (name.as_str(), value.to_owned()),
    };
    match colour {
        Colour::Ansi => write!(line, "\x1b[2m{name}=\x1b[0m")?,
        Colour::None | Colour::Priorities => write!(line, "{name}=")?,
    }
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '"' && c != '=';
    if !value.is_empty() && value.chars().all(plain) {
        line.push_str(&value);
        Ok(())
    } else {
        write!(line, "{value:?}")
    }
}

/// Collects fields. A value that is None makes none, and MESSAGE_ID says nothing to people: the
/// word beside it does.
struct Pairs(Vec<(Key, String)>);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        if key != "MESSAGE_ID" {
            self.0.push((key, value.to_string()));
        }
        Ok(())
    }

    fn emit_none(&mut self, _: Key) -> slog::Result {
        Ok(())
    }

    fn emit_unit(&mut self, _: Key) -> slog::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slog::{b, o, record_static};

    use super::*;
    use crate::event::Event;

    fn line(colour: Colour, level: Level, message: &str) -> String {
        let mut line = String::new();
        let values = o!("DRAINED_PROXY" => "web").into();
        let now = SystemTime::now();
        format_line(
            &mut line,
            colour,
            &Record::new(
                &record_static!(level, ""),
                &format_args!("{message}"),
                b!(Event::Cut, "DRAINED_CLIENT" => "[::1]:5", "DRAINED_UPSTREAM" => None::<&str>,
                   "DRAINED_DURATION_US" => 1_234_567u64, "DRAINED_DOING" => "half a \x1b[31m"),
            ),
            &values,
            now,
        )
        .expect("a String takes all");
        line.replace(&clock::local_time(now).to_string(), "TIME")
    }

    #[test]
    fn a_line_has_the_message_first_and_names_for_people() {
        assert_eq!(
            line(Colour::None, Level::Warning, "cut at the deadline"),
            "TIME WARN  cut at the deadline  event=cut client=[::1]:5 duration=1.235s \
             doing=\"half a \\u{1b}[31m\" proxy=web\n"
        );
    }

    #[test]
    fn a_time_of_nothing_is_no_nanosecond() {
        let mut pair = String::new();
        push_pair(&mut pair, Colour::None, "DRAINED_DURATION_US", "0").expect("a String takes all");
        assert_eq!(pair, "duration=0s");
    }

    #[test]
    fn only_a_coloured_line_has_escape_sequences() {
        assert!(line(Colour::Ansi, Level::Error, "text").contains("\x1b[1;31mERROR\x1b[0m text"));
        assert!(!line(Colour::None, Level::Error, "te\x1bxt\r").contains(['\x1b', '\r']));
    }

    #[test]
    fn a_line_for_journalds_stream_is_one_line_with_its_priority() {
        let line = line(Colour::Priorities, Level::Info, "one\ntwo");
        assert!(line.starts_with("<6>one | two  event=cut "), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn no_colours_without_a_terminal() {
        assert_eq!(Colour::for_terminal(false), Colour::None);
    }
}
