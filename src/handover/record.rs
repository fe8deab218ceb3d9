//! What is known of one connection, as the words that it has in the ledger.
//!
//! [`Slot`] is the live record: its owner, one worker, stores into it while the connection works, and
//! whatever ends the process leaves a valid record, because each store leaves one. [`Record`] is the
//! same at rest. Reading trusts nothing: any words give a record or None.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use crate::sys::socket::Peer;

/// Words of a record: two cache lines.
pub const WORDS: usize = 16;

/// The words of a connection in the ledger.
pub type Slot = [AtomicU64; WORDS];

const HEAD: usize = 0;
/// Where in it the flags are, and how many bits they have.
const FLAGS: u32 = 8;
const FLAGS_MASK: u32 = (1 << 24) - 1;
const ID: usize = 1;
const CLIENT: usize = 2;
const SERVER: usize = 3;
const OPENED: usize = 4;
const ADDRESS: usize = 5;
const NUMBER: usize = 7;
/// From here on stand what changes while the connection works: one cache line.
const LAST: usize = 8;
const BYTES: usize = 9;
const PIPES: usize = 11;

/// No upstream, or one that is not configured any more.
pub const NO_UPSTREAM: u16 = u16::MAX;

/// What a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody's.
    #[default]
    Free,
    /// A connection.
    Live,
    /// One that is just being closed; reset where [`Flags`] say so.
    Closing,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the upstream.
    ToUpstream,
    /// From the upstream to the client.
    ToClient,
}

impl Way {
    /// The other one.
    pub fn back(self) -> Way {
        match self {
            Way::ToUpstream => Way::ToClient,
            Way::ToClient => Way::ToUpstream,
        }
    }
}

/// What is true of a connection or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The last byte came from the client.
    pub const ANSWER_DUE: Flags = Flags(1);
    /// The client's FIN was seen.
    pub const CLIENT_ENDED: Flags = Flags(1 << 1);
    /// The upstream has not taken the connection yet.
    pub const CONNECTING: Flags = Flags(1 << 2);
    /// System calls are under way that may tell once what they never tell again: an error of a socket,
    /// a byte that passes through memory of the process alone.
    pub const WORKING: Flags = Flags(1 << 3);
    /// A byte of urgent data passes through memory of the process alone.
    pub const URGENT: Flags = Flags(1 << 4);
    /// A sink refused bytes: the end must be a reset.
    pub const BROKEN: Flags = Flags(1 << 5);
    /// To be closed by a reset on the client's side.
    pub const RESET_CLIENT: Flags = Flags(1 << 6);
    /// To be closed by a reset on the upstream's side.
    pub const RESET_SERVER: Flags = Flags(1 << 7);

    /// These and those.
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These, where `condition` is true.
    pub fn when(self, condition: bool) -> Flags {
        if condition { self } else { Flags(0) }
    }

    /// These without those.
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// The source of that direction has ended.
    pub fn ended(way: Way) -> Flags {
        Flags(1 << (8 + way as u32))
    }

    /// The end of that direction was passed on.
    pub fn over(way: Way) -> Flags {
        Flags(1 << (10 + way as u32))
    }

    /// The source of that direction broke off, as its own sink side has shown.
    pub fn source_broke(way: Way) -> Flags {
        Flags(1 << (12 + way as u32))
    }

    /// The source of that direction has said its end, after all its bytes: not by a reset.
    pub fn fin(way: Way) -> Flags {
        Flags(1 << (14 + way as u32))
    }

    /// A read from the source of that direction is under way that may be told its error, once and for all.
    pub fn reading(way: Way) -> Flags {
        Flags(1 << (16 + way as u32))
    }

    /// All of `other` are among these.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the record is.
    pub state: State,
    /// What is true of it.
    pub flags: Flags,
    /// Its proxy, as the ledger numbers them.
    pub proxy: u16,
    /// Its upstream among those of the proxy, or [`NO_UPSTREAM`].
    pub upstream: u16,
    /// Journal field DRAINED_CONNECTION.
    pub id: u64,
    /// The cookie of the client's socket.
    pub client: u64,
    /// The cookie of the upstream's socket; 0 while there is none.
    pub server: u64,
    /// Milliseconds of CLOCK_MONOTONIC.
    pub opened: u64,
    /// Who connected.
    pub peer: Peer,
    /// When the last byte moved, on the same clock.
    pub last: u64,
    /// Bytes that went to the upstream and to the client.
    pub bytes: [u64; 2],
    /// The inodes of the pipes of both directions, or the [numbers](super::buffer::number) of the buffers in place of
    /// them; 0 where there is none.
    pub pipes: [u64; 2],
}

