//! redis-server with redis-benchmark and redis-cli.

use std::io::Write;
use std::time::Duration;

use super::{LONG, SOON, wait_for_fin};
use crate::support::real_peers::client::{Client, run, run_with};
use crate::support::real_peers::drained::Drained;
use crate::support::real_peers::server::Server;
use crate::support::real_peers::text;
use crate::support::steady::steady;

#[test]
#[ignore = "needs redis and root: `make test` as root"]
fn redis_benchmark_runs_all_its_tests() {
    let redis = Server::redis();
    let direct = tests_of_benchmark(redis.tcp.port(), "1");
    assert!(direct.len() >= 18, "{direct:?}");
    for (upstream, pipeline) in [(redis.tcp.to_string(), "1"), (redis.unix_address(), "16")] {
        let drained = Drained::start(upstream, LONG);
        assert_eq!(tests_of_benchmark(drained.tcp.port(), pipeline), direct);
        drained.stop();
    }
}

/// Runs it and returns the names of the tests that it has a figure for.
fn tests_of_benchmark(port: u16, pipeline: &str) -> Vec<String> {
    let port = port.to_string();
    let options = ["-p", &port, "-n", "4000", "-c", "50", "-P", pipeline, "--csv"];
    let ended = run("redis-benchmark", options);
    assert_eq!(ended.err, "");
    let report = ended.success();
    let lines = report.lines().skip(1).map(|line| line.split("\",\"").collect::<Vec<_>>());
    lines
        .map(|fields| {
            let rate: f64 = fields[1].trim_matches('"').parse().unwrap_or_else(|_| panic!("{report}"));
            assert!(rate > 0.0, "{report}");
            fields[0].to_owned()
        })
        .collect()
}

const SCRIPT: &str = "\
FLUSHALL
DEBUG SLEEP 0.2
SET greeting \"a value\\nof two lines\"
GET greeting
SETRANGE big 3000000 end
BITCOUNT big
GET big
MULTI
INCR counter
LPUSH list a b c
EXEC
LRANGE list 0 -1
INCR greeting
NOSUCHCOMMAND
SUBSCRIBE
EVAL \"local t = {} for i = 1, 5000 do t[i] = i end return t\" 0
DEBUG CHANGE-REPL-ID
DEBUG DIGEST
DBSIZE
";

#[test]
#[ignore = "needs redis and root: `make test` as root"]
fn redis_cli_says_the_same_through_drained() {
    let redis = Server::redis();
    let script = |options: &[&str]| run_with("redis-cli", options, SCRIPT.as_bytes()).success();
    let wanted = script(&["-p", &redis.tcp.port().to_string()]);
    assert!(wanted.len() > 3_000_000 && wanted.contains("\n5000\n"), "{} bytes", wanted.len());
    for upstream in [redis.tcp.to_string(), redis.unix_address()] {
        let drained = Drained::start(upstream, LONG);
        assert!(script(&["-p", &drained.tcp.port().to_string()]) == wanted);
        assert!(script(&["-s", &text(&drained.unix)]) == wanted);
        drained.stop();
    }
}

#[test]
#[ignore = "needs redis and root: `make test` as root"]
fn an_idle_redis_cli_is_closed_at_once_by_a_fin() {
    steady(|| {
        let redis = Server::redis();
        let mut drained = Drained::start(redis.tcp, LONG);
        // A subscriber reads on after its FIN, and says how its connection ended.
        let port = drained.tcp.port().to_string();
        let mut subscriber = Client::start("redis-cli", ["-p", &port, "SUBSCRIBE", "news"]);
        let publish = |word: &str| {
            let options = ["-p", &redis.tcp.port().to_string(), "PUBLISH", "news", word];
            run("redis-cli", options).success()
        };
        crate::support::real_peers::wait_for("subscriber", Duration::from_secs(10), || {
            (publish("hello").trim() == "1").then_some(())
        });
        std::thread::sleep(QUIET);

        let stopping = drained.terminate();
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        assert!(took < SOON, "{took:?}");
        assert!(!subscriber.is_running() || subscriber.stdin.take().is_some());
        let ended = subscriber.end(SOON);
        assert!(ended.text().contains("hello"), "{ended:?}");
        assert!(!ended.err.contains("reset"), "{ended:?}");
        drained.assert_no_complaint();
    });
}

/// A session at its prompt does not look at its connection, so it ends by its user's next word.
#[test]
#[ignore = "needs redis and root: `make test` as root"]
fn a_redis_cli_at_its_prompt_has_its_fin_at_once() {
    steady(|| {
        let redis = Server::redis();
        let mut drained = Drained::start(redis.tcp, LONG);
        let port = drained.tcp.port().to_string();
        let mut session = Client::start("redis-cli", ["-p", &port]);
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"SET key value\n").unwrap();
        let get = ["-p", &redis.tcp.port().to_string(), "GET", "key"];
        crate::support::real_peers::wait_for("value", Duration::from_secs(10), || {
            (run("redis-cli", get).success().trim() == "value").then_some(())
        });
        std::thread::sleep(QUIET);
        let stopping = drained.terminate();
        wait_for_fin(drained.tcp, SOON);
        drop(stdin);
        session.end(SOON).success();
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        assert!(took < SOON * 2, "{took:?}");
        drained.assert_no_complaint();
    });
}

/// What makes a connection quiet is silence, so here is nothing but time to wait for.
const QUIET: Duration = Duration::from_millis(1_200);
