//! Restarts and SIGKILLs of drained in the midst of what real clients do: none of them notices more
//! than a pause.
//!
//! DRAINED_TEST_SCP_MB is how much scp copies, in megabytes; DRAINED_TEST_PEERS_SECONDS how long those
//! work that can be told so.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{postgres, ssh};
use crate::support::drained::{Setup, raise_descriptors, until};
use crate::support::number_from;
use crate::support::peers::{Listener, Pattern};
use crate::support::real_peers::client::{Client, Ended, run};
use crate::support::real_peers::server::{Server, postgres_program};
use crate::support::real_peers::{BOUND, random_file, sha256, text};
use crate::support::store::{LISTENER, Store};

/// No client may work longer, however much it was told to do.
const LONGEST: Duration = Duration::from_secs(900);
/// From the age of a second on a connection outlives a crash.
const OLD_ENOUGH: Duration = Duration::from_millis(1_300);

/// drained between the client and the server, with a store.
struct Shaken {
    store: Store,
    port: Listener,
    upstream: String,
    workers: usize,
    random: Pattern,
    restarts: usize,
    kills: usize,
    longest: Duration,
}

impl Shaken {
    fn start(server: &Server) -> Shaken {
        Shaken::start_with(server, 2)
    }

    fn start_with(server: &Server, workers: usize) -> Shaken {
        raise_descriptors();
        let (port, upstream) = (Listener::refusing("127.0.0.1:0"), server.tcp.to_string());
        let store = Store::start(setup(&port, &upstream).workers(workers));
        store.wait_count(LISTENER, 1);
        let random = Pattern::new(u64::from(server.tcp.port()));
        Shaken { store, port, upstream, workers, random, restarts: 0, kills: 0, longest: Duration::ZERO }
    }

    fn port(&self) -> String {
        self.port.address.rsplit(':').next().unwrap().to_owned()
    }

    /// Waits until there are so many connections, all of them old enough to outlive a crash.
    fn wait_old(&self, connections: u64) {
        let active = || self.store.status()["proxies"]["p"]["connections"]["active"] == connections;
        until(&format!("{connections} connections"), active);
        // Nothing tells of age but time.
        thread::sleep(OLD_ENOUGH);
    }

    /// A restart, then a SIGKILL, each after a time that nobody foresees.
    fn shake(&mut self) {
        for kill in [false, true] {
            let mut random = [0; 8];
            self.random.fill(&mut random);
            thread::sleep(Duration::from_millis(100 + u64::from_le_bytes(random) % 300));
            let setup = setup(&self.port, &self.upstream).workers(self.workers);
            let done = if kill { self.store.kill(setup) } else { self.store.restart(setup) };
            self.longest = self.longest.max(done.pause);
            self.kills += usize::from(kill);
            self.restarts += usize::from(!kill);
        }
    }

    /// Shakes while the client works; returns how it ended.
    fn shake_until_the_end_of(&mut self, mut client: Client) -> Ended {
        let late = Instant::now() + LONGEST;
        while client.is_running() && Instant::now() < late {
            self.shake();
        }
        let ended = client.end(Duration::from_secs(1));
        self.finish();
        assert!(self.kills >= 3, "the client ended too soon: {ended:?}");
        ended
    }

    fn finish(&self) {
        println!(
            "{} restarts and {} kills, not ready for {:?} at most",
            self.restarts, self.kills, self.longest
        );
    }
}

fn setup(port: &Listener, upstream: &str) -> Setup {
    Setup::new(&format!(
        "[handover]\non_restart = \"always\"\n[proxy.p]\nlisten = \"{}\"\nupstream = \"{upstream}\"\n",
        port.address
    ))
}

fn seconds() -> String {
    number_from("DRAINED_TEST_PEERS_SECONDS", 6).to_string()
}

#[test]
#[ignore = "needs openssh and root: `make test` as root"]
fn scp_brings_the_whole_file() {
    let sshd = Server::sshd();
    let mut shaken = Shaken::start(&sshd);
    let (file, there) = (sshd.directory.path("file"), sshd.directory.path("there"));
    let whole = random_file(&file, number_from("DRAINED_TEST_SCP_MB", 200) as u64);
    let options = ssh::options(&sshd, shaken.port().parse().unwrap());
    // 400,000 kbit/s are 50 MB/s.
    let to = format!("{}:{}", ssh::HOST, text(&there));
    let scp = Client::start("scp", ssh::and(&options, &["-l", "400000", &text(&file), &to]));
    shaken.wait_old(1);
    shaken.shake_until_the_end_of(scp).success();
    assert_eq!(sha256(&there), whole);
}

