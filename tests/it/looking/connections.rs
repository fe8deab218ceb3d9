//! `drainctl connections`: what is listed, in which order, and what it costs the ones who work.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drained::control::client;
use drained::control::connections::{Doing, Listing, Query, Row, Sort};
use drained::control::protocol::Call;
use nix::sys::signal::Signal;

use super::DRAINCTL;
use crate::support::drained::{Drained, Setup, alone, pair, raise_descriptors, until};
use crate::support::peers::{Listener, connect, serve_all, talk};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

fn control(drained: &Drained) -> PathBuf {
    drained.scratch.path("control.sock")
}

fn ask(drained: &Drained, query: &Query) -> Listing {
    client::call(&control(drained), &Call::Connections(query.clone())).unwrap()
}

fn all(drained: &Drained) -> Vec<Row> {
    ask(drained, &Query::default()).connections
}

/// The code, standard output and standard error of `drainctl connections`.
fn run(drained: &Drained, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(DRAINCTL);
    command.arg("--socket").arg(control(drained)).arg("connections").args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn state_of(drained: &Drained, client: &TcpStream) -> Option<Doing> {
    let name = client.local_addr().unwrap().to_string();
    all(drained).into_iter().find(|row| row.client == name).map(|row| row.state)
}

#[test]
fn a_connection_is_listed_with_what_it_does() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    assert_eq!(run(&drained, &[]), (0, "No connection is open.\n".to_owned(), String::new()));
    let (mut client, mut server) = pair(&drained, &upstream);
    let [row] = &all(&drained)[..] else { panic!("one connection") };
    assert_eq!(row.client, client.local_addr().unwrap().to_string());
    assert_eq!((row.proxy.as_str(), row.upstream.as_deref()), ("p", Some(&*upstream.address)));
    assert_eq!((row.bytes.to_upstream, row.bytes.to_client), (10, 9));
    assert_eq!((row.id, row.protocol.as_str()), (1, "tcp"));
    assert!(row.idle_ms <= row.age_ms && row.age_ms < 10_000, "{row:?}");

    let becomes = |client: &TcpStream, state| {
        until(&format!("{state:?}"), || state_of(&drained, client) == Some(state));
    };
    becomes(&client, Doing::Quiet);
    client.write_all(b"?").unwrap();
    becomes(&client, Doing::WaitingForUpstream);
    server.write_all(b"!").unwrap();
    becomes(&client, Doing::Active);
    client.shutdown(Shutdown::Write).unwrap();
    becomes(&client, Doing::HalfClosed);
    drop((client, server));
    until("the end", || all(&drained).is_empty());
}

