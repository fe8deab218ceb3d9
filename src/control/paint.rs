//! What goes to a terminal: colours where they are wanted, and no character that commands it.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal};

/// Whether colours are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

/// What a text means, for its colour: SGR parameters of ECMA-48, section 8.3.117.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A headline.
    Strong,
    /// As it should be.
    Good,
    /// On its way to another state.
    Warning,
    /// Not as it should be.
    Bad,
}

impl Paint {
    /// On a terminal that is not a dumb one, and never where $NO_COLOR is set and not empty: see no-color.org.
    pub fn for_stdout() -> Paint {
        Paint(io::stdout().is_terminal() && wanted())
    }

    /// `text` in its tone.
    pub fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Strong => 1,
            Tone::Bad => 31,
            Tone::Good => 32,
            Tone::Warning => 33,
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How many characters go into a line of standard output; None where that is no terminal, or one that does not
/// say.
pub fn width_of_stdout() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    (width.0 > 0).then_some(usize::from(width.0))
}

/// The environment has nothing against colours.
pub fn wanted() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && !is_dumb()
}

/// $TERM says of the terminal that it can do nothing but print lines, or says nothing of it.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// `text` with each character that a terminal does not just show written as in `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if commands(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// The same for a line of JSON, which stays the same JSON.
pub fn printable_json(line: String) -> String {
    if !line.contains(commands) {
        return line;
    }
    let mut shown = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        // None of them lies beyond the basic plane.
        if commands(c) { shown.push_str(&format!("\\u{:04x}", u32::from(c))) } else { shown.push(c) }
    }
    shown
}

/// Control characters (Unicode's category Cc), and those that turn the direction of what follows.
fn commands(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        for (text, shown) in [
            ("unix:/run/a b.sock", "unix:/run/a b.sock"),
            ("unix:/run/größe.sock", "unix:/run/größe.sock"),
            ("a\x1b[2J\r\n\x7f", "a\\u{1b}[2J\\u{d}\\u{a}\\u{7f}"),
            ("\u{9b}31m\u{202e}x", "\\u{9b}31m\\u{202e}x"),
        ] {
            assert_eq!(printable(text), shown);
        }
        let text = "a\x1b\u{9b}\u{7f}\u{202e}\"";
        let json = printable_json(serde_json::to_string(text).expect("json"));
        assert!(json.is_ascii(), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("json still"), text);
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        assert_eq!(Paint(false).tone(Tone::Bad, "down"), "down");
        assert_eq!(Paint(true).tone(Tone::Bad, "down"), "\x1b[31mdown\x1b[0m");
    }
}
