//! Metrics, health endpoints and active checks of the real daemon.
//!
//! - `figures`: what is told after known traffic, a restart, and while it stops.
//! - `clients`: HTTP clients that are honest, slow, greedy and wrong.
//! - `checks`: upstreams that are looked at.
//! - `shipped`: dashboard, alert rules and documentation use names that there are.

mod checks;
mod clients;
mod figures;
mod shipped;

use std::collections::BTreeMap;
use std::io::Write;

use crate::support::drained::{Drained, Setup};
use crate::support::peers::{connect, read_to_end};

/// A daemon that tells its metrics, with `more` after its [daemon].
fn setup(more: &str) -> Setup {
    Setup::new(&format!("metrics = \"127.0.0.1:0\"\n{more}\n"))
}

/// One proxy named p.
fn proxy(upstreams: &[&str], more: &str) -> String {
    format!("[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = {upstreams:?}\n{more}\n")
}

/// Where the metrics are.
fn address(drained: &Drained) -> String {
    let line = drained.daemon.wait_line("metrics and health are told on ");
    line.split_once(" told on ").unwrap().1.trim().to_owned()
}

/// The status and the body of the answer to these bytes.
fn ask(address: &str, request: &[u8]) -> (u16, String) {
    let stream = connect(address);
    (&stream).write_all(request).unwrap();
    let answer = String::from_utf8(read_to_end(&stream).0).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}

fn get(address: &str, path: &str) -> (u16, String) {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
}

/// Each line of the metrics, with its value.
fn figures(address: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    lines.map(value).collect()
}
