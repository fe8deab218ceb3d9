//! The buffer of a worker: a small message on its way from one socket to the other, in memory that outlives the
//! process.
//!
//! It belongs to one direction of one connection, as its record says, from before the message is read until all of it is
//! in the sink or in a pipe. How far that went nobody has to write down: the kernel counts what was read from a socket
//! and what was written to it. So before the message is read stands here what these counts are then, and whoever finds
//! the buffer learns from the sockets which of its bytes are still to be sent.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use nix::errno::Errno;

use super::record::Way;
use crate::sys::{bounce, counts, ends};

/// Bytes of a message at the most: what an ordinary pipe takes, pipe(7).
pub const BYTES: usize = 64 << 10;
/// Words of a buffer: a cache line before the message.
pub const WORDS: usize = DATA + BYTES / 8;

const COUNTS: usize = 0;
const OWNER: usize = 1;
/// Where the message begins.
pub const DATA: usize = 8;
/// Of the smallest pages.
const WORDS_OF_A_PAGE: usize = 512;

/// In place of the inode of a pipe in a record: the buffer of worker 0, and so on. No pipe has such a number, and who
/// knows nothing of buffers finds none.
const FIRST: u64 = u64::MAX - u16::MAX as u64;

/// What a record says of a direction whose bytes are in the buffer of this worker.
pub fn number(worker: usize) -> u64 {
    FIRST + (worker as u64).min(u16::MAX.into())
}

/// The worker whose buffer a record names.
pub fn worker(number: u64) -> Option<usize> {
    number.checked_sub(FIRST).map(|worker| worker as usize)
}

/// How many bytes were read from a source and written to a sink, but for a constant and modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Read from the source.
    pub read: u32,
    /// Written to the sink.
    pub written: u32,
}

impl Counts {
    /// As the kernel has them now. None: not both are TCP connections that go both ways.
    pub fn of(source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Option<Counts> {
        Some(Counts { read: counts::bytes_read(source)?, written: counts::bytes_written(sink)? })
    }

    /// After so many more of both.
    pub fn after(self, bytes: u64) -> Counts {
        let more = bytes as u32;
        Counts { read: self.read.wrapping_add(more), written: self.written.wrapping_add(more) }
    }

    /// Before so many of both.
    pub fn before(self, bytes: u64) -> Counts {
        self.after(bytes.wrapping_neg())
    }
}

/// A buffer in use. Its words may be the process's own, for connections that do not outlive it.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Buffer<'a> {
    /// The one that these begin with: [`WORDS`] of them.
    pub fn of(words: &'a [AtomicU64]) -> Buffer<'a> {
        Buffer { words: &words[..WORDS] }
    }

    /// Nothing is in it, the counts are these, and it is this one's: a connection's number and its direction. To be
    /// said before a record names it.
    pub fn begin(self, counts: Counts, owner: (u64, Way)) {
        self.words[OWNER].store(owner.0 << 1 | owner.1 as u64, Release);
        self.words[COUNTS].store(u64::from(counts.read) << 32 | u64::from(counts.written), Release);
    }

    /// Has the memory there: nobody has to be refused it in the midst of a read.
    pub fn populate(self) {
        self.words.iter().step_by(WORDS_OF_A_PAGE).for_each(|word| _ = word.fetch_or(0, Relaxed));
    }

    /// Reads a message of at most so many bytes into it.
    ///
    /// # Errors
    /// As [`bounce::receive`].
    pub fn receive(self, source: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
        bounce::receive(source, &self.words[DATA..], most)
    }

    /// Writes its first bytes to `sink`, as many of them as there is room for.
    ///
    /// # Errors
    /// As [`bounce::send`].
    pub fn send(self, sink: BorrowedFd<'_>, length: usize) -> Result<usize, Errno> {
        bounce::send(sink, &self.words[DATA..], length)
    }

    /// Forgets its first bytes, which are where they belong, as the record says by now: nobody who gets to see this
    /// memory sees them.
    pub fn clear(self, length: usize) {
        self.words[DATA..].iter().take(length.div_ceil(8)).for_each(|word| word.store(0, Release));
    }

    /// Writes these of its bytes into a pipe, which must be empty.
    ///
    /// # Errors
    /// As [`bounce::keep`].
    pub fn keep(self, pipe: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
        bounce::keep(pipe, &self.words[DATA..], bytes)
    }
}

/// What stands before the message in a buffer that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBuffer {
    counts: Counts,
    owner: u64,
}

impl LeftBuffer {
    /// The one that begins with these words.
    pub fn of(words: &[u64; DATA]) -> LeftBuffer {
        let counts = Counts { read: (words[COUNTS] >> 32) as u32, written: words[COUNTS] as u32 };
        LeftBuffer { counts, owner: words[OWNER] }
    }

