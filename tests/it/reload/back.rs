//! Upstreams and proxies that are taken out with live connections, and come back: they are counted, and drained.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Port, drainctl, proxy, reload};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, talk};
use crate::support::scratch::Scratch;
use crate::support::store::{LISTENER, Store};

/// A proxy with two upstreams, of which the second comes and goes.
struct Scene {
    port: Port,
    upstreams: [Listener; 2],
    store: Store,
}

impl Scene {
    fn start() -> Scene {
        Scene::start_with(|setup| setup)
    }

    fn start_with(change: impl Fn(Setup) -> Setup) -> Scene {
        let (port, upstreams) = (Port::reserve(), [Listener::new(), Listener::new()]);
        let first = config(&port, &[&upstreams[0], &upstreams[1]]);
        let store = Store::start(change(Setup::new(&first)));
        store.wait_count(LISTENER, 1);
        Scene { port, upstreams, store }
    }

    fn with(&self) -> String {
        config(&self.port, &[&self.upstreams[0], &self.upstreams[1]])
    }

    fn without(&self) -> String {
        config(&self.port, &[&self.upstreams[0]])
    }

    fn address(&self) -> &str {
        &self.upstreams[1].address
    }

    fn scratch(&self) -> &Scratch {
        &self.store.scratch
    }

    fn reload(&self, config: &str) {
        reload(self.scratch(), config);
    }

    /// A connection to the second upstream whose client waits for an answer.
    fn asking(&self) -> (TcpStream, TcpStream) {
        drainctl(self.scratch(), &["drain", "p", "--upstream", &self.upstreams[0].address, "--wait"]);
        let client = connect(self.port.address());
        let mut server = self.upstreams[1].accept();
        drainctl(self.scratch(), &["resume", "p"]);
        (&client).write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        (client, server)
    }

    /// `drainctl drain` of the second one.
    fn drain(&self, more: &[&str]) -> Output {
        drainctl(self.scratch(), &[&["drain", "p", "--upstream", self.address()], more].concat())
    }

    /// The same, left running until it has begun.
    fn draining(&self, timeout: &str) -> JoinHandle<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drainctl"));
        command.arg("--socket").arg(self.scratch().path("control.sock"));
        command.args(["drain", "p", "--upstream", self.address(), "--wait", "--timeout", timeout]);
        let running = std::thread::spawn(move || command.output().unwrap());
        until("the drain", || self.upstream()["state"] == "draining");
        running
    }

    /// What the status says of the second upstream.
    fn upstream(&self) -> Value {
        self.store.status()["proxies"]["p"]["upstreams"][1].clone()
    }
}

fn config(port: &Port, upstreams: &[&Listener]) -> String {
    let upstreams: Vec<_> = upstreams.iter().map(|upstream| upstream.address.as_str()).collect();
    let handover = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";
    format!("{handover}{}", proxy("p", &[port.address()], &upstreams, ""))
}

fn is_cut(output: &Output, (client, server): (TcpStream, TcpStream)) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(75) && said.contains("1 connection had to be cut"), "{output:?}");
    assert_eq!((end_of(&client), end_of(&server)), (Ended::Reset, Ended::Reset));
}

#[test]
fn an_upstream_that_comes_back_has_the_connections_that_it_had() {
    let scene = Scene::start();
    let pair = scene.asking();
    // Other changes in between do not forget it.
    let moved = scene.without() + "idle_timeout = \"1h\"\n";
    for between in [&scene.without(), &moved, &scene.without()] {
        scene.reload(between);
        assert_eq!(scene.upstream(), Value::Null);
    }
    scene.reload(&scene.with());
    assert_eq!(scene.upstream()["connections"], 1);
    assert_eq!(scene.upstream()["state"], "up");
    is_cut(&scene.drain(&["--wait", "--timeout", "300ms"]), pair);
    // Taken out without a connection it is forgotten.
    scene.reload(&scene.without());
    scene.reload(&scene.with());
    assert_eq!(scene.upstream()["state"], "up");
}

#[test]
fn one_that_is_out_can_be_drained() {
    let scene = Scene::start();
    let pair = scene.asking();
    scene.reload(&scene.without());
    for filter in [&[][..], &["--upstream", scene.address()]] {
        let listed = drainctl(scene.scratch(), &[&["--json", "connections"], filter].concat());
        assert!(String::from_utf8_lossy(&listed.stdout).contains(scene.address()), "{filter:?}: {listed:?}");
    }
    is_cut(&scene.drain(&["--wait", "--timeout", "300ms"]), pair);
    let first = &scene.upstreams[0].address;
    assert_eq!(drainctl(scene.scratch(), &["resume", "p"]).status.code(), Some(0));
    assert_eq!(scene.drain(&[]).status.code(), Some(65), "it has no connection any more");
    let status = scene.store.status();
    assert_eq!(status["proxies"]["p"]["upstreams"][0]["address"], first.as_str());
}

