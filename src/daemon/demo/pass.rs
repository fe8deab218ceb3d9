//! The last step of a start by the demo's service manager: a process that takes what the store passes
//! to it, and becomes the daemon.
//!
//! It stands between fork and exec because LISTEN_PID names a process that is there first. It comes
//! through a command of this program that nobody else is to use.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;

use crate::lifecycle::BlockedSignals;
use crate::sys::{passed, rights};
use crate::{Error, Result};

/// Becomes this program again, with `arguments` and the `count` file descriptors that come over
/// standard input. The names are in the environment already. Returns only an error.
pub fn become_daemon(signals: Result<BlockedSignals>, count: usize, arguments: &[String]) -> Error {
    // Its file descriptors stand where others belong. The mask outlives it, and exec(2).
    drop(signals);
    match prepare(count, arguments) {
        Ok((program, fds)) => Error::system("become the daemon", passed::exec(program, fds)),
        Err(error) => Error::system("take over what the demo passes", error),
    }
}

fn prepare(count: usize, arguments: &[String]) -> io::Result<(Command, Vec<OwnedFd>)> {
    // Whatever ends the demo ends the daemon.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut fds = Vec::new();
    while fds.len() < count {
        let (length, more) = rights::receive(socket.as_fd(), &mut [0], MsgFlags::empty())?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fds.extend(more);
    }
    let mut program = Command::new(std::env::current_exe()?);
    program.args(arguments).stdin(Stdio::null());
    Ok((program, fds))
}
