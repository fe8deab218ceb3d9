//! One client of the control socket: bytes in, a request, an answer, bytes out.
//!
//! Either it reads a request, waits for the answer, or writes it: what is kept of a client is at
//! most one request and one answer.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::poll::PollFlags;

use super::operator::{Asked, Operator, Reply, Who};
use super::protocol::{self, Call, LONGEST_REQUEST};
use crate::server::{Answer, Client, Next, Turn};

pub(super) struct Connection {
    stream: UnixStream,
    who: Who,
    deadline: Instant,
    request: Vec<u8>,
    /// What was asked and is not answered yet.
    asked: Option<Asked>,
    answer: Option<Answer>,
    /// Nothing more is read: the last answer ends the connection.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, turn: &Turn<'_>) -> Connection {
        let (request, who, deadline) = (Vec::new(), Who::of(&stream), turn.deadline());
        Connection { stream, who, deadline, request, asked: None, answer: None, last: false }
    }

    /// Does what can be done without blocking, for one request.
    pub(super) fn work(&mut self, operator: &dyn Operator, turn: &Turn<'_>) -> Next {
        let done = match (&mut self.asked, &self.answer) {
            (Some(_), _) => self.look_for_answer(turn),
            (None, None) => self.read(operator, turn),
            (None, Some(_)) => Ok(Next::Wait),
        };
        let done = match done {
            Ok(Next::Wait) => self.write(turn),
            other => other,
        };
        done.into()
    }

    /// Without an answer an event was the end of the client.
    fn look_for_answer(&mut self, turn: &Turn<'_>) -> io::Result<Next> {
        let Some(answer) = self.asked.as_mut().and_then(Asked::take) else { return Ok(Next::Close) };
        (self.asked, self.answer, self.deadline) = (None, Some(Answer::new(answer)), turn.deadline());
        Ok(Next::Wait)
    }

    fn read(&mut self, operator: &dyn Operator, turn: &Turn<'_>) -> io::Result<Next> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.request.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                return self.answer_to(&line, operator, turn);
            }
            if self.request.len() >= LONGEST_REQUEST {
                self.refuse("the request is longer than 64 KiB", turn);
                return Ok(Next::Wait);
            }
            let room = chunk.len().min(LONGEST_REQUEST - self.request.len());
            match self.stream.read(&mut chunk[..room])? {
                0 if self.request.is_empty() => return Ok(Next::Close),
                0 => {
                    self.refuse("the request has no end of line", turn);
                    return Ok(Next::Wait);
                }
                n => self.request.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn answer_to(&mut self, line: &[u8], operator: &dyn Operator, turn: &Turn<'_>) -> io::Result<Next> {
        let call = match Call::from_line(line) {
            Ok(call) => call,
            Err(message) => {
                self.refuse(&message, turn);
                return Ok(Next::Wait);
            }
        };
        let (reply, mut asked) = Reply::new(turn.wake.clone());
        operator.answer(call, &self.who, reply);
        self.deadline = turn.deadline();
        let answered = asked.is_answered();
        self.asked = Some(asked);
        if answered { self.look_for_answer(turn) } else { Ok(Next::Wait) }
    }

    fn refuse(&mut self, message: &str, turn: &Turn<'_>) {
        self.answer = Some(Answer::new(protocol::error_line(message)));
        self.last = true;
        self.deadline = turn.deadline();
    }

    fn write(&mut self, turn: &Turn<'_>) -> io::Result<Next> {
        let Some(answer) = &mut self.answer else { return Ok(Next::Wait) };
        answer.send(&mut self.stream)?;
        if self.last {
            return Ok(Next::Close);
        }
        (self.answer, self.deadline) = (None, turn.deadline());
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
        match (&self.asked, &self.answer) {
            (Some(_), _) => PollFlags::empty(),
            (None, None) => PollFlags::POLLIN,
            (None, Some(_)) => PollFlags::POLLOUT,
        }
    }

    /// A whole request was read with the one before it, or the answer has come.
    fn has_work(&mut self) -> bool {
        match &mut self.asked {
            Some(asked) => asked.is_answered(),
            None => self.answer.is_none() && self.request.contains(&b'\n'),
        }
    }

    /// Also between two requests.
    fn asks_nothing(&self) -> bool {
        self.asked.is_none() && self.answer.is_none() && !self.request.contains(&b'\n')
    }
}
