//! What is sent to a client, as fast as it takes it.

use std::io::{self, Write};

/// The bytes of an answer that are not sent yet.
pub struct Answer {
    bytes: Vec<u8>,
    sent: usize,
}

impl Answer {
    /// All of it is to be sent.
    pub fn new(bytes: Vec<u8>) -> Answer {
        Answer { bytes, sent: 0 }
    }

    /// Sends what `client` takes. Returns when nothing is left.
    ///
    /// # Errors
    /// WouldBlock where it takes no more for now, WriteZero where it never will, and what write(2) has.
    pub fn send(&mut self, client: &mut impl Write) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match client.write(&self.bytes[self.sent..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => self.sent += n,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at once, after each of which it must be asked again.
    struct Taking(Vec<u8>, usize, bool);

    impl Write for Taking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_goes_on_where_it_stood_still() {
        let (mut answer, mut client) = (Answer::new(b"an answer".to_vec()), Taking(Vec::new(), 4, false));
        let mut tries = 0;
        while let Err(e) = answer.send(&mut client) {
            assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
            tries += 1;
            assert!(tries < 10);
        }
        assert_eq!(client.0, b"an answer");
        assert!(answer.send(&mut client).is_ok(), "nothing is left");
        let mut answer = Answer::new(b"x".to_vec());
        let error = answer.send(&mut Taking(Vec::new(), 0, true)).expect_err("it takes nothing");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