#[test]
fn a_restart_and_a_kill_do_not_forget_it_either() {
    let mut scene = Scene::start();
    let pair = scene.asking();
    scene.reload(&scene.without());
    let without = scene.without();
    scene.store.kill(Setup::new(&without));
    scene.store.restart(Setup::new(&without));
    scene.reload(&scene.with());
    assert_eq!(scene.upstream()["connections"], 1);
    is_cut(&scene.drain(&["--wait", "--timeout", "300ms"]), pair);
}

#[test]
fn a_drain_goes_on_though_its_upstream_is_taken_out_and_put_back() {
    for back in [false, true] {
        let scene = Scene::start();
        let pair = scene.asking();
        let waiting = scene.draining("1500ms");
        scene.reload(&scene.without());
        if back {
            scene.reload(&scene.with());
            assert_eq!(scene.upstream()["state"], "draining");
        }
        is_cut(&waiting.join().unwrap(), pair);
    }
}

#[test]
fn who_waits_is_told_that_it_is_empty_though_it_is_taken_out() {
    let scene = Scene::start();
    let (client, mut server) = scene.asking();
    let waiting = scene.draining("1m");
    scene.reload(&scene.without());
    server.write_all(b"!").unwrap();
    drop(server);
    assert_eq!(read_to_end(&client), (b"!".to_vec(), Ended::Fin));
    drop(client);
    let ended = waiting.join().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.code() == Some(0) && said.contains("none was cut"), "{ended:?}");
    // It begins anew when it comes back.
    scene.reload(&scene.with());
    assert_eq!(scene.upstream()["state"], "up");
}

#[test]
fn its_drain_goes_on_after_a_restart() {
    let mut scene = Scene::start();
    let pair = scene.asking();
    let waiting = scene.draining("4s");
    scene.reload(&scene.without());
    let without = scene.without();
    scene.store.restart(Setup::new(&without));
    is_cut(&waiting.join().unwrap(), pair);
}

/// Nobody relays any more, and the next one does not yet: the connections are there all the same.
#[test]
fn nothing_counts_as_drained_while_it_is_handed_over() {
    let scene = Scene::start_with(|setup| setup.env("DRAINED_TEST_FAULT", "leave-hang"));
    let _pair = scene.asking();
    scene.drain(&["--timeout", "1m"]);
    scene.store.daemon().signal(Signal::SIGTERM);
    until("the handover", || scene.store.status()["proxies"]["p"]["connections"]["active"] == 0);
    assert_eq!(scene.upstream()["state"], "draining");
    assert_eq!(scene.upstream()["connections"], 1);
    let lines = scene.store.daemon().lines();
    let end = format!("upstream {} is drained", scene.address());
    assert!(!lines.iter().any(|line| line.contains(&end)), "{lines:#?}");
}

#[test]
fn a_proxy_that_is_taken_out_in_a_drain_is_drained_and_back_with_what_it_had() {
    let scene = Scene::start();
    let pair = scene.asking();
    let none = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";
    scene.reload(none);
    scene.reload(&scene.with());
    assert_eq!(scene.upstream()["connections"], 1);
    let waiting = scene.draining("1500ms");
    scene.reload(none);
    is_cut(&waiting.join().unwrap(), pair);
}

#[test]
fn a_proxy_that_comes_back_without_one_of_its_upstreams_knows_it_still() {
    for meanwhile in [false, true] {
        let scene = Scene::start();
        let pair = scene.asking();
        let none = "[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n";
        // Twice, so that there is more than one of which something is left.
        for between in [none, &scene.without(), none, &scene.without()] {
            scene.reload(between);
        }
        if meanwhile {
            scene.reload(&scene.with());
            assert_eq!(scene.upstream()["connections"], 1);
        }
        let answer = scene.drain(&["--json", "--timeout", "300ms"]);
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(answer["upstreams"].as_array().unwrap().len(), 1, "{answer}");
        is_cut(&scene.drain(&["--wait"]), pair);
    }
}

/// Those who are on their way to one that is taken out go to another, and nobody stays behind.
#[test]
fn who_was_being_connected_to_it_goes_elsewhere() {
    let scene = Scene::start();
    let slow = Listener::new();
    slow.listen(0);
    let _crowd = connect(&slow.address);
    scene.reload(&config(&scene.port, &[&slow]));
    let client = connect(scene.port.address());
    until("it is on its way", || scene.store.status()["proxies"]["p"]["upstreams"][0]["connections"] == 1);
    scene.reload(&scene.without());
    talk(&client, &scene.upstreams[0].accept());
    scene.store.daemon().signal(Signal::SIGTERM);
}
