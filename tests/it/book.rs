//! The book in docs/ and the README: links lead somewhere, configurations are valid, and the messages
//! that the chapter on troubleshooting explains are those of the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TROUBLESHOOTING: &str = "docs/troubleshooting.md";
/// Stands in a quoted message for what differs from case to case.
const ANYTHING: char = '…';
/// The tables of a configuration: a block of TOML with one of them is one.
const TABLES: [&str; 4] = ["[daemon]", "[drain]", "[handover]", "[proxy."];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// README.md and every chapter.
fn chapters() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The targets of `[text](target)` outside of fenced blocks.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(str::to_owned));
        }
    }
    found
}

/// The names by which the headings of a file are linked to: as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let plain = headings.map(|heading| heading.trim_start_matches('#').trim().to_lowercase());
    plain
        .map(|heading| heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect())
        .map(|heading: String| heading.replace(' ', "-"))
        .collect()
}

#[test]
fn each_link_leads_somewhere() {
    let mut dead = Vec::new();
    for chapter in chapters() {
        for link in links(&read(&chapter)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => chapter.clone(),
                path => chapter.parent().expect("a folder").join(path),
            };
            let there = target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !there {
                dead.push(format!("{}: {link}", chapter.display()));
            }
        }
    }
    assert_eq!(dead, [""; 0]);
}

/// The fenced blocks of one language, with the line where each begins.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let (mut found, mut block) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim_start().strip_prefix("```"), &mut block) {
            (Some(_), Some(_)) => found.extend(block.take()),
            (Some(name), None) if name == language => block = Some((number, String::new())),
            (None, Some((_, lines))) => {
                lines.push_str(line);
                lines.push('\n');
            }
            _ => {}
        }
    }
    found
}

#[test]
fn each_configuration_is_valid() {
    let dir = std::env::temp_dir().join(format!("drained-it-{}-book", std::process::id()));
    fs::create_dir_all(&dir).expect("a temporary directory");
    let file = dir.join("drained.toml");
    let (mut checked, mut wrong) = (0, Vec::new());
    for chapter in chapters() {
        for (number, block) in blocks(&read(&chapter), "toml") {
            if !TABLES.iter().any(|table| block.contains(table)) {
                continue;
            }
            fs::write(&file, block).expect("written");
            let check = [&"check".as_ref(), &"--config".as_ref(), &file.as_os_str()];
            let output = Command::new(env!("CARGO_BIN_EXE_drained")).args(check).output().expect("it runs");
            checked += 1;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{}:{number}: {why}", chapter.display()));
            }
        }
    }
    fs::remove_dir_all(dir).expect("removed");
    assert_eq!(wrong, [""; 0]);
    assert!(checked >= 10, "{checked}");
}

/// The source without comments, a line a statement's line, with its strings as they are printed.
fn source_lines() -> Vec<String> {
    let mut paths = Vec::new();
    files(&root().join("src"), "rs", &mut paths);
    let text: String = paths.iter().map(|path| read(path)).collect();
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .map(|line| line.replace("\\\"", "\"").replace("{{", "{").replace("}}", "}"))
        .collect()
}

/// True if all parts of `message` stand in `line`, in their order.
fn says(line: &str, message: &str) -> bool {
    let mut rest = line;
    message.split(ANYTHING).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[test]
fn each_message_that_is_explained_is_one_of_the_source() {
    let source = source_lines();
    let text = read(&root().join(TROUBLESHOOTING));
    // Each begins a line: **`message`**
    let messages: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("**`")?.split("`**").next()).collect();
    assert!(messages.len() > 40, "{}", messages.len());
    let unknown: Vec<_> = messages
        .iter()
        .filter(|message| {
            let said = message.split(ANYTHING).map(str::len).sum::<usize>() >= 8;
            !said || !source.iter().any(|line| says(line, message))
        })
        .collect();
    assert_eq!(unknown, [&""; 0]);
}
