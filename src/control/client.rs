//! drainctl's side of the control socket: one request, one answer, within a bound.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;

use super::Status;
use super::protocol::{self, Call, LONGEST_REPLY, NoAnswer};
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
    let mut stream = connect(path).map_err(|e| unreachable(path, e))?;
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

fn unreachable(path: &Path, error: Errno) -> Error {
    let shown = path.display();
    let message = match error {
        Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => {
            format!(
                "drained is not running: nobody answers on {shown}; start it with: systemctl start drained"
            )
        }
        Errno::EACCES | Errno::EPERM => {
            format!("no permission to use {shown}: run as root or as a member of the group drained")
        }
        Errno::EAGAIN => return silent(path, PATIENCE),
        Errno::ENAMETOOLONG => format!("{shown}: a UNIX socket's path has 107 bytes at most"),
        other => format!("cannot connect to {shown}: {}", other.desc()),
    };
    Error::new(Exit::Unavailable, message)
}

fn silent(path: &Path, patience: Duration) -> Error {
    let seconds = patience.as_secs();
    Error::new(Exit::Unavailable, format!("drained did not answer on {} within {seconds} s", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_says_what_to_do() {
        let path = Path::new("/run/drained/control.sock");
        for (error, right) in [
            (Errno::ENOENT, "systemctl start drained"),
            (Errno::ECONNREFUSED, "systemctl start drained"),
            (Errno::EACCES, "member of the group drained"),
            (Errno::EAGAIN, "did not answer"),
            (Errno::ENAMETOOLONG, "107 bytes"),
            (Errno::EPROTOTYPE, "cannot connect to /run/drained/control.sock: "),
        ] {
            let error = unreachable(path, error);
            assert_eq!(error.exit(), Exit::Unavailable);
            let text = error.to_string();
            assert!(text.contains(right) && !text.contains('\n'), "{text}");
        }
    }
}
