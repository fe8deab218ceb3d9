//! Durations: one whole number and one unit, `500ms`, `30s`, `2m`, `1h`.

use std::time::Duration;

/// The longest duration that any key takes.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Units, with their length in milliseconds, the longest last.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads a duration between `shortest` and 24 h; an error says what would be right.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse(text: &str, shortest: Duration) -> Result<Duration, String> {
    let duration = parse_any(text)?;
    if duration > LONGEST {
        return Err(format!("{text:?} is too long, at most {:?}", render(LONGEST)));
    }
    if duration < shortest {
        return Err(format!("{text:?} is too short, at least {:?}", render(shortest)));
    }
    Ok(duration)
}

/// A duration as the file writes it, in the longest unit that needs no fraction. Parts of a
/// millisecond are left out.
pub fn render(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_string();
    }
    let (unit, length) = UNITS.iter().rev().find(|(_, length)| ms % length == 0).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / length)
}

fn parse_any(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(no_number(text));
    }
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit: write \"{text}s\" for seconds (units: ms, s, m, h)"));
    }
    let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(bad_unit(text, unit));
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*length));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long, at most {:?}", render(LONGEST)))
}

fn no_number(text: &str) -> String {
    if text.starts_with('-') {
        format!("{text:?} is negative: a duration is 0 or more")
    } else {
        format!("{text:?} is not a duration: write a whole number and a unit, for example \"30s\"")
    }
}

fn bad_unit(text: &str, unit: &str) -> String {
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if bare != text && parse_any(&bare).is_ok() {
        return format!("{text:?} has a blank in it: write {bare:?}");
    }
    if unit.starts_with('.') {
        return match whole(text) {
            Some(whole) => format!("{text:?} is not a whole number: write {whole:?}"),
            None => format!("{text:?} is not a whole number: use a smaller unit (ms, s, m, h)"),
        };
    }
    if unit.contains(|c: char| c.is_ascii_digit()) {
        return format!(
            "{text:?} is not one number and one unit: write it in the smaller unit (ms, s, m, h)"
        );
    }
    format!("{text:?} has the unknown unit {unit:?}: units are ms, s, m, h")
}

/// `1.5s` as `1500ms`, where it is a whole number of milliseconds.
fn whole(text: &str) -> Option<String> {
    let (name, length) = UNITS.iter().find(|(name, _)| {
        text.strip_suffix(name).is_some_and(|rest| rest.ends_with(|c: char| c.is_ascii_digit()))
    })?;
    let number: f64 = text.strip_suffix(name)?.parse().ok()?;
    let ms = (number * *length as f64).round();
    let near = ((number * *length as f64) - ms).abs() < 1e-6;
    (near && ms >= 1.0 && ms <= LONGEST.as_millis() as f64).then(|| render(Duration::from_millis(ms as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("24h", 86_400_000)] {
            assert_eq!(parse(text, Duration::ZERO), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(render(Duration::from_millis(ms)), text);
        }
        assert_eq!(parse("0h", Duration::ZERO), Ok(Duration::ZERO));
        assert_eq!(render(Duration::from_millis(90_000)), "90s");
    }

    #[test]
    fn says_what_would_be_right() {
        for (text, right) in [
            ("30", "write \"30s\""),
            ("", "for example \"30s\""),
            ("soon", "for example \"30s\""),
            ("-1s", "negative"),
            ("30 s", "write \"30s\""),
            (" 30s", "for example"),
            ("1.5s", "write \"1500ms\""),
            ("0.5h", "write \"30m\""),
            ("0.0001ms", "smaller unit"),
            ("1m30s", "smaller unit"),
            ("30sec", "unknown unit \"sec\""),
            ("30S", "unknown unit \"S\""),
            ("25h", "at most \"24h\""),
            ("99999999999999999999h", "at most \"24h\""),
            ("9999999999999999999h", "at most \"24h\""),
            ("3\u{661}s", "unknown unit"),
        ] {
            let error = parse(text, Duration::ZERO).expect_err(text);
            assert!(error.contains(right), "{text:?}: {error}");
        }
        assert!(parse("0s", Duration::from_millis(1)).is_err_and(|e| e.contains("at least \"1ms\"")));
    }
}
