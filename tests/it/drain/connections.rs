//! What becomes of quiet, busy and hanging connections, and when.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{pair, silence};
use crate::support::drained::{Setup, until};
use crate::support::peers::{
    Ended, Listener, connect, end_of, expect_pattern, read_to_end, send_pattern, stuff, talk,
};
use crate::support::steady::steady;

/// How late it is after `at` and `after`, which it must be.
fn late(at: Instant, after: Duration) -> Duration {
    let passed = at.elapsed();
    assert!(passed >= after - Duration::from_millis(2), "{passed:?} is before {after:?}");
    passed.saturating_sub(after)
}

/// Tries up to three times to be at most 100 ms late: this machine has other things to do.
fn at_most_100_ms_late(attempt: impl Fn() -> Duration) {
    let times: Vec<_> = (0..3)
        .map(|_| attempt())
        .scan(false, |done, late| {
            let next = (!*done).then_some(late);
            *done |= late <= Duration::from_millis(100);
            next
        })
        .collect();
    println!("late by {times:?}");
    assert!(times.iter().any(|late| *late <= Duration::from_millis(100)), "late by {times:?}");
}

#[test]
fn a_quiet_connection_is_told_goodbye_by_a_fin_to_the_upstream_first() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let (client, server) = pair(&drained, &upstream);
        silence();
        let at = drained.signal(Signal::SIGTERM);
        assert_eq!(end_of(&server), Ended::Fin);
        assert!(at.elapsed() < Duration::from_millis(500));
        // The client's end comes with the upstream's, and what it still says comes before.
        (&server).write_all(b"goodbye").unwrap();
        drop(server);
        assert_eq!(read_to_end(&client), (b"goodbye".to_vec(), Ended::Fin));
        let client_left = Instant::now();
        drop(client);
        let end = drained.wait_end();
        assert!(end.at - client_left < Duration::from_millis(500));
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

/// Hazard: the hypervisor stops the whole machine for some seconds, the peers with it.
#[test]
fn a_pause_of_the_machine_is_no_silence_of_the_peers() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let (client, server) = pair(&drained, &upstream);
        drained.term_and_drain();
        drained.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(1_500));
        let awake = drained.signal(Signal::SIGCONT);
        // Whoever speaks a moment later is answered.
        thread::sleep(Duration::from_millis(500));
        talk(&client, &server);
        assert!(awake.elapsed() < Duration::from_millis(900), "the test itself was too late");
        assert_eq!(end_of(&server), Ended::Fin, "and silence after it is one");
        drop((client, server));
        let end = drained.wait_end();
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

#[test]
fn peers_that_do_not_answer_the_goodbye_are_left_after_a_bounded_wait() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let (client, server) = pair(&drained, &upstream);
        silence();
        let at = drained.signal(Signal::SIGTERM);
        assert_eq!(end_of(&server), Ended::Fin);
        // The upstream keeps silent: after two seconds the client is told. So does it: two more.
        assert_eq!(end_of(&client), Ended::Fin);
        assert!(at.elapsed() >= Duration::from_secs(2));
        let end = drained.wait_end();
        let lasted = end.at - at;
        assert!((3_900..5_000).contains(&lasted.as_millis()), "{lasted:?}");
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

#[test]
fn a_transfer_in_progress_ends_whole_whatever_the_deadline_of_silence() {
    steady(|| {
        const TOTAL: usize = 8 << 20;
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let (client, server) = pair(&drained, &upstream);
        thread::scope(|scope| {
            let drained = &drained;
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                send_pattern(server, 1, TOTAL / 2);
                drained.term_and_drain();
                send_pattern(server, 2, TOTAL / 2);
                server.shutdown(Shutdown::Write).unwrap();
            });
            expect_pattern(client, 1, TOTAL / 2);
            expect_pattern(client, 2, TOTAL / 2);
            assert_eq!(end_of(client), Ended::Fin);
        });
        drop((client, server));
        let end = drained.wait_end();
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
    });
}

