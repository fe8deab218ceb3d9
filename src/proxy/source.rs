//! What an event of a worker's epoll is for, in the 64 bits that epoll keeps.

use super::slab::{self, Key};

/// Which socket of an entry an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Entry(Key, Side),
    Door(u32),
    Mailbox,
    Stop,
}

const NOT_AN_ENTRY: u64 = slab::END as u64;

impl Source {
    pub fn to_bits(self) -> u64 {
        match self {
            Source::Entry(key, side) => {
                u64::from(key.generation) << 32 | u64::from(key.slot) << 1 | u64::from(side == Side::Server)
            }
            Source::Door(index) => NOT_AN_ENTRY << 32 | u64::from(index) << 2,
            Source::Mailbox => NOT_AN_ENTRY << 32 | 1,
            Source::Stop => NOT_AN_ENTRY << 32 | 2,
        }
    }

    pub fn from_bits(bits: u64) -> Source {
        let low = bits as u32;
        match (bits >> 32, low & 3) {
            (NOT_AN_ENTRY, 0) => Source::Door(low >> 2),
            (NOT_AN_ENTRY, 1) => Source::Mailbox,
            (NOT_AN_ENTRY, _) => Source::Stop,
            (generation, _) => {
                let key = Key { slot: low >> 1, generation: generation as u32 };
                Source::Entry(key, if low & 1 == 0 { Side::Client } else { Side::Server })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_the_64_bits() {
        let key = Key { slot: (1 << 31) - 1, generation: u32::MAX - 1 };
        for source in [
            Source::Entry(key, Side::Client),
            Source::Entry(Key { slot: 0, generation: 0 }, Side::Server),
            Source::Door(7),
            Source::Mailbox,
            Source::Stop,
        ] {
            assert_eq!(Source::from_bits(source.to_bits()), source);
        }
    }
}
