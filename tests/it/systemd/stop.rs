//! How long a stop takes where there is little or nothing to drain.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::{
    PROXY, UNIT, assert_ended_well, configure, installed, on_every_release, one_proxy, stop_us, stop_us_of,
};
use crate::support::container::{Container, monotonic_us};
use crate::support::image::Release;

on_every_release!(
    steady:
    without_connections_it_takes_20_ms,
    it_ends_20_ms_after_the_last_connection,
    a_stop_during_the_start_is_clean,
);

const TWENTY_MS: u64 = 20_000;
/// The middle of so many counts: a single late wakeup is no fault of the daemon's.
const RUNS: usize = 7;
/// A machine on which even the stop of a service that does nothing takes long is granted this multiple of it.
const GRANTED: u64 = 3;
/// What that service is called.
const IDLER: &str = "idler.service";

/// Checks that what `measure` returns, in microseconds, is mostly below 20 ms.
fn assert_within_20_ms(container: &Container, measure: impl Fn() -> u64) {
    container.write("/run/systemd/system/idler.service", "[Service]\nExecStart=sleep infinity\n");
    container.systemctl(["daemon-reload"]);
    let idle = || {
        container.systemctl(["start", IDLER]);
        container.systemctl(["stop", IDLER]);
        stop_us_of(container, IDLER)
    };
    // One after the other, so that both meet the same machine.
    let (mut times, mut idle): (Vec<_>, Vec<_>) = (0..RUNS).map(|_| (measure(), idle())).unzip();
    times.sort_unstable();
    idle.sort_unstable();
    println!("{times:?} us; doing nothing: {idle:?} us");
    assert!(
        times[RUNS / 2] < TWENTY_MS.max(GRANTED * idle[RUNS / 2]),
        "{times:?}, doing nothing: {idle:?} us"
    );
}

fn without_connections_it_takes_20_ms(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    configure(&container, &one_proxy(upstream.local_addr().unwrap(), ""));
    assert_within_20_ms(&container, || {
        container.systemctl(["restart", UNIT]);
        container.systemctl(["stop", UNIT]);
        assert_ended_well(&container);
        stop_us(&container)
    });
}

fn it_ends_20_ms_after_the_last_connection(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    configure(&container, &one_proxy(upstream.local_addr().unwrap(), "deadline = \"60s\""));
    assert_within_20_ms(&container, || {
        container.systemctl(["restart", UNIT]);
        let mut client = container.in_network(|| TcpStream::connect(PROXY).unwrap());
        client.write_all(b"?").unwrap();
        let (mut server, _) = upstream.accept().unwrap();
        server.read_exact(&mut [0]).unwrap();
        container.systemctl(["stop", "--no-block", UNIT]);
        container.wait_property(UNIT, "StatusText", super::SOON, |text| text.starts_with("Draining: 1 of 1"));
        // An answer is due, so the connection is waited for. Now it comes, and both ends close.
        server.write_all(b"!").unwrap();
        drop(server);
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let end = monotonic_us();
        drop(client);
        assert_ended_well(&container);
        container.show_number(UNIT, "ExecMainExitTimestampMonotonic").saturating_sub(end)
    });
}

fn a_stop_during_the_start_is_clean(release: Release) {
    let container = installed(release);
    for _ in 0..10 {
        container.systemctl(["start", "--no-block", UNIT]);
        container.systemctl(["stop", UNIT]);
        // A SIGTERM that comes before the first statement of main ends the process itself, which
        // systemd takes for an orderly end too.
        let end = ["Result", "ActiveState"].map(|property| container.show(UNIT, property));
        assert_eq!(end, ["success", "inactive"]);
    }
    assert_eq!(container.show(UNIT, "NRestarts"), "0");
    container.systemctl(["start", UNIT]);
    container.wait_property(UNIT, "SubState", Duration::from_secs(10), |state| state == "running");
}
