//! A socket as a file: made with its mode from the first instant, removed by its maker.
//!
//! A file that a dead daemon left is replaced; one that a live daemon answers on never is.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};

use crate::sys::socket::hint;
use crate::{Error, Exit, Result};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 64;

/// Removes the socket's file when dropped, if it is still the one that was made here.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Listens on `path`, without blocking. `mode` are the permission bits of the file, `key` is the setting
/// of [daemon] that it comes from.
///
/// # Errors
/// Where another daemon answers on `path`, where it is no socket, or where the system refuses.
pub fn listen(key: &str, path: &Path, mode: u32) -> Result<(OwnedFd, SocketFile)> {
    let failed = |e: io::Error| {
        let hint = e.raw_os_error().map_or("", |code| hint(Errno::from_raw(code)));
        Error::system(format!("cannot listen on the {key} socket {}{hint}", path.display()), e)
    };
    clear_stale(key, path)?;
    let fd = new_socket().map_err(|e| failed(e.into()))?;
    // The mode of the descriptor becomes that of the file in bind(2), less the umask: the file
    // never exists with a wider one. What the umask took is put back after it.
    fchmod(&fd, Mode::from_bits_truncate(mode)).map_err(|e| failed(e.into()))?;
    let address = UnixAddr::new(path).map_err(|e| failed(e.into()))?;
    socket::bind(fd.as_raw_fd(), &address).map_err(|e| failed(e.into()))?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile { path: path.to_path_buf(), device: metadata.dev(), inode: metadata.ino() };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let backlog = Backlog::new(BACKLOG).map_err(|e| failed(e.into()))?;
    socket::listen(&fd, backlog).map_err(|e| failed(e.into()))?;
    Ok((fd, file))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |m: Metadata| m.dev() == self.device && m.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Nothing can be done about a directory that was closed to us meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn clear_stale(key: &str, path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::system(format!("cannot look at the {key} socket {shown}"), e)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(
                Exit::System,
                format!("{shown} exists and is no socket: remove it, or set another path for {key}"),
            ));
        }
        Ok(_) => {}
    }
    if answers(path).map_err(|e| Error::system(format!("cannot try the {key} socket {shown}"), e))? {
        return Err(Error::new(
            Exit::System,
            format!(
                "another daemon answers on the {key} socket {shown}: stop it, or set another path for {key}"
            ),
        ));
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("cannot remove the stale {key} socket {shown}"), e))
        }
        _ => Ok(()),
    }
}

/// True if somebody listens on `path`, also if its backlog is full just now.
fn answers(path: &Path) -> Result<bool, Errno> {
    let fd = new_socket()?;
    match socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}
