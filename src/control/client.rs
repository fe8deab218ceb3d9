//! drainctl's side of the control socket: one request, one answer, within a bound.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Group, User};
use serde::de::DeserializeOwned;

use super::Status;
use super::protocol::{self, Call, LONGEST_REPLY, NoAnswer};
use super::words::time;
use crate::{Error, Exit, Result};

/// How long the daemon may take for the whole of an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the daemon that listens on `path` how it is.
///
/// # Errors
/// Exit 69, with what to do, where no daemon answers.
pub fn status(path: &Path) -> Result<Status> {
    call(path, &Call::Status)
}

/// Asks the daemon that listens on `path` for one thing.
///
/// # Errors
/// Exit 69, with what to do, where no daemon answers; 65 with what it says where it refuses.
pub fn call<T: DeserializeOwned>(path: &Path, call: &Call) -> Result<T> {
    call_within(path, call, PATIENCE)
}

/// The same for what may take longer.
///
/// # Errors
/// As [`call`].
pub fn call_within<T: DeserializeOwned>(path: &Path, call: &Call, patience: Duration) -> Result<T> {
    let line = ask(path, call, patience)?;
    protocol::answer_from_line(&line).map_err(|e| match e {
        NoAnswer::Refused(message) => Error::new(Exit::Refused, message),
        NoAnswer::Unreadable(why) => Error::new(Exit::Unavailable, format!("{}: {why}", path.display())),
    })
}

fn ask(path: &Path, call: &Call, patience: Duration) -> Result<Vec<u8>> {
    let until = Instant::now() + patience;
    let mut stream = connect(path).map_err(|e| unreachable(path, call, e))?;
    let lost = |e: std::io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(path, patience),
        _ => Error::new(Exit::Unavailable, format!("drained at {} broke off: {e}", path.display())),
    };
    stream.write_all(&call.to_line()).map_err(lost)?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 8192]);
    while !answer.ends_with(b"\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(silent(path, patience));
        }
        stream.set_read_timeout(Some(left)).map_err(lost)?;
        match stream.read(&mut chunk).map_err(lost)? {
            0 => return Err(lost(ErrorKind::UnexpectedEof.into())),
            n => answer.extend_from_slice(&chunk[..n]),
        }
        if answer.len() > LONGEST_REPLY {
            return Err(lost(ErrorKind::InvalidData.into()));
        }
    }
    Ok(answer)
}

/// A full backlog makes connect(2) wait: SO_SNDTIMEO bounds that too, see socket(7).
fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::seconds(PATIENCE.as_secs() as i64);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn unreachable(path: &Path, call: &Call, error: Errno) -> Error {
    let shown = path.display();
    let is_socket = || fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let message = match error {
        Errno::ECONNREFUSED if !is_socket() => {
            let text = format!(
                "{shown} is no socket: --socket takes that of the daemon, control in drained.toml(5)"
            );
            return Error::new(Exit::Usage, text);
        }
        Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => {
            format!(
                "drained is not running: nobody answers on {shown}; start it with: systemctl start drained"
            )
        }
        Errno::EACCES | Errno::EPERM => {
            format!("no permission to use {shown}: run as root{}", or_as(path, call.changes()))
        }
        Errno::EAGAIN => return silent(path, PATIENCE),
        Errno::ENAMETOOLONG => format!("{shown}: a UNIX socket's path has 107 bytes at most"),
        other => format!("cannot connect to {shown}: {}", other.desc()),
    };
    Error::new(Exit::Unavailable, message)
}

/// Who but root may use the socket, as its file says, or the directory that hides it.
fn or_as(path: &Path, to_change: bool) -> String {
    let seen = path.ancestors().find_map(|part| Some((part, fs::metadata(part).ok()?)));
    let Some((part, metadata)) = seen else { return String::new() };
    let group_bit = if part == path { 0o020 } else { 0o010 };
    if !to_change && metadata.mode() & group_bit != 0 {
        let gid = metadata.gid();
        let name = Group::from_gid(gid.into()).ok().flatten().map_or(gid.to_string(), |group| group.name);
        return format!(" or as a member of the group {name}");
    }
    let uid = metadata.uid();
    let name = User::from_uid(uid.into()).ok().flatten().map_or(uid.to_string(), |user| user.name);
    if uid == 0 { String::new() } else { format!(" or as the user {name}") }
}

fn silent(path: &Path, patience: Duration) -> Error {
    let text = format!("drained did not answer on {} within {}", path.display(), time(patience));
    Error::new(Exit::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_reason_says_what_to_do() {
        let path = Path::new("/run/drained/control.sock");
        for (error, right) in [
            (Errno::ENOENT, "systemctl start drained"),
            (Errno::EACCES, "run as root"),
            (Errno::EAGAIN, "did not answer"),
            (Errno::ENAMETOOLONG, "107 bytes"),
            (Errno::EPROTOTYPE, "cannot connect to /run/drained/control.sock: "),
        ] {
            let error = unreachable(path, &Call::Status, error);
            assert_eq!(error.exit(), Exit::Unavailable);
            let text = error.to_string();
            assert!(text.contains(right) && !text.contains('\n'), "{text}");
        }
    }

    /// The group is the socket's own, and a change is for its user.
    #[test]
    fn who_may_is_what_the_file_says() {
        let file = std::env::temp_dir().join(format!("drained-client-{}", std::process::id()));
        fs::write(&file, "").expect("writes");
        let owner = fs::metadata(&file).expect("is there");
        let gid = owner.gid();
        let group = Group::from_gid(gid.into()).expect("looks").map_or(gid.to_string(), |group| group.name);
        let told = |mode, call: &Call| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("changes");
            unreachable(&file, call, Errno::EACCES).to_string()
        };
        let member = format!("run as root or as a member of the group {group}");
        assert!(told(0o660, &Call::Status).ends_with(&member));
        for text in [told(0o660, &Call::Reload), told(0o600, &Call::Status)] {
            assert!(!text.contains("group") && text.contains(": run as root"), "{text}");
            assert_eq!(text.contains(" or as the user "), owner.uid() != 0, "{text}");
        }
        let refused = unreachable(&file, &Call::Status, Errno::ECONNREFUSED);
        assert!(refused.exit() == Exit::Usage && refused.to_string().contains("is no socket"), "{refused}");
        fs::remove_file(&file).expect("removes");
        let gone = unreachable(&file, &Call::Status, Errno::ENOENT).to_string();
        assert!(gone.contains("systemctl start drained"), "{gone}");
    }
}
