//! One message to the service manager: its text and the file descriptors that go with it.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// A datagram that waits to be sent.
pub(super) struct Message {
    pub(super) text: String,
    pub(super) fds: Vec<OwnedFd>,
    /// The text of another datagram, which leaves right before it, in the same system call.
    pub(super) before: Option<String>,
    /// The text of STATUS=, where it is nothing but that.
    pub(super) status: Option<String>,
    lost: Option<Arc<AtomicBool>>,
}

impl Message {
    pub(super) fn new(text: String) -> Message {
        Message { text, fds: Vec::new(), before: None, status: None, lost: None }
    }

    pub(super) fn status(status: String) -> Message {
        let message = Message::new(text(&[NotifyState::Status(&status)]));
        Message { status: Some(status), ..message }
    }

    pub(super) fn with_fds(self, fds: Vec<OwnedFd>) -> Message {
        Message { fds, ..self }
    }

    /// The message behind another one that has no file descriptors.
    pub(super) fn behind(self, before: String) -> Message {
        Message { before: Some(before), ..self }
    }

    /// The message, and a flag that says whether it could not be sent.
    pub(super) fn watched(self) -> (Message, Arc<AtomicBool>) {
        let lost = Arc::new(AtomicBool::new(false));
        (Message { lost: Some(lost.clone()), ..self }, lost)
    }

    /// It is about file descriptors, and its place among the others that are has a meaning.
    pub(super) fn is_about_fds(&self) -> bool {
        !self.fds.is_empty() || self.text.starts_with("FDSTOREREMOVE=")
    }

    /// Says that the message could not be sent, before its file descriptors are closed.
    pub(super) fn give_up(self) {
        if let Some(lost) = &self.lost {
            lost.store(true, Ordering::SeqCst);
        }
    }
}

/// The text of a message: a line for each assignment.
pub(super) fn text(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut text, state| {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{state}");
        text
    })
}

/// `text` without control characters: a newline would begin another assignment.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
