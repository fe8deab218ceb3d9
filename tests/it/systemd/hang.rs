//! Things that hang: the daemon itself, journald.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    PROXY, SOON, UNIT, assert_ended_well, configure, installed, on_every_release, one_proxy, stop_us,
};
use crate::support::container::Container;
use crate::support::image::Release;
use crate::support::load::{Shape, Transfer, Upstream};

on_every_release!(
    steady:
    a_stopped_daemon_is_ended_at_its_timeout,
    without_journald_everything_goes_on,
    with_journald_hanging_everything_goes_on,
);

fn a_stopped_daemon_is_ended_at_its_timeout(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(Upstream::start);
    configure(&container, &one_proxy(upstream.address, "deadline = \"60s\""));
    let transfer = Transfer { shape: Shape::Request, up: 2, down: 2, pieces: 1, seed: 1 };
    let running = container.in_network(|| upstream.transfer(PROXY, transfer));
    upstream.gate.wait_arrived(1, SOON);

    // In the midst of the drain: a daemon that stands still before is woken by systemd, which
    // sends SIGCONT after SIGTERM.
    container.systemctl(["stop", "--no-block", UNIT]);
    container.wait_property(UNIT, "StatusText", SOON, |text| text.starts_with("Draining: "));
    container.kill(UNIT, Signal::SIGSTOP);
    container.wait_property(UNIT, "ActiveState", Duration::from_secs(30), |state| state == "failed");
    assert_eq!(container.show(UNIT, "Result"), "timeout");
    let stop = stop_us(&container);
    assert!((9_900_000..11_000_000).contains(&stop), "TimeoutStopSec=10s, ended after {stop} us");
    upstream.gate.open();
    assert!(running.join().unwrap().is_err(), "its connection died with it");
}

fn without_journald_everything_goes_on(release: Release) {
    goes_on(release, |container| {
        let mut stop = vec!["systemctl", "stop", "systemd-journald.service", "systemd-journald.socket"];
        stop.extend(["systemd-journald-dev-log.socket", "systemd-journald-audit.socket"]);
        container.run(stop);
    });
}

fn with_journald_hanging_everything_goes_on(release: Release) {
    goes_on(release, |container| {
        container.kill("systemd-journald.service", Signal::SIGSTOP);
        // Until its queue is full and the next writer blocks.
        let fill = "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.setblocking(False)\n\
                    s.connect('/run/systemd/journal/socket')\ntry:\n    while True: s.send(b'MESSAGE=fill\\n')\n\
                    except BlockingIOError: pass\n";
        container.run(["python3", "-c", fill]);
    });
}

/// Relays before and in the midst of a stop, with journald out of order.
fn goes_on(release: Release, disturb: impl Fn(&Container)) {
    let container = installed(release);
    let upstream = container.in_network(Upstream::start);
    configure(&container, &one_proxy(upstream.address, "deadline = \"30s\""));
    disturb(&container);

    let transfer = |seed| Transfer { shape: Shape::Request, up: 100_000, down: 100_000, pieces: 1, seed };
    let running: Vec<_> =
        container.in_network(|| (0..200).map(|seed| upstream.transfer(PROXY, transfer(seed))).collect());
    upstream.gate.wait_arrived(200, Duration::from_secs(30));
    container.systemctl(["stop", "--no-block", UNIT]);
    container.wait_property(UNIT, "StatusText", SOON, |text| text.starts_with("Draining: "));
    upstream.gate.open();
    let opened = Instant::now();
    for transfer in running {
        transfer.join().unwrap().unwrap();
    }
    assert_ended_well(&container);
    let took = opened.elapsed();
    assert!(took < Duration::from_secs(10), "the stop took {took:?} from the last transfers on");
    assert_eq!(upstream.errors(), [""; 0]);
}
