//! Workers and steps that fail, signals to single threads, a log that blocks.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::pair;
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, stuff, talk};
use crate::support::steady::steady;

#[test]
fn a_signal_to_any_single_thread_stops_the_daemon() {
    steady(|| {
        let probe = Setup::proxy("127.0.0.1:9", "").start();
        probe.daemon.wait_thread("worker-1");
        probe.daemon.wait_thread("status");
        // Whoever asks the bus is gone again in a moment.
        let names = probe.daemon.threads().into_iter().map(|(_, name)| name).filter(|name| name != "bus");
        let names: Vec<_> = names.collect();
        assert!(names.len() >= 8, "{names:?}");
        probe.stop();
        for name in names {
            let drained = Setup::proxy("127.0.0.1:9", "").start();
            drained.daemon.signal_thread(&name, Signal::SIGTERM);
            let end = drained.wait_end();
            assert_eq!(end.code, Some(0), "{name}: {:#?}", end.lines);
        }
    });
}

#[test]
#[cfg(debug_assertions)]
fn a_worker_that_panics_resets_its_connections_and_the_others_are_drained() {
    steady(|| {
        let upstream = Listener::new();
        let never = "[handover]\ncrash_after = \"never\"";
        let drained =
            Setup::proxy(&upstream.address, never).env("DRAINED_TEST_FAULT", "worker-panic:9").start();
        let pairs: Vec<_> = (0..8).map(|_| pair(&drained, &upstream)).collect();
        for (client, _) in &pairs {
            (&*client).write_all(b"?").unwrap();
        }
        let at = Instant::now();
        let ninth = connect(&drained.address());
        assert_eq!(end_of(&ninth), Ended::Reset);
        drained.daemon.wait_line("phase drain");
        // Those of the other worker are busy and go on; those of the one that died were reset.
        let (mut reset, mut served) = (0, 0);
        for (mut client, mut server) in pairs {
            let mut question = [0; 1];
            match server
                .read_exact(&mut question)
                .and_then(|()| server.write_all(b"!").map(|()| client.read_exact(&mut question)))
            {
                Ok(Ok(())) => served += 1,
                _ => {
                    assert_eq!(read_to_end(&client).1, Ended::Reset);
                    reset += 1;
                }
            }
        }
        println!("{reset} reset, {served} served");
        let end = drained.wait_end();
        assert_eq!(end.code, Some(70), "{:#?}", end.lines);
        assert!(end.at - at < Duration::from_secs(8), "nobody waits for the dead: {:?}", end.at - at);
        let named = end
            .lines
            .iter()
            .any(|line| line.contains("worker-failed") && line.contains("a panic on purpose"));
        assert!(named, "{:#?}", end.lines);
    });
}

#[test]
#[cfg(debug_assertions)]
fn a_worker_that_hangs_is_left_behind_at_its_bound_and_named() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"1s\" }")
            .env("DRAINED_TEST_FAULT", "worker-hang:1")
            .start();
        let _client = connect(&drained.address());
        until("the hanging worker", || drained.descriptors("socket:") > 3);
        let at = drained.signal(Signal::SIGTERM);
        let end = drained.wait_end_within(Duration::from_secs(20));
        assert_eq!(end.code, Some(70), "{:#?}", end.lines);
        let lasted = end.at - at;
        println!("{lasted:?}");
        assert!(lasted < Duration::from_secs(10), "{lasted:?}");
        let left = end.lines.iter().find(|line| line.contains("worker-left-behind")).unwrap();
        assert!(left.contains("worker-0") || left.contains("worker-1"), "{left}");
    });
}

#[test]
#[cfg(debug_assertions)]
fn a_step_that_hangs_is_left_behind_at_its_bound_and_named() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"1s\" }")
            .env("DRAINED_TEST_FAULT", "step-hang")
            .start();
        let at = drained.signal(Signal::SIGTERM);
        let end = drained.wait_end();
        assert_eq!(end.code, Some(70), "{:#?}", end.lines);
        assert!((2_000..4_000).contains(&(end.at - at).as_millis()), "{:?}", end.at - at);
        assert!(end.says("cleanup step drain-connections left behind"), "{:#?}", end.lines);
        assert!(end.says("event=stopped"), "{:#?}", end.lines);
    });
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    steady(|| {
        let (mut log, stderr) = std::io::pipe().unwrap();
        let upstream = Listener::new();
        let config =
            format!("[proxy.p]\nlisten = \"unix:@{}\"\nupstream = \"{}\"\n", unique(), upstream.address);
        let address = config.split('"').nth(1).unwrap().to_owned();
        let drained = Setup::new(&config).debug().stderr(stderr).start();
        // Each connection has two lines: far more than the pipe of the log takes.
        for _ in 0..1_000 {
            let client = connect(&address);
            talk(&client, &upstream.accept());
        }
        let client = connect(&address);
        let server = upstream.accept();
        stuff(&server, Duration::from_millis(50));
        let at = drained.signal(Signal::SIGTERM);
        drop((client, server));
        let end = drained.wait_end();
        // The log alone is waited for, within its bound.
        println!("{:?}", end.at - at);
        assert_eq!(end.code, Some(0));
        assert!(end.at - at < Duration::from_millis(2_500), "{:?}", end.at - at);
        let mut said = String::new();
        log.read_to_string(&mut said).unwrap();
        assert!(said.contains("ready"));
    });
}

fn unique() -> String {
    format!("drained-log-{}", std::process::id())
}
