//! What the demo's service and its clients say to each other: requests of a fixed size, and
//! payload whose every byte depends on its position, so that each can be checked when it arrives.

use std::io::{self, Read, Write};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// A prime: no power of two that a buffer may have ever falls on the same bytes again.
const PERIOD: usize = 65_521;
/// Bytes handled at once.
pub const CHUNK: usize = 65_536;

/// Two periods and more, so that a chunk at any position is one slice.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(PERIOD)
    .collect();
    period.iter().copied().cycle().take(PERIOD + CHUNK).collect()
});

/// The payload from `position` on, at most one chunk.
pub fn payload(position: u64, length: u64) -> &'static [u8] {
    let start = (position % PERIOD as u64) as usize;
    let length = length.min(CHUNK as u64) as usize;
    &PATTERN[start..start + length]
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An answer of [`Request::ANSWER`] bytes, after so many milliseconds.
    Ask { delay_ms: u64 },
    /// `total` bytes at `rate` bytes a second, then the end of the stream.
    Download { total: u64, rate: u64 },
    /// Takes `total` bytes, then answers as to [`Request::Ask`] if all were right.
    Upload { total: u64 },
    /// Bytes at `rate` bytes a second until the show is over, then the end of the stream.
    Listen { stream: u64, rate: u64 },
    /// Takes bytes to the end of the stream, then answers as to [`Request::Ask`] if all were right.
    Tell { stream: u64 },
}

impl Request {
    /// The size of a request on the wire.
    pub const SIZE: u64 = 24;
    /// The size of an answer.
    pub const ANSWER: u64 = 512;

    pub fn write(self, to: &mut impl Write) -> io::Result<()> {
        let words = match self {
            Request::Ask { delay_ms } => [1, delay_ms, 0],
            Request::Download { total, rate } => [2, total, rate],
            Request::Upload { total } => [3, total, 0],
            Request::Listen { stream, rate } => [4, stream, rate],
            Request::Tell { stream } => [5, stream, 0],
        };
        to.write_all(&words.map(u64::to_le_bytes).concat())
    }

    /// The next request, None at the end of the stream.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Request>> {
        let mut bytes = [0; Request::SIZE as usize];
        if from.read(&mut bytes[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut bytes[1..])?;
        let word =
            |n: usize| bytes[8 * n..8 * n + 8].iter().rev().fold(0, |word, b| word << 8 | u64::from(*b));
        match word(0) {
            1 => Ok(Some(Request::Ask { delay_ms: word(1) })),
            2 => Ok(Some(Request::Download { total: word(1), rate: word(2) })),
            3 => Ok(Some(Request::Upload { total: word(1) })),
            4 => Ok(Some(Request::Listen { stream: word(1), rate: word(2) })),
            5 => Ok(Some(Request::Tell { stream: word(1) })),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

/// Sends `total` bytes of payload at `rate` bytes a second, telling `sent` of each piece.
pub fn send(to: &mut impl Write, total: u64, rate: u64, mut sent: impl FnMut(u64)) -> io::Result<()> {
    send_while(to, total, rate, |n| {
        sent(n);
        true
    })
}

/// As [`send`], but only for as long as `sent` says so.
pub fn send_while(
    to: &mut impl Write,
    total: u64,
    rate: u64,
    mut sent: impl FnMut(u64) -> bool,
) -> io::Result<()> {
    // Pieces of a fiftieth of a second, so that a slow stream is a stream and not a burst.
    let piece = (rate / 50).clamp(1, CHUNK as u64);
    let start = Instant::now();
    let mut position = 0;
    while position < total {
        let due = start + Duration::from_secs_f64(position as f64 / rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let bytes = payload(position, piece.min(total - position));
        to.write_all(bytes)?;
        position += bytes.len() as u64;
        if !sent(bytes.len() as u64) {
            break;
        }
    }
    Ok(())
}

/// Takes exactly `total` bytes of payload, telling `got` of each piece. `false` if one was wrong.
pub fn receive(from: &mut impl Read, total: u64, mut got: impl FnMut(u64)) -> io::Result<bool> {
    let (intact, length) = receive_at_most(from, total, &mut got)?;
    if length < total { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(intact) }
}

/// As [`receive`], but to the end of the stream.
pub fn receive_to_end(from: &mut impl Read, mut got: impl FnMut(u64)) -> io::Result<bool> {
    receive_at_most(from, u64::MAX, &mut got).map(|(intact, _)| intact)
}

fn receive_at_most(from: &mut impl Read, total: u64, got: &mut impl FnMut(u64)) -> io::Result<(bool, u64)> {
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    let mut intact = true;
    while position < total {
        let room = (total - position).min(CHUNK as u64) as usize;
        let length = from.read(&mut buffer[..room])?;
        if length == 0 {
            break;
        }
        intact &= buffer[..length] == *payload(position, length as u64);
        position += length as u64;
        got(length as u64);
    }
    Ok((intact, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received_and_damage_is_seen() {
        let total = 3 * CHUNK as u64 + 7;
        let mut wire = Vec::new();
        send(&mut wire, total, u64::MAX / 2, |_| ()).expect("a Vec takes all");
        assert_eq!(wire.len() as u64, total);
        assert!(receive(&mut wire.as_slice(), total, |_| ()).expect("enough bytes"));
        assert!(receive_to_end(&mut wire.as_slice(), |_| ()).expect("all bytes"));
        let mut lost = wire.clone();
        lost.remove(CHUNK);
        lost.push(0);
        assert!(!receive(&mut lost.as_slice(), total, |_| ()).expect("enough bytes"));
        wire[100_000] ^= 1;
        assert!(!receive(&mut wire.as_slice(), total, |_| ()).expect("enough bytes"));
        assert!(receive(&mut &wire[..10], total, |_| ()).is_err());
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let requests = [
            Request::Ask { delay_ms: 2500 },
            Request::Download { total: 1 << 40, rate: 77 },
            Request::Upload { total: 256 },
            Request::Listen { stream: 1, rate: 3 },
            Request::Tell { stream: 2 },
        ];
        let mut wire = Vec::new();
        requests.iter().for_each(|r| r.write(&mut wire).expect("a Vec takes all"));
        let mut wire = wire.as_slice();
        for request in requests {
            assert_eq!(Request::read(&mut wire).expect("a request"), Some(request));
        }
        assert_eq!(Request::read(&mut wire).expect("the end"), None);
    }
}
