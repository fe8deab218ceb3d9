//! HTTP clients of all kinds against the endpoint: none delays another, none is kept for long.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use drained::http::{HttpServer, LONGEST_REQUEST, MOST_CLIENTS, Page, Running, Site, Status};
use drained::sys::socket::Address;
use nix::poll::PollFlags;

use super::{address, ask, figures, get, proxy, setup};
use crate::control::discard;
use crate::support::SOON;
use crate::support::drained::{Setup, pair};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, reset, talk, try_connect, wait};
use crate::support::steady::steady;

/// One page of so many bytes.
struct Pages(usize);

impl Site for Pages {
    fn page(&self, path: &str) -> Option<Page> {
        (path == "/page").then(|| Page {
            status: Status::Ok,
            content_type: "text/plain",
            body: "x".repeat(self.0),
        })
    }
}

struct Served {
    address: String,
    running: Option<Running>,
}

impl Served {
    fn new(page: usize, patience: Duration) -> Served {
        crate::support::tell_failures();
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let server = HttpServer::bind(&address, "127.0.0.1:0").unwrap().patience(patience);
        let address = server.address();
        Served { address, running: Some(server.start(discard(), Pages(page)).unwrap()) }
    }

    fn close(&mut self) {
        self.running.take().unwrap().close(SOON).expect("ends within the bound").unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.close();
        }
    }
}

const REQUEST: &[u8] = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_request_may_come_in_pieces_and_more_may_follow_it() {
    let served = Served::new(3, SOON);
    let stream = connect(&served.address);
    for byte in REQUEST {
        (&stream).write_all(&[*byte]).unwrap();
    }
    let (answer, ended) = read_to_end(&stream);
    assert!(answer.ends_with(b"\r\n\r\nxxx"));
    assert_eq!(ended, Ended::Fin);
    // Pipelined: one is answered, and the answer is not lost by what follows.
    let stream = connect(&served.address);
    (&stream).write_all(&REQUEST.repeat(500)).unwrap();
    let (answer, ended) = read_to_end(&stream);
    let text = String::from_utf8(answer).unwrap();
    assert_eq!((text.matches("HTTP/1.1 200 OK").count(), ended), (1, Ended::Fin), "{text}");
    // What comes after the answer is no reason for a reset, which would take back an answer that is under way.
    (&stream).write_all(REQUEST).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(stream.take_error().unwrap().is_none(), "the server has reset the connection");
    // Half-closed after the request, as some clients do.
    let stream = connect(&served.address);
    (&stream).write_all(REQUEST).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&stream).0.ends_with(b"xxx"));
}

#[test]
fn what_is_no_request_is_refused_and_ended() {
    let served = Served::new(3, SOON);
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), 400),
        (b"hello\n".to_vec(), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        (b"GET /page HTTP/1.1\r\nHost\r\n\r\n".to_vec(), 400),
        (b"GET /page HTTP/1.1\r\n\0: 1\r\n\r\n".to_vec(), 400),
        ([b"GET /".to_vec(), vec![b'x'; LONGEST_REQUEST]].concat(), 431),
        ([b"GET /page HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100), b"\r\n".to_vec()].concat(), 431),
        ([b"GET /page HTTP/1.1\r\na: ".to_vec(), vec![b'x'; LONGEST_REQUEST]].concat(), 431),
    ] {
        assert_eq!(
            ask(&served.address, &bytes).0,
            status,
            "{:?}",
            String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
        );
    }
    // An end in the midst of a request.
    let stream = connect(&served.address);
    (&stream).write_all(&REQUEST[..9]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&stream).0.starts_with(b"HTTP/1.1 400 "));
    // And without one.
    let stream = connect(&served.address);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&stream), Ended::Fin);
    assert_eq!(get(&served.address, "/page").0, 200);
}

#[test]
fn who_is_slow_has_the_patience_for_the_whole_request_and_delays_nobody() {
    steady(|| {
        let patience = Duration::from_millis(700);
        let served = Served::new(3, patience);
        let start = Instant::now();
        let silent = connect(&served.address);
        let dripping = connect(&served.address);
        let head = b"GET /page HTTP/1.1\r\n".iter().chain(b"a: b\r\n".iter().cycle());
        let mut drops = head.copied();
        // A byte now and then, for as long as it is taken.
        while !wait(&dripping, PollFlags::POLLIN, Duration::from_millis(20)) {
            let _ = (&dripping).write_all(&[drops.next().unwrap()]);
            let asked = Instant::now();
            assert_eq!(get(&served.address, "/page").0, 200);
            assert!(asked.elapsed() < patience, "another client waited: {:?}", asked.elapsed());
            assert!(start.elapsed() < SOON);
        }
        let took = start.elapsed();
        assert!(took >= patience && took < patience * 4, "{took:?}");
        assert_eq!((read_to_end(&silent).0, read_to_end(&dripping).0), (Vec::new(), Vec::new()));
    });
}

