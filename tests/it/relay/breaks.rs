//! Streams that break off in unusual ways, and what comes out of place.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};

use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Ended, Listener, end_of, read_to_end, reset, stuff, talk};

#[test]
fn urgent_data_arrives_in_its_place_as_ordinary_bytes() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    for (from_client, at_once) in [(true, true), (true, false), (false, true), (false, false)] {
        let (client, server) = pair(&drained, &upstream);
        let (source, mut sink) = if from_client { (client, server) } else { (server, client) };
        (&source).write_all(b"abc").unwrap();
        send(source.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        (&source).write_all(b"def").unwrap();
        if at_once {
            source.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&sink), (b"abc!def".to_vec(), Ended::Fin));
        } else {
            let mut bytes = [0; 7];
            sink.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"abc!def");
            // A second time on the same connection, with nothing before and behind it.
            send(source.as_raw_fd(), b"?", MsgFlags::MSG_OOB).unwrap();
            sink.read_exact(&mut bytes[..1]).unwrap();
            assert_eq!(bytes[0], b'?');
        }
    }
    drained.stop();
}

#[test]
fn a_reset_in_the_midst_of_an_answer_is_one_for_a_client_that_uploads() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    for round in 0..20 {
        let (client, server) = pair(&drained, &upstream);
        // The upstream reads nothing, so the client's bytes stand in the relay when it breaks off.
        stuff(&client, Duration::from_millis(20));
        (&server).write_all(b"the first half of an ans").unwrap();
        reset(server);
        assert_eq!(read_to_end(&client).1, Ended::Reset, "round {round}");
    }
    drained.stop();
}

/// A write of much is one of many pieces, and a reset between two of them is told to nobody.
#[test]
fn a_reset_amid_a_write_to_who_resets_is_no_end_for_the_other() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    for round in 0..300 {
        let (client, server) = pair(&drained, &upstream);
        let (stays, mut goes) = if round % 4 == 0 { (server, client) } else { (client, server) };
        // So much that the relay is at work as soon as it is read.
        stuff(&stays, Duration::from_millis(2));
        goes.read_exact(&mut vec![0; (1 + round * 37 % 900) << 10]).unwrap();
        reset(goes);
        assert_eq!(end_of(&stays), Ended::Reset, "round {round}");
    }
    drained.stop();
}

#[test]
fn an_upstream_that_resets_after_its_end_leaves_nothing_behind() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let sockets = drained.descriptors("socket:");
    let (client, server) = pair(&drained, &upstream);
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&client), Ended::Fin);
    reset(server);
    until("the release of the connection", || drained.descriptors("socket:") == sockets);
    drop(client);
    drained.stop();
}

#[test]
fn slow_receivers_take_no_pipe_from_those_that_keep_up() {
    let upstream = Listener::new();
    let idle = Setup::proxy(&upstream.address, "").start();
    until("the workers' pipes", || idle.pipes().len() == 4);
    let limit = idle.limit_that_leaves(60);
    drop(idle);
    let drained = Setup::proxy(&upstream.address, "").descriptors(limit).start();
    let (client, server) = pair(&drained, &upstream);
    let slow: Vec<_> = (0..14).map(|_| pair(&drained, &upstream)).collect();
    // Thirty descriptors are left: fifteen pipes for twenty-eight directions that want to keep one.
    for (reader, writer) in &slow {
        stuff(writer, Duration::from_millis(20));
        stuff(reader, Duration::from_millis(20));
    }
    until("the last descriptor", || drained.descriptors("") + 2 >= limit as usize);
    for _ in 0..100 {
        talk(&client, &server);
    }
    drop(slow);
    drained.stop();
}
