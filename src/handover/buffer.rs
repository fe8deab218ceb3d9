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

use crate::sys::{bounce, counts};

/// Bytes of a message at the most: what an ordinary pipe takes, pipe(7).
pub const BYTES: usize = 64 << 10;
/// Words of a buffer: a cache line before the message.
pub const WORDS: usize = DATA + BYTES / 8;

const COUNTS: usize = 0;
const DATA: usize = 8;

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

    /// Nothing is in it, and the counts are these. To be said before a record names it.
    pub fn begin(self, counts: Counts) {
        self.words[COUNTS].store(u64::from(counts.read) << 32 | u64::from(counts.written), Release);
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

    /// Forgets its first bytes, which are where they belong: nobody who gets to see this memory sees them.
    pub fn clear(self, length: usize) {
        self.words[DATA..].iter().take(length.div_ceil(8)).for_each(|word| word.store(0, Relaxed));
    }

    /// Writes these of its bytes into a pipe, which must be empty.
    ///
    /// # Errors
    /// As [`bounce::keep`].
    pub fn keep(self, pipe: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
        bounce::keep(pipe, &self.words[DATA..], bytes)
    }
}

/// A buffer as it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBuffer {
    counts: Counts,
    bytes: Vec<u8>,
}

impl LeftBuffer {
    /// The one in these words.
    pub fn of(words: &[u64; WORDS]) -> LeftBuffer {
        let counts = Counts { read: (words[COUNTS] >> 32) as u32, written: words[COUNTS] as u32 };
        let bytes = words[DATA..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        LeftBuffer { counts, bytes }
    }

    /// The bytes that were read from `source` and not written to `sink`. None: it cannot be known, for the source was
    /// reset, or these are not the sockets that it was between.
    pub fn rest(&self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Option<&[u8]> {
        let read = counts::bytes_read(source)?.wrapping_sub(self.counts.read) as usize;
        // A sink that was reset takes none of them, which whoever writes to it will be told.
        let written =
            counts::bytes_written(sink).map_or(0, |written| written.wrapping_sub(self.counts.written));
        self.bytes.get(written as usize..read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, far)
    }

    fn left(buffer: &[AtomicU64]) -> LeftBuffer {
        LeftBuffer::of(&std::array::from_fn(|at| buffer[at].load(Relaxed)))
    }

    #[test]
    fn whoever_finds_it_knows_what_is_still_to_be_sent() {
        let ((mut client, source), (sink, mut server)) = (pair(), pair());
        let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(u64::MAX)).collect();
        let buffer = Buffer::of(&words);
        // What went before does not matter.
        client.write_all(b"earlier").unwrap();
        (&source).read_exact(&mut [0; 7]).unwrap();
        let counts = Counts::of(source.as_fd(), sink.as_fd()).unwrap();
        buffer.begin(counts);
        let rest = || left(&words).rest(source.as_fd(), sink.as_fd()).map(<[u8]>::to_vec);
        assert_eq!(rest(), Some(vec![]));
        client.write_all(b"a message").unwrap();
        assert_eq!(rest(), Some(vec![]), "it waits in the socket");
        source.set_nonblocking(false).unwrap();
        source.peek(&mut [0]).unwrap();
        assert_eq!(buffer.receive(source.as_fd(), BYTES), Ok(9));
        // What comes after it does not count.
        client.write_all(b"more").unwrap();
        assert_eq!(rest(), Some(b"a message".to_vec()));
        assert_eq!(buffer.send(sink.as_fd(), 2), Ok(2));
        assert_eq!(rest(), Some(b"message".to_vec()));
        server.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(rest(), Some(b"message".to_vec()));
        (&sink).write_all(b"message").unwrap();
        assert_eq!(rest(), Some(vec![]));
        assert!(left(&words).bytes.starts_with(b"a message"));
        buffer.clear(9);
        assert!(left(&words).bytes.starts_with(&[0; 16]) && left(&words).bytes[16] == u8::MAX);
        assert_eq!(
            counts.after(9),
            Counts { read: counts.read.wrapping_add(9), written: counts.written.wrapping_add(9) }
        );
        assert_eq!(counts.after(9).before(9), counts);
    }

    #[test]
    fn what_cannot_be_known_is_not_guessed() {
        let ((_client, source), (sink, _server)) = (pair(), pair());
        let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let buffer = Buffer::of(&words);
        let rest = || left(&words).rest(source.as_fd(), sink.as_fd()).map(<[u8]>::to_vec);
        let counts = Counts::of(source.as_fd(), sink.as_fd()).unwrap();
        // More than there is room for, more sent than there was, and other sockets.
        for (read, written) in [(BYTES as u32 + 1, 0), (8, 9), (u32::MAX, 0)] {
            let (read, written) = (counts.read.wrapping_sub(read), counts.written.wrapping_sub(written));
            buffer.begin(Counts { read, written });
            assert_eq!(rest(), None, "{read}, {written}");
        }
        buffer.begin(Counts { read: counts.read.wrapping_sub(3), ..counts });
        assert_eq!(rest(), Some(vec![0; 3]));
        crate::sys::ends::reset(sink.as_fd());
        assert_eq!(rest(), Some(vec![0; 3]), "nothing can be sent");
        crate::sys::ends::reset(source.as_fd());
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
