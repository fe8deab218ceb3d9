//! PostgreSQL with pgbench and psql.

use std::io::Write;
use std::time::Duration;

use super::{LONG, SOON, wait_for_fin};
use crate::support::real_peers::client::{Client, Ended, run, run_with};
use crate::support::real_peers::drained::Drained;
use crate::support::real_peers::server::{Server, postgres_program};
use crate::support::real_peers::{text, wait_for};
use crate::support::steady::steady;

/// Where libpq connects to: a host or the directory of a UNIX socket, and a port.
pub(super) type Target = [String; 2];

fn tcp(drained: &Drained) -> Target {
    ["127.0.0.1".to_owned(), drained.tcp.port().to_string()]
}

fn unix(drained: &Drained) -> Target {
    [text(drained.unix.parent().unwrap()), "5432".to_owned()]
}

pub(super) fn options<'a>([host, port]: &'a Target, own: &[&'a str]) -> Vec<&'a str> {
    [&["-U", "postgres", "-h", host, "-p", port], own, &["postgres"]].concat()
}

fn pgbench(target: &Target, own: &[&str]) -> Ended {
    run(&text(&postgres_program("pgbench")), options(target, own))
}

fn psql(target: &Target, script: &str) -> Ended {
    let own = ["-X", "-v", "ON_ERROR_STOP=1", "-f", "-"];
    run_with(&text(&postgres_program("psql")), options(target, &own), script.as_bytes())
}

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn pgbench_fails_no_transaction() {
    let postgres = Server::postgres();
    for upstream in [postgres.tcp.to_string(), postgres.unix_address()] {
        let drained = Drained::start(&upstream, LONG);
        for target in [tcp(&drained), unix(&drained)] {
            pgbench(&target, &["-i", "-q", "-s", "2"]).success();
            for own in [
                &["-T", "2", "-c", "8"][..],
                &["-T", "1", "-c", "4", "-S", "-C"],
                &["-t", "50", "-M", "prepared"],
            ] {
                let report = pgbench(&target, own).success();
                assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{upstream}: {report}");
            }
        }
        drained.stop();
    }
}

const SCRIPT: &str = "\
DROP TABLE IF EXISTS account;
CREATE TABLE account (id int PRIMARY KEY, owner text, amount int CHECK (amount >= 0));
INSERT INTO account SELECT n, repeat('owner ', n % 50), n FROM generate_series(1, 20000) n;
BEGIN;
UPDATE account SET amount = amount - 1 WHERE id = 7;
SELECT * FROM account WHERE id = 7;
SAVEPOINT here;
DELETE FROM account;
ROLLBACK TO here;
COMMIT;
COPY account TO STDOUT;
COPY account FROM STDIN;
30001\tnew\t5
\\.
SELECT count(*), sum(amount) FROM account;
SELECT repeat('x', 2000000);
UPDATE account SET amount = -1;
SELECT 'not reached';
";

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn psql_says_the_same_through_drained() {
    let postgres = Server::postgres();
    let direct = psql(&["127.0.0.1".to_owned(), postgres.tcp.port().to_string()], SCRIPT);
    assert_eq!(direct.status.code(), Some(3), "the last statement but one fails: {}", direct.err);
    assert!(direct.out.len() > 4_000_000 && direct.err.contains("account_amount_check"), "{}", direct.err);
    for upstream in [postgres.tcp.to_string(), postgres.unix_address()] {
        let drained = Drained::start(&upstream, LONG);
        for target in [tcp(&drained), unix(&drained)] {
            let relayed = psql(&target, SCRIPT);
            assert!(relayed.out == direct.out, "other output to {upstream}");
            let notices = |ended: &Ended| {
                ended.err.lines().filter(|l| !l.contains("NOTICE")).map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(notices(&relayed), notices(&direct));
            assert_eq!(relayed.status, direct.status);
        }
        drained.stop();
    }
}

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn pgbench_works_on_until_the_deadline_and_is_cut_there() {
    steady(|| {
        const CLIENTS: usize = 4;
        const DEADLINE: Duration = Duration::from_secs(4);
        let postgres = Server::postgres();
        let mut drained = Drained::start(postgres.tcp, "4s");
        pgbench(&tcp(&drained), &["-i", "-q"]).success();
        let target = tcp(&drained);
        let own = options(&target, &["-T", "60", "-P", "1", "-c", "4"]);
        let mut bench = Client::start(&text(&postgres_program("pgbench")), own);
        bench.wait_line("progress: ");

        let stopping = drained.terminate();
        // The lines of the second and third second were worked for after the signal.
        for _ in 0..2 {
            let line = bench.wait_line("progress: ");
            let tps: f64 = line.split([' ', ',']).nth(4).and_then(|word| word.parse().ok()).expect(&line);
            assert!(tps > 0.0 && line.contains(" 0 failed"), "{line}");
            assert!(stopping.since.elapsed() < DEADLINE && bench.is_running(), "{line}");
        }
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0), "a cut is an orderly end");
        assert!(took > DEADLINE && took < DEADLINE + SOON, "{took:?}");
        let ended = bench.end(SOON);
        assert!(ended.err.contains("aborted"), "{ended:?}");
        assert!(!ended.status.success(), "{ended:?}");

        let cuts = drained.entries("cut");
        assert_eq!(cuts.len(), CLIENTS, "{cuts:#?}");
        for cut in &cuts {
            let is = |name: &str, value: &str| assert_eq!(cut[name], value, "{cut:#?}");
            is("PRIORITY", "4");
            is("MESSAGE_ID", "9cb39578ac0bfd77f7dd8a9848af18e7");
            is("DRAINED_PROXY", "default");
            is("DRAINED_PROTOCOL", "tcp");
            is("DRAINED_UPSTREAM", &postgres.tcp.to_string());
            is("DRAINED_CLIENT_IP", "127.0.0.1");
            assert!(cut["DRAINED_CLIENT"].starts_with("127.0.0.1:"), "{cut:#?}");
            let doing = ["waiting-for-upstream", "active", "sending-to-client", "sending-to-upstream"];
            assert!(doing.contains(&cut["DRAINED_DOING"].as_str()), "{cut:#?}");
            let number = |name: &str| cut[name].parse::<u64>().unwrap_or_else(|_| panic!("{name}: {cut:#?}"));
            assert!(number("DRAINED_CONNECTION") > 0);
            assert!(
                number("DRAINED_DURATION_US") > 4_900_000,
                "a second before the signal, and the deadline"
            );
            assert!(number("DRAINED_BYTES_TO_UPSTREAM") > 1_000 && number("DRAINED_BYTES_TO_CLIENT") > 1_000);
        }
        let activity = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
        let direct = ["127.0.0.1".to_owned(), postgres.tcp.port().to_string()];
        wait_for("end of the server's sessions", Duration::from_secs(10), || {
            let own = ["-X", "-A", "-t", "-c", activity];
            let left = run(&text(&postgres_program("psql")), options(&direct, &own)).success();
            (left.trim() == "0").then_some(())
        });
    });
}

#[test]
#[ignore = "needs PostgreSQL and root: `make test` as root"]
fn an_idle_psql_is_closed_at_once_by_a_fin() {
    steady(|| {
        let postgres = Server::postgres();
        let mut drained = Drained::start(postgres.tcp, LONG);
        let target = tcp(&drained);
        let mut session = Client::start(&text(&postgres_program("psql")), options(&target, &["-X"]));
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"\\warn connected\nSELECT 1;\n\\warn answered\n").unwrap();
        session.wait_line("answered");
        // What makes a connection quiet is silence, so here is nothing but time to wait for.
        std::thread::sleep(Duration::from_millis(1_200));

        let stopping = drained.terminate();
        wait_for_fin(drained.tcp, SOON);
        stdin.write_all(b"SELECT 2;\n").unwrap();
        session.wait_line("server closed the connection unexpectedly");
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        assert!(took < SOON * 2, "{took:?}");
        drop(stdin);
        assert_eq!(session.end(SOON).status.code(), Some(2), "psql's code for a lost connection");
        drained.assert_no_complaint();
    });
}
