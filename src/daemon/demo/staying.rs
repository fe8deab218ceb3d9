//! A client of the demo's second part: a thread with a connection that lasts until the show is over,
//! whatever becomes of the daemon meanwhile.
//!
//! It measures how long it ever waited: for an answer, for the next bytes of a stream, or to be rid of
//! its own. When asked to, it shows that it lives: by a question that is answered from then on, or by
//! bytes that were sent from then on and arrived. Every byte is checked against its position, and at
//! the end the stream must end with a clean FIN.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::crowd::{Fate, Figures, Kind, Pauses, Shared};
use super::pattern::{self, CHUNK, Request};
use super::upstream::Count;

/// No client waits longer for a byte.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// From an answer to the next question.
const EACH: Duration = Duration::from_millis(10);
/// How soon an idle client sees that it is asked for something.
const LOOK_MS: u16 = 25;

/// One of them.
pub struct Staying {
    kind: Kind,
    /// Of its kind.
    index: usize,
    /// The number of its stream.
    stream: usize,
    intact: bool,
    /// It has shown that it lives in the moments before this number.
    shown: usize,
    /// Bytes of its stream beyond these show that it lives.
    mark: Option<u64>,
    /// Bytes that it has sent or received of its stream.
    moved: u64,
    shared: Arc<Shared>,
    count: Arc<Count>,
}

impl Staying {
    pub fn new(kind: Kind, index: usize, stream: usize, shared: &Arc<Shared>, count: &Arc<Count>) -> Staying {
        let (shared, count) = (shared.clone(), count.clone());
        Staying { kind, index, stream, intact: true, shown: 0, mark: None, moved: 0, shared, count }
    }

    /// Lives, and tells its fate.
    pub fn run(mut self, address: SocketAddr, tell: &Sender<Fate>) {
        let fault = self.live(address).err().map(|e| e.to_string());
        let _ = tell.send(Fate { kind: self.kind, intact: self.intact, fault });
    }

    fn live(&mut self, address: SocketAddr) -> io::Result<()> {
        let stream = connect(address)?;
        match self.kind {
            Kind::Idle => self.idle(&stream).and_then(|()| leave(&stream)),
            Kind::Talking => self.talk(&stream).and_then(|()| leave(&stream)),
            Kind::Download | Kind::SlowDownload | Kind::HalfClosed => self.download(&stream),
            Kind::Upload => self.upload(&stream),
        }
    }

    fn idle(&mut self, stream: &TcpStream) -> io::Result<()> {
        while !self.is_over() {
            if self.shared.asked() > self.shown {
                self.ask(stream)?;
            }
            if poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], LOOK_MS)? > 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.ask(stream)
    }

    fn talk(&mut self, stream: &TcpStream) -> io::Result<()> {
        while !self.is_over() {
            self.ask(stream)?;
            thread::sleep(EACH);
        }
        Ok(())
    }

    fn ask(&mut self, stream: &TcpStream) -> io::Result<()> {
        let asked = self.shared.asked();
        let shared = self.shared.clone();
        let mut stream = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        self.intact &= ask(&mut stream)?;
        self.figures().to_upstream.fetch_add(Request::SIZE, Relaxed);
        self.figures().to_client.fetch_add(Request::ANSWER, Relaxed);
        self.show(asked);
        Ok(())
    }

    fn download(&mut self, stream: &TcpStream) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut timed = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        Request::Listen { stream: self.stream as u64, rate: self.kind.rate() }.write(&mut timed)?;
        if self.kind == Kind::HalfClosed {
            stream.shutdown(Shutdown::Write)?;
        }
        let intact = pattern::receive_to_end(&mut timed, |n| {
            self.figures().to_client.fetch_add(n, Relaxed);
            self.moved += n;
            // What the service is about to send may not be counted yet: a piece at most.
            let sent = self.count.of(self.stream) + CHUNK as u64;
            let is_shown = self.show_by_stream(sent, self.moved);
            if self.kind == Kind::SlowDownload && is_shown && !self.is_over() {
                thread::sleep(Duration::from_micros(n / 2));
            }
        })?;
        self.intact &= intact;
        // It ends when the show is over, and not before.
        if self.is_over() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn upload(&mut self, stream: &TcpStream) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut timed = Timed::new(stream, &shared, &shared.kinds[self.index].pauses);
        Request::Tell { stream: self.stream as u64 }.write(&mut timed)?;
        pattern::send_while(&mut timed, u64::MAX, self.kind.rate(), |n| {
            self.figures().to_upstream.fetch_add(n, Relaxed);
            self.moved += n;
            self.show_by_stream(self.moved, self.count.of(self.stream));
            !self.is_over()
        })?;
        stream.shutdown(Shutdown::Write)?;
        // The service answers only if all that it took was right.
        self.intact &= pattern::receive(&mut timed, Request::ANSWER, |_| ())?;
        end_of_stream(stream)
    }

    /// It has done something since it was `asked` to show that it lives.
    fn show(&mut self, asked: usize) {
        if asked > self.shown {
            self.shown = asked;
            self.shared.show(asked);
        }
    }

    /// Of its stream so many bytes have been sent, and so many have arrived. False: it has still to show
    /// that it lives.
    fn show_by_stream(&mut self, sent: u64, arrived: u64) -> bool {
        let asked = self.shared.asked();
        if asked == self.shown {
            return true;
        }
        if arrived > *self.mark.get_or_insert(sent) {
            self.mark = None;
            self.show(asked);
        }
        asked == self.shown
    }

    fn figures(&self) -> &Figures {
        &self.shared.kinds[self.index]
    }

    fn is_over(&self) -> bool {
        self.count.over.load(Relaxed)
    }
}

pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A question and its answer. `false` if a byte of it was wrong.
pub fn ask(stream: &mut (impl Read + Write)) -> io::Result<bool> {
    Request::Ask { delay_ms: 0 }.write(stream)?;
    pattern::receive(stream, Request::ANSWER, |_| ())
}

/// The last words of a client that has all that it wanted: a FIN, and one for it.
pub fn leave(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    end_of_stream(stream)
}

fn end_of_stream(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// A connection whose every wait is noted.
struct Timed<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    pauses: &'a Pauses,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a TcpStream, shared: &'a Shared, pauses: &'a Pauses) -> Timed<'a> {
        Timed { stream, shared, pauses }
    }

    fn timed<T>(&mut self, mut wait: impl FnMut(&TcpStream) -> T) -> T {
        let began = Instant::now();
        let result = wait(self.stream);
        self.pauses.note(self.shared.moment(), began.elapsed());
        result
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.timed(|mut stream| stream.read(buffer))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timed(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
