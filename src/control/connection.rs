//! One client of the control socket: bytes in, a request, an answer, bytes out.
//!
//! Either it reads a request or it writes an answer, never both: what is kept of a client is at
//! most one request and one answer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::Status;
use super::protocol::{self, Call, LONGEST_REQUEST};

/// What becomes of a client after it was worked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    Close,
}

pub(super) struct Connection {
    stream: UnixStream,
    patience: Duration,
    deadline: Instant,
    request: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    /// Nothing more is read: the last answer ends the connection.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, patience: Duration, now: Instant) -> Connection {
        let (request, answer) = (Vec::new(), Vec::new());
        Connection { stream, patience, deadline: now + patience, request, answer, sent: 0, last: false }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// When the client is closed if no request or answer is whole by then.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn wants(&self) -> PollFlags {
        if self.answer.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    /// True if a whole request was read with the one before it: nothing on the socket tells of it.
    pub(super) fn has_request(&self) -> bool {
        self.answer.is_empty() && self.request.contains(&b'\n')
    }

    /// Does what can be done without blocking, for one request.
    pub(super) fn work(&mut self, now: Instant, status: &dyn Fn() -> Status) -> Next {
        let done = if self.answer.is_empty() { self.read(now, status) } else { Ok(Next::Wait) };
        let done = match done {
            Ok(Next::Wait) => self.write(now),
            other => other,
        };
        match done {
            Ok(next) => next,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Next::Wait,
            Err(_) => Next::Close,
        }
    }

    fn read(&mut self, now: Instant, status: &dyn Fn() -> Status) -> io::Result<Next> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.request.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                self.answer_to(&line, now, status);
                return Ok(Next::Wait);
            }
            if self.request.len() >= LONGEST_REQUEST {
                self.refuse("the request is longer than 64 KiB", now);
                return Ok(Next::Wait);
            }
            let room = chunk.len().min(LONGEST_REQUEST - self.request.len());
            match self.stream.read(&mut chunk[..room])? {
                0 if self.request.is_empty() => return Ok(Next::Close),
                0 => {
                    self.refuse("the request has no end of line", now);
                    return Ok(Next::Wait);
                }
                n => self.request.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn answer_to(&mut self, line: &[u8], now: Instant, status: &dyn Fn() -> Status) {
        match Call::from_line(line) {
            Ok(Call::Status) => self.answer = protocol::ok_line(&status()),
            Err(message) => return self.refuse(&message, now),
        }
        self.deadline = now + self.patience;
    }

    fn refuse(&mut self, message: &str, now: Instant) {
        self.answer = protocol::error_line(message);
        self.last = true;
        self.deadline = now + self.patience;
    }

    fn write(&mut self, now: Instant) -> io::Result<Next> {
        while self.sent < self.answer.len() {
            match self.stream.write(&self.answer[self.sent..])? {
                0 => return Ok(Next::Close),
                n => self.sent += n,
            }
        }
        if self.sent > 0 {
            if self.last {
                return Ok(Next::Close);
            }
            (self.answer, self.sent) = (Vec::new(), 0);
            self.deadline = now + self.patience;
        }
        Ok(Next::Wait)
    }
}
