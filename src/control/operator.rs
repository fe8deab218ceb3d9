//! Who asks, who answers, and how an answer comes back to the control thread.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;

use super::protocol::{self, Call};
use crate::server::Wake;

/// The daemon, as its clients see it.
pub trait Operator: Send + 'static {
    /// Answers `call` of `who`, at once or later from another thread. It is called on the control
    /// thread, which serves nobody else meanwhile: so it never waits.
    fn answer(&self, call: Call, who: &Who, reply: Reply);
}

/// The process at the other end of the socket, as the kernel knows it (SO_PEERCRED, see unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// None where the kernel does not say.
    pub credentials: Option<Credentials>,
}

/// Of the instant at which it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Who {
    pub(super) fn of(stream: &UnixStream) -> Who {
        let asked = getsockopt(stream, sockopt::PeerCredentials).ok();
        Who { credentials: asked.map(|c| Credentials { pid: c.pid(), uid: c.uid(), gid: c.gid() }) }
    }
}

/// Takes one answer. Dropped without one, the client is told that there is none.
pub struct Reply {
    answer: Option<SyncSender<Vec<u8>>>,
    wake: Wake,
}

/// Where the answer comes to.
pub(super) struct Asked {
    answer: Receiver<Vec<u8>>,
    taken: Option<Vec<u8>>,
}

impl Reply {
    pub(super) fn new(wake: Wake) -> (Reply, Asked) {
        let (answer, receiver) = mpsc::sync_channel(1);
        (Reply { answer: Some(answer), wake }, Asked { answer: receiver, taken: None })
    }

    /// What was asked went well.
    pub fn ok(mut self, answer: &impl Serialize) {
        self.send(protocol::ok_line(answer));
    }

    /// It did not; `message` is for the one who asked.
    pub fn refuse(mut self, message: &str) {
        self.send(protocol::error_line(message));
    }

    fn send(&mut self, line: Vec<u8>) {
        if let Some(answer) = self.answer.take() {
            // The client may have gone.
            let _ = answer.try_send(line);
            self.wake.tell();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(protocol::error_line("drained gave no answer"));
    }
}

impl Asked {
    pub(super) fn is_answered(&mut self) -> bool {
        if self.taken.is_none() {
            self.taken = match self.answer.try_recv() {
                Ok(line) => Some(line),
                Err(TryRecvError::Empty) => None,
                // A reply that is dropped sends a line, so this is a thread that was killed.
                Err(TryRecvError::Disconnected) => Some(protocol::error_line("drained gave no answer")),
            };
        }
        self.taken.is_some()
    }

    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        if self.is_answered() { self.taken.take() } else { None }
    }
}
