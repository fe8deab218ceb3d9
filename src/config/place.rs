//! Where something is written, and the collection of all that is wrong there.
//!
//! A [`Report`] keeps one error a line where the line is not TOML at all: what follows from a
//! syntax error is not told beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use super::Errors;

/// Ordered as a reader meets them: files in the order of reading, then lines and columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// An option of the command line, with its dashes.
    Option(&'static str),
    File {
        order: usize,
        /// Line and column, both from 1; None: the file as a whole.
        at: Option<(usize, usize)>,
        path: Rc<Path>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Option(name) => f.write_str(name),
            Place::File { path, at: None, .. } => write!(f, "{}", path.display()),
            Place::File { path, at: Some((line, column)), .. } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
        }
    }
}

/// A value and where it is written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

impl<T> At<T> {
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { place: self.place, value: f(self.value) }
    }
}

/// A file's path and text, for turning offsets into places.
pub(super) struct Source<'a> {
    order: usize,
    path: Rc<Path>,
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(order: usize, path: &Path, text: &'a str) -> Source<'a> {
        Source { order, path: Rc::from(path), text }
    }

    pub(super) fn whole(&self) -> Place {
        Place::File { order: self.order, at: None, path: Rc::clone(&self.path) }
    }

    /// The place of a byte offset; an offset past the end or inside a character is the one before.
    pub(super) fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Place::File { order: self.order, at: Some((line, column)), path: Rc::clone(&self.path) }
    }

    /// The text of the line of a place.
    pub(super) fn line(&self, place: &Place) -> &str {
        let line = line_of(place).map_or(0, |(_, line)| line - 1);
        self.text.lines().nth(line).unwrap_or_default()
    }
}

/// All that is wrong so far.
#[derive(Default)]
pub(super) struct Report {
    errors: Vec<(Place, String)>,
    /// Files by their order, lines by their number, that are not TOML.
    broken: BTreeSet<(usize, usize)>,
}

impl Report {
    pub(super) fn error(&mut self, place: &Place, message: impl Into<String>) {
        if !line_of(place).is_some_and(|line| self.broken.contains(&line)) {
            self.errors.push((place.clone(), message.into()));
        }
    }

    /// A syntax error: the first one of its line, and the only error of it, is kept.
    pub(super) fn broken(&mut self, place: &Place, message: impl Into<String>) {
        self.error(place, message);
        self.broken.extend(line_of(place));
    }

    /// True if the file of this place is not TOML somewhere: keys of it may have been lost.
    pub(super) fn is_broken(&self, place: &Place) -> bool {
        matches!(place, Place::File { order, .. } if self.broken.iter().any(|(file, _)| file == order))
    }

    /// True if the file of this place is not TOML somewhere above it: headers may have been lost.
    pub(super) fn is_broken_above(&self, place: &Place) -> bool {
        line_of(place).is_some_and(|(file, line)| self.broken.range((file, 0)..(file, line)).next().is_some())
    }

    pub(super) fn into_errors(mut self) -> Option<Errors> {
        self.errors.sort();
        self.errors.dedup();
        let lines: Vec<String> = self.errors.iter().map(|(place, text)| format!("{place}: {text}")).collect();
        if lines.is_empty() { None } else { Some(Errors(lines)) }
    }
}

fn line_of(place: &Place) -> Option<(usize, usize)> {
    match place {
        Place::File { order, at: Some((line, _)), .. } => Some((*order, *line)),
        _ => None,
    }
}
