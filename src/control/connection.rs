//! One client of the control socket: bytes in, a request, an answer, bytes out.
//!
//! Either it reads a request, waits for the answer, or writes it: what is kept of a client is at
//! most one request and one answer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::operator::{Asked, Operator, Reply, Who};
use super::protocol::{self, Call, LONGEST_REQUEST};
use crate::server::{Client, Next, Wake};

pub(super) struct Connection {
    stream: UnixStream,
    who: Who,
    patience: Duration,
    deadline: Instant,
    request: Vec<u8>,
    /// What was asked and is not answered yet.
    asked: Option<Asked>,
    answer: Vec<u8>,
    sent: usize,
    /// Nothing more is read: the last answer ends the connection.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, patience: Duration, now: Instant) -> Connection {
        let (request, answer, who) = (Vec::new(), Vec::new(), Who::of(&stream));
        let (asked, deadline) = (None, now + patience);
        Connection { stream, who, patience, deadline, request, asked, answer, sent: 0, last: false }
    }

    /// Does what can be done without blocking, for one request.
    pub(super) fn work(&mut self, now: Instant, operator: &dyn Operator, wake: &Wake) -> Next {
        let done = match &mut self.asked {
            Some(_) => self.look_for_answer(now),
            None if self.answer.is_empty() => self.read(now, operator, wake),
            None => Ok(Next::Wait),
        };
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

    /// Without an answer an event was the end of the client.
    fn look_for_answer(&mut self, now: Instant) -> io::Result<Next> {
        let Some(answer) = self.asked.as_mut().and_then(Asked::take) else { return Ok(Next::Close) };
        (self.asked, self.answer, self.deadline) = (None, answer, now + self.patience);
        Ok(Next::Wait)
    }

    fn read(&mut self, now: Instant, operator: &dyn Operator, wake: &Wake) -> io::Result<Next> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.request.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                return self.answer_to(&line, now, operator, wake);
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

    fn answer_to(
        &mut self,
        line: &[u8],
        now: Instant,
        operator: &dyn Operator,
        wake: &Wake,
    ) -> io::Result<Next> {
        let call = match Call::from_line(line) {
            Ok(call) => call,
            Err(message) => {
                self.refuse(&message, now);
                return Ok(Next::Wait);
            }
        };
        let (reply, mut asked) = Reply::new(wake.clone());
        operator.answer(call, &self.who, reply);
        self.deadline = now + self.patience;
        let answered = asked.is_answered();
        self.asked = Some(asked);
        if answered { self.look_for_answer(now) } else { Ok(Next::Wait) }
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

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client for Connection {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    /// While an answer is waited for, nothing but the end of the client.
    fn wants(&self) -> PollFlags {
        match &self.asked {
            Some(_) => PollFlags::empty(),
            None if self.answer.is_empty() => PollFlags::POLLIN,
            None => PollFlags::POLLOUT,
        }
    }

    /// A whole request was read with the one before it, or the answer has come.
    fn has_work(&mut self) -> bool {
        match &mut self.asked {
            Some(asked) => asked.is_answered(),
            None => self.answer.is_empty() && self.request.contains(&b'\n'),
        }
    }
}