#[test]
#[ignore = "needs openssh and root: `make test` as root"]
fn ssh_keeps_its_shell() {
    let sshd = Server::sshd();
    let mut shaken = Shaken::start(&sshd);
    let options = ssh::options(&sshd, shaken.port().parse().unwrap());
    let mut shell = Client::start("ssh", ssh::and(&options, &[ssh::HOST, "sh"]));
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"n=0; echo started >&2\n").unwrap();
    shell.wait_line("started");
    shaken.wait_old(1);
    for n in 1..=4 {
        shaken.shake();
        stdin.write_all(b"n=$((n + 1)); echo \"this is $n\" >&2\n").unwrap();
        shell.wait_line(&format!("this is {n}"));
    }
    stdin.write_all(b"exit 7\n").unwrap();
    assert_eq!(shell.end(BOUND).status.code(), Some(7));
    shaken.finish();
}

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn pgbench_fails_no_transaction() {
    let server = Server::postgres();
    let mut shaken = Shaken::start(&server);
    let program = text(&postgres_program("pgbench"));
    let direct = ["127.0.0.1".to_owned(), server.tcp.port().to_string()];
    run(&program, postgres::options(&direct, &["-i", "-q", "-s", "8"])).success();
    let target = ["127.0.0.1".to_owned(), shaken.port()];
    let own = ["-T", &seconds(), "-c", "8", "-n"];
    let bench = Client::start(&program, postgres::options(&target, &own));
    shaken.wait_old(8);
    let report = shaken.shake_until_the_end_of(bench).success();
    assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{report}");
}

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn psql_keeps_its_transaction() {
    let server = Server::postgres();
    let mut shaken = Shaken::start(&server);
    let target = ["127.0.0.1".to_owned(), shaken.port()];
    let own = ["-X", "-q", "-v", "ON_ERROR_STOP=1"];
    let mut session = Client::start(&text(&postgres_program("psql")), postgres::options(&target, &own));
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"CREATE TABLE t (n int);\nBEGIN;\nINSERT INTO t VALUES (0);\n\\warn begun\n").unwrap();
    session.wait_line("begun");
    shaken.wait_old(1);
    for n in 1..=4 {
        shaken.shake();
        writeln!(stdin, "INSERT INTO t VALUES ({n});\nSELECT count(*) FROM t \\gset\n\\warn rows :count")
            .unwrap();
        session.wait_line(&format!("rows {}", n + 1));
    }
    stdin.write_all(b"COMMIT;\n").unwrap();
    drop(stdin);
    session.end(BOUND).success();
    let direct = ["127.0.0.1".to_owned(), server.tcp.port().to_string()];
    let own = ["-X", "-A", "-t", "-c", "SELECT sum(n) FROM t"];
    let sum = run(&text(&postgres_program("psql")), postgres::options(&direct, &own)).success();
    assert_eq!(sum.trim(), "10");
    shaken.finish();
}

#[test]
#[ignore = "needs redis and root: `make test` as root"]
fn redis_benchmark_ends_with_a_figure() {
    let redis = Server::redis();
    let mut shaken = Shaken::start(&redis);
    let requests = (60_000 * number_from("DRAINED_TEST_PEERS_SECONDS", 6)).to_string();
    // One of its tests: each begins with new connections, which a kill may find too young.
    let options = ["-p", &shaken.port(), "-t", "set", "-c", "50", "-n", &requests, "--csv"];
    let bench = Client::start("redis-benchmark", options);
    shaken.wait_old(50);
    let ended = shaken.shake_until_the_end_of(bench);
    assert_eq!(ended.err, "");
    let report = ended.success();
    assert!(report.contains("\"SET\",\""), "{report}");
}

#[test]
#[ignore = "needs iperf3 and root: `make test` as root"]
fn iperf3_runs_on_in_both_directions() {
    let iperf3 = Server::iperf3();
    // It tells its two streams apart by which came first, and workers that accept in the same instant may swap them.
    let mut shaken = Shaken::start_with(&iperf3, 1);
    let options = ["-c", "127.0.0.1", "-p", &shaken.port(), "-t", &seconds(), "-J", "--bidir"];
    let client = Client::start("iperf3", options);
    // One for its orders, and one for each direction.
    shaken.wait_old(3);
    let report = shaken.shake_until_the_end_of(client).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report.get("error").is_none(), "{report}");
    for sum in ["sum_received", "sum_received_bidir_reverse"] {
        let bytes = report["end"][sum]["bytes"].as_u64().unwrap();
        println!("{sum}: {} MB", bytes >> 20);
        assert!(bytes > 1 << 20, "{sum} has {bytes} bytes");
    }
}

#[test]
#[ignore = "needs nginx, wrk and root: `make test` as root"]
fn wrk_sees_no_error() {
    let nginx = Server::nginx();
    fs::write(nginx.directory.path("www/small"), "x".repeat(512)).unwrap();
    let mut shaken = Shaken::start(&nginx);
    let url = format!("http://127.0.0.1:{}/small", shaken.port());
    let duration = format!("-d{}s", seconds());
    let wrk = Client::start("wrk", ["-t2", "-c64", &duration, "--timeout", "10s", "--latency", &url]);
    shaken.wait_old(64);
    let report = shaken.shake_until_the_end_of(wrk).success();
    println!("{report}");
    for error in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(error), "{report}");
    }
}
