//! Tests of the ledger: what is written is read, and what anybody may have written does no harm.

use super::super::buffer::Counts;
use super::super::record::{Flags, Live, NO_UPSTREAM, State, Way};
use super::*;
use crate::sys::socket::Peer;

fn names() -> Names {
    vec![("web".to_owned(), vec!["127.0.0.1:80".to_owned(), "unix:/a".to_owned()]), (String::new(), vec![])]
}

fn record(id: u64) -> Record {
    Record {
        state: State::Live,
        flags: Flags::default(),
        proxy: 0,
        upstream: NO_UPSTREAM,
        id,
        client: id,
        server: 0,
        opened: 0,
        peer: Peer::Unix(1),
        last: 0,
        bytes: [0; 2],
        pipes: [0; 2],
    }
}

fn ledger(left: Option<(OwnedFd, Range<u64>)>, ids: Range<u64>) -> Ledger {
    let ledger = Ledger::prepare(&names(), 2, 100, left).unwrap();
    let slots = ledger.take_chunk().unwrap();
    ids.zip(slots).for_each(|(id, slot)| record(id).store(ledger.slot(slot).unwrap()));
    ledger
}

fn ids(ledger: &Ledger) -> Vec<u64> {
    read(ledger.file()).unwrap().records.iter().map(|record| record.id).collect()
}

#[test]
fn a_ledger_is_read_as_it_was_written() {
    let ledger = ledger(None, 1..4);
    assert_eq!(read(ledger.file()), Err(Unreadable::Foreign), "it does not hold yet");
    ledger.begin();
    let lot = LotEntry { near: 5, far: 6, worker: 1 };
    assert!(ledger.add_lot(lot));
    ledger.beat(1, 77);
    ledger.set_stopped(99);
    let left = read(ledger.file()).unwrap();
    assert_eq!((&left.names, left.damaged, left.stopped, left.alive), (&names(), 0, Some(99), 77));
    assert_eq!((left.lots, left.records.len()), (vec![lot], 3));
    ledger.slot(1).unwrap().free();
    assert_eq!(ids(&ledger), [1, 3]);
}

#[test]
fn each_worker_has_a_buffer_that_is_found() {
    let ledger = ledger(None, 1..4);
    ledger.begin();
    for worker in 0..2 {
        ledger.buffer(worker).begin(Counts { read: 7, written: worker as u32 }, (5, Way::ToClient));
    }
    let message = u64::from_ne_bytes(*b"abcdefgh");
    let at = ledger.layout.buffers + buffer::WORDS + buffer::DATA;
    ledger.area.words()[at].store(message, Ordering::Relaxed);
    let left = read(ledger.file()).unwrap();
    let buffers = Buffers::of(ledger.file(), left.buffers.clone());
    let head = |worker: u64| {
        let mut words = [0; buffer::DATA];
        (words[0], words[1]) = (7 << 32 | worker, 5 << 1 | 1);
        LeftBuffer::of(&words)
    };
    assert_eq!([0, 1, 2].map(|worker| buffers.head(worker)), [Some(head(0)), Some(head(1)), None]);
    assert_eq!(buffers.bytes(1, 2..7), Some(b"cdefg".to_vec()));
    assert_eq!(buffers.bytes(1, 7..9), Some(b"h\0".to_vec()));
    assert_eq!((buffers.bytes(usize::MAX, 0..1), buffers.bytes(2, 0..1)), (None, None));
    // An earlier version has none, and a later one may have others.
    for words in [0, buffer::WORDS as u64 + 8] {
        ledger.area.words()[HEAD_BUFFER].store(words, Ordering::Relaxed);
        let left = read(ledger.file()).unwrap();
        assert_eq!((left.buffers, left.records.len()), (0..0, 3));
    }
    assert_eq!(Buffers::of(ledger.file(), 0..0).head(0), None);
}

#[test]
fn the_area_of_the_next_holds_from_one_store_on() {
    let mut ledger = ledger(None, 1..4);
    ledger.begin();
    for round in 1..20 {
        let left = read(ledger.file()).unwrap();
        let file = ledger.file().try_clone_to_owned().unwrap();
        let next = self::ledger(Some((file, left.area)), round * 10..round * 10 + 2);
        assert_eq!(ids(&next).len(), ids(&ledger).len(), "before it begins the old one holds");
        assert_ne!(ids(&next)[0], round * 10);
        next.begin();
        assert_eq!(ids(&next), [round * 10, round * 10 + 1]);
        assert!(next.offset <= PAGE + next.layout.bytes(), "areas take turns");
        ledger = next;
    }
}