impl Record {
    /// Puts it into a slot that is free. Whoever reads it before all is stored finds it free.
    pub fn store(&self, slot: &Slot) {
        let (address, number) = peer_to_words(self.peer);
        for (at, value) in [
            (ID, self.id),
            (CLIENT, self.client),
            (SERVER, self.server),
            (OPENED, self.opened),
            (ADDRESS, address[0]),
            (ADDRESS + 1, address[1]),
            (NUMBER, number),
            (LAST, self.last),
            (BYTES, self.bytes[0]),
            (BYTES + 1, self.bytes[1]),
            (PIPES, self.pipes[0]),
            (PIPES + 1, self.pipes[1]),
        ] {
            slot[at].store(value, Release);
        }
        slot[HEAD].store(self.head(), Release);
    }

    /// The record in these words, if they are one that is not free.
    pub fn load(words: &[u64; WORDS]) -> Option<Record> {
        let head = words[HEAD];
        let state = match head & 0xff {
            1 => State::Live,
            2 => State::Closing,
            _ => return None,
        };
        let peer = peer_from_words([words[ADDRESS], words[ADDRESS + 1]], words[NUMBER])?;
        let record = Record {
            state,
            flags: Flags((head >> FLAGS) as u32 & FLAGS_MASK),
            proxy: (head >> 32) as u16,
            upstream: (head >> 48) as u16,
            id: words[ID],
            client: words[CLIENT],
            server: words[SERVER],
            opened: words[OPENED],
            peer,
            last: words[LAST],
            bytes: [words[BYTES], words[BYTES + 1]],
            pipes: [words[PIPES], words[PIPES + 1]],
        };
        (record.client != 0).then_some(record)
    }

    fn head(&self) -> u64 {
        let Record { state, flags, proxy, upstream, .. } = self;
        *state as u64 | u64::from(flags.0) << FLAGS | u64::from(*proxy) << 32 | u64::from(*upstream) << 48
    }
}

/// A record whose words do not say what it is.
pub fn is_damaged(words: &[u64; WORDS]) -> bool {
    words[HEAD] != 0 && Record::load(words).is_none()
}

/// The stores that a connection makes while it lives. Each leaves a valid record.
pub trait Live {
    /// The connection's number.
    fn id(&self) -> u64;
    /// Bytes may be in this pipe or buffer from now on. To be said before they are.
    fn bind(&self, way: Way, pipe: u64);
    /// None are in it any more. To be said before it is anybody else's.
    fn unbind(&self, way: Way);
    /// What is true of it, its proxy and its upstream.
    fn set_head(&self, state: State, flags: Flags, proxy: u16, upstream: u16);
    /// More is true of it.
    fn add_flags(&self, flags: Flags);
    /// In place of `from` this is true of it.
    fn change_flags(&self, from: Flags, to: Flags);
    /// Its upstream's socket, 0 for none.
    fn set_server(&self, cookie: u64);
    /// What has moved.
    fn set_traffic(&self, last: u64, bytes: [u64; 2]);
    /// It is nobody's any more.
    fn free(&self);
}

impl Live for Slot {
    fn id(&self) -> u64 {
        self[ID].load(Relaxed)
    }

    fn bind(&self, way: Way, pipe: u64) {
        self[PIPES + way as usize].store(pipe, Release);
    }

    fn unbind(&self, way: Way) {
        self.bind(way, 0);
    }

    fn set_head(&self, state: State, flags: Flags, proxy: u16, upstream: u16) {
        let head = state as u64 | u64::from(flags.0) << FLAGS | u64::from(proxy) << 32;
        self[HEAD].store(head | u64::from(upstream) << 48, Release);
    }

    fn add_flags(&self, flags: Flags) {
        self[HEAD].store(self[HEAD].load(Relaxed) | u64::from(flags.0) << FLAGS, Release);
    }

    fn change_flags(&self, from: Flags, to: Flags) {
        let without = self[HEAD].load(Relaxed) & !(u64::from(from.0) << FLAGS);
        self[HEAD].store(without | u64::from(to.0) << FLAGS, Release);
    }

    fn set_server(&self, cookie: u64) {
        self[SERVER].store(cookie, Release);
    }

    fn set_traffic(&self, last: u64, bytes: [u64; 2]) {
        self[LAST].store(last, Release);
        self[BYTES].store(bytes[0], Release);
        self[BYTES + 1].store(bytes[1], Release);
    }

    fn free(&self) {
        self[HEAD].store(0, Release);
    }
}

