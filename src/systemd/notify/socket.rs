//! The notify socket: a datagram sender that never blocks.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};

use super::message::Message;
use crate::sys::rights;

/// Where messages go, or why they can't.
pub(super) struct Socket {
    to: Result<(OwnedFd, UnixAddr), String>,
}

/// Why a message was not sent.
pub(super) enum SendError {
    /// The receiver's queue or the kernel's buffers are full: try again.
    Full,
    /// The user has too many file descriptors in flight for those of the message: try again later. What has
    /// none can be sent.
    Crowded,
    /// It can't be sent, and why.
    Broken(String),
}

impl Socket {
    /// A socket for the value of `$NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    pub(super) fn open(address: &OsStr) -> Socket {
        Socket { to: open(address.as_bytes()).map_err(|e| format!("{}: {e}", address.display())) }
    }

    /// Sends one message. The socket isn't connected, so that one which was made anew at the same
    /// path is reached again.
    pub(super) fn send(&self, message: &mut Message) -> Result<(), SendError> {
        let (socket, address) = self.to.as_ref().map_err(|e| SendError::Broken(e.clone()))?;
        let fds: Vec<RawFd> = message.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let text = [IoSlice::new(message.text.as_bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            let result = match &message.before {
                None => sendmsg(socket.as_raw_fd(), &text, control, flags, Some(address)).map(|_| true),
                Some(before) => {
                    let texts = [before.as_bytes(), message.text.as_bytes()];
                    rights::send_both(socket.as_fd(), address, texts, &fds).map(|sent| sent == texts.len())
                }
            };
            return match result {
                Ok(true) => Ok(()),
                Ok(false) => {
                    message.before = None;
                    Err(SendError::Full)
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => Err(SendError::Full),
                Err(Errno::ETOOMANYREFS) => Err(SendError::Crowded),
                Err(e) => Err(SendError::Broken(format!("{address}: {}", e.desc()))),
            };
        }
    }
}

fn open(address: &[u8]) -> Result<(OwnedFd, UnixAddr), String> {
    let to = match address {
        [b'/', ..] => UnixAddr::new(OsStr::from_bytes(address)),
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        _ => return Err("neither a path nor an abstract socket".into()),
    };
    let to = to.map_err(|e| e.desc().to_string())?;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| e.desc().to_string())?;
    Ok((socket, to))
}
