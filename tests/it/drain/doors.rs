//! Clients in the backlog, in the midst of a handshake, and at listeners that systemd passed.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::pair;
use crate::support::drained::{Setup, alone};
use crate::support::peers::{Ended, Listener, connect, end_of, serve_all, talk, try_connect};
use crate::support::scratch::Scratch;
use crate::support::steady::steady;

#[test]
fn a_backlog_filled_while_the_daemon_is_stopped_is_served_whole() {
    steady(|| {
        let scratch = Scratch::new();
        let upstream = Listener::new();
        let unix = format!("unix:{}", scratch.path("in").display());
        let config = format!(
            "[proxy.p]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\", \"{unix}\"]\nupstream = \"{}\"\n",
            upstream.address
        );
        let drained = Setup::new(&config).start();
        let addresses = drained.addresses();
        drained.signal(Signal::SIGSTOP);
        let clients: Vec<_> = (0..300).map(|n| connect(&addresses[n % 3])).collect();
        drained.signal(Signal::SIGTERM);
        drained.signal(Signal::SIGCONT);
        drop(serve_all(&clients, &upstream));
        clients.iter().for_each(|client| assert_eq!(end_of(client), Ended::Fin));
        drop(clients);
        for address in &addresses {
            assert!(try_connect(address).is_err(), "{address} still listens");
        }
        let end = drained.wait_end();
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

#[test]
fn the_backlog_of_a_full_proxy_is_served_as_others_leave() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "max_connections = 2").start();
        let held = [pair(&drained, &upstream), pair(&drained, &upstream)];
        let waiting = [connect(&drained.address()), connect(&drained.address())];
        let at = drained.term_and_drain();
        assert!(at.elapsed() < Duration::from_secs(2), "the drain waits for no backlog: {:?}", at.elapsed());
        for ((client, server), next) in held.into_iter().zip(&waiting) {
            drop((client, server));
            talk(next, &upstream.accept());
        }
        drop(waiting);
        let end = drained.wait_end();
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

/// Greets each client with a byte and waits for its end.
fn greet(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            let _ = stream.write_all(b"!");
            let _ = stream.read(&mut [0]);
        });
    }
}

#[test]
fn a_client_whose_handshake_ends_while_the_listener_closes_is_served_or_refused_never_reset() {
    steady(|| {
        let _alone = alone();
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap().to_string();
        thread::spawn(move || greet(&upstream));
        let served = AtomicUsize::new(0);
        for _ in 0..5 {
            let drained = Setup::proxy(&address, "").start();
            let listener = drained.address().parse().unwrap();
            let over = AtomicBool::new(false);
            let end = thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            // Refused or not answered: the listener is closed, or about to.
                            let Ok(mut client) =
                                TcpStream::connect_timeout(&listener, Duration::from_millis(500))
                            else {
                                return;
                            };
                            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                            let mut greeting = [0];
                            match client.read_exact(&mut greeting) {
                                Ok(()) => served.fetch_add(1, Ordering::Relaxed),
                                Err(e) if e.kind() == ErrorKind::ConnectionReset => panic!("reset"),
                                Err(e) => panic!("{e}"),
                            };
                        }
                    });
                }
                let before = served.load(Ordering::Relaxed);
                crate::support::drained::until("some served clients", || {
                    served.load(Ordering::Relaxed) > before + 50
                });
                drained.signal(Signal::SIGTERM);
                let end = drained.wait_end();
                over.store(true, Ordering::Relaxed);
                end
            });
            assert_eq!(end.code, Some(0), "{:#?}", end.lines);
        }
        println!("{} served", served.into_inner());
    });
}

#[test]
fn a_passed_listener_stays_open_with_its_backlog_untouched() {
    steady(|| {
        let upstream = Listener::new();
        let passed = Listener::new();
        let config = format!("[proxy.p]\nlisten = \"systemd:web\"\nupstream = \"{}\"\n", upstream.address);
        let drained = Setup::new(&config).passed(&passed.fd, "web").start();
        let client = connect(&passed.address);
        let server = upstream.accept();
        talk(&client, &server);
        drained.signal(Signal::SIGSTOP);
        // Stands in the backlog when the stop begins; a worker may still take it in, or leave it there.
        let early = connect(&passed.address);
        drained.signal(Signal::SIGTERM);
        drained.signal(Signal::SIGCONT);
        drained.daemon.wait_line("phase drain");
        let late = connect(&passed.address);
        drop((client, server));
        if let Some(server) = upstream.accept_within(Duration::from_millis(300)) {
            talk(&early, &server);
        } else {
            talk(&early, &passed.accept());
        }
        drop(early);
        assert_eq!(drained.wait_end().code, Some(0));
        // The next start, or this test in its place, finds who came later.
        talk(&late, &passed.accept());
    });
}
