//! What peers do while nobody runs: it reaches the other side once somebody does.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::{Port, adopted, pair, setup};
use crate::support::drained::until;
use crate::support::peers::{
    Ended, Listener, end_of, expect_pattern, read_to_end, reset, send, send_pattern, stuff,
};
use crate::support::store::{LISTENER, Store};

struct Scene {
    port: Port,
    upstream: Listener,
    store: Store,
}

impl Scene {
    fn new() -> Scene {
        let (port, upstream) = (Port::reserve(), Listener::new());
        let store = Store::start(setup(port.address(), &upstream.address));
        store.wait_count(LISTENER, 1);
        Scene { port, upstream, store }
    }

    fn pair(&self) -> (std::net::TcpStream, std::net::TcpStream) {
        pair(self.port.address(), &self.upstream)
    }

    fn begin(&mut self) {
        self.store.spawn(setup(self.port.address(), &self.upstream.address));
    }

    fn restart(&mut self) {
        self.store.end();
        self.begin();
    }
}

#[test]
fn bytes_sent_while_nobody_runs_arrive() {
    let mut scene = Scene::new();
    let (mut client, mut server) = scene.pair();
    scene.store.end();
    client.write_all(b"up").unwrap();
    server.write_all(b"down").unwrap();
    scene.begin();
    let (mut up, mut down) = ([0; 2], [0; 4]);
    server.read_exact(&mut up).unwrap();
    client.read_exact(&mut down).unwrap();
    assert_eq!((&up, &down), (b"up", b"down"));
}

#[test]
fn ends_said_while_nobody_runs_arrive() {
    let mut scene = Scene::new();
    let [by_client, by_server, closed] = [(); 3].map(|()| scene.pair());
    scene.store.end();
    by_client.0.shutdown(Shutdown::Write).unwrap();
    by_server.1.shutdown(Shutdown::Write).unwrap();
    drop(closed.0);
    scene.begin();
    assert_eq!(end_of(&by_client.1), Ended::Fin);
    send(&by_client.1, &by_client.0, b"the other direction goes on");
    assert_eq!(end_of(&by_server.0), Ended::Fin);
    send(&by_server.0, &by_server.1, b"the other direction goes on");
    assert_eq!(end_of(&closed.1), Ended::Fin);
}

#[test]
fn a_reset_while_nobody_runs_arrives() {
    let mut scene = Scene::new();
    let (by_client, by_server) = (scene.pair(), scene.pair());
    scene.store.end();
    reset(by_client.0);
    reset(by_server.1);
    scene.begin();
    assert_eq!(end_of(&by_client.1), Ended::Reset);
    assert_eq!(end_of(&by_server.0), Ended::Reset);
    let gone = || scene.store.status()["proxies"]["p"]["connections"]["active"] == 0;
    until("the end of both connections", gone);
}

#[test]
fn a_half_close_outlives_restarts_either_way() {
    let mut scene = Scene::new();
    let (by_client, by_server) = (scene.pair(), scene.pair());
    by_client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&by_client.1), Ended::Fin);
    by_server.1.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&by_server.0), Ended::Fin);
    for _ in 0..3 {
        scene.restart();
        assert_eq!(adopted(&scene.store).1, 2);
        send(&by_client.1, &by_client.0, b"down");
        send(&by_server.0, &by_server.1, b"up");
    }
    drop(by_client.1);
    assert_eq!(end_of(&by_client.0), Ended::Fin);
    drop(by_server.0);
    assert_eq!(end_of(&by_server.1), Ended::Fin);
}

#[test]
fn what_stands_in_pipes_and_buffers_arrives_in_order() {
    let mut scene = Scene::new();
    let (client, server) = scene.pair();
    let up = stuff(&client, Duration::from_millis(200));
    let down = stuff(&server, Duration::from_millis(200));
    for _ in 0..3 {
        scene.restart();
    }
    client.shutdown(Shutdown::Write).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!((read_to_end(&server).0.len(), read_to_end(&client).0.len()), (up, down));
}

#[test]
fn a_bulk_transfer_each_way_is_whole_over_restarts_in_its_midst() {
    const TOTAL: usize = 200 << 20;
    let mut scene = Scene::new();
    let (client, server) = scene.pair();
    std::thread::scope(|scope| {
        scope.spawn(|| send_pattern(&client, 1, TOTAL));
        scope.spawn(|| send_pattern(&server, 2, TOTAL));
        let up = scope.spawn(|| expect_pattern(&server, 1, TOTAL));
        let down = scope.spawn(|| expect_pattern(&client, 2, TOTAL));
        let mut restarts = 0;
        while !(up.is_finished() && down.is_finished()) {
            scene.restart();
            restarts += 1;
        }
        println!("{restarts} restarts");
        assert!(restarts > 1, "the transfer was over too early");
    });
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&server), Ended::Fin);
}

/// A socket that is parked is closed by a reset, should nobody go on with it. One that could not be parked is not.
#[test]
fn who_could_not_be_parked_gets_all_and_then_the_end() {
    const ANSWER: usize = 200_000;
    let (port, upstream) = (Port::reserve(), Listener::new());
    let unparked = setup(port.address(), &upstream.address).env("DRAINED_TEST_FAULT", "park-fails");
    let store = Store::start(unparked);
    let (mut client, server) = pair(port.address(), &upstream);
    store.daemon().wait_line("cannot be parked");
    client.write_all(b"a request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&server), (b"a request".to_vec(), Ended::Fin));
    send_pattern(&server, 1, ANSWER);
    drop(server);
    until("drained has closed it", || store.status()["proxies"]["p"]["connections"]["active"] == 0);
    expect_pattern(&client, 1, ANSWER);
    assert_eq!(end_of(&client), Ended::Fin);
}
