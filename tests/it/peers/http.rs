//! nginx with curl and wrk.

use std::fs;
use std::time::Duration;

use super::{LONG, SOON};
use crate::support::real_peers::client::{Client, run};
use crate::support::real_peers::drained::Drained;
use crate::support::real_peers::server::Server;
use crate::support::real_peers::{random_file, sha256, text, wait_for};
use crate::support::steady::steady;

#[test]
#[ignore = "needs nginx and root: `make test` as root"]
fn curl_gets_the_same_through_drained() {
    let nginx = Server::nginx();
    let whole = random_file(&nginx.directory.path("www/file"), 64);
    let direct = nginx.tcp.to_string();
    let (got, kept) = (nginx.directory.path("got"), text(&nginx.directory.path("kept")));
    let ranges = ["0-0", "1000-1999", "33554431-50331650", "-17", "5-9,100-119"];
    let wanted = ranges.map(|range| part(&direct, range));
    for upstream in [direct.clone(), nginx.unix_address()] {
        let drained = Drained::start(&upstream, LONG);
        let address = drained.tcp.to_string();
        let url = format!("http://{address}/file");
        run("curl", ["-sSf", "-o", &text(&got), &url]).success();
        assert_eq!(sha256(&got), whole, "to {upstream}");
        let unix = text(&drained.unix);
        run("curl", ["-sSf", "--unix-socket", &unix, "-o", &text(&got), "http://name/file"]).success();
        assert_eq!(sha256(&got), whole, "from a UNIX socket to {upstream}");
        for (range, wanted) in ranges.iter().zip(&wanted) {
            assert!(part(&address, range) == *wanted, "range {range} to {upstream}");
        }
        let twice = ["-sSf", "-w", "%{num_connects} ", "-o", &kept, &url, "-o", &kept, &url];
        assert_eq!(run("curl", twice).success(), "1 0 ", "the second request keeps the connection");
        drained.stop();
    }
}

/// The body of a range of the file. What parts several ranges differs from answer to answer.
fn part(address: &str, range: &str) -> Vec<u8> {
    let ended = run("curl", ["-sSf", "-r", range, &format!("http://{address}/file")]);
    assert!(ended.status.success(), "{}", ended.err);
    match range.contains(',') {
        true => ended
            .out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.starts_with(b"--"))
            .collect::<Vec<_>>()
            .concat(),
        false => ended.out,
    }
}

#[test]
#[ignore = "needs nginx, wrk and root: `make test` as root"]
fn wrk_sees_no_error() {
    let nginx = Server::nginx();
    fs::write(nginx.directory.path("www/small"), "x".repeat(512)).unwrap();
    for (upstream, header) in [
        (nginx.tcp.to_string(), "Connection: keep-alive"),
        (nginx.unix_address(), "Connection: keep-alive"),
        (nginx.tcp.to_string(), "Connection: close"),
    ] {
        let drained = Drained::start(&upstream, LONG);
        let url = format!("http://{}/small", drained.tcp);
        let report = run("wrk", ["-t2", "-c64", "-d2s", "-H", header, &url]).success();
        let requests: u64 = report
            .split(" requests in ")
            .next()
            .and_then(|r| r.trim().rsplit(' ').next()?.parse().ok())
            .expect(&report);
        assert!(requests > 500, "{report}");
        for error in ["Socket errors", "Non-2xx"] {
            assert!(!report.contains(error), "{upstream}, {header}: {report}");
        }
        drained.stop();
    }
}

#[test]
#[ignore = "needs nginx, curl and root: `make test` as root"]
fn a_slow_download_outlives_the_stop() {
    steady(|| {
        let nginx = Server::nginx();
        let whole = random_file(&nginx.directory.path("www/file"), 32);
        let mut drained = Drained::start(nginx.tcp, LONG);
        let got = nginx.directory.path("got");
        let url = format!("http://{}/file", drained.tcp);
        let mut curl = Client::start("curl", ["-sSf", "--limit-rate", "10M", "-o", &text(&got), &url]);
        let length = || fs::metadata(&got).map_or(0, |file| file.len());
        wait_for("first bytes", Duration::from_secs(10), || (length() > 0).then_some(()));

        let stopping = drained.terminate();
        drained.wait_entry("stopping");
        wait_for("more bytes", Duration::from_secs(10), || (length() > 12 << 20).then_some(()));
        assert!(curl.is_running());
        curl.end(Duration::from_secs(30)).success();
        let ended = stopping.since.elapsed();
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        assert!(took < ended + SOON, "drained took {took:?}, curl {ended:?}");
        assert_eq!(sha256(&got), whole);
        drained.assert_no_complaint();
    });
}
