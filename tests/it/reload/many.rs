//! Reload after reload under load: nothing is lost, nothing grows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use drained::control::client;
use drained::control::protocol::Call;
use drained::control::reload::Reload;

use super::{Port, proxy, start, status, write};
use crate::support::drained::{Drained, alone, until};
use crate::support::load::{Shape, Transfer, Upstream};
use crate::support::peers::{Listener, connect, try_connect};

/// Reloads without a process for each.
fn reload(drained: &Drained, config: &str) -> Reload {
    write(&drained.scratch, config);
    let path = drained.scratch.path("control.sock");
    let done: Reload = client::call_within(&path, &Call::Reload, Duration::from_secs(15)).unwrap();
    assert!(done.reloaded, "{done:?}");
    done
}

/// Three configurations in turn: one address moves from proxy to proxy, upstreams come, go and change places, a
/// proxy is added and removed.
fn configuration(round: usize, ports: &[Port; 3], upstreams: [&str; 2]) -> String {
    let [stays, moves, comes] = ports.each_ref().map(Port::address);
    let [a, b] = upstreams;
    match round % 3 {
        0 => proxy("p", &[stays, moves], &[a], "") + &proxy("q", &["127.0.0.1:0"], &[a], ""),
        1 => {
            proxy("p", &[stays], &[b, a], "idle_timeout = \"1h\"")
                + &proxy("q", &["127.0.0.1:0", moves], &[a], "")
                + &proxy("r", &[comes], &[a], "")
        }
        _ => proxy("p", &[stays], &[b], "") + &proxy("q", &[moves], &[b, a], "max_connections = 900"),
    }
}

/// Answers each client with what it says, until the listener is dropped by the end of the test.
fn echo(listener: Listener) -> String {
    let address = listener.address.clone();
    thread::spawn(move || {
        loop {
            let Some(mut stream) = listener.accept_within(Duration::from_secs(120)) else { return };
            // Some say nothing while hundreds of reloads go by.
            stream.set_read_timeout(None).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Whatever ends the reloads, a failure too, ends the visitors.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn two_hundred_reloads_under_load_lose_nothing_and_refuse_nobody() {
    let _alone = alone();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let (transfers, bulk) = (Upstream::start(), Port::reserve());
    let echoes = [echo(Listener::new()), echo(Listener::new())];
    let upstreams = echoes.each_ref().map(String::as_str);
    let moved = |round: usize| {
        let others = [upstreams[0], &transfers.address.to_string()].map(str::to_owned);
        let bulk_upstream: &[&str] = &[&others[1]];
        let limit = format!("connect_timeout = \"{}s\"", round % 5 + 1);
        configuration(round, &ports, upstreams) + &proxy("bulk", &[bulk.address()], bulk_upstream, &limit)
    };
    let drained = start(&moved(0));
    let mut living = Vec::new();
    for seed in 0..12 {
        let shape = if seed % 2 == 0 { Shape::Duplex } else { Shape::Request };
        let transfer = Transfer { shape, up: 4_000_000, down: 3_000_000, pieces: 12, seed };
        living.push(transfers.transfer(bulk.address().parse().unwrap(), transfer));
    }
    transfers.gate.wait_arrived(12, Duration::from_secs(30));
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Each of these lives through all reloads, whatever its proxy and its upstream become.
    let mut held: Vec<_> = ports[..2].iter().map(|port| connect(port.address())).collect();
    let visit = |address: &str| -> Result<(), String> {
        let mut stream = try_connect(address).map_err(|e| format!("{address}: {e}"))?;
        stream.write_all(b"hello").map_err(|e| format!("{address}: write {e}"))?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map_err(|e| format!("{address}: read {e}"))?;
        served.fetch_add(1, SeqCst);
        Ok(())
    };
    let errors: Vec<String> = thread::scope(|scope| {
        let visitors: Vec<_> = ports[..2]
            .iter()
            .map(|port| {
                let (stop, visit) = (&stop, &visit);
                scope.spawn(move || {
                    let visits = std::iter::repeat_with(|| visit(port.address()));
                    visits.take_while(|_| !stop.load(SeqCst)).filter_map(Result::err).collect::<Vec<_>>()
                })
            })
            .collect();
        let ended = Ended(&stop);
        for round in 1..=200 {
            reload(&drained, &moved(round));
            for stream in &mut held {
                stream.write_all(b"still").unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
            }
        }
        drop(ended);
        visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect()
    });
    assert!(errors.is_empty(), "{} of {}: {errors:?}", errors.len(), served.load(SeqCst));
    assert!(served.load(SeqCst) > 200, "{served:?}");
    transfers.gate.open();
    living.into_iter().for_each(|transfer| _ = transfer.join().unwrap().unwrap());
    assert_eq!(transfers.errors(), [""; 0]);
    drop(held);
    drained.stop();
}

/// What a process has.
#[derive(Debug)]
struct Held {
    descriptors: BTreeMap<String, usize>,
    threads: usize,
    memory: usize,
}

impl Held {
    fn by(drained: &Drained) -> Held {
        let mut descriptors = BTreeMap::new();
        let fds = std::fs::read_dir(format!("/proc/{}/fd", drained.pid())).unwrap();
        for link in fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()) {
            let kind = link.to_str().unwrap().split(':').next().unwrap().to_owned();
            if !kind.starts_with("/proc") {
                *descriptors.entry(kind).or_default() += 1;
            }
        }
        Held { descriptors, threads: drained.daemon.threads().len(), memory: drained.memory("Anonymous") }
    }
}

#[test]
fn a_thousand_reloads_leak_nothing() {
    let _alone = alone();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let echoes = [echo(Listener::new()), echo(Listener::new())];
    let upstreams = echoes.each_ref().map(String::as_str);
    let drained = start(&configuration(0, &ports, upstreams));
    let held: Vec<_> = ports[..2].iter().map(|port| connect(port.address())).collect();
    let mut seen = Vec::new();
    for round in 1..=1_002 {
        reload(&drained, &configuration(round, &ports, upstreams));
        let mut visitor = connect(ports[round % 2].address());
        visitor.write_all(b"hello").unwrap();
        visitor.read_exact(&mut [0; 5]).unwrap();
        drop(visitor);
        if round % 300 == 102 {
            until("those that live alone", || {
                let status = status(&drained.scratch);
                let active =
                    |name: &str| status["proxies"][name]["connections"]["active"].as_u64().unwrap_or(0);
                active("p") + active("q") + active("r") == 2
            });
            // The thread of a reload may be at its last step.
            until("the threads of the start", || {
                drained.daemon.threads().iter().all(|(_, name)| name != "reload")
            });
            seen.push(Held::by(&drained));
        }
    }
    let (first, last) = (&seen[0], &seen[seen.len() - 1]);
    assert_eq!(first.threads, last.threads, "{seen:#?}");
    // A client of the control socket may just be going.
    let open = |held: &Held| held.descriptors.values().sum::<usize>();
    assert!(open(last) < open(first) + 3, "{seen:#?}");
    assert!(last.memory < first.memory + (256 << 10), "{seen:#?}");
    for mut stream in &held {
        stream.write_all(b"still").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    drop(held);
    drained.stop();
}
