//! What the demo prints: text, a time line, a table; 80 columns, plain.
//!
//! A screen that is gone (a closed pipe) is no reason to leave the daemon behind: errors are ignored.

use std::cell::Cell;
use std::io::{self, Write};
use std::time::Instant;

const WIDTH: usize = 80;
/// Where the text of a line on the time line begins.
const INDENT: usize = 18;

pub struct Screen {
    zero: Cell<Option<Instant>>,
}

impl Screen {
    pub fn new() -> Screen {
        Screen { zero: Cell::new(None) }
    }

    pub fn text(&self, text: &str) {
        self.plain(&wrap(text, 0));
    }

    /// Begins a part of the show; the time line counts from `zero` on.
    pub fn heading(&self, heading: &str, zero: Instant) {
        self.zero.set(Some(zero));
        self.plain(&format!("\n--- {heading} {}", "-".repeat(WIDTH.saturating_sub(heading.len() + 5))));
    }

    /// One thing on the time line: when, who, what.
    pub fn line(&self, at: Instant, who: &str, what: &str) {
        let since = self.zero.get().map_or(0.0, |zero| at.saturating_duration_since(zero).as_secs_f64());
        self.plain(&wrap(&format!("{since:+8.3} s {who:>7} {what}"), INDENT));
    }

    /// The last words.
    pub fn verdict(&self, faults: &[String], summary: &str) {
        self.plain("");
        if faults.is_empty() {
            self.text(summary);
        }
        for fault in faults {
            self.text(&format!("FAULT: {fault}"));
        }
    }

    pub fn plain(&self, text: &str) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }
}

/// `text` in lines of at most 80 columns, all but the first indented.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    // A run of blanks stays as it is within a line.
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column + length > WIDTH && column > indent {
            lines.truncate(lines.trim_end().len());
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            column = indent;
        }
        lines.push_str(word);
        column += word.chars().count();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_at_blanks_and_indented() {
        let text = "word ".repeat(40);
        let wrapped = wrap(text.trim(), INDENT);
        assert!(wrapped.lines().all(|l| l.len() <= WIDTH && !l.ends_with(' ')), "{wrapped}");
        assert!(wrapped.lines().skip(1).all(|l| l.starts_with(&" ".repeat(INDENT))));
        assert_eq!(wrapped.split_whitespace().count(), 40);
        assert_eq!(wrap("  two  blanks", 4), "  two  blanks");
    }
}
