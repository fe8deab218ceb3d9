//! TOML with places: tables whose keys are read one by one, each error told where it stands.
//!
//! This knows types and keys, not what they mean; `draft` does.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::place::{At, Place, Report, Source};

/// A table of a file, and the keys that may stand in it.
pub(super) struct Table<'a> {
    /// As an error names it: `[drain]`.
    name: String,
    keys: &'a DeTable<'a>,
    source: &'a Source<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn new(name: impl Into<String>, keys: &'a DeTable<'a>, source: &'a Source<'a>) -> Table<'a> {
        Table { name: name.into(), keys, source }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Every key with its place, and its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (At<&'a str>, &'a Spanned<DeValue<'a>>)> {
        self.keys.iter().map(|(key, value)| {
            (At { place: self.source.place(key.span().start), value: key.get_ref().as_ref() }, value)
        })
    }

    /// Tells of each key that is not `known`, with the nearest that is; of those in `later` that
    /// this version does not do them.
    pub(super) fn check_keys(&self, known: &[&str], later: &[&str], report: &mut Report) {
        for (key, _) in self.entries() {
            let (At { place, value: key }, name) = (key, &self.name);
            if later.contains(&key) {
                report.error(&place, format!("{key} in {name} is not available in this version"));
            } else if !known.contains(&key) {
                let hint = suggest(key, known.iter().copied());
                report.error(&place, format!("unknown key {key:?} in {name}, {hint}"));
            }
        }
    }

    pub(super) fn string(&self, key: &str, report: &mut Report) -> Option<At<&'a str>> {
        let (place, value) = self.get(key)?;
        match value {
            DeValue::String(text) => Some(At { place, value: text }),
            other => {
                report.error(&place, format!("{key} is {}: write a string, in quotes", kind(other)));
                None
            }
        }
    }

    /// A string, or a list of them that is not empty. None if the key is missing.
    pub(super) fn strings(&self, key: &str, report: &mut Report) -> Option<Vec<At<&'a str>>> {
        let (place, value) = self.get(key)?;
        let list = match value {
            DeValue::String(text) => return Some(vec![At { place, value: text }]),
            DeValue::Array(list) => list,
            other => {
                report
                    .error(&place, format!("{key} is {}: write a string or a list of strings", kind(other)));
                return Some(Vec::new());
            }
        };
        if list.is_empty() {
            report.error(&place, format!("{key} is an empty list: write at least one address"));
        }
        let mut strings = Vec::new();
        for item in list {
            let place = self.source.place(item.span().start);
            match item.get_ref() {
                DeValue::String(text) => strings.push(At { place, value: text.as_ref() }),
                other => {
                    let kind = kind(other);
                    report.error(&place, format!("{key} has {kind} in its list: write a string, in quotes"));
                }
            }
        }
        Some(strings)
    }

    /// A duration from `shortest` to 24 hours.
    pub(super) fn duration(
        &self,
        key: &str,
        shortest: Duration,
        report: &mut Report,
    ) -> Option<At<Duration>> {
        let (place, value) = self.get(key)?;
        let result = match value {
            DeValue::String(text) => duration::parse(text, shortest),
            DeValue::Integer(number) => Err(format!(
                "{number} has no unit: write \"{number}s\" for seconds, in quotes (units: ms, s, m, h)"
            )),
            other => Err(format!("this is {}: write a string with a unit, as in \"30s\"", kind(other))),
        };
        match result {
            Ok(value) => Some(At { place, value }),
            Err(message) => {
                report.error(&place, format!("{key}: {message}"));
                None
            }
        }
    }

    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        report: &mut Report,
    ) -> Option<At<u32>> {
        let (place, value) = self.get(key)?;
        let (low, high) = (range.start(), range.end());
        let message = match value {
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => match u32::try_from(value).ok().filter(|value| range.contains(value)) {
                    Some(value) => return Some(At { place, value }),
                    None => format!("{key} is {number}: {low} to {high} is possible"),
                },
                Err(_) => format!("{key} is out of range: {low} to {high} is possible"),
            },
            other => format!("{key} is {}: write a whole number, without quotes", kind(other)),
        };
        report.error(&place, message);
        None
    }

    /// A table of its own: `[key]` or `key = {}`.
    pub(super) fn table(&self, key: &str, name: impl Into<String>, report: &mut Report) -> Option<Table<'a>> {
        let (place, value) = self.get(key)?;
        match value {
            DeValue::Table(table) => Some(Table::new(name, table, self.source)),
            other => {
                let right = match key {
                    "proxy" => "[proxy.NAME]".to_string(),
                    _ if self.name == "the file" => format!("[{key}]"),
                    _ => format!("{key} = {{ ... }}"),
                };
                let more = match other {
                    DeValue::Boolean(true) => format!(", or {key} = {{}} for the defaults"),
                    DeValue::Boolean(false) => format!(", or leave {key} out"),
                    _ => String::new(),
                };
                report.error(&place, format!("{key} is {}: write a table, {right}{more}", kind(other)));
                None
            }
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<(Place, &'a DeValue<'a>)> {
        let (_, value) = self.keys.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((self.source.place(value.span().start), value.get_ref()))
    }
}

/// `did you mean "x"?` where one of the known words is near, else all of them.
pub(super) fn suggest<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let lower = word.to_lowercase().replace('-', "_");
    let distance = |k: &str| strsim::damerau_levenshtein(&lower, k);
    let nearest = known.clone().min_by_key(|k| distance(k));
    match nearest.filter(|k| distance(k) <= 1 + k.len() / 4 && distance(k) < k.len()) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("known are: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