#[test]
fn connections_are_chosen_ordered_and_cut_short() {
    let upstreams = [Listener::new(), Listener::new()];
    let config = |name: &str, listen: &str, upstream: &Listener| {
        format!("[proxy.{name}]\nlisten = \"{listen}\"\nupstream = \"{}\"\n", upstream.address)
    };
    let scratch = Scratch::new();
    let unix = format!("unix:{}", scratch.path("in.sock").display());
    let config = config("a", "127.0.0.1:0", &upstreams[0]) + &config("b", &unix, &upstreams[1]);
    let drained = Setup::new(&config).start();
    let tcp: Vec<_> = (0..3)
        .map(|n| {
            let client = connect(&drained.address_of("a"));
            let server = upstreams[0].accept();
            (0..=n).for_each(|_| talk(&client, &server));
            (client, server)
        })
        .collect();
    let local = (connect(&unix), upstreams[1].accept());
    talk(&local.0, &local.1);

    let clients = |arguments: &[&str]| {
        let (code, out, err) = run(&drained, &[&["--json"], arguments].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        out.lines().map(|line| serde_json::from_str::<Row>(line).unwrap().client).collect::<Vec<_>>()
    };
    let name = |n: usize| tcp[n].0.local_addr().unwrap().to_string();
    let own = format!("unix:pid={}", std::process::id());
    assert_eq!(clients(&[]), [name(0), name(1), name(2), own.clone()], "the oldest first");
    let (most, last) = (clients(&["--sort", "bytes"]), clients(&["--sort", "client"]));
    assert_eq!(most, [name(2), name(1), name(0), own.clone()]);
    assert_eq!(last[0], own, "UNIX clients have no address, and come first");
    let by_upstream = clients(&["--sort", "upstream"]);
    let first_has_less = upstreams[0].address < upstreams[1].address;
    assert_eq!(
        by_upstream.iter().position(|client| *client == own),
        Some(if first_has_less { 3 } else { 0 })
    );
    let idle = clients(&["--sort", "idle"]);
    assert!(idle.iter().position(|c| *c == name(0)) < idle.iter().position(|c| *c == own), "{idle:?}");

    for (arguments, expected) in [
        (&["a"][..], vec![name(0), name(1), name(2)]),
        (&["b"], vec![own.clone()]),
        (&["--upstream", &upstreams[1].address], vec![own.clone()]),
        (&["a", "--client", "127.0.0.0/8"], vec![name(0), name(1), name(2)]),
        (&["b", "--client", "127.0.0.0/8"], vec![]),
        (&["--client", &name(1)], vec![name(1)]),
        (&["--client", "unix"], vec![own.clone()]),
        (&["--state", "connecting"], vec![]),
    ] {
        assert_eq!(clients(arguments), expected, "{arguments:?}");
    }
    let (code, out, err) = run(&drained, &["--json", "--limit", "1"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    assert_eq!(err, "drainctl: 3 of 4 connections that fit are left out\n");
    let (code, out, err) = run(&drained, &["--limit", "0"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "4 connections fit, none is shown.\n", ""),
        "said once"
    );
    let (_, out, err) = run(&drained, &["--json", "--limit", "0"]);
    assert_eq!((out.as_str(), err.as_str()), ("", "drainctl: 4 of 4 connections that fit are left out\n"));
    let text = Query { text: Some(name(2)), ..Query::default() };
    assert_eq!(ask(&drained, &text).connections.len(), 1);

    let (code, table, err) = run(&drained, &["a"]);
    assert_eq!((code, err.as_str(), table.lines().count()), (0, "", 4));
    assert!(table.lines().next().unwrap().starts_with("ID  PROXY  CLIENT "), "{table}");
    assert!(table.lines().all(|line| line == line.trim_end()) && !table.contains('\x1b'), "{table}");
    let (code, none, _) = run(&drained, &["a", "--client", "192.0.2.1"]);
    assert_eq!((code, none.as_str()), (0, "None of 4 connections fits.\n"));
}

#[test]
fn wrong_words_name_the_right_ones() {
    let drained = Setup::proxy("127.0.0.1:1", "").start();
    // What the daemon does not know is 65, as with every command; what no daemon could know 64.
    for (arguments, names, exit) in [
        (&["q"][..], "the proxies are p", 65),
        (&["--upstream", "127.0.0.1:2"], "the upstreams are 127.0.0.1:1", 65),
        (&["p", "--upstream", "x"], "the upstreams are 127.0.0.1:1", 65),
        (&["--state", "lazy"], "half-closed", 64),
        (&["--sort", "size"], "bytes", 64),
        (&["--client", "localhost"], "192.0.2.0/24", 64),
        (&["--limit", "some"], "invalid digit", 64),
    ] {
        let (code, out, err) = run(&drained, arguments);
        assert_eq!((code, out.as_str()), (exit, ""), "{arguments:?}: {err}");
        assert!(err.contains(names), "{arguments:?}: {err}");
    }
    // Who asks without drainctl is told the same.
    let wrong = Call::Connections(Query { proxy: Some("q".to_owned()), ..Query::default() });
    let error = client::call::<Listing>(&control(&drained), &wrong).unwrap_err();
    assert!(error.to_string().contains("the proxies are p"), "{error}");
}

#[test]
fn thousands_are_listed_once_each_while_traffic_goes_on() {
    let _alone = alone();
    raise_descriptors();
    const COUNT: usize = 2_500;
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let clients: Vec<_> = (0..COUNT).map(|_| connect(&drained.address())).collect();
    let servers = serve_all(&clients, &upstream);
    let names: BTreeSet<_> = clients.iter().map(|c| c.local_addr().unwrap().to_string()).collect();
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let began = Instant::now();
                (ask(&drained, &Query { sort: Sort::Client, ..Query::default() }), began.elapsed())
            });
            while !asking.is_finished() {
                let began = Instant::now();
                talk(&clients[0], &servers[0]);
                longest = longest.max(began.elapsed());
            }
            asking.join().unwrap()
        });
        let (listing, lasted) = asked;
        println!("{COUNT} in {lasted:?}, the longest exchange meanwhile {longest:?}");
        assert_eq!((listing.total, listing.matching, listing.silent_workers), (2_500, 2_500, 0));
        assert_eq!(listing.connections.len(), COUNT);
        let listed: BTreeSet<_> = listing.connections.into_iter().map(|row| row.client).collect();
        assert!(listed == names, "each once");
    }
    let (code, out, err) = run(&drained, &["--json"]);
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", COUNT));
    assert!(out.lines().all(|line| serde_json::from_str::<Row>(line).is_ok()));
}

