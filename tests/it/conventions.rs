//! Catalog and documentation agree with the source: words, ids and fields of the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use drained::event::Event;

const CATALOG: &str = "packaging/drained.catalog";
const JOURNAL_DOC: &str = "docs/journal.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The entries of the catalog: id to text, header lines included.
fn catalog() -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for entry in read(CATALOG).split("\n-- ").skip(1) {
        let (id, text) = entry.split_once('\n').expect("an id and a text");
        assert!(entries.insert(id.to_owned(), text.to_owned()).is_none(), "{id} twice");
    }
    entries
}

/// Every word of `text` that begins with DRAINED_ and goes on.
fn fields(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_uppercase() && c != '_')
        .filter(|word| word.strip_prefix("DRAINED_").is_some_and(|rest| !rest.is_empty()))
        .collect()
}

fn sources(dir: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// All of src, one file after the other.
fn all_of_src() -> String {
    let mut files = Vec::new();
    sources(root().join("src"), &mut files);
    files.iter().map(read).collect()
}

/// The fields that the program writes: those that src names in a log call or hands to a serializer.
fn written_fields() -> BTreeSet<String> {
    let source = all_of_src();
    let mut written = BTreeSet::new();
    for (at, _) in source.match_indices("\"DRAINED_") {
        let Some((name, after)) = source[at + 1..].split_once('"') else { continue };
        let serialized =
            ["emit_str(", "emit_arguments("].iter().any(|call| source[..at].trim_end().ends_with(call));
        if serialized || after.starts_with(" =>") {
            written.insert(name.to_owned());
        }
    }
    written
}

/// slog evaluates a record's values before it looks whether anybody wants the record: each connection would pay for
/// what only the level debug tells.
#[test]
fn a_record_that_nobody_reads_copies_nothing() {
    let source = all_of_src();
    let copied: Vec<_> = source
        .match_indices("\"DRAINED_")
        .filter_map(|(at, _)| {
            let (_, value) =
                source[at..].split_once(" => ").filter(|(name, _)| !name.contains([' ', '\n']))?;
            let value = &value[..value.find([',', ';', '\n'])?];
            let copies = [".to_string()", ".to_owned()", ".clone()", "format!("];
            // The values of a logger are its own.
            let is_kept = source[..at].ends_with("o!(");
            copies.iter().any(|copy| value.contains(copy) && !is_kept).then_some(value)
        })
        .collect();
    assert_eq!(copied, [""; 0]);
}

#[test]
fn the_catalog_explains_each_event_and_no_other() {
    let explained: BTreeSet<_> = catalog().into_keys().collect();
    let events: BTreeSet<_> = Event::ALL.iter().map(|e| e.message_id().to_owned()).collect();
    assert_eq!(explained, events);
    for (id, text) in catalog() {
        let (head, body) = text.split_once("\n\n").unwrap_or_else(|| panic!("{id}: no text"));
        let head: Vec<_> = head.lines().map(|l| l.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(head, ["Subject:", "Defined-By:"], "{id}");
        assert!(body.trim().len() > 40, "{id}: {body}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{id}: a line of more than 80 columns");
    }
}

#[test]
fn the_catalog_names_only_fields_that_are_documented() {
    let doc = read(JOURNAL_DOC);
    let unknown: Vec<_> = catalog()
        .into_values()
        .flat_map(|text| fields(&text).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .filter(|field| !fields(&doc).contains(field.as_str()))
        .collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn journalctl_takes_the_catalog() {
    let dir = tempdir("catalog");
    let installed = dir.join("usr/lib/systemd/catalog");
    fs::create_dir_all(&installed).expect("a directory");
    fs::copy(root().join(CATALOG), installed.join("drained.catalog")).expect("a copy");
    let journalctl = |what: &str| {
        let output = Command::new("journalctl").arg(format!("--root={}", dir.display())).arg(what).output();
        output.map(|o| (o.status.success(), String::from_utf8_lossy(&o.stdout).into_owned()))
    };
    let Ok((updated, _)) = journalctl("--update-catalog") else {
        crate::support::left_out("no journalctl on this machine");
        return;
    };
    assert!(updated);
    let (listed, list) = journalctl("--list-catalog").expect("it ran a moment ago");
    assert!(listed);
    let ids: BTreeSet<_> = list.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(ids, Event::ALL.iter().map(|e| e.message_id()).collect());
    fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn the_documentation_lists_each_event_and_no_other() {
    let doc = read(JOURNAL_DOC);
    let (_, table) = doc.split_once("\n## Events\n").expect("a section Events");
    let table = table.split("\n## ").next().unwrap_or_default();
    let words: Vec<_> =
        table.lines().filter_map(|l| l.strip_prefix("| `")).filter_map(|l| l.split('`').next()).collect();
    assert_eq!(words, Event::ALL.iter().map(|e| e.word()).collect::<Vec<_>>());
}

#[test]
fn the_fields_that_are_written_are_those_that_are_documented() {
    let doc = read(JOURNAL_DOC);
    let (_, table) = doc.split_once("\n## Fields\n").expect("a section Fields");
    let table = table.split("\n## ").next().unwrap_or_default();
    let documented: BTreeSet<_> = table
        .lines()
        .filter_map(|l| l.strip_prefix("| ")?.split(' ').next())
        .filter(|field| field.starts_with("DRAINED_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(written_fields(), documented);
}

/// A fresh directory for one test of this process.
fn tempdir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("drained-it-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).expect("a temporary directory");
    dir
}
