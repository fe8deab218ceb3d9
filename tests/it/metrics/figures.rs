//! What is told after known traffic, after a restart, and while the daemon stops.

use std::io::Write;
use std::net::Shutdown;
use std::time::SystemTime;

use nix::sys::signal::Signal;

use super::{address, ask, figures, get, proxy, setup};
use crate::support::SOON;
use crate::support::drained::{Setup, pair, until};
use crate::support::peers::{Listener, connect, end_of, read_to_end, send, try_connect};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

#[test]
fn after_known_traffic_each_figure_is_exact() {
    let (up, dead) = (Listener::new(), Listener::refusing("127.0.0.1:0"));
    let config = proxy(&[&up.address], "max_connections = 50")
        + &format!("[proxy.q]\nlisten = \"127.0.0.1:0\"\nhold = \"0s\"\nupstream = {:?}\n", dead.address);
    let drained = setup(&config).start();
    let at = address(&drained);
    let (first, second) = (pair(&drained, &up), pair(&drained, &up));
    send(&first.0, &first.1, &[7; 1000]);
    first.0.shutdown(Shutdown::Write).unwrap();
    first.1.shutdown(Shutdown::Write).unwrap();
    end_of(&first.0);
    for _ in 0..3 {
        end_of(&connect(&drained.address_of("q")));
    }
    let ended = "drained_connection_duration_seconds_count{proxy=\"p\"}";
    until("the end of a connection and of three", || {
        let told = figures(&at);
        told[ended] == 1.0 && told["drained_connections_failed_total{proxy=\"q\"}"] == 3.0
    });
    let told = figures(&at);
    let talked = ["a question".len() as f64, "an answer".len() as f64];
    let upstream = |name: &str, proxy: &str, address: &str| {
        format!("drained_upstream_{name}{{proxy=\"{proxy}\",upstream=\"{address}\"}}")
    };
    for (name, value) in [
        ("drained_connections_active{proxy=\"p\"}".to_owned(), 1.0),
        ("drained_connections_held{proxy=\"p\"}".to_owned(), 0.0),
        ("drained_connections_accepted_total{proxy=\"p\"}".to_owned(), 2.0),
        ("drained_connections_accepted_total{proxy=\"q\"}".to_owned(), 3.0),
        ("drained_connections_failed_total{proxy=\"p\"}".to_owned(), 0.0),
        ("drained_connections_drained_total{proxy=\"p\"}".to_owned(), 0.0),
        ("drained_connections_cut_total{proxy=\"p\"}".to_owned(), 0.0),
        ("drained_connections_adopted_total{proxy=\"p\"}".to_owned(), 0.0),
        (
            "drained_relayed_bytes_total{proxy=\"p\",direction=\"to_upstream\"}".to_owned(),
            1000.0 + 2.0 * talked[0],
        ),
        ("drained_relayed_bytes_total{proxy=\"p\",direction=\"to_client\"}".to_owned(), 2.0 * talked[1]),
        ("drained_connect_duration_seconds_count{proxy=\"p\"}".to_owned(), 2.0),
        ("drained_connect_duration_seconds_bucket{proxy=\"p\",le=\"+Inf\"}".to_owned(), 2.0),
        ("drained_connect_duration_seconds_count{proxy=\"q\"}".to_owned(), 0.0),
        ("drained_connection_duration_seconds_count{proxy=\"q\"}".to_owned(), 0.0),
        ("drained_proxy_connections_limit{proxy=\"p\"}".to_owned(), 50.0),
        (upstream("up", "p", &up.address), 1.0),
        (upstream("up", "q", &dead.address), 0.0),
        (upstream("connections", "p", &up.address), 1.0),
        (upstream("connections", "q", &dead.address), 0.0),
        ("drained_state{state=\"running\"}".to_owned(), 1.0),
        ("drained_log_dropped_total".to_owned(), 0.0),
        (format!("drained_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
    ] {
        assert_eq!(told.get(&name), Some(&value), "{name} in {told:#?}");
    }
    assert!(!told.contains_key("drained_proxy_connections_limit{proxy=\"q\"}"));
    assert!(told["drained_connect_duration_seconds_sum{proxy=\"p\"}"] < SOON.as_secs_f64());
    assert!(told["drained_connections_limit"] >= 16.0 && told["drained_log_records_total"] > 0.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - told["drained_start_time_seconds"]).abs() < 60.0);
    drop(second);
    drained.stop();
}

#[test]
fn how_long_a_connect_and_a_connection_took_is_in_its_bucket() {
    let upstream = Listener::new();
    // Nobody takes the connect before there is room in the backlog again.
    let filling = upstream.fill();
    let drained = setup(&proxy(&[&upstream.address], "")).start();
    let at = address(&drained);
    let began = std::time::Instant::now();
    let client = connect(&drained.address());
    (&client).write_all(b"!").unwrap();
    let active = "drained_connections_active{proxy=\"p\"}";
    until("the client is in", || figures(&at)[active] == 1.0);
    let waited = began.elapsed();
    upstream.listen(16);
    drop(filling);
    let count = "drained_connect_duration_seconds_count{proxy=\"p\"}";
    until("the connect", || figures(&at)[count] == 1.0);
    let sum = figures(&at)["drained_connect_duration_seconds_sum{proxy=\"p\"}"];
    // The kernel tries again after a second.
    assert!(sum > waited.as_secs_f64() && sum <= began.elapsed().as_secs_f64(), "{sum} s after {waited:?}");
    for (name, value) in figures(&at) {
        if let Some((_, bound)) = name.split_once("connect_duration_seconds_bucket{proxy=\"p\",le=\"") {
            let bound: f64 = bound.trim_end_matches("\"}").parse().unwrap();
            assert_eq!(value, f64::from(u8::from(sum <= bound)), "{name}, for {sum} s");
        }
    }
}

#[test]
fn from_the_start_of_a_lame_duck_it_is_not_ready_and_tells_all_the_same() {
    let upstream = Listener::new();
    let drain = "drain = { lame_duck = \"1h\", deadline = \"1h\" }";
    let drained = setup(&proxy(&[&upstream.address], drain)).start();
    let at = address(&drained);
    let held = pair(&drained, &upstream);
    assert_eq!(get(&at, "/readyz"), (200, "running\n".to_owned()));
    assert_eq!(get(&at, "/healthz").0, 200);
    drained.signal(Signal::SIGTERM);
    drained.daemon.wait_line("phase announce");
    assert_eq!(get(&at, "/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(get(&at, "/healthz").0, 200);
    // Clients are served still.
    let late = pair(&drained, &upstream);
    assert_eq!(figures(&at)["drained_connections_active{proxy=\"p\"}"], 2.0);
    // The next one hurries: no lame duck, and goodbyes at once.
    drained.signal(Signal::SIGTERM);
    drained.daemon.wait_line("phase drain");
    assert_eq!(get(&at, "/readyz").0, 503);
    let told = figures(&at);
    assert_eq!(
        (told["drained_state{state=\"draining\"}"], told["drained_state{state=\"running\"}"]),
        (1.0, 0.0)
    );
    drop((held, late));
    let end = drained.wait_end();
    assert_eq!(end.code, Some(0), "{:#?}", end.lines);
    assert!(try_connect(&at).is_err(), "it is told still");
}

#[test]
fn connections_that_were_cut_or_drained_are_told_before_the_end() {
    let upstream = Listener::new();
    let config = proxy(&[&upstream.address], "drain = { deadline = \"1h\" }")
        + &format!("[proxy.q]\nlisten = \"127.0.0.1:0\"\nupstream = {:?}\n", upstream.address)
        + "drain = { deadline = \"100ms\" }\n";
    let drained = setup(&config).start();
    let at = address(&drained);
    let (quiet, asking) = (pair(&drained, &upstream), pair(&drained, &upstream));
    (&asking.0).write_all(b"a question without an answer").unwrap();
    let cut = connect(&drained.address_of("q"));
    let server = upstream.accept();
    send(&cut, &server, b"another");
    drained.term_and_drain();
    let told = |what: &str, proxy: &str| {
        figures(&at)[&format!("drained_connections_{what}_total{{proxy=\"{proxy}\"}}")]
    };
    until("one is cut", || told("cut", "q") == 1.0);
    // From the cut on it is certain that the other proxy drains too.
    drop(quiet);
    until("one is drained", || told("drained", "p") == 1.0);
    assert_eq!((told("cut", "p"), told("drained", "q")), (0.0, 0.0));
    drop(asking);
    let end = drained.wait_end();
    assert_eq!((end.code, end.count("event=cut")), (Some(0), 1), "{:#?}", end.lines);
}

#[test]
fn what_was_handed_over_is_told_by_the_next_process() {
    let upstream = Listener::new();
    let scratch = Scratch::new();
    let at = format!("unix:{}", scratch.path("metrics.sock").display());
    let with = |listen: &str| {
        Setup::new(&format!(
            "metrics = {at:?}\n[handover]\non_restart = \"always\"\n\
             [proxy.p]\nlisten = {listen:?}\nupstream = {:?}\n",
            upstream.address
        ))
    };
    let port = Listener::refusing("127.0.0.1:0");
    let mut store = Store::start(with(&port.address));
    assert!(!figures(&at).contains_key("drained_handover_pause_seconds"));
    let client = connect(&port.address);
    let server = upstream.accept();
    send(&client, &server, b"before");
    store.restart(with(&port.address));
    send(&server, &client, b"after");
    let told = figures(&at);
    assert_eq!(told["drained_connections_adopted_total{proxy=\"p\"}"], 1.0);
    assert_eq!(told["drained_listeners_adopted_total"], 1.0);
    assert_eq!(told["drained_connections_active{proxy=\"p\"}"], 1.0);
    assert_eq!(told["drained_connections_accepted_total{proxy=\"p\"}"], 0.0);
    assert!(told["drained_handover_pause_seconds"] < SOON.as_secs_f64());
    drop((client, server));
    store.end();
    assert!(!scratch.path("metrics.sock").exists(), "its file goes with the daemon");
}

#[test]
fn every_kind_of_address_is_taken_and_one_that_is_in_use_is_refused() {
    for address in ["[::1]:0", "unix:@drained-it-metrics"] {
        let drained = Setup::new(&format!("metrics = {address:?}\n")).start();
        let at = super::address(&drained);
        assert_eq!(get(&at, "/healthz"), (200, "running\n".to_owned()));
        drained.stop();
    }
    let taken = Listener::new();
    let drained = Setup::new(&format!("metrics = {:?}\n", taken.address)).spawn();
    let end = drained.wait_end();
    assert_eq!(end.code, Some(71), "{:#?}", end.lines);
    assert!(end.says(&format!("cannot listen on the metrics address {}", taken.address)), "{:#?}", end.lines);
}

#[test]
fn other_pages_and_methods_are_refused() {
    let drained = setup("").start();
    let at = address(&drained);
    assert_eq!(get(&at, "/").0, 404);
    assert_eq!(get(&at, "/metrics/").0, 404);
    assert_eq!(ask(&at, b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").0, 405);
    assert_eq!(ask(&at, b"DELETE /healthz HTTP/1.1\r\n\r\n").0, 405);
    assert_eq!(ask(&at, b"HEAD /healthz HTTP/1.1\r\n\r\n"), (200, String::new()));
    let stream = connect(&at);
    (&stream).write_all(b"GET /metrics?x HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_to_end(&stream).0).unwrap();
    assert!(answer.contains("Content-Type: text/plain; version=0.0.4\r\n"), "{answer}");
    drained.stop();
}