#[test]
fn a_drain_is_looked_at_to_its_end() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let (mut busy, mut server) = pair(&drained, &upstream);
    let (_quiet, _its_server) = pair(&drained, &upstream);
    busy.write_all(b"?").unwrap();
    until("an answer is due", || state_of(&drained, &busy) == Some(Doing::WaitingForUpstream));
    drained.term_and_drain();
    until("the goodbye", || all(&drained).iter().any(|row| row.state == Doing::Closing));
    until("the end of what is quiet", || all(&drained).len() == 1);
    assert_eq!(state_of(&drained, &busy), Some(Doing::WaitingForUpstream));
    server.write_all(b"!").unwrap();
    drop((busy, server));
    assert_eq!(drained.wait_end().code, Some(0));
}

#[test]
#[cfg(debug_assertions)]
fn a_worker_that_hangs_delays_the_answer_within_a_bound_and_is_told() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").env("DRAINED_TEST_FAULT", "worker-hang:2").start();
    let _pair = pair(&drained, &upstream);
    let _hangs = connect(&drained.address());
    until("it hangs", || ask(&drained, &Query::default()).silent_workers == 1);
    let began = Instant::now();
    let (code, _, err) = run(&drained, &[]);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(code, 70, "{err}");
    assert!(err.contains("1 worker did not answer in time: connections are missing\n"), "{err}");
    // Others are answered meanwhile, however many ask.
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| run(&drained, &[]).0)).collect();
        let began = Instant::now();
        client::status(&control(&drained)).unwrap();
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        let codes: BTreeSet<_> = asking.into_iter().map(|asked| asked.join().unwrap()).collect();
        assert!(codes.is_subset(&[70, 65].into()), "{codes:?}");
    });
    drained.signal(Signal::SIGKILL);
}

#[test]
fn a_connection_stays_the_same_over_a_restart() {
    let (upstream, scratch) = (Listener::new(), Scratch::new());
    let unix = format!("unix:{}", scratch.path("in.sock").display());
    let setup = || {
        let proxy = format!("[proxy.p]\nlisten = \"{unix}\"\nupstream = \"{}\"\n", upstream.address);
        Setup::new(&format!("[handover]\non_restart = \"always\"\ncrash_after = \"0s\"\n{proxy}"))
    };
    let mut store = Store::start(setup());
    let (client, server) = (connect(&unix), upstream.accept());
    talk(&client, &server);
    let look = |store: &Store| {
        let path = store.scratch.path("control.sock");
        let listing: Listing = client::call(&path, &Call::Connections(Query::default())).unwrap();
        listing.connections
    };
    let before = look(&store);
    let [Row { id, parked: true, bytes, .. }] = before[..] else { panic!("one, and parked: {before:?}") };
    store.restart(setup());
    let after = look(&store);
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].id, after[0].bytes, after[0].parked), (id, bytes, true));
    assert!(after[0].age_ms >= before[0].age_ms && after[0].age_ms < 60_000, "{after:?}");
    talk(&client, &server);
    assert_eq!(look(&store)[0].bytes.to_upstream, bytes.to_upstream + 10);
}
