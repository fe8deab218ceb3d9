//! Connections come and go for a long time: what is kept of them stays level.
//!
//! DRAINED_TEST_CHURN_SECONDS is how long, DRAINED_TEST_CHURN_RATE how many connections a minute.

use std::fs;
use std::time::{Duration, Instant};

use super::{ALWAYS, Port, adopted, pair, proxy};
use crate::support::drained::{Setup, alone, raise_descriptors, until};
use crate::support::number_from;
use crate::support::peers::{Listener, talk};
use crate::support::store::{LISTENER, Store};

/// Those that stay.
const LIVING: usize = 100;
/// So many are open at the same time beside them.
const PASSING: usize = 16;

/// What is held for the connections.
#[derive(Debug)]
struct Held {
    stored: usize,
    /// File descriptors in the queues of the lots: each pins a socket or a pipe in the kernel.
    in_flight: usize,
    /// Of the daemon.
    open: usize,
    memory: usize,
}

impl Held {
    fn by(store: &Store) -> Held {
        let process = format!("/proc/{}", store.daemon().pid());
        let rollup = fs::read_to_string(format!("{process}/smaps_rollup")).unwrap();
        let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        let memory = anonymous.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
        let open = fs::read_dir(format!("{process}/fd")).unwrap().count();
        Held { stored: store.names().len(), in_flight: store.in_flight(), open, memory }
    }
}

#[test]
fn what_is_kept_of_those_who_come_and_go_stays_level() {
    let _alone = alone();
    raise_descriptors();
    let (port, upstream) = (Port::reserve(), Listener::new());
    let setup = || {
        let handover = format!("{ALWAYS}crash_after = \"0s\"\n");
        Setup::new(&(handover + &proxy("p", &[port.address()], &upstream.address)))
    };
    let mut store = Store::start(setup());
    store.wait_count(LISTENER, 1);
    let living: Vec<_> = (0..LIVING).map(|_| pair(port.address(), &upstream)).collect();

    let lasts = Duration::from_secs(number_from("DRAINED_TEST_CHURN_SECONDS", 20) as u64);
    let each =
        Duration::from_secs(60) * PASSING as u32 / number_from("DRAINED_TEST_CHURN_RATE", 10_000) as u32;
    let (began, mut rounds) = (Instant::now(), 0);
    let mut looked = began;
    let mut seen = Vec::new();
    while began.elapsed() < lasts {
        let pairs: Vec<_> = (0..PASSING).map(|_| pair(port.address(), &upstream)).collect();
        pairs.iter().for_each(|(client, server)| talk(client, server));
        drop(pairs);
        rounds += 1;
        if looked.elapsed() > lasts / 20 {
            looked = Instant::now();
            wait_for_the_living_alone(&store);
            let held = Held::by(&store);
            println!("after {} connections: {held:?}", rounds * PASSING);
            assert!(held.stored < 64, "{held:?}");
            // Two workers, each of whom lets 512 of the dead be, and an eighth of the living.
            assert!(held.in_flight < 2 * (512 + 2 * PASSING) + 3 * LIVING, "{held:?}");
            seen.push(held);
        }
        let next = began + each * rounds as u32;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("{}", kernel());
    let (first, last) = (&seen[seen.len() / 4], &seen[seen.len() - 1]);
    assert_eq!(last.stored, first.stored);
    assert!(last.open < first.open + PASSING, "{first:?}, then {last:?}");
    assert!(last.memory < first.memory + (512 << 10), "{first:?}, then {last:?}");

    // Those that stayed are where they should be.
    wait_for_the_living_alone(&store);
    store.kill(setup());
    assert_eq!(adopted(&store), (1, LIVING as u64));
    living.iter().for_each(|(client, server)| talk(client, server));
}

fn wait_for_the_living_alone(store: &Store) {
    until("the ends of those who went", || {
        store.status()["proxies"]["p"]["connections"]["active"] == LIVING as u64
    });
}

/// What the whole machine has of sockets, for whoever reads the output of a long run.
fn kernel() -> String {
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let slabs = slabs
        .lines()
        .filter(|line| ["TCP ", "sock_inode", "filp", "UNIX "].iter().any(|s| line.starts_with(s)));
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let slabs: Vec<_> =
        slabs.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    format!("{tcp}; slabs: {}", slabs.join(", "))
}
