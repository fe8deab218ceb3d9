//! `systemctl reload`: another configuration under live connections, or an error and the old one.
//!
//! DRAINED_TEST_RELOADS is how often it is reloaded.

use std::fmt;
use std::fs;

use super::handover::{NEW, OLD, configured};
use super::{PROXY, UNIT, installed, on_every_release, this_run};
use crate::support::container::Container;
use crate::support::crowd::{Crowd, Knocking, Mix, pairs};
use crate::support::drained::until;
use crate::support::image::Release;
use crate::support::number_from;
use crate::support::peers::{Listener, talk, try_connect};

on_every_release!(a_reload_holds_whole_or_not_at_all, reloads_under_load_cost_nobody_anything);

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

/// All kinds of connections, and not so many that a reload takes long.
const MIX: Mix = Mix { idle: 100, replies: 40, streams: 24, halves: 20 };
/// New clients and slow receivers come and go: their sockets and pipes.
const PASSING: usize = 24;
/// KiB that the memory of the daemon may differ by.
const GROWTH: u64 = 512;
/// After so many of them nothing is made for the first time.
const WARM: u64 = 20;

/// Each line changes something that a reload must do under way: new listeners and old ones, other keys,
/// another name for the proxy whose clients come and go, an upstream more.
fn changed(round: u64, config: &str) -> String {
    match round % 5 {
        0 => config.replace("[proxy.new]", "[proxy.renamed]"),
        1 => config.replace(&format!("\"{OLD}\""), &format!("[\"{OLD}\", \"127.0.0.1:83\"]")),
        2 => config.replace(
            "[proxy.new]",
            "[proxy.new]\nhold = \"7s\"\nidle_timeout = \"10m\"\nmax_connections = 50",
        ),
        3 => config.to_owned() + "[proxy.more]\nlisten = \"127.0.0.1:82\"\nupstream = \"127.0.0.1:9\"\n",
        _ => config.to_owned(),
    }
}

/// What a process has, as the host sees it.
#[derive(Clone, Copy)]
struct Has {
    descriptors: usize,
    threads: usize,
    /// Proportional set size, in KiB.
    pss: u64,
}

impl Has {
    fn of(pid: i32) -> Has {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let pss = pss.trim().trim_end_matches(" kB").parse().unwrap();
        Has { descriptors: count("fd"), threads: count("task"), pss }
    }
}

impl fmt::Display for Has {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fds, {} threads, {} KiB", self.descriptors, self.threads, self.pss)
    }
}

fn reloads_under_load_cost_nobody_anything(release: Release) {
    let container = installed(release);
    let [upstream, fresh] = configured(&container, "");
    let config = container.read(FILE);
    let crowd = container.in_network(|| Crowd::gather(OLD, &upstream, MIX));
    let knocking = container.in_network(|| Knocking::start(NEW, fresh));
    let (daemon, invocation) = (container.host_pid(UNIT), this_run(&container));
    let reload = |toml: &str| {
        container.write(FILE, toml);
        container.systemctl(["reload", UNIT]);
    };
    let stored = || container.show_number(UNIT, "NFileDescriptorStore");
    let pids = [daemon, container.leader(), container.host_pid("systemd-journald.service")];

    (0..WARM).for_each(|round| reload(&changed(round, &config)));
    reload(&config);
    crowd.replies.longest();
    let (before, kept) = (pids.map(Has::of), stored());
    let times = number_from("DRAINED_TEST_RELOADS", 50) as u64;
    (0..times).for_each(|round| reload(&changed(round, &config)));
    reload(&config);

    println!("{release:?}: {times} reloads, the longest reply took {:?}", crowd.replies.longest());
    until("the store is as before", || stored() == kept);
    until("what was opened is closed", || {
        Has::of(daemon).descriptors.abs_diff(before[0].descriptors) <= PASSING
    });
    let after = pids.map(Has::of);
    for (n, name) in ["drained", "systemd", "journald"].into_iter().enumerate() {
        println!("{release:?}: {name}: {} before, {} after", before[n], after[n]);
    }
    println!("{release:?}: {kept} file descriptors are stored");
    assert_eq!(after[0].threads, before[0].threads);
    assert_eq!(after[1].descriptors, before[1].descriptors, "systemd keeps what was closed");
    assert!(after[0].pss < before[0].pss + GROWTH, "{} KiB before, {} after", before[0].pss, after[0].pss);
    assert_eq!(this_run(&container), invocation);
    let told = container.journal([&invocation, "DRAINED_EVENT=reloaded"]).len() as u64;
    assert_eq!(told, WARM + times + 2, "each reload has its entry");
    container.in_network(|| (knocking.finish(), crowd.finish()));
}
