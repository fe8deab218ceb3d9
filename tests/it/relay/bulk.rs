//! Much data in both directions at once, each byte checked, in large pipes and in small ones.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};

use crate::support::drained::{Setup, alone};
use crate::support::peers::{Ended, Listener, connect, end_of, expect_pattern, send_pattern, talk};
use crate::support::scratch::Scratch;

const SIZES: [usize; 6] = [1, 8_191, 8_193, 65_537, (1 << 20) + 1, 12 << 20];

/// One size each way on each of the connections, all at the same time; the ends must be clean.
fn transfer(address: &str, upstream: &Listener) {
    thread::scope(|scope| {
        for (up, down) in SIZES.iter().zip(SIZES.iter().rev()) {
            // One after the other, so that each client meets its own upstream.
            let client = connect(address);
            let server = upstream.accept();
            scope.spawn(move || exchange(&client, &server, *up, *down));
        }
    });
}

fn exchange(client: &TcpStream, server: &TcpStream, up: usize, down: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            send_pattern(client, 1, up);
            client.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            send_pattern(server, 2, down);
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            expect_pattern(server, 1, up);
            assert_eq!(end_of(server), Ended::Fin);
        });
        expect_pattern(client, 2, down);
        assert_eq!(end_of(client), Ended::Fin);
    });
}

#[test]
fn every_byte_arrives_over_tcp() {
    let _alone = alone();
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    transfer(&drained.address(), &upstream);
    assert!(!drained.pipes().is_empty());
    drained.stop();
}

#[test]
fn every_byte_arrives_over_unix_sockets() {
    let _alone = alone();
    let scratch = Scratch::new();
    let upstream = Listener::on(&format!("unix:{}", scratch.path("up").display()));
    let listen = format!("unix:{}", scratch.path("in").display());
    let config = format!("[proxy.p]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address);
    let drained = Setup::new(&config).start();
    transfer(&listen, &upstream);
    drained.stop();
}

/// Pipes of 8 KiB are what the kernel gives an unprivileged user who has many (pipe(7)).
#[test]
fn every_byte_arrives_through_pipes_of_8_kib() {
    let _alone = alone();
    let other_user: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &[],
    };
    let tests = std::env::current_exe().unwrap();
    let words: Vec<_> = other_user.iter().map(std::ffi::OsStr::new).chain([tests.as_os_str()]).collect();
    let mut hoarder = Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "--ignored", "--nocapture", "relay::bulk::hoard_pipes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stdout = hoarder.stdout.take().unwrap();
    while !said.contains("hoarded") {
        let mut piece = [0; 256];
        let n = stdout.read(&mut piece).unwrap();
        assert!(n > 0, "the other process said: {said}");
        said.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").by(other_user).readable_by_all().start();
    let client = connect(&drained.address());
    talk(&client, &upstream.accept());
    drop(client);
    let sizes = drained.pipes();
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size == 8_192), "{sizes:?}");
    transfer(&drained.address(), &upstream);
    drained.stop();
    drop(hoarder.stdin.take());
    hoarder.wait().unwrap();
}

/// The other process of the test above: takes all pipe pages of its user until its input ends.
#[test]
#[ignore = "a helper"]
fn hoard_pipes() {
    let mut hoard = Vec::new();
    loop {
        let (read, write) = nix::unistd::pipe().unwrap();
        let grown = fcntl(&write, FcntlArg::F_SETPIPE_SZ(1 << 20));
        let small = fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap() <= 8_192;
        hoard.push((read, write));
        if grown.is_err() && small {
            break;
        }
    }
    println!("hoarded");
    let _ = std::io::stdin().read(&mut [0]);
}
