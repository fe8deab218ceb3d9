//! Upstreams that are looked at, whether or not clients come.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drained::control::by_hand::ByHand;
use drained::control::client;
use drained::control::protocol::Call;
use nix::sys::signal::Signal;

use super::{address, figures, get, proxy, setup};
use crate::support::SOON;
use crate::support::drained::until;
use crate::support::peers::{Ended, Listener, end_of, read_to_end};
use crate::support::scratch::Scratch;
use crate::support::steady::steady;

/// A server that answers each request with its status, its name and much more.
struct Server {
    address: String,
    status: Arc<AtomicU16>,
    /// How connections ended, seen from here.
    ends: Arc<Mutex<Vec<Ended>>>,
}

impl Server {
    fn new(name: &'static str, status: u16) -> Server {
        let listener = Listener::new();
        let server = Server {
            address: listener.address.clone(),
            status: Arc::new(AtomicU16::new(status)),
            ends: Arc::default(),
        };
        let (status, ends) = (server.status.clone(), server.ends.clone());
        std::thread::spawn(move || {
            while let Some(stream) = listener.accept_within(SOON * 3) {
                let _ = read_head(&stream);
                let status = status.load(Relaxed);
                let rest = "x".repeat(20_000);
                let _ =
                    (&stream).write_all(format!("HTTP/1.1 {status} Words\r\n\r\n{name}{rest}").as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                ends.lock().unwrap().push(read_to_end(&stream).1);
            }
        });
        server
    }
}

/// The head of a request.
fn read_head(mut stream: &TcpStream) -> String {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn up(at: &str, upstream: &str) -> f64 {
    figures(at)[&format!("drained_upstream_up{{proxy=\"p\",upstream=\"{upstream}\"}}")]
}

#[test]
fn one_that_answers_500_takes_no_clients_until_it_answers_well_again() {
    let (ill, well) = (Server::new("ill", 500), Server::new("well", 302));
    let check = "check = { http = \"/health\", interval = \"100ms\", rise = 3, fall = 2 }";
    let drained = setup(&proxy(&[&ill.address, &well.address], check)).start();
    let at = address(&drained);
    let down = format!(
        "upstream {} does not take connections: 2 failed checks in a row, the last one: it answered 500",
        ill.address
    );
    drained.daemon.wait_line(&down);
    assert_eq!((up(&at, &ill.address), up(&at, &well.address)), (0.0, 1.0));
    let serves = || get(&drained.address(), "/").1[..4].to_owned();
    assert!((0..8).all(|_| serves() == "well"));
    ill.status.store(204, Relaxed);
    let again = format!("upstream {} takes connections again: 3 good checks in a row", ill.address);
    drained.daemon.wait_line(&again);
    assert_eq!(up(&at, &ill.address), 1.0);
    // The rotation comes to both.
    assert!((0..8).any(|_| serves() == "illx"));
    let checked = || ill.ends.lock().unwrap().len() + well.ends.lock().unwrap().len();
    let before = checked();
    until("two more checks", || checked() > before + 1);
    let end = drained.stop();
    assert_eq!((end.count("does not take connections"), end.count("again")), (1, 1), "{:#?}", end.lines);
    let clean = |server: &Server| server.ends.lock().unwrap().iter().all(|ended| *ended == Ended::Fin);
    assert!(clean(&ill) && clean(&well), "an answer was not read to its end");
}

#[test]
fn a_dead_one_is_known_before_any_client_comes() {
    let dead = Listener::refusing("127.0.0.1:0");
    let drained = setup(&proxy(&[&dead.address], "check = { interval = \"100ms\", fall = 2 }")).start();
    let at = address(&drained);
    let line = drained.daemon.wait_line("2 failed checks in a row, the last one: Connection refused");
    assert!(line.contains("event=upstream-down") && line.contains(&dead.address), "{line}");
    assert_eq!(up(&at, &dead.address), 0.0);
    assert_eq!(figures(&at)["drained_connections_accepted_total{proxy=\"p\"}"], 0.0);
    dead.listen(16);
    let line = drained.daemon.wait_line("takes connections again: 2 good checks in a row");
    assert!(line.contains("event=upstream-up"), "{line}");
    assert_eq!(up(&at, &dead.address), 1.0);
    assert_eq!(end_of(&dead.accept()), Ended::Fin, "a check ends in order");
    drained.stop();
}

#[test]
fn one_that_says_nothing_or_half_a_status_or_something_else_is_down() {
    for (said, why) in [
        (&b""[..], "no answer within its timeout"),
        (b"HTTP/1.1 2", "half an answer within its timeout"),
        (b"SSH-2.0-Server_1.0\r\n", "its answer is not HTTP/1"),
    ] {
        let upstream = Listener::new();
        let check = "check = { http = \"/\", interval = \"1s\", timeout = \"1s\", fall = 1 }";
        let drained = setup(&proxy(&[&upstream.address], check)).start();
        let stream = upstream.accept();
        (&stream).write_all(said).unwrap();
        drained.daemon.wait_line(&format!("1 failed checks in a row, the last one: {why}"));
        drained.stop();
    }
    let upstream = Listener::new();
    let check = "check = { http = \"/\", interval = \"200ms\", fall = 1 }";
    let drained = setup(&proxy(&[&upstream.address], check)).start();
    drop(upstream.accept());
    let line = drained.daemon.wait_line("1 failed checks in a row, the last one: ");
    assert!(line.contains("it closed without an answer") || line.contains("Connection reset"), "{line}");
    drained.stop();
}

#[test]
fn what_is_asked_is_what_the_configuration_says() {
    let scratch = Scratch::new();
    let unix = Listener::on(&format!("unix:{}", scratch.path("up").display()));
    let tcp = Listener::new();
    let config =
        proxy(&[&unix.address], "send_proxy = \"v1\"\ncheck = { http = \"/up?x=1\", interval = \"100ms\" }")
            + &format!(
                "[proxy.q]\nlisten = \"127.0.0.1:0\"\nupstream = {:?}\n\
             check = {{ http = \"/\", host = \"app.example.org\", interval = \"100ms\" }}\n",
                tcp.address
            );
    let drained = setup(&config).start();
    let version = env!("CARGO_PKG_VERSION");
    let rest = format!("User-Agent: drained/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    assert_eq!(
        read_head(&unix.accept()),
        format!("PROXY UNKNOWN\r\nGET /up?x=1 HTTP/1.1\r\nHost: localhost\r\n{rest}")
    );
    assert_eq!(read_head(&tcp.accept()), format!("GET / HTTP/1.1\r\nHost: app.example.org\r\n{rest}"));
    drained.stop();
}

#[test]
fn one_worker_checks_once_an_interval() {
    steady(|| {
        let upstream = Listener::new();
        let interval = Duration::from_millis(200);
        let drained =
            setup(&proxy(&[&upstream.address], "check = { interval = \"200ms\" }")).workers(4).start();
        assert_eq!(end_of(&upstream.accept()), Ended::Fin);
        let first = Instant::now();
        (0..5).for_each(|_| assert_eq!(end_of(&upstream.accept()), Ended::Fin));
        let took = first.elapsed();
        assert!(took > interval * 2 && took < interval * 15, "{took:?} for five");
        drained.stop();
    });
}

#[test]
fn a_stop_is_the_end_of_the_checks() {
    let upstream = Listener::new();
    let config = "drain = { lame_duck = \"1h\" }\ncheck = { interval = \"100ms\" }";
    let drained = setup(&proxy(&[&upstream.address], config)).start();
    drop(upstream.accept());
    drained.signal(Signal::SIGTERM);
    drained.daemon.wait_line("phase announce");
    let until = Instant::now() + SOON;
    while upstream.accept_within(Duration::from_millis(500)).is_some() {
        assert!(Instant::now() < until, "it is checked still");
    }
    drained.signal(Signal::SIGTERM);
    assert_eq!(drained.wait_end().code, Some(0));
}

#[test]
fn the_checks_of_many_upstreams_are_spread_over_the_interval() {
    steady(|| {
        let upstreams: Vec<Listener> = (0..8).map(|_| Listener::new()).collect();
        let addresses: Vec<&str> = upstreams.iter().map(|upstream| upstream.address.as_str()).collect();
        let drained = setup(&proxy(&addresses, "check = { interval = \"1600ms\" }")).start();
        let (tell, told): (_, Receiver<Instant>) = mpsc::channel();
        let waiting: Vec<_> = upstreams
            .into_iter()
            .map(|upstream| {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    drop(upstream.accept());
                    let _ = tell.send(Instant::now());
                })
            })
            .collect();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        let times: Vec<Instant> = told.try_iter().collect();
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        // The eighth comes seven eighths of the interval after the first.
        assert!(*last - *first >= Duration::from_millis(700), "{times:?}");
        drained.stop();
    });
}

#[test]
fn checks_speak_on_after_a_drain_and_a_resume() {
    let ill = Server::new("ill", 500);
    let check = "check = { http = \"/\", interval = \"1s\", rise = 1, fall = 1 }";
    let drained = setup(&proxy(&[&ill.address], check)).start();
    let at = address(&drained);
    drained.daemon.wait_line("1 failed checks in a row");
    // Between two checks.
    let (control, proxy) = (drained.scratch.path("control.sock"), "p".to_owned());
    let drain = Call::Drain { proxy: proxy.clone(), upstream: None, timeout_ms: None };
    for call in [drain, Call::Resume { proxy, upstream: None }] {
        client::call::<ByHand>(&control, &call).unwrap();
    }
    drained.daemon.wait_line("takes connections again");
    until("checks take it down again", || up(&at, &ill.address) == 0.0);
    let end = drained.stop();
    assert_eq!(end.count("1 failed checks in a row"), 2, "{:#?}", end.lines);
}
