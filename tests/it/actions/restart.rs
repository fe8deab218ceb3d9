//! The service behind a proxy is restarted under clients that connect anew for each request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{ctl, finish, ok, proxy, spawn};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Listener, try_connect};
use crate::support::say;
use crate::support::steady::steady;

/// A server with one thread that answers one request a connection, each after a pause.
struct Service {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Service {
    /// On a port that the test holds.
    fn start(port: &Listener, backlog: i32, pause: Duration) -> Service {
        let listener = Listener::refusing(&port.address);
        listener.listen(backlog);
        let ending = Arc::new(AtomicBool::new(false));
        let told = ending.clone();
        let serve = move || {
            while !told.load(Relaxed) {
                let Some(mut client) = listener.accept_within(Duration::from_millis(5)) else { continue };
                let mut word = [0; 8];
                // The try whether it is there says nothing.
                if client.read_exact(&mut word).is_ok() {
                    thread::sleep(pause);
                    client.write_all(&word).unwrap();
                }
            }
        };
        Service { ending, thread: thread::spawn(serve) }
    }

    /// Whoever stands in its backlog sees a reset.
    fn stop(self) {
        self.ending.store(true, Relaxed);
        self.thread.join().unwrap();
    }
}

/// Clients that connect, ask, hear the answer, and begin anew.
struct Clients {
    ending: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<(Vec<String>, Duration)>>,
}

impl Clients {
    fn start(address: &str, count: usize) -> Clients {
        let (ending, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |n: usize| {
            let (address, ending, answered) = (address.to_owned(), ending.clone(), answered.clone());
            thread::spawn(move || {
                let (mut errors, mut longest) = (Vec::new(), Duration::ZERO);
                for round in 0u64.. {
                    let began = Instant::now();
                    if ending.load(Relaxed) {
                        break;
                    }
                    match ask(&address, (n as u64) << 32 | round) {
                        Ok(()) => answered.fetch_add(1, Relaxed),
                        Err(e) => {
                            errors.push(e);
                            0
                        }
                    };
                    longest = longest.max(began.elapsed());
                }
                (errors, longest)
            })
        };
        let threads = (0..count).map(client).collect();
        Clients { ending, answered, threads }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Another so many answers come.
    fn wait_answers(&self, count: u64) {
        let enough = self.answered() + count;
        until("answers", || self.answered() >= enough);
    }

    fn finish(self) -> (u64, Duration) {
        self.ending.store(true, Relaxed);
        let mut longest = Duration::ZERO;
        for thread in self.threads {
            let (errors, its_longest) = thread.join().unwrap();
            assert!(errors.is_empty(), "{errors:#?}");
            longest = longest.max(its_longest);
        }
        (self.answered.load(Relaxed), longest)
    }
}

fn ask(address: &str, number: u64) -> Result<(), String> {
    let mut stream: TcpStream = try_connect(address).map_err(|e| format!("connecting: {e}"))?;
    let mut answer = [0; 8];
    stream.write_all(&number.to_le_bytes()).map_err(|e| format!("asking: {e}"))?;
    stream.read_exact(&mut answer).map_err(|e| format!("hearing: {e}"))?;
    match u64::from_le_bytes(answer) == number {
        true => Ok(()),
        false => Err("another's answer".to_owned()),
    }
}

fn restarts(rounds: usize, clients: usize, backlog: i32) {
    let port = Listener::refusing("127.0.0.1:0");
    let mut service = Service::start(&port, backlog, Duration::ZERO);
    let drained = Setup::proxy(&port.address, "").start();
    let clients_at_work = Clients::start(&drained.address(), clients);
    for _ in 0..rounds {
        clients_at_work.wait_answers(20);
        let said = ok(&drained, &["drain", "p", "--upstream", &port.address, "--wait", "--timeout", "20s"]);
        assert!(said.contains("is drained") && said.contains("none was cut"), "{said}");
        service.stop();
        let all = clients as u64;
        until("every client waits", || proxy(&drained)["connections"]["held"] == all);
        // The daemon tries it on and on, from before it is there.
        let resuming = spawn(&drained, &["resume", "p", "--upstream", &port.address, "--wait"]);
        until("it counts as down", || proxy(&drained)["upstreams"][0]["state"] == "down");
        service = Service::start(&port, backlog, Duration::ZERO);
        let ended = finish(resuming);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        until("nobody waits", || proxy(&drained)["connections"]["held"] == 0);
    }
    clients_at_work.wait_answers(20);
    let (answered, longest) = clients_at_work.finish();
    say(&format!("{answered} answers over {rounds} restarts, the longest took {longest:?}"));
    assert_eq!(proxy(&drained)["connections"]["failed"], 0);
    assert_eq!(proxy(&drained)["connections"]["cut"], 0);
    service.stop();
}

#[test]
fn no_client_fails_over_five_restarts() {
    restarts(5, 8, 128);
}

/// As small a backlog as that of Python's socketserver, and more clients than it takes.
#[test]
fn nor_where_the_service_has_a_short_backlog() {
    restarts(2, 40, 5);
}

/// What does not fit into it is tried again as soon as there is room: the server is kept busy. They are held all the
/// while, for they are more than it takes.
#[test]
fn a_short_backlog_is_filled_again_at_once() {
    steady(|| {
        let port = Listener::refusing("127.0.0.1:0");
        let drained = Setup::proxy(&port.address, "").start();
        let clients = Clients::start(&drained.address(), 40);
        until("every client waits", || proxy(&drained)["connections"]["held"] == 40);
        let service = Service::start(&port, 5, Duration::from_millis(1));
        let began = Instant::now();
        clients.wait_answers(500);
        let took = began.elapsed();
        clients.finish();
        service.stop();
        say(&format!("500 answers of a server with a backlog of five took {took:?}"));
        assert!(took < Duration::from_secs(2), "500 answers took {took:?}");
    });
}

/// Nobody announces a crash: clients are held all the same.
#[test]
fn a_service_that_goes_away_unannounced_fails_nobody_who_connects_meanwhile() {
    let port = Listener::refusing("127.0.0.1:0");
    let drained = Setup::proxy(&port.address, "").start();
    let clients = Clients::start(&drained.address(), 4);
    until("every client waits", || proxy(&drained)["connections"]["held"] == 4);
    let service = Service::start(&port, 128, Duration::ZERO);
    clients.wait_answers(20);
    clients.finish();
    assert_eq!(ctl(&drained, &["status"]).code, Some(0));
    assert_eq!(proxy(&drained)["connections"]["failed"], 0);
    service.stop();
}
