//! The deadline: who hangs is cut, and the journal tells of each.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use super::{
    PROXY, SOON, UNIT, assert_ended_well, configure, installed, on_every_release, one_proxy, this_run,
};
use crate::support::container::{Container, number};
use crate::support::image::Release;

on_every_release!(steady: hanging_peers_are_cut_at_the_deadline, a_poweroff_has_a_deadline_of_its_own);

fn hanging_peers_are_cut_at_the_deadline(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = upstream.local_addr().unwrap();
    configure(&container, &one_proxy(address, "deadline = \"2s\""));

    let (waiting, waiting_upstream) = connection(&container, &upstream);
    let (half_closed, half_closed_upstream) = connection(&container, &upstream);
    half_closed.shutdown(Shutdown::Write).unwrap();
    let (never_reads, flooding) = connection(&container, &upstream);
    fill(&flooding);
    let run = this_run(&container);
    container.systemctl(["stop", "--no-block", UNIT]);
    assert_ended_well(&container);

    let stopping = container.wait_journal([&run, "DRAINED_EVENT=stopping"], SOON);
    let cuts = container.journal([&run, "DRAINED_EVENT=cut"]);
    assert_eq!(cuts.len(), 3, "{cuts:#?}");
    for (client, doing) in [
        (&waiting, "waiting-for-upstream"),
        (&half_closed, "half-closed"),
        (&never_reads, "sending-to-client"),
    ] {
        let name = client.local_addr().unwrap().to_string();
        let cut = cuts
            .iter()
            .find(|cut| cut["DRAINED_CLIENT"] == *name)
            .unwrap_or_else(|| panic!("{name}: {cuts:#?}"));
        assert_eq!(cut["MESSAGE_ID"], "9cb39578ac0bfd77f7dd8a9848af18e7");
        assert_eq!(cut["PRIORITY"], "4");
        assert_eq!(cut["DRAINED_PROXY"], "web");
        assert_eq!(cut["DRAINED_UPSTREAM"], address.to_string());
        assert_eq!(cut["DRAINED_DOING"], doing);
        assert!(number(cut, "DRAINED_CONNECTION") > 0);
        assert!(number(cut, "DRAINED_DURATION_US") >= 1_900_000);
        assert_eq!(number(cut, "DRAINED_BYTES_TO_UPSTREAM"), 1);
        let flooded = number(cut, "DRAINED_BYTES_TO_CLIENT");
        assert_eq!(flooded > 0, doing == "sending-to-client", "{flooded} bytes");
        let after = number(cut, "__MONOTONIC_TIMESTAMP") - number(&stopping, "__MONOTONIC_TIMESTAMP");
        assert!((1_900_000..2_100_000).contains(&after), "cut {after} us after the stop began");
    }
    // What is lost is lost audibly: a reset, not an end that passes for the whole.
    assert_eq!(rest(waiting), Some(ErrorKind::ConnectionReset));
    assert_eq!(rest(never_reads), Some(ErrorKind::ConnectionReset));
    drop((waiting_upstream, half_closed_upstream, flooding, half_closed));
}

fn a_poweroff_has_a_deadline_of_its_own(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let drain = "deadline = \"60s\"\ndeadline_on_shutdown = \"1s\"";
    configure(&container, &one_proxy(upstream.local_addr().unwrap(), drain));
    let (client, server) = connection(&container, &upstream);
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();

    container.systemctl(["poweroff", "--no-block"]);
    let began = std::time::Instant::now();
    assert_eq!(rest(client), Some(ErrorKind::ConnectionReset), "cut, as an answer was due");
    let after = began.elapsed();
    println!("{release:?}: cut {after:?} after the poweroff began");
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&after), "cut after {after:?}");
    drop(server);
}

/// A connection through the proxy on which the client has said one byte.
fn connection(container: &Container, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = container.in_network(|| TcpStream::connect(PROXY).unwrap());
    client.write_all(b"?").unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    server.read_exact(&mut [0]).unwrap();
    (client, server)
}

/// Sends until nobody takes any more.
fn fill(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while stream.write(&[0; 65_536]).is_ok() {}
}

/// How the stream ends: an error, or none for an orderly end.
fn rest(mut stream: TcpStream) -> Option<ErrorKind> {
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) => return Some(e.kind()),
        }
    }
}
