//! The phases of a stop, their bounds, and what peers see of it.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;

use super::contrary;
use crate::support::daemon::{example, unit};
use crate::support::steady::steady;
use crate::support::{SOON, manager::Manager};

#[test]
fn the_phases_come_in_their_order_and_the_hook_last() {
    steady(|| {
        let daemon = contrary(&["steps", "worker"]);
        daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        let order: Vec<&str> = end.lines.iter().map(String::as_str).collect();
        let order: Vec<&str> = order
            .into_iter()
            .filter(|l| {
                ["announce", "refuse", "drain", "finish", "worker done", "hook", "run returned"].contains(l)
            })
            .collect();
        // The worker and the steps of the phase Drain run at the same time.
        let (mut sorted, drain) = (order.clone(), 2..4);
        sorted[drain].sort_unstable();
        assert_eq!(sorted, ["announce", "refuse", "drain", "worker done", "finish", "hook", "run returned"]);
        assert_eq!(end.code, Some(0));
        for phase in ["announce", "refuse", "drain", "finish"] {
            assert_eq!(end.count(&format!("phase {phase}")), 1, "{phase}");
        }
    });
}

#[test]
fn peers_and_clients_are_told_goodbye_and_see_an_orderly_end() {
    steady(|| {
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = peer.local_addr().unwrap().to_string();
        let daemon = unit(example("somedaemon"), &["--peer", &address], &[]);
        let (peer, _) = peer.accept().unwrap();
        let line = daemon.wait_line("listening on ");
        let own = line.split("listening on ").nth(1).unwrap().split([',', ' ']).next().unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(own).unwrap());
        let mut lines = [peer].into_iter().chain(clients).map(|stream| {
            stream.set_read_timeout(Some(SOON)).unwrap();
            BufReader::new(stream)
        });
        let mut peers: Vec<_> = lines.by_ref().collect();
        for peer in &mut peers {
            // Each has been taken in once it has heard something.
            let mut line = String::new();
            peer.read_line(&mut line).unwrap();
            assert_eq!(line, "tick\n");
        }
        daemon.signal(Signal::SIGTERM);
        let heard: Vec<String> = peers
            .iter_mut()
            .map(|peer| {
                let mut text = String::new();
                peer.read_to_string(&mut text).unwrap();
                peer.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
                text.replace("tick\n", "")
            })
            .collect();
        assert_eq!(heard, ["going\ngoodbye\n", "goodbye\n", "goodbye\n", "goodbye\n"]);
        drop(peers);
        let end = daemon.wait_end();
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
        assert!(end.says("these were the last words"));
    });
}

#[test]
fn a_step_that_hangs_is_left_behind_at_its_bound_and_named() {
    steady(|| {
        let daemon = unit(example("somedaemon"), &["--hang"], &[]);
        daemon.wait_line("ready");
        let asked = daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        let took = (end.at - asked).as_secs_f64();
        assert!((1.0..1.9).contains(&took), "its bound is 1 s, the stop took {took} s");
        assert_eq!(end.code, Some(70));
        assert!(end.says("cleanup step hang left behind"), "{:#?}", end.lines);
        assert!(end.says("left behind: hang"), "the last line names it too: {:#?}", end.lines);
        assert!(end.says("these were the last words"), "the hooks are run all the same");
    });
}

/// Hazard: SIGTERM before READY=1.
#[test]
fn a_stop_during_the_start_is_clean() {
    steady(|| {
        let manager = Manager::new();
        let daemon =
            unit(example("contrary"), &["never-ready", "steps"], &[("NOTIFY_SOCKET", manager.address())]);
        daemon.wait_line("main");
        daemon.signal(Signal::SIGTERM);
        let end = daemon.wait_end();
        assert_eq!((end.code, end.count("hook")), (Some(0), 1), "{:#?}", end.lines);
        manager.wait_for(SOON, |message| message.says("STOPPING=1"));
        assert!(!manager.messages().iter().any(|message| message.says("READY=1")));
    });
}

/// The same at whatever instant of the start the signal comes. Before main has blocked it, it kills.
#[test]
fn a_stop_at_any_instant_of_the_start_is_clean() {
    steady(|| {
        let mut clean = 0;
        for spins in (0..60).map(|n| n * 2_000) {
            let daemon = unit(example("contrary"), &["worker", "steps"], &[]);
            let blocked =
                || u64::from_str_radix(&daemon.thread_status(daemon.pid(), "SigBlk"), 16).unwrap() & 1 << 14;
            let seen = (0..1_000_000).any(|_| blocked() != 0);
            assert!(seen, "the signals are never blocked");
            (0..spins).for_each(|_| std::hint::spin_loop());
            daemon.signal(Signal::SIGTERM);
            let end = daemon.wait_end();
            assert_eq!((end.code, end.signal, end.count("hook")), (Some(0), None, 1), "{:#?}", end.lines);
            clean += usize::from(!end.says("main"));
        }
        println!("{clean} of 60 stops came before main");
    });
}

#[test]
fn a_daemon_can_ask_for_its_own_stop() {
    steady(|| {
        let end = contrary(&["main-stops", "steps"]).wait_end();
        assert_eq!(end.code, Some(0));
        assert!(end.says("stopping: main asks for it") && end.says("finish"), "{:#?}", end.lines);
    });
}
