//! What is known of one connection, as the fixed number of bytes that it has in the ledger.
//!
//! Numbers are little-endian, texts have a length before them. Reading trusts nothing: any bytes
//! give a record or None.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::sys::socket::Peer;

/// Bytes of a record.
pub const SIZE: usize = 384;

const LONGEST_PROXY: usize = 64;
const LONGEST_UPSTREAM: usize = 128;

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Journal field DRAINED_CONNECTION.
    pub id: u64,
    /// The name of its proxy.
    pub proxy: String,
    /// The address of its upstream; empty while it has none.
    pub upstream: String,
    /// Who connected.
    pub peer: Peer,
    /// The cookie of the client's socket.
    pub client: u64,
    /// The cookie of the upstream's socket; 0 while there is none.
    pub server: u64,
    /// Milliseconds of CLOCK_MONOTONIC.
    pub opened: u64,
    /// When the last byte moved, on the same clock.
    pub last: u64,
    /// The last byte came from the client.
    pub answer_due: bool,
    /// The client's FIN was seen.
    pub client_ended: bool,
    /// The direction to the upstream.
    pub to_upstream: Direction,
    /// The direction to the client.
    pub to_client: Direction,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes that went through.
    pub bytes: u64,
    /// Bytes in its pipe.
    pub held: u32,
    /// The inode of its pipe; 0 where it has none.
    pub pipe: u64,
    /// Its source has ended.
    pub ended: bool,
    /// The end was passed on.
    pub over: bool,
}

impl Record {
    /// The bytes for the ledger. A text that is too long is cut: it then matches nothing.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut out = Vec::with_capacity(SIZE);
        for number in [self.id, self.client, self.server, self.opened, self.last] {
            out.extend(number.to_le_bytes());
        }
        out.push(u8::from(self.answer_due) | u8::from(self.client_ended) << 1);
        for direction in [self.to_upstream, self.to_client] {
            out.extend(direction.bytes.to_le_bytes());
            out.extend(direction.pipe.to_le_bytes());
            out.extend(direction.held.to_le_bytes());
            out.push(u8::from(direction.ended) | u8::from(direction.over) << 1);
        }
        write_peer(&mut out, self.peer);
        write_text(&mut out, &self.proxy, LONGEST_PROXY);
        write_text(&mut out, &self.upstream, LONGEST_UPSTREAM);
        let mut bytes = [0; SIZE];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// The record in these bytes, if they are one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let mut reader = Reader(bytes);
        let [id, client, server, opened, last] =
            [reader.number()?, reader.number()?, reader.number()?, reader.number()?, reader.number()?];
        let [answer_due, client_ended] = reader.flags()?;
        let to_upstream = reader.direction()?;
        let to_client = reader.direction()?;
        let peer = reader.peer()?;
        let proxy = reader.text(LONGEST_PROXY)?;
        let upstream = reader.text(LONGEST_UPSTREAM)?;
        let record = Record {
            id,
            proxy,
            upstream,
            peer,
            client,
            server,
            opened,
            last,
            answer_due,
            client_ended,
            to_upstream,
            to_client,
        };
        (client != 0).then_some(record)
    }
}

fn write_peer(out: &mut Vec<u8>, peer: Peer) {
    let (family, address, number) = match peer {
        Peer::Tcp(SocketAddr::V4(v4)) => (4, v4.ip().to_ipv6_mapped(), u32::from(v4.port())),
        Peer::Tcp(SocketAddr::V6(v6)) => (6, *v6.ip(), u32::from(v6.port())),
        Peer::Unix(pid) => (1, Ipv6Addr::UNSPECIFIED, pid as u32),
    };
    out.push(family);
    out.extend(address.octets());
    out.extend(number.to_le_bytes());
}

fn write_text(out: &mut Vec<u8>, text: &str, longest: usize) {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.push(end as u8);
    out.extend(&text.as_bytes()[..end]);
    out.extend(std::iter::repeat_n(0, longest - end));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn small(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn flags(&mut self) -> Option<[bool; 2]> {
        let [flags] = self.take()?;
        Some([flags & 1 != 0, flags & 2 != 0])
    }

    fn direction(&mut self) -> Option<Direction> {
        let (bytes, pipe, held) = (self.number()?, self.number()?, self.small()?);
        let [ended, over] = self.flags()?;
        // Bytes that are held stand in a pipe, and in none that is over.
        let sound = (held > 0) == (pipe != 0) && !(over && held > 0);
        sound.then_some(Direction { bytes, held, pipe, ended, over })
    }

    fn peer(&mut self) -> Option<Peer> {
        let [family] = self.take()?;
        let address = Ipv6Addr::from(self.take::<16>()?);
        let number = self.small()?;
        let port = u16::try_from(number);
        match family {
            1 => Some(Peer::Unix(number as i32)),
            4 => {
                let v4: Ipv4Addr = address.to_ipv4_mapped()?;
                Some(Peer::Tcp(SocketAddr::new(IpAddr::V4(v4), port.ok()?)))
            }
            6 => Some(Peer::Tcp(SocketAddr::new(IpAddr::V6(address), port.ok()?))),
            _ => None,
        }
    }

    fn text(&mut self, longest: usize) -> Option<String> {
        let [length] = self.take()?;
        let (text, rest) = self.0.split_at_checked(longest)?;
        self.0 = rest;
        String::from_utf8(text.get(..usize::from(length))?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: 7,
            proxy: "web".to_owned(),
            upstream: "unix:/run/app.sock".to_owned(),
            peer: Peer::Tcp("192.0.2.1:5000".parse().unwrap()),
            client: 11,
            server: 12,
            opened: 1_000,
            last: 2_000,
            answer_due: true,
            client_ended: false,
            to_upstream: Direction { bytes: 5, held: 3, pipe: 99, ended: true, over: false },
            to_client: Direction { bytes: 6, held: 0, pipe: 0, ended: true, over: true },
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let mut record = record();
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record.clone()));
        for peer in [Peer::Unix(42), Peer::Tcp("[2001:db8::1]:443".parse().unwrap())] {
            record.peer = peer;
            record.proxy = "p".repeat(LONGEST_PROXY);
            record.upstream = String::new();
            assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record.clone()));
        }
    }

    #[test]
    fn what_contradicts_itself_is_no_record() {
        let mut held_without_pipe = record();
        held_without_pipe.to_upstream.pipe = 0;
        let mut over_and_held = record();
        over_and_held.to_upstream.over = true;
        let nobody = Record { client: 0, ..record() };
        for wrong in [held_without_pipe, over_and_held, nobody] {
            assert_eq!(Record::from_bytes(&wrong.to_bytes()), None);
        }
        assert_eq!(Record::from_bytes(&[0; SIZE]), None);
    }

    #[test]
    fn any_bytes_are_a_record_or_none() {
        let good = record().to_bytes();
        for at in 0..SIZE {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good;
                bytes[at] = value;
                if let Some(read) = Record::from_bytes(&bytes) {
                    assert_eq!(Record::from_bytes(&read.to_bytes()), Some(read));
                }
            }
            assert_eq!(Record::from_bytes(&good[..at.min(200)]), None);
        }
    }
}
