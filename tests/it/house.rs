//! The conventions of the tree: who may import whom, sizes, module docs, one home for `unsafe`.

use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the tree, from the doors down to the leaves. A module imports only from rows below
/// its own; the leaves, last, may also import each other.
const ROWS: &[&[&str]] = &[
    &["bin"],
    &["cli"],
    &["daemon"],
    &["proxy", "control", "http"],
    &["handover", "server"],
    &["lifecycle"],
    &["systemd"],
    &["sys"],
    &["config", "event", "error", "fault"],
];

#[test]
fn modules_import_from_rows_below_only() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let Some(own) = module(&file) else { continue };
        let own_row = row(&own).unwrap_or_else(|| panic!("{} stands in no row", file.display()));
        for imported in imports(&code(&file)) {
            let Some(imported_row) = row(&imported) else { continue };
            let leaves = own_row == imported_row && own_row == ROWS.len() - 1;
            if imported != own && imported_row <= own_row && !leaves {
                wrong.push(format!("{}: {own} imports {imported}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let text = "use crate::proxy::Relay;\nuse crate::{error, sys::epoll};\nlet x = crate::control::f(); // crate::cli\n\
                use drained::daemon;\nuse crate::{\n    event::Event,\n    lifecycle::{self, State},\n};\n";
    let found = imports(&strip_comments(text));
    assert_eq!(found, ["proxy", "error", "sys", "control", "daemon", "event", "lifecycle"]);
}

#[test]
fn files_open_with_a_module_doc_and_stay_small() {
    let mut wrong = Vec::new();
    for file in ["src", "tests", "examples"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: no module doc on its first line", file.display()));
        }
        let lines = text.lines().count();
        if lines > 500 {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let outside = |file: &PathBuf| !file.starts_with("src/sys");
    // In tests the lint denies it, and an exception states its reason.
    let files = ["src", "examples"].into_iter().flat_map(rust_files).filter(outside);
    let wrong: Vec<_> = files.filter(|file| words(&code(file)).any(|word| word == "unsafe")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The search itself sees it where it may stand.
    assert!(rust_files("src/sys").iter().any(|file| words(&code(file)).any(|word| word == "unsafe")));
}

#[test]
fn crate_attributes_relax_no_lint_without_a_reason() {
    let mut wrong = Vec::new();
    for file in ["src", "tests", "examples"].into_iter().flat_map(rust_files) {
        let code = code(&file);
        for (at, _) in code.match_indices("allow(") {
            let attribute = code[at..].split(']').next().unwrap_or_default();
            if !attribute.contains("reason") {
                wrong.push(format!("{}: {attribute}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The module of the first level that a file belongs to; none for lib.rs.
fn module(file: &Path) -> Option<String> {
    let name = file.strip_prefix("src").unwrap().components().next().unwrap();
    let name = Path::new(name.as_os_str()).file_stem().unwrap().to_str().unwrap();
    (name != "lib").then(|| name.to_owned())
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The modules of the first level that the code names after `crate::` or `drained::`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "drained::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_heads(group).into_iter().map(|name| (at, name))),
                None => found.push((at, words(rest).next().unwrap_or_default().to_owned())),
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

/// The first word of each item of `a, b::{c, d}, e}...`, up to the brace that closes it.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut item) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    heads.push(item);
    heads.iter().filter_map(|item| words(item).next().map(str::to_owned)).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// A file's text without comments and without what stands in string literals on one line.
fn code(file: &Path) -> String {
    strip_comments(&fs::read_to_string(file).unwrap())
}

fn strip_comments(text: &str) -> String {
    let strip = |line: &str| {
        let mut kept = String::new();
        for (number, part) in line.split('"').enumerate() {
            match part.split_once("//") {
                Some((before, _)) if number % 2 == 0 => return kept + before,
                _ if number % 2 == 0 => kept.push_str(part),
                _ => {}
            }
        }
        kept
    };
    text.lines().map(strip).collect::<Vec<_>>().join("\n")
}

/// Every .rs file below the folder, as a path from the top of the tree.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![top.join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(top).unwrap().to_owned());
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{folder} has no source files");
    files
}