fn peer_to_words(peer: Peer) -> ([u64; 2], u64) {
    let (family, address, number) = match peer {
        Peer::Tcp(SocketAddr::V4(v4)) => (4, v4.ip().to_ipv6_mapped(), u64::from(v4.port())),
        Peer::Tcp(SocketAddr::V6(v6)) => (6, *v6.ip(), u64::from(v6.port())),
        Peer::Unix(pid) => (1, Ipv6Addr::UNSPECIFIED, u64::from(pid as u32)),
    };
    let bits = u128::from(address);
    ([(bits >> 64) as u64, bits as u64], family << 32 | number)
}

fn peer_from_words(address: [u64; 2], number: u64) -> Option<Peer> {
    let address = Ipv6Addr::from(u128::from(address[0]) << 64 | u128::from(address[1]));
    let port = u16::try_from(number as u32);
    match number >> 32 {
        1 => Some(Peer::Unix(number as u32 as i32)),
        4 => Some(Peer::Tcp(SocketAddr::new(address.to_ipv4_mapped()?.into(), port.ok()?))),
        6 => Some(Peer::Tcp(SocketAddr::new(address.into(), port.ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn record() -> Record {
        Record {
            state: State::Live,
            flags: Flags::ANSWER_DUE.and(Flags::ended(Way::ToClient)),
            proxy: 3,
            upstream: 5,
            id: 7,
            client: 11,
            server: 12,
            opened: 1_000,
            peer: Peer::Tcp("192.0.2.1:5000".parse().unwrap()),
            last: 2_000,
            bytes: [5, 6],
            pipes: [99, 0],
        }
    }

    fn stored(record: &Record) -> (Slot, [u64; WORDS]) {
        let slot = Slot::default();
        record.store(&slot);
        let words = std::array::from_fn(|at| slot[at].load(Relaxed));
        (slot, words)
    }

    #[test]
    fn a_record_survives_its_words() {
        let mut record = record();
        assert_eq!(Record::load(&stored(&record).1), Some(record.clone()));
        for peer in [Peer::Unix(42), Peer::Tcp("[2001:db8::1]:443".parse().unwrap())] {
            (record.peer, record.upstream, record.state) = (peer, NO_UPSTREAM, State::Closing);
            assert_eq!(Record::load(&stored(&record).1), Some(record.clone()));
        }
    }

    #[test]
    fn what_lives_is_seen_by_the_next_reader() {
        let (slot, _) = stored(&record());
        slot.bind(Way::ToClient, 77);
        slot.unbind(Way::ToUpstream);
        slot.set_traffic(3_000, [8, 9]);
        slot.set_server(13);
        slot.set_head(State::Live, Flags::WORKING, 3, 6);
        slot.add_flags(Flags::BROKEN.and(Flags::reading(Way::ToClient)));
        slot.change_flags(Flags::BROKEN.and(Flags::reading(Way::ToClient)), Flags::URGENT);
        let words = std::array::from_fn(|at| slot[at].load(Relaxed));
        let flags = Flags::WORKING.and(Flags::URGENT);
        let expected =
            Record { flags, upstream: 6, server: 13, last: 3_000, bytes: [8, 9], pipes: [0, 77], ..record() };
        assert_eq!(Record::load(&words), Some(expected));
        slot.free();
        let words: [u64; WORDS] = std::array::from_fn(|at| slot[at].load(Relaxed));
        assert!(Record::load(&words).is_none() && !is_damaged(&words));
    }

    #[test]
    fn flags_are_told_apart() {
        use Way::{ToClient, ToUpstream};
        let all = [
            Flags::ANSWER_DUE,
            Flags::CLIENT_ENDED,
            Flags::CONNECTING,
            Flags::WORKING,
            Flags::URGENT,
            Flags::BROKEN,
            Flags::RESET_CLIENT,
            Flags::RESET_SERVER,
            Flags::ended(ToUpstream),
            Flags::ended(ToClient),
            Flags::over(ToUpstream),
            Flags::over(ToClient),
            Flags::source_broke(ToUpstream),
            Flags::source_broke(ToClient),
            Flags::fin(ToUpstream),
            Flags::fin(ToClient),
            Flags::reading(ToUpstream),
            Flags::reading(ToClient),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().enumerate().all(|(m, other)| one.has(*other) == (n == m)));
        }
    }

    #[test]
    fn any_words_are_a_record_or_none() {
        let (_, good) = stored(&record());
        for at in 0..WORDS {
            for value in [0, 1, 9, u64::from(u32::MAX), u64::MAX] {
                let mut words = good;
                words[at] = value;
                if let Some(read) = Record::load(&words) {
                    assert_eq!(Record::load(&stored(&read).1), Some(read));
                }
            }
        }
        let nobody = Record { client: 0, ..record() };
        assert!(is_damaged(&stored(&nobody).1));
        assert_eq!(Record::load(&[0; WORDS]), None);
    }
}