#[test]
fn an_answer_that_is_due_is_waited_for() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "").start();
        let (client, server) = pair(&drained, &upstream);
        (&client).write_all(b"a hard question").unwrap();
        silence();
        let at = drained.term_and_drain();
        silence();
        assert_eq!(server.peek(&mut [0; 64]).unwrap(), 15);
        (&server).write_all(b"42").unwrap();
        let mut answer = [0; 2];
        std::io::Read::read_exact(&mut &client, &mut answer).unwrap();
        assert_eq!(&answer, b"42");
        // And then the connection is quiet, and told so.
        assert_eq!(read_to_end(&server).1, Ended::Fin);
        assert!(at.elapsed() > Duration::from_secs(2));
        drop(server);
        assert_eq!(end_of(&client), Ended::Fin);
        drop(client);
        assert_eq!(drained.wait_end().code, Some(0));
    });
}

#[test]
fn at_the_deadline_what_is_left_is_cut_by_a_reset_where_data_would_be_lost() {
    steady(|| {
        at_most_100_ms_late(cut_at_the_deadline);
    });
}

fn cut_at_the_deadline() -> Duration {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"2s\" }").start();
    let (waiting, server_waiting) = pair(&drained, &upstream);
    (&waiting).write_all(b"?").unwrap();
    let (stuffed, server_stuffed) = pair(&drained, &upstream);
    stuff(&server_stuffed, Duration::from_millis(200));
    // Told goodbye before, and nobody answers: the deadline ends the wait, by no reset.
    let (quiet, server_quiet) = pair(&drained, &upstream);
    let at = drained.term_and_drain();
    assert_eq!(read_to_end(&server_waiting), (b"?".to_vec(), Ended::Reset));
    let late = late(at, Duration::from_secs(2));
    assert_eq!(end_of(&waiting), Ended::Reset);
    assert_eq!(read_to_end(&stuffed).1, Ended::Reset);
    until("the reset", || server_stuffed.take_error().unwrap().is_some());
    assert_eq!((end_of(&server_quiet), end_of(&quiet)), (Ended::Fin, Ended::Fin));
    let end = drained.wait_end();
    assert_eq!((end.code, end.count("event=cut")), (Some(0), 2), "{:#?}", end.lines);
    let cut: Vec<_> = end.lines.iter().filter(|line| line.contains("event=cut")).collect();
    for (client, doing) in [(&waiting, "waiting-for-upstream"), (&stuffed, "sending-to-client")] {
        let address = format!("client={}", client.local_addr().unwrap());
        let line = cut.iter().find(|line| line.contains(&address)).unwrap();
        for field in ["proxy=p", "protocol=tcp", "connection=", "duration", "bytes", doing, &upstream.address]
        {
            assert!(line.contains(field), "no {field} in {line}");
        }
    }
    late
}

#[test]
fn hurried_by_a_second_signal_goodbyes_are_said_and_the_rest_is_cut_after_2_s() {
    steady(|| {
        at_most_100_ms_late(hurried_by_a_second_signal);
    });
}

fn hurried_by_a_second_signal() -> Duration {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (busy, server_busy) = pair(&drained, &upstream);
    (&busy).write_all(b"?").unwrap();
    // Active until a moment ago: the hurry does not wait for its silence.
    let (active, server_active) = pair(&drained, &upstream);
    drained.term_and_drain();
    let at = drained.signal(Signal::SIGTERM);
    assert_eq!(end_of(&server_active), Ended::Fin);
    assert!(at.elapsed() < Duration::from_millis(700), "{:?}", at.elapsed());
    drop((server_active, active));
    assert_eq!(end_of(&busy), Ended::Reset);
    let late = late(at, Duration::from_secs(2));
    let end = drained.wait_end();
    assert_eq!((end.code, end.count("event=cut")), (Some(0), 1), "{:#?}", end.lines);
    assert!(end.says("hurried"), "{:#?}", end.lines);
    drop(server_busy);
    late
}

