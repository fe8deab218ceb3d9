//! The last step of a start by the demo's service manager: a process that takes what the store passes
//! to it, and becomes the daemon.
//!
//! It stands between fork and exec because LISTEN_PID names a process that is there first. It is this
//! program with a first argument that is no part of the command line.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;

use crate::lifecycle::BlockedSignals;
use crate::sys::{pass, rights};
use crate::{Error, Result};

const WORD: &str = "demo-pass";

/// What to become: so many file descriptors come over standard input, their names are in the
/// environment already.
pub struct Pass {
    count: usize,
    arguments: Vec<OsString>,
}

impl Pass {
    /// The arguments with which this program passes `count` file descriptors to itself.
    pub fn arguments(count: usize) -> [String; 2] {
        [WORD.to_owned(), count.to_string()]
    }

    /// None, unless the arguments begin as [`Pass::arguments`] do.
    pub fn asked_for(arguments: impl IntoIterator<Item = OsString>) -> Option<Pass> {
        let mut arguments = arguments.into_iter().skip(1);
        let is_meant = arguments.next()? == WORD;
        let count = arguments.next()?.to_str()?.parse().ok().filter(|_| is_meant)?;
        Some(Pass { count, arguments: arguments.collect() })
    }

    /// Becomes this program again with the arguments that follow. Returns only an error.
    pub fn become_daemon(self, signals: Result<BlockedSignals>) -> Error {
        // Its file descriptors stand where others belong. The mask outlives it, and exec(2).
        drop(signals);
        match prepare(&self) {
            Ok((program, fds)) => Error::system("become the daemon", pass::exec(program, fds)),
            Err(error) => Error::system("take over what the demo passes", error),
        }
    }
}

fn prepare(Pass { count, arguments }: &Pass) -> io::Result<(Command, Vec<OwnedFd>)> {
    // Whatever ends the demo ends the daemon.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut fds = Vec::new();
    while fds.len() < *count {
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