#[test]
fn who_takes_nothing_is_closed_and_delays_nobody() {
    let served = Served::new(32 << 20, Duration::from_secs(1));
    let stream = connect(&served.address);
    (&stream).write_all(REQUEST).unwrap();
    assert!(wait(&stream, PollFlags::POLLIN, SOON), "no answer begins");
    assert_eq!(get(&served.address, "/nothing").0, 404);
    // A silent one that came later is closed later.
    assert_eq!(end_of(&connect(&served.address)), Ended::Fin);
    assert!(read_to_end(&stream).0.len() < 32 << 20, "the answer was not cut off");
}

#[test]
fn who_asks_nothing_makes_room_at_once_and_who_is_answered_stays() {
    let served = Served::new(32 << 20, SOON * 10);
    let taking = connect(&served.address);
    (&taking).write_all(REQUEST).unwrap();
    assert!(wait(&taking, PollFlags::POLLIN, SOON), "no answer begins");
    let silent: Vec<TcpStream> = (1..MOST_CLIENTS).map(|_| connect(&served.address)).collect();
    (&silent[0]).write_all(&REQUEST[..9]).unwrap();
    let goes = |stream| wait(stream, PollFlags::POLLIN, Duration::ZERO);
    assert_eq!(get(&served.address, "/nothing").0, 404);
    assert!(goes(&silent[0]) && !goes(&silent[1]), "not the oldest one alone has made room");
    let more: Vec<TcpStream> = (1..MOST_CLIENTS).map(|_| connect(&served.address)).collect();
    assert!(silent.iter().all(|stream| end_of(stream) == Ended::Fin));
    assert!(!more.iter().any(goes), "the older ones make room first");
    assert!(read_to_end(&taking).0.len() > 32 << 20, "the answer was cut off");
}

#[test]
fn a_burst_of_many_more_than_there_are_places_is_answered() {
    let served = Served::new(3, SOON * 10);
    let _silent: Vec<TcpStream> = (0..MOST_CLIENTS).map(|_| connect(&served.address)).collect();
    let asking = |_| {
        let stream = connect(&served.address);
        (&stream).write_all(REQUEST).unwrap();
        stream
    };
    let burst: Vec<TcpStream> = (0..4 * MOST_CLIENTS).map(asking).collect();
    assert!(burst.iter().all(|stream| read_to_end(stream).0.ends_with(b"xxx")));
}

#[test]
fn closing_waits_for_no_client() {
    let mut served = Served::new(32 << 20, SOON * 10);
    let stuck = connect(&served.address);
    (&stuck).write_all(REQUEST).unwrap();
    assert!(wait(&stuck, PollFlags::POLLIN, SOON));
    let _silent = connect(&served.address);
    served.close();
}

#[test]
fn a_crowd_of_strangers_does_not_touch_the_daemon() {
    let upstream = Listener::new();
    let drained = setup(&proxy(&[&upstream.address], "")).start();
    let at = address(&drained);
    let held = pair(&drained, &upstream);
    let sockets = drained.descriptors("socket:");
    let requests: [&[u8]; 4] = [b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /", b"\xff\xfe\x00", b""];
    for round in 0..500 {
        let stream = connect(&at);
        let _ = (&stream).write_all(requests[round % 4]);
        if round % 3 == 0 {
            reset(stream);
        }
    }
    // Those of a silent crowd that found no place wait in the backlog, and cost the daemon nothing.
    let crowd: Vec<TcpStream> = (0..1000).map(|_| connect(&at)).collect();
    assert!(drained.descriptors("socket:") <= sockets + MOST_CLIENTS);
    talk(&held.0, &held.1);
    drop(pair(&drained, &upstream));
    drop(crowd);
    assert_eq!(get(&at, "/healthz").0, 200);
    assert_eq!(figures(&at)["drained_connections_accepted_total{proxy=\"p\"}"], 2.0);
    // And a stop does not wait for a crowd.
    let crowd: Vec<_> = (0..200).map(|_| try_connect(&at)).collect();
    drop(held);
    drained.stop();
    drop(crowd);
}

#[test]
fn an_address_in_use_is_told_with_what_to_look_for() {
    let taken = Listener::new();
    let config = format!("metrics = {:?}\n{}", taken.address, proxy(&["127.0.0.1:1"], ""));
    let end = Setup::new(&config).spawn().wait_end();
    assert_eq!(end.code, Some(71));
    let line =
        format!("cannot listen on the metrics address {} (another program listens there): ", taken.address);
    assert_eq!(end.count(&line), 1, "{:#?}", end.lines);
}
