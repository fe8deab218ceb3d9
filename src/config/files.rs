//! The files of a configuration: the one place here that reads them.
//!
//! A file that cannot be read is not the end: it is handed on with the reason, so that it is told
//! together with all other errors.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A configuration larger than this is none: 16 MiB.
const LARGEST: u64 = 16 << 20;

/// A file and its content, or why there is none.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) content: Result<Vec<u8>, String>,
}

/// Reads `file`, then conf.d/*.toml beside it in the order of their names. A conf.d that does not
/// exist is an empty one; names that begin with a dot are left out, as a shell does.
pub(super) fn read(file: &Path) -> Vec<ConfigFile> {
    let mut files = vec![read_one(file.to_path_buf())];
    let directory = file.parent().unwrap_or(Path::new("")).join("conf.d");
    match fragments(&directory) {
        Ok(paths) => files.extend(paths.into_iter().map(read_one)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => files.push(ConfigFile { path: directory, content: Err(unreadable(&e)) }),
    }
    files
}

fn fragments(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_one(path: PathBuf) -> ConfigFile {
    let content = read_bounded(&path).map_err(|e| unreadable(&e)).and_then(|content| {
        if content.len() as u64 > LARGEST { Err("is larger than 16 MiB".to_string()) } else { Ok(content) }
    });
    ConfigFile { path, content }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn unreadable(error: &io::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or_default();
    format!("cannot be read: {reason}")
}