#[test]
fn a_third_signal_and_a_quit_end_at_once() {
    steady(|| {
        let upstream = Listener::new();
        for signals in [&[Signal::SIGTERM, Signal::SIGTERM, Signal::SIGTERM][..], &[Signal::SIGQUIT]] {
            let drained = Setup::proxy(&upstream.address, "").start();
            let (client, server) = pair(&drained, &upstream);
            (&client).write_all(b"?").unwrap();
            let (last, first) = signals.split_last().unwrap();
            for (n, signal) in first.iter().enumerate() {
                drained.signal(*signal);
                drained.daemon.wait_line(["phase drain", "hurried"][n]);
            }
            let at = drained.signal(*last);
            let end = drained.wait_end();
            println!("{:?} after {signals:?}", end.at - at);
            assert!(end.at - at < Duration::from_secs(1), "{:?}", end.at - at);
            assert!(end.says("ending at once"), "{:#?}", end.lines);
            drop((client, server));
        }
    });
}

#[test]
fn in_the_lame_duck_new_clients_are_still_served() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { lame_duck = \"1s\" }").start();
        let at = drained.signal(Signal::SIGTERM);
        drained.daemon.wait_line("phase announce");
        let (client, server) = pair(&drained, &upstream);
        drop((client, server));
        let client = connect(&drained.address());
        talk(&client, &upstream.accept());
        drop(client);
        let end = drained.wait_end();
        let lasted = end.at - at;
        assert!((1_000..1_500).contains(&lasted.as_millis()), "{lasted:?}");
        assert_eq!(end.code, Some(0), "{:#?}", end.lines);
    });
}

#[test]
fn goodbyes_are_spread() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { spread = \"2s\" }").start();
        let pairs: Vec<_> = (0..24).map(|_| pair(&drained, &upstream)).collect();
        silence();
        let at = drained.signal(Signal::SIGTERM);
        let mut times: Vec<_> = thread::scope(|scope| {
            let told = |server| {
                assert_eq!(end_of(server), Ended::Fin);
                at.elapsed()
            };
            let waits: Vec<_> = pairs.iter().map(|(_, server)| scope.spawn(move || told(server))).collect();
            waits.into_iter().map(|wait| wait.join().unwrap()).collect()
        });
        times.sort();
        assert!(times[23] < Duration::from_millis(2_300), "{times:?}");
        // By chance each quarter of the time has some.
        for quarter in 0..4 {
            let range = Duration::from_millis(quarter * 500)..Duration::from_millis(quarter * 500 + 600);
            assert!(times.iter().any(|time| range.contains(time)), "{times:?}");
        }
        drop(pairs);
        assert_eq!(drained.wait_end().code, Some(0));
    });
}

#[test]
fn a_client_that_ignores_the_end_of_the_upstream_does_not_hold_up_the_stop() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"60s\" }").start();
        let (client, server) = pair(&drained, &upstream);
        drop(server);
        assert_eq!(end_of(&client), Ended::Fin);
        let at = drained.signal(Signal::SIGTERM);
        let end = drained.wait_end_within(Duration::from_secs(20));
        assert!(end.at - at < Duration::from_secs(10), "{:?}", end.at - at);
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 0), "{:#?}", end.lines);
        drop(client);
    });
}

#[test]
fn a_download_that_a_hurried_stop_breaks_off_is_reset_and_named() {
    steady(|| {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, "drain = { deadline = \"60s\" }").start();
        let (client, server) = pair(&drained, &upstream);
        // It never falls silent, and ignores the goodbye.
        let download = thread::spawn(move || {
            while (&server).write_all(&[7; 1000]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        drained.term_and_drain();
        drained.signal(Signal::SIGTERM);
        assert_eq!(read_to_end(&client).1, Ended::Reset);
        let end = drained.wait_end();
        assert_eq!((end.code, end.count("event=cut")), (Some(0), 1), "{:#?}", end.lines);
        download.join().unwrap();
    });
}
