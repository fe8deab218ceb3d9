//! How numbers, times and texts are written for people, in drainctl and in the journal.

use std::time::Duration;

/// `1 connection`, `2 connections`, `3 proxies`.
pub fn counted(n: u64, noun: &str) -> String {
    match (n, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// `999 B`, `1.0 KiB`, `15.9 GiB`.
pub fn bytes(n: u64) -> String {
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

/// The two largest units in whole seconds, the second one only where it is not zero: `3d 4h`, `12m 5s`, `1h`.
pub fn time(duration: Duration) -> String {
    let s = duration.as_secs();
    let (large, small) = match s {
        86_400.. => ((s / 86_400, "d"), (s % 86_400 / 3600, "h")),
        3600.. => ((s / 3600, "h"), (s % 3600 / 60, "m")),
        60.. => ((s / 60, "m"), (s % 60, "s")),
        _ => ((s, "s"), (0, "")),
    };
    match (large, small) {
        ((n, unit), (0, _)) => format!("{n}{unit}"),
        ((n, unit), (more, small)) => format!("{n}{unit} {more}{small}"),
    }
}

/// Milliseconds that are left of something, rounded up to whole seconds.
pub fn time_left(ms: u64) -> String {
    time(Duration::from_secs(ms.div_ceil(1_000)))
}

/// `pieces` with blanks between them, in lines of at most `width` characters. A piece that is longer is broken, at
/// its own blanks if it has any.
pub fn wrap<'a>(pieces: impl IntoIterator<Item = &'a str>, width: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut line, mut column) = (Vec::new(), String::new(), 0);
    let is_long = |piece: &str| piece.chars().count() > width;
    let words = |piece: &'a str| piece.split(if is_long(piece) { ' ' } else { '\0' });
    for piece in pieces.into_iter().flat_map(words) {
        let length = piece.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            column = 0;
        }
        if column > 0 {
            line.push(' ');
            column += 1;
        }
        for c in piece.chars() {
            if column >= width {
                lines.push(std::mem::take(&mut line));
                column = 0;
            }
            line.push(c);
            column += 1;
        }
    }
    if column > 0 {
        lines.push(line);
    }
    lines
}

/// `text` in at most `width` characters: of one that is longer the beginning and the end.
pub fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end = width.saturating_sub(1) / 2;
    let begin = width.saturating_sub(1) - end;
    let (first, last) = (text.chars().take(begin), text.chars().skip(length - end));
    first.chain((width > 0).then_some('…')).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (s, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (3661, "1h 1m"),
            (86_400, "1d"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(time(Duration::from_secs(s)), text);
        }
        assert_eq!(
            (time_left(0), time_left(1), time_left(3_600_000)),
            ("0s".into(), "1s".into(), "1h".into())
        );
        assert_eq!((counted(1, "proxy"), counted(2, "proxy")), ("1 proxy".into(), "2 proxies".into()));
    }

    #[test]
    fn of_a_long_text_both_ends_are_seen() {
        for (width, text) in [(9, "/run/größ"), (8, "/run…röß"), (5, "/r…öß"), (2, "/…"), (1, "…"), (0, "")]
        {
            assert_eq!(shorten("/run/größ", width), text);
        }
    }

    #[test]
    fn lines_are_broken_between_pieces_and_within_one_only_where_it_must_be() {
        for (pieces, width, lines) in [
            (&["one", "two", "three"][..], 7, &["one two", "three"][..]),
            (&["to client 17 B,", "held 0"], 16, &["to client 17 B,", "held 0"]),
            (&["größer", "a"], 6, &["größer", "a"]),
            (&["a", "123456789", "b"], 4, &["a", "1234", "5678", "9 b"]),
            (&["a", "12 3456"], 6, &["a 12", "3456"]),
            (&[], 4, &[]),
            (&["ab"], 0, &["a", "b"]),
        ] {
            assert_eq!(wrap(pieces.iter().copied(), width), lines, "{pieces:?}");
        }
    }
}
