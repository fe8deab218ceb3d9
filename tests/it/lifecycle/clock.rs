//! Hazard: the clock is set back. What never asks for the time of day cannot be misled by it.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn nothing_but_the_log_asks_for_the_time_of_day() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&src, &mut sources);
    let relevant = |path: &&PathBuf| {
        let path = path.strip_prefix(&src).unwrap();
        let logs = path.starts_with("systemd/journal") || path == Path::new("systemd/journal.rs");
        ["lifecycle", "systemd", "proxy"].iter().any(|row| path.starts_with(row)) && !logs
    };
    let relevant: Vec<_> = sources.iter().filter(relevant).collect();
    assert!(relevant.len() > 10, "the sources were not found: {relevant:?}");
    for path in relevant {
        let text = fs::read_to_string(path).unwrap();
        for word in ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "gettimeofday", "Utc::now", "Local::now"] {
            assert!(!text.contains(word), "{} asks the wall clock: {word}", path.display());
        }
    }
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, sources),
            false => sources.push(path),
        }
    }
}