    /// Which of its bytes were read from `source` and not written to `sink`. None: it cannot be known, for the source
    /// was reset, or it was not this one's.
    pub fn rest(
        self,
        (number, way): (u64, Way),
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
    ) -> Option<Range<usize>> {
        if self.owner != number << 1 | way as u64 {
            return None;
        }
        let read = counts::bytes_read(source)?.wrapping_sub(self.counts.read) as usize;
        let written = match counts::bytes_written(sink) {
            Some(written) => written.wrapping_sub(self.counts.written) as usize,
            // It takes none of them, which whoever writes to it will be told.
            None if ends::is_closed(sink) => 0,
            None => return None,
        };
        (written <= read && read <= BYTES).then_some(written..read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        for end in [&near, &far] {
            setsockopt(end, sockopt::OobInline, &true).unwrap();
        }
        (near, far)
    }

    const ME: (u64, Way) = (7, Way::ToUpstream);

    fn left(buffer: &[AtomicU64]) -> LeftBuffer {
        LeftBuffer::of(&std::array::from_fn(|at| buffer[at].load(Relaxed)))
    }

    fn bytes(buffer: &[AtomicU64], range: Range<usize>) -> Vec<u8> {
        let all: Vec<_> = buffer[DATA..].iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        all[range].to_vec()
    }

    #[test]
    fn whoever_finds_it_knows_what_is_still_to_be_sent() {
        let ((mut client, source), (sink, mut server)) = (pair(), pair());
        let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(u64::MAX)).collect();
        let buffer = Buffer::of(&words);
        buffer.populate();
        // What went before does not matter.
        client.write_all(b"earlier").unwrap();
        (&source).read_exact(&mut [0; 7]).unwrap();
        let counts = Counts::of(source.as_fd(), sink.as_fd()).unwrap();
        buffer.begin(counts, ME);
        let rest = || left(&words).rest(ME, source.as_fd(), sink.as_fd());
        assert_eq!(rest(), Some(0..0));
        client.write_all(b"a message").unwrap();
        assert_eq!(rest(), Some(0..0), "it waits in the socket");
        source.peek(&mut [0]).unwrap();
        assert_eq!(buffer.receive(source.as_fd(), BYTES), Ok(9));
        assert_eq!((rest(), &bytes(&words, 0..9)[..]), (Some(0..9), &b"a message"[..]));
        // What comes after it does not count.
        client.write_all(b"more").unwrap();
        assert_eq!(rest(), Some(0..9));
        assert_eq!(buffer.send(sink.as_fd(), 2), Ok(2));
        assert_eq!(rest(), Some(2..9));
        server.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(rest(), Some(2..9));
        (&sink).write_all(b"message").unwrap();
        assert_eq!(rest(), Some(9..9));
        buffer.clear(9);
        assert_eq!(bytes(&words, 0..17), [&[0; 16][..], &[u8::MAX]].concat());
        let more = |count: u32| count.wrapping_add(9);
        assert_eq!(counts.after(9), Counts { read: more(counts.read), written: more(counts.written) });
        assert_eq!(counts.after(9).before(9), counts);
    }

    #[test]
    fn what_cannot_be_known_is_not_guessed() {
        let ((_client, source), (sink, _server)) = (pair(), pair());
        let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let buffer = Buffer::of(&words);
        let rest = || left(&words).rest(ME, source.as_fd(), sink.as_fd());
        let counts = Counts::of(source.as_fd(), sink.as_fd()).unwrap();
        // More than there is room for, more sent than there was, and other sockets.
        for (read, written) in [(BYTES as u32 + 1, 0), (8, 9), (u32::MAX, 0)] {
            let (read, written) = (counts.read.wrapping_sub(read), counts.written.wrapping_sub(written));
            buffer.begin(Counts { read, written }, ME);
            assert_eq!(rest(), None, "{read}, {written}");
        }
        buffer.begin(Counts { read: counts.read.wrapping_sub(3), ..counts }, ME);
        assert_eq!(rest(), Some(0..3));
        for other in [(8, Way::ToUpstream), (7, Way::ToClient)] {
            assert!(left(&words).rest(other, source.as_fd(), sink.as_fd()).is_none(), "{other:?}");
        }
        setsockopt(&sink, sockopt::OobInline, &false).unwrap();
        assert_eq!(rest(), None, "the sink does not tell");
        ends::reset(sink.as_fd());
        assert_eq!(rest(), Some(0..3), "nothing can be sent");
        ends::reset(source.as_fd());
        assert_eq!(rest(), None, "the source was reset");
    }

    #[test]
    fn no_pipe_has_the_number_of_a_buffer() {
        for (at, known) in [(0, Some(0)), (1, Some(1)), (u16::MAX.into(), Some(u16::MAX.into()))] {
            assert_eq!(worker(number(at)), known);
        }
        assert_eq!((worker(0), worker(FIRST - 1)), (None, None));
    }
}