#[test]
fn other_names_hold_from_one_store_on() {
    let ledger = ledger(None, 1..4);
    ledger.begin();
    for round in 0..5 {
        let names = vec![(format!("proxy-{round}"), vec!["127.0.0.1:80".to_owned(); round])];
        assert!(ledger.rename(&names));
        let left = read(ledger.file()).unwrap();
        assert_eq!((left.names, left.records.len()), (names, 3));
    }
    let many = vec![("x".repeat(64), Vec::new()); ROOM_FOR_NAMES / 64];
    assert!(!ledger.rename(&many));
    assert_eq!(read(ledger.file()).unwrap().names[0].0, "proxy-4");
    // The next incarnation finds them, and its own ledger is one of the first kind.
    let left = read(ledger.file()).unwrap();
    let next = self::ledger(Some((ledger.file().try_clone_to_owned().unwrap(), left.area)), 5..6);
    next.begin();
    assert_eq!(read(next.file()).unwrap().names, names());
}

#[test]
fn slots_and_lots_come_to_an_end() {
    let ledger = ledger(None, 0..0);
    assert!(ledger.take_chunk().is_some(), "100 are rounded up to 128");
    assert!(ledger.take_chunk().is_none() && ledger.slot(127).is_some() && ledger.slot(128).is_none());
    let lot = LotEntry { near: 1, far: 2, worker: 0 };
    assert_eq!((0..100).filter(|_| ledger.add_lot(lot)).count(), most_lots(2));
}

#[test]
fn a_damaged_ledger_gives_what_is_left_of_it_or_says_why_not() {
    let ledger = ledger(None, 1..4);
    ledger.begin();
    let whole = Reader::of(ledger.file()).unwrap();
    let length = whole.0.metadata().unwrap().len() as usize;
    let words = whole.words(0, length / 8).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let file = File::from(memory::new_file(c"drained-test").unwrap());
    file.write_all_at(&bytes, 0).unwrap();
    let with = |at: usize, value: u64, length: usize| {
        file.set_len(length as u64).unwrap();
        file.write_all_at(&value.to_le_bytes()[..8.min(length.saturating_sub(at * 8))], at as u64 * 8)
            .unwrap();
        let left = read(file.as_fd());
        // As it was.
        file.write_all_at(&words[at].to_le_bytes(), at as u64 * 8).unwrap();
        if length < bytes.len() {
            file.write_all_at(&bytes, 0).unwrap();
        }
        left
    };
    assert_eq!(with(HEADER_MAGIC, 1, length).unwrap_err(), Unreadable::Foreign);
    assert_eq!(with(HEADER_VERSION, 9, length).unwrap_err(), Unreadable::Version(9));
    assert_eq!(with(HEADER_CURRENT, 3, length).unwrap_err(), Unreadable::Foreign);
    assert_eq!(with(HEADER_CURRENT, u64::MAX - PAGE + 1, length).unwrap_err(), Unreadable::Foreign);
    for length in [0, 10, PAGE as usize, PAGE as usize + 20] {
        assert_eq!(with(0, MAGIC, length).unwrap_err(), Unreadable::Foreign, "{length}");
    }
    let area = PAGE as usize / 8;
    for word in [HEAD_CAPACITY, HEAD_NAMES, HEAD_WORKERS] {
        assert!(with(area + word, u64::MAX, length).is_err());
    }
    let slots = area + ledger.layout.slots;
    assert_eq!(with(slots, 0x77, length).unwrap().damaged, 1);
    let cut = with(0, MAGIC, slots * 8 + 100).unwrap();
    assert_eq!((cut.records.len(), cut.damaged), (0, 64));
    // Any one word: a ledger or none, and no panic.
    let names = area + ledger.layout.names + encode(&names()).len() / 8 + 1;
    for at in (0..HEADER).chain(area..names).chain(slots..slots + 3 * record::WORDS) {
        for value in [0, 1, u64::from(u32::MAX), u64::MAX] {
            let _ = with(at, value, length);
        }
    }
}

#[test]
fn tries_are_counted_in_the_file() {
    let ledger = ledger(None, 0..0);
    ledger.begin();
    assert_eq!((count_try(ledger.file()), count_try(ledger.file())), (1, 2));
    ledger.set_tries(0);
    assert_eq!(count_try(ledger.file()), 1);
}
