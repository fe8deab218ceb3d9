//! Bytes that come in the smallest pieces, and all at once: what one read leaves behind must be read by
//! another, for no event will tell of it.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::support::drained::{Setup, pair};
use crate::support::peers::{Ended, Listener, connect, expect_pattern, read_to_end, send_pattern, talk};
use crate::support::scratch::Scratch;

/// More than a pipe of 1 MiB has slots.
const PIECES: usize = 300;
const WARM_UP: usize = 8 << 20;

/// Pieces of a byte each, none beside the next in the kernel's memory: somebody else sends in between.
#[test]
fn pieces_of_a_byte_each_arrive_though_they_fill_a_pipe() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let pairs = [pair(&drained, &upstream), pair(&drained, &upstream)];
    for (client, server) in &pairs {
        client.set_nodelay(true).unwrap();
        // Until the kernel sends so many pieces without waiting for an acknowledgement.
        thread::scope(|scope| {
            scope.spawn(|| send_pattern(client, 1, WARM_UP));
            expect_pattern(server, 1, WARM_UP);
        });
    }
    drained.freeze();
    for n in 0..PIECES {
        pairs.iter().for_each(|(client, _)| assert_eq!((&*client).write(&[n as u8]).unwrap(), 1));
    }
    drained.signal(Signal::SIGCONT);
    let sent: Vec<_> = (0..PIECES).map(|n| n as u8).collect();
    for (client, server) in &pairs {
        let mut came = vec![0; PIECES];
        (&*server).read_exact(&mut came).unwrap();
        assert!(came == sent, "other bytes than were sent");
        talk(client, server);
    }
    drop(pairs);
    drained.stop();
}

/// The kernel ends a read of a UNIX socket at each message that file descriptors came with.
#[test]
fn messages_with_file_descriptors_arrive_as_their_bytes() {
    let scratch = Scratch::new();
    let upstream = Listener::new();
    let listen = format!("unix:{}", scratch.path("proxy").display());
    let config = format!("[proxy.p]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address);
    let drained = Setup::new(&config).start();
    let client = connect(&listen);
    let server = upstream.accept();
    talk(&client, &server);
    drained.freeze();
    let null = File::open("/dev/null").unwrap();
    for n in 0..5_u8 {
        let (bytes, rights) = ([n], [null.as_raw_fd()]);
        let message = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(&bytes)], &message, MsgFlags::empty(), None)
            .unwrap();
    }
    drained.signal(Signal::SIGCONT);
    let mut came = [0; 5];
    (&server).read_exact(&mut came).unwrap();
    assert_eq!(came, [0, 1, 2, 3, 4]);
    drop((client, server));
    drained.stop();
}

#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, server) = pair(&drained, &upstream);
    drained.freeze();
    (&client).write_all(b"the last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drained.signal(Signal::SIGCONT);
    assert_eq!(read_to_end(&server), (b"the last".to_vec(), Ended::Fin));
    drop((client, server));
    drained.stop();
}
