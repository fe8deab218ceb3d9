//! `systemctl reload`: another configuration under live connections, or an error and the old one.

use super::{PROXY, UNIT, installed, on_every_release, this_run};
use crate::support::container::Container;
use crate::support::crowd::pairs;
use crate::support::drained::until;
use crate::support::image::Release;
use crate::support::number_from;
use crate::support::peers::{Listener, talk, try_connect};

on_every_release!(a_reload_holds_whole_or_not_at_all);

const FILE: &str = "/etc/drained/drained.toml";
const OTHER: &str = "127.0.0.1:81";

fn proxy(name: &str, listen: &str, upstream: &Listener) -> String {
    format!("[proxy.{name}]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address)
}

fn serves(container: &Container, address: &str) -> bool {
    container.in_network(|| try_connect(address).is_ok())
}

fn a_reload_holds_whole_or_not_at_all(release: Release) {
    let container = installed(release);
    let upstream = container.in_network(Listener::new);
    let (web, other) = (proxy("web", &PROXY.to_string(), &upstream), proxy("other", OTHER, &upstream));
    super::configure(&container, &web);
    let pid = container.show(UNIT, "MainPID");
    let live = container.in_network(|| pairs(&PROXY.to_string(), &upstream, 20));
    assert_eq!(container.show(UNIT, "CanReload"), "yes");

    container.write(FILE, web.clone() + &other);
    container.systemctl(["reload", UNIT]);
    drop(container.in_network(|| pairs(OTHER, &upstream, 1)));
    let entry = container.wait_journal([&this_run(&container), "DRAINED_EVENT=reloaded"], super::SOON);
    assert!(entry["MESSAGE"].as_str().unwrap().contains("1 added"), "{entry}");

    // Half of it is right, and even that does not hold.
    container.write(FILE, web.clone() + "[proxy.more]\nlisten = \"127.0.0.1:82\"\nupstreams = \"x\"\n");
    let told = container.output(["systemctl", "reload", UNIT]);
    assert!(!told.status.success());
    let told = container.output(["drainctl", "reload"]);
    let error = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(78), "{error}");
    assert!(error.contains("/etc/drained/drained.toml:6:1: "), "{error}");
    assert!(error.contains("upstream"), "{error}");
    container.wait_journal([&this_run(&container), "DRAINED_EVENT=reload-refused"], super::SOON);
    drop(container.in_network(|| pairs(OTHER, &upstream, 1)));
    assert!(!serves(&container, "127.0.0.1:82"));
    assert_eq!(
        (container.show(UNIT, "ActiveState").as_str(), container.show(UNIT, "MainPID")),
        ("active", pid.clone())
    );

    // By the signal too, and often.
    let times = number_from("DRAINED_TEST_RELOADS", 50);
    let descriptors = || container.run(["sh", "-c", &format!("ls /proc/{pid}/fd | wc -l")]);
    container.write(FILE, web.clone());
    container.systemctl(["reload", UNIT]);
    let before = descriptors();
    for round in 0..times {
        container.write(FILE, if round % 2 == 0 { web.clone() + &other } else { web.clone() });
        container.systemctl(["reload", UNIT]);
        match round % 2 {
            0 => drop(container.in_network(|| pairs(OTHER, &upstream, 1))),
            _ => assert!(!serves(&container, OTHER), "round {round}"),
        }
    }
    container.write(FILE, web);
    container.systemctl(["reload", UNIT]);
    until("what was opened is closed", || descriptors() == before);
    assert_eq!(container.show(UNIT, "MainPID"), pid);
    assert_eq!(container.show(UNIT, "SubState"), "running");
    container.in_network(|| live.iter().for_each(|(client, server)| talk(client, server)));
}
