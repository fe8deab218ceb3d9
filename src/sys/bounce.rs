//! Small messages through memory that the caller shares with other processes: recv(2), send(2) and write(2).

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::libc;

/// Reads what `source` has, up to `most` bytes and the size of `buffer`, as recv(2) does without waiting; 0 is the end
/// of the stream.
///
/// # Errors
/// EAGAIN: there is nothing. ECONNRESET and others: the connection's error, told once.
pub fn receive(source: BorrowedFd<'_>, buffer: &[AtomicU64], most: usize) -> Result<usize, Errno> {
    let most = most.min(size_of_val(buffer));
    let start = buffer.as_ptr().cast_mut().cast();
    // SAFETY: the kernel writes to no more than the words of the buffer, which are atomic and so may change, and any
    // bits are a u64. nix reads into bytes that nobody else has, and these may be shared with other processes.
    let read = unsafe { libc::recv(source.as_raw_fd(), start, most, libc::MSG_DONTWAIT) };
    Errno::result(read).map(|n| n as usize)
}

/// Writes the first `length` bytes of `buffer` to `sink`, or as many as there is room for, as send(2) does without
/// waiting and without SIGPIPE.
///
/// # Errors
/// EAGAIN: there is no room. EPIPE, ECONNRESET and others: the connection is over.
pub fn send(sink: BorrowedFd<'_>, buffer: &[AtomicU64], length: usize) -> Result<usize, Errno> {
    let length = length.min(size_of_val(buffer));
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads bytes of the buffer, which is no shorter. nix wants bytes that cannot change.
    let sent = unsafe { libc::send(sink.as_raw_fd(), buffer.as_ptr().cast(), length, flags) };
    Errno::result(sent).map(|n| n as usize)
}

/// Writes these bytes of `buffer` into a pipe, or as many as there is room for.
///
/// # Errors
/// EAGAIN: there is no room. EINVAL: the buffer has no such bytes.
pub fn keep(pipe: BorrowedFd<'_>, buffer: &[AtomicU64], bytes: Range<usize>) -> Result<usize, Errno> {
    if bytes.start > bytes.end || bytes.end > size_of_val(buffer) {
        return Err(Errno::EINVAL);
    }
    let start = buffer.as_ptr().cast::<u8>();
    // SAFETY: the range lies within the buffer, so both its start and all that the kernel reads do. nix wants bytes
    // that cannot change.
    let kept = unsafe { libc::write(pipe.as_raw_fd(), start.add(bytes.start).cast(), bytes.len()) };
    Errno::result(kept).map(|n| n as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn bytes_go_through_in_their_order_and_no_more_than_there_is_room_for() {
        let (mut from, source) = UnixStream::pair().unwrap();
        let (sink, mut to) = UnixStream::pair().unwrap();
        let buffer: Vec<AtomicU64> = (0..2).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(receive(source.as_fd(), &buffer, 99), Err(Errno::EAGAIN));
        from.write_all(b"more than sixteen bytes").unwrap();
        assert_eq!(receive(source.as_fd(), &buffer, 99), Ok(16));
        assert_eq!(buffer[0].load(Relaxed).to_ne_bytes(), *b"more tha");
        assert_eq!(send(sink.as_fd(), &buffer, 11), Ok(11));
        // There are not so many: what the buffer has goes out, and nothing of what stands behind it.
        assert_eq!(send(sink.as_fd(), &buffer, 99), Ok(16));
        let mut got = [0; 27];
        to.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"more than smore than sixtee");
        assert_eq!(keep(sink.as_fd(), &buffer, 5..8), Ok(3));
        to.read_exact(&mut got[..3]).unwrap();
        assert_eq!(&got[..3], b"tha");
        assert_eq!(keep(sink.as_fd(), &buffer, 5..17), Err(Errno::EINVAL));
        assert_eq!(receive(source.as_fd(), &buffer, 99), Ok(7));
        drop((from, to));
        assert_eq!(receive(source.as_fd(), &buffer, 99), Ok(0));
        assert_eq!(send(sink.as_fd(), &buffer, 1), Err(Errno::EPIPE));
    }
}
