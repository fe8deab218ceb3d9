//! `drainctl top` on a terminal: what it shows, what keys do, and how it leaves.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};

use drained::control::connections::{Doing, Listing, Row};
use drained::control::operator::{Reply, Who};
use drained::control::protocol::Call;
use drained::control::server::{MODE, Running};
use drained::control::status::Bytes;
use drained::control::{ControlServer, Operator};
use nix::sys::signal::Signal;

use super::DRAINCTL;
use crate::control::{discard, status_of};
use crate::support::SOON;
use crate::support::drained::{Setup, pair};
use crate::support::peers::Listener;
use crate::support::scratch::Scratch;
use crate::support::terminal::Terminal;

/// A daemon of the test's, with so many proxies, and two connections. Tells what it is asked to drain.
struct Playing {
    proxies: usize,
    drains: Sender<Call>,
}

impl Operator for Playing {
    fn answer(&self, call: Call, _who: &Who, reply: Reply) {
        match call {
            Call::Status => reply.ok(&status_of(self.proxies)),
            Call::Connections(query) => {
                let mut connections: Vec<_> = [3, 4].map(row).into_iter().collect();
                connections.retain(|row| query.text.as_ref().is_none_or(|text| row.has(text)));
                let matching = connections.len() as u64;
                reply.ok(&Listing { total: 2, matching, silent_workers: 0, connections });
            }
            call => {
                self.drains.send(call).unwrap();
                reply.ok(&serde_json::json!({}));
            }
        }
    }
}

fn row(id: u64) -> Row {
    Row {
        id,
        proxy: "proxy-0".to_owned(),
        protocol: "tcp".to_owned(),
        client: format!("192.0.2.{id}:4711"),
        upstream: Some("127.0.0.1:8000".to_owned()),
        state: Doing::Quiet,
        age_ms: 5_000,
        idle_ms: 2_000,
        bytes: Bytes { to_upstream: 1, to_client: 2 },
        parked: false,
    }
}

struct Stage {
    scratch: Scratch,
    drains: Receiver<Call>,
    tell: Sender<Call>,
    running: Option<Running>,
}

impl Stage {
    fn new() -> Stage {
        let (tell, drains) = mpsc::channel();
        let mut stage = Stage { scratch: Scratch::new(), drains, tell, running: None };
        stage.open(1);
        stage
    }

    fn open(&mut self, proxies: usize) {
        let server = ControlServer::bind(&self.scratch.path("control.sock"), MODE).unwrap();
        self.running = Some(server.start(discard(), Playing { proxies, drains: self.tell.clone() }).unwrap());
    }

    fn close(&mut self) {
        self.running.take().unwrap().close(SOON).unwrap().unwrap();
    }

    fn top_with(&self, environment: &[(&str, &str)]) -> Terminal {
        let socket = self.scratch.path("control.sock");
        let command = [DRAINCTL, "--socket", socket.to_str().unwrap(), "top"];
        Terminal::start(&command, environment, (80, 24))
    }

    fn top(&self) -> Terminal {
        let terminal = self.top_with(&[]);
        terminal.wait("the first screen", |text| text.contains("2 connections by age"));
        terminal
    }
}

#[test]
fn it_shows_a_daemon_at_work_and_leaves_no_trace() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (client, _server) = pair(&drained, &upstream);
    let socket = drained.scratch.path("control.sock");
    let mut top = Terminal::start(&[DRAINCTL, "--socket", socket.to_str().unwrap(), "top"], &[], (80, 24));
    let name = client.local_addr().unwrap().to_string();
    let text = top.wait("the connection and rates", |text| text.contains(&name) && text.contains("new/s"));
    assert!(text.contains(&upstream.address) && text.contains("by age"), "{text}");
    assert!(top.has_colours());
    top.press("s");
    top.wait("another order", |text| text.contains("by idle"));
    top.press("/nowhere");
    top.wait("nothing fits", |text| text.contains("0 of 1 with \"nowhere\"") && !text.contains(&name));
    top.press("\x1b");
    top.wait("all fit", |text| text.contains(&name));
    // What shows that it is drawn at that size: a key that comes with a new size may wait for the next key.
    for (width, height, sign) in [
        (40, 10, "sort / filter"),
        (200, 60, "PROTOCOL  STATE"),
        (20, 3, ""),
        (1, 1, ""),
        (80, 24, "sort  / filter"),
    ] {
        top.resize(width, height);
        top.wait("the new size", |text| text.contains(sign));
        top.press("?");
        if !sign.is_empty() {
            top.wait("the help", |text| text.contains("Keys"));
        }
        top.press("x");
    }
    top.wait("all as before", |text| text.contains(&name) && text.contains("? help"));
    top.press("q");
    let (status, _) = top.wait_end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn every_way_out_restores_the_terminal() {
    let stage = Stage::new();
    for keys in ["q", "\x1b", "\x03", "/x\x03", "dq?q\x03"] {
        let mut top = stage.top();
        top.press(keys);
        let (status, text) = top.wait_end();
        assert_eq!((status.code(), text.trim()), (Some(0), "[the end]"), "{keys:?}");
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let top = stage.top();
        top.signal(signal);
        let (status, _) = top.wait_end();
        assert_eq!(status.signal(), Some(signal as i32));
    }
}

