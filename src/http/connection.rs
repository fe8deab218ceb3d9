//! One client of the endpoint: a request, an answer, and an end that loses nothing of it.
//!
//! After the answer our side is closed and what still comes is thrown away: bytes that stand unread
//! at the close would have the kernel reset the connection, and the answer with it.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::PollFlags;

use super::request::{self, Asked, LONGEST_REQUEST};
use super::{Page, Site, Status};
use crate::server::{Answer, Client, Next, Turn};

/// How long a client may take to end after its answer.
const LEAVE: Duration = Duration::from_secs(2);
/// How many bytes it may send meanwhile.
const MOST_THROWN_AWAY: usize = 64 << 10;

/// A client, of TCP or of UNIX: the calls are the same.
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    stage: Stage,
}

enum Stage {
    Asks { request: Vec<u8> },
    Takes { answer: Answer },
    Leaves { thrown_away: usize },
}

impl Connection {
    pub fn new(stream: OwnedFd, turn: &Turn<'_>) -> Connection {
        let stage = Stage::Asks { request: Vec::new() };
        Connection { stream: UnixStream::from(stream), deadline: turn.deadline(), stage }
    }

    /// Does what can be done without blocking.
    pub fn work(&mut self, site: &impl Site, turn: &Turn<'_>) -> Next {
        loop {
            let done = match &self.stage {
                Stage::Asks { .. } => self.read(site, turn),
                Stage::Takes { .. } => self.write(turn),
                Stage::Leaves { .. } => self.throw_away(),
            };
            match done {
                Ok(Next::Wait) => {}
                done => return done.into(),
            }
        }
    }

    fn read(&mut self, site: &impl Site, turn: &Turn<'_>) -> io::Result<Next> {
        let Stage::Asks { request } = &mut self.stage else { return Ok(Next::Wait) };
        let mut chunk = [0; 2048];
        let room = chunk.len().min(LONGEST_REQUEST - request.len());
        let asked = match self.stream.read(&mut chunk[..room])? {
            0 if request.is_empty() => return Ok(Next::Close),
            0 => Asked::Wrong(Status::BadRequest),
            n => {
                request.extend_from_slice(&chunk[..n]);
                // Whole lines alone can change what is known; a request in single bytes is not worth more.
                let is_first = request.len() == n;
                let is_full = request.len() >= LONGEST_REQUEST;
                match is_first || is_full || chunk[..n].contains(&b'\n') {
                    true => request::read(request),
                    false => Asked::More,
                }
            }
        };
        let (page, head) = match asked {
            Asked::More => return Ok(Next::Wait),
            Asked::Page { path, head } => {
                (site.page(&path).unwrap_or_else(|| refusal(Status::NotFound)), head)
            }
            Asked::Wrong(status) => (refusal(status), false),
        };
        self.stage = Stage::Takes { answer: Answer::new(answer(&page, head, SystemTime::now())) };
        self.deadline = turn.deadline();
        Ok(Next::Wait)
    }

    fn write(&mut self, turn: &Turn<'_>) -> io::Result<Next> {
        let Stage::Takes { answer } = &mut self.stage else { return Ok(Next::Wait) };
        answer.send(&mut self.stream)?;
        self.stream.shutdown(Shutdown::Write)?;
        self.stage = Stage::Leaves { thrown_away: 0 };
        self.deadline = turn.now + LEAVE;
        Ok(Next::Wait)
    }

    fn throw_away(&mut self) -> io::Result<Next> {
        let Stage::Leaves { thrown_away } = &mut self.stage else { return Ok(Next::Wait) };
        let n = self.stream.read(&mut [0; 4096])?;
        *thrown_away += n;
        Ok(if n == 0 || *thrown_away > MOST_THROWN_AWAY { Next::Close } else { Next::Wait })
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

    fn wants(&self) -> PollFlags {
        match self.stage {
            Stage::Asks { .. } | Stage::Leaves { .. } => PollFlags::POLLIN,
            Stage::Takes { .. } => PollFlags::POLLOUT,
        }
    }

    /// Everything is worked off at once.
    fn has_work(&mut self) -> bool {
        false
    }

    fn asks_nothing(&self) -> bool {
        matches!(self.stage, Stage::Asks { .. })
    }
}

fn refusal(status: Status) -> Page {
    let (_, reason) = status.line().split_once(' ').unwrap_or_default();
    Page::text(status, reason)
}

/// The bytes of an answer, which is the last of its connection.
fn answer(page: &Page, head: bool, now: SystemTime) -> Vec<u8> {
    let allow = if page.status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let body = if head { "" } else { &page.body };
    let (status, kind, length) = (page.status.line(), page.content_type, page.body.len());
    let date = httpdate::fmt_http_date(now);
    format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_its_length_and_that_it_is_the_last() {
        let text =
            |page: &Page, head| String::from_utf8(answer(page, head, SystemTime::UNIX_EPOCH)).expect("text");
        let page = Page::text(Status::Ok, "ok");
        let whole = text(&page, false);
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "{whole}");
        assert!(whole.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{whole}");
        assert!(whole.contains("\r\nContent-Length: 3\r\n") && whole.contains("\r\nConnection: close\r\n"));
        assert_eq!(text(&page, true) + "ok\n", whole);
        assert!(text(&refusal(Status::MethodNotAllowed), false).contains("\r\nAllow: GET, HEAD\r\n"));
    }
}
