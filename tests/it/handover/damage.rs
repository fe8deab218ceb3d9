//! Ledgers and lots that are not what they should be: it starts, serves, and says so.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use super::{Port, adopted, pair, setup};
use crate::support::peers::{Listener, read_to_end, talk};
use crate::support::store::{LEDGER, LISTENER, LOT, Store};

/// Hands over three connections, has `damage` done to the store, and starts the next incarnation.
struct Damaged {
    port: Port,
    upstream: Listener,
    store: Store,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Damaged {
    fn new(damage: impl FnOnce(&Store)) -> Damaged {
        let (port, upstream) = (Port::reserve(), Listener::new());
        let mut store = Store::start(setup(port.address(), &upstream.address));
        store.wait_count(LISTENER, 1);
        let pairs = (0..3).map(|_| pair(port.address(), &upstream)).collect();
        store.end();
        damage(&store);
        store.spawn(setup(port.address(), &upstream.address));
        Damaged { port, upstream, store, pairs }
    }

    /// New clients are served, the store is clean, and the next restart is an ordinary one.
    fn serves(&mut self) {
        let new = pair(self.port.address(), &self.upstream);
        self.store.wait_count(LEDGER, 1);
        self.store.wait_count(LOT, 4);
        self.store.wait_count(LISTENER, 1);
        self.store.restart(setup(self.port.address(), &self.upstream.address));
        talk(&new.0, &new.1);
    }

    /// The old connections are let go, which both peers see and the log tells.
    fn lets_go(mut self) {
        for (client, server) in &self.pairs {
            assert!(read_to_end(client).0.is_empty() && read_to_end(server).0.is_empty());
        }
        self.store.daemon().wait_line("event=let-go");
        assert_eq!(adopted(&self.store), (1, 0));
        self.serves();
    }

    /// The old connections live on.
    fn keeps(mut self) {
        assert_eq!(adopted(&self.store), (1, 3));
        for (client, server) in &self.pairs {
            talk(client, server);
        }
        self.serves();
    }
}

fn memory(content: &[u8]) -> OwnedFd {
    let fd = memfd_create("drained-ledger", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    File::from(fd.try_clone().unwrap()).write_all(content).unwrap();
    fd
}

/// With the ledger replaced by what `change` makes of it.
fn ledger(change: impl Fn(Vec<u8>) -> Vec<u8>) -> Damaged {
    Damaged::new(|store| {
        let changed = change(store.content(LEDGER));
        assert_eq!(store.remove(LEDGER), 1);
        store.add(LEDGER, memory(&changed));
    })
}

#[test]
fn a_ledger_that_was_only_copied_is_as_good() {
    ledger(|content| content).keeps();
}

#[test]
fn an_empty_ledger() {
    ledger(|_| Vec::new()).lets_go();
}

#[test]
fn a_ledger_of_zeros() {
    ledger(|content| vec![0; content.len()]).lets_go();
}

#[test]
fn a_ledger_of_noise() {
    ledger(|content| (0..content.len()).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect())
        .lets_go();
}

#[test]
fn a_ledger_that_ends_in_its_head() {
    ledger(|content| content[..7].to_vec()).lets_go();
}

#[test]
fn a_ledger_of_another_program() {
    ledger(|_| b"#!/bin/sh\necho this is no ledger\n".repeat(1_000)).lets_go();
}

#[test]
fn a_ledger_of_noise_behind_its_head_starts_all_the_same() {
    for head in [16, 32, 64, 128, 256] {
        let mut damaged = ledger(|mut content| {
            content.iter_mut().skip(head).enumerate().for_each(|(n, byte)| *byte ^= (n * 37 + 11) as u8);
            content
        });
        damaged.pairs.clear();
        damaged.serves();
    }
}

#[test]
fn a_ledger_cut_short_anywhere_starts_all_the_same() {
    for length in [8, 64, 100, 200, 333, 500, 1_000] {
        let mut damaged = ledger(|content| content[..content.len().min(length)].to_vec());
        damaged.pairs.clear();
        damaged.serves();
    }
}

#[test]
fn a_ledger_with_any_bit_turned_starts_all_the_same() {
    for bit in (0..512 * 8).step_by(331) {
        let mut damaged = ledger(|mut content| {
            if let Some(byte) = content.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            content
        });
        damaged.pairs.clear();
        damaged.serves();
    }
}

#[test]
fn a_socket_in_place_of_the_ledger() {
    let damage = |store: &Store| {
        store.remove(LEDGER);
        store.add(LEDGER, std::os::unix::net::UnixStream::pair().unwrap().0.into());
    };
    Damaged::new(damage).lets_go();
}

#[test]
fn lots_without_a_ledger() {
    Damaged::new(|store| assert_eq!(store.remove(LEDGER), 1)).lets_go();
}

#[test]
fn a_ledger_without_lots() {
    Damaged::new(|store| assert!(store.remove(LOT) >= 2, "both ends of a pair")).lets_go();
}

#[test]
fn two_ledgers() {
    let mut damaged = Damaged::new(|store| store.add(LEDGER, memory(&store.content(LEDGER))));
    damaged.pairs.clear();
    damaged.serves();
}

#[test]
fn a_lot_with_what_the_ledger_does_not_know() {
    let foreign = Listener::new();
    let damage = |store: &Store| {
        let (one, other) = lot();
        let peer = TcpStream::connect(&foreign.address).unwrap();
        let pipe = std::io::pipe().unwrap();
        let fds = [peer.as_raw_fd(), pipe.0.as_raw_fd(), pipe.1.as_raw_fd(), 0];
        park(&one, &fds);
        store.add(LOT, one);
        store.add(LOT, other);
    };
    let damaged = Damaged::new(damage);
    // What is of no use is closed, which its peer sees.
    assert!(read_to_end(&foreign.accept()).0.is_empty());
    damaged.keeps();
}

#[test]
fn lots_that_are_empty_or_no_lots() {
    let damage = |store: &Store| {
        let (one, other) = lot();
        let (lonely, _) = lot();
        for fd in [one, other, lonely, memory(b"a lot of nothing")] {
            store.add(LOT, fd);
        }
    };
    Damaged::new(damage).keeps();
}

#[test]
fn stored_listeners_that_nobody_wants_and_things_of_other_names() {
    let (foreign, unix) = (Listener::new(), std::os::unix::net::UnixStream::pair().unwrap().0);
    let damage = |store: &Store| {
        store.add(LISTENER, foreign.fd.try_clone().unwrap());
        store.add(LISTENER, memory(b"no listener"));
        store.add("stored", unix.into());
    };
    Damaged::new(damage).keeps();
}

fn lot() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn park(lot: &OwnedFd, fds: &[i32]) {
    let (slices, rights) = ([std::io::IoSlice::new(b"?")], [ControlMessage::ScmRights(fds)]);
    sendmsg::<()>(lot.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
}