#[test]
fn it_ends_with_its_terminal_whatever_becomes_of_the_signal() {
    let stage = Stage::new();
    assert_eq!(stage.top().hang_up("?").signal(), Some(Signal::SIGHUP as i32));
    let socket = stage.scratch.path("control.sock");
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    let command = ["sh", "-c", script, DRAINCTL, "--socket", socket.to_str().unwrap(), "top"];
    let deaf = Terminal::start(&command, &[], (80, 24));
    deaf.wait("the first screen", |text| text.contains("2 connections by age"));
    assert_ne!(deaf.hang_up("?").code(), Some(0));
}

#[test]
#[cfg(debug_assertions)]
fn a_panic_is_told_on_a_restored_terminal() {
    let stage = Stage::new();
    let top = stage.top_with(&[("DRAINED_TEST_FAULT", "top-panic:2"), ("RUST_BACKTRACE", "0")]);
    let (status, text) = top.wait_end();
    assert_eq!(status.code(), Some(101));
    assert!(text.contains("a panic on purpose"), "{text}");
}

#[test]
fn it_outlives_the_daemon_and_goes_on_with_the_next() {
    let mut stage = Stage::new();
    let mut top = stage.top();
    stage.close();
    let text = top.wait("it is gone", |text| text.contains("no answer"));
    assert!(text.contains("drained is not running") && text.contains("192.0.2.3"), "{text}");
    stage.open(2);
    top.wait("the next one", |text| text.contains("proxy-1") && !text.contains("no answer"));
    top.press("q");
    assert_eq!(top.wait_end().0.code(), Some(0));
}

#[test]
fn it_drains_after_a_yes() {
    let stage = Stage::new();
    let mut top = stage.top();
    top.press("d");
    top.wait("the question", |text| text.contains("of proxy proxy-0?"));
    top.press("n");
    top.wait("the no", |text| text.contains("nothing is drained"));
    top.press("\x1b[B");
    top.press("d");
    top.wait("the question", |text| text.contains("Drain 127.0.0.1:8000"));
    top.press("y");
    top.wait("the yes", |text| text.contains("127.0.0.1:8000 is being drained"));
    let (proxy, upstream) = ("proxy-0".to_owned(), Some("127.0.0.1:8000".to_owned()));
    let calls: Vec<_> = stage.drains.try_iter().collect();
    assert_eq!(calls, [Call::Drain { proxy, upstream, timeout_ms: None }]);
}

#[test]
fn a_stopped_one_takes_the_terminal_back() {
    let stage = Stage::new();
    let mut top = stage.top();
    top.signal(Signal::SIGSTOP);
    top.signal(Signal::SIGCONT);
    top.press("\x0c");
    top.press("/192.0.2.4");
    top.wait("it goes on", |text| text.contains("1 of 2 with") && !text.contains("192.0.2.3"));
    top.press("\r");
    top.wait("the keys again", |text| text.contains("? help"));
    top.press("q");
    assert_eq!(top.wait_end().0.code(), Some(0));
}

#[test]
fn without_a_terminal_that_can_do_it_it_says_what_to_use() {
    let stage = Stage::new();
    let socket = stage.scratch.path("control.sock");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(DRAINCTL);
        command.arg("--socket").arg(&socket).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["top"][..], &["top", "--json"]] {
        let (code, err) = run(arguments);
        assert_eq!(code, Some(64), "{err}");
        assert!(err.contains("drainctl connections"), "{err}");
    }
    let (status, text) = stage.top_with(&[("TERM", "dumb")]).wait_end();
    assert_eq!(status.code(), Some(64));
    assert!(text.contains("use drainctl status"), "{text}");
    drop(stage.drains);
}

#[test]
fn no_colours_where_nobody_wants_them() {
    let stage = Stage::new();
    let top = stage.top_with(&[("NO_COLOR", "1")]);
    top.wait("the first screen", |text| text.contains("2 connections by age"));
    assert!(!top.has_colours());
    let socket = stage.scratch.path("control.sock");
    let socket = socket.to_str().unwrap();
    for (environment, coloured) in
        [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)]
    {
        let status = Terminal::start(&[DRAINCTL, "--socket", socket, "status"], environment, (120, 24));
        status.wait("the screen", |text| text.contains("127.0.0.1:8000"));
        assert_eq!(status.has_colours(), coloured, "{environment:?}");
    }
}

#[test]
fn status_and_connections_are_as_wide_as_the_terminal() {
    let stage = Stage::new();
    let socket = stage.scratch.path("control.sock");
    let socket = socket.to_str().unwrap();
    for (command, beneath) in [("status", "to upstream 0 B, to client 0 B"), ("connections", "proxy proxy-0")]
    {
        for (width, is_wide) in [(80, false), (132, true)] {
            let terminal = Terminal::start(&[DRAINCTL, "--socket", socket, command], &[], (width, 24));
            let text = terminal.wait("the table", |text| {
                text.contains("STATE") && text.ends_with('\n') || text.contains("tcp")
            });
            assert_eq!(text.contains(beneath), !is_wide, "{command} at {width}:\n{text}");
        }
    }
}
