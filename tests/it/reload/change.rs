//! What becomes of proxies, listeners and connections.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{Port, drainctl, hup, proxy, reload, start, status, write};
use crate::support::drained::{Setup, until};
use crate::support::peers::{Ended, Listener, connect, end_of, talk, try_connect};
use crate::support::{SOON, scratch::Scratch};

fn pair(address: &str, upstream: &Listener) -> (std::net::TcpStream, std::net::TcpStream) {
    let client = connect(address);
    let server = upstream.accept();
    talk(&client, &server);
    (client, server)
}

#[test]
fn proxies_are_added_changed_and_removed() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let web = proxy("web", &[one], &[&upstream.address], "");
    let drained = start(&web);
    let held = pair(one, &upstream);

    let app = proxy("app", &[other], &[&upstream.address], "");
    let done = reload(&drained.scratch, &(web.clone() + &app));
    assert_eq!(done["added"], serde_json::json!(["app"]), "{done}");
    assert_eq!(done["kept"], serde_json::json!(["web"]), "{done}");
    drop(pair(other, &upstream));

    let changed = proxy("web", &[one], &[&upstream.address], "idle_timeout = \"1h\"");
    let done = reload(&drained.scratch, &(changed.clone() + &app));
    assert_eq!(done["changed"], serde_json::json!(["web"]), "{done}");

    let done = reload(&drained.scratch, &changed);
    assert_eq!(done["removed"], serde_json::json!(["app"]), "{done}");
    until("refusal", || try_connect(other).is_err());
    assert!(status(&drained.scratch)["proxies"]["app"].is_null());
    talk(&held.0, &held.1);
    drop(pair(one, &upstream));
    // What was counted goes on.
    assert_eq!(status(&drained.scratch)["proxies"]["web"]["connections"]["accepted"], 2);
    drained.daemon.wait_line("reloaded: of the proxies 0 added, 1 removed, 0 changed, 1 as before");
    drop(held);
    drained.stop();
}

#[test]
fn a_removed_proxy_is_drained_by_its_own_policy() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let web = proxy("web", &[one], &[&upstream.address], "");
    let drained = start(
        &(web.clone() + &proxy("app", &[other], &[&upstream.address], "drain = { deadline = \"5s\" }")),
    );
    let (mut busy, mut server) = pair(other, &upstream);
    let (cut, _silent) = pair(other, &upstream);
    let quiet = pair(other, &upstream);
    // An answer is due.
    busy.write_all(b"?").unwrap();
    (&cut).write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reload(&drained.scratch, &web);
    assert_eq!(status(&drained.scratch)["proxies"]["app"]["state"], "draining");
    assert_eq!(end_of(&quiet.1), Ended::Fin);
    server.write_all(b"!").unwrap();
    busy.read_exact(&mut [0]).unwrap();
    drop(server);
    assert_eq!((end_of(&busy), end_of(&quiet.0)), (Ended::Fin, Ended::Fin));
    assert_eq!(end_of(&cut), Ended::Reset);
    until("it is gone", || status(&drained.scratch)["proxies"]["app"].is_null());
    drop(pair(one, &upstream));
    drained.stop();
}

#[test]
fn who_stands_in_the_backlog_of_a_listener_that_goes_is_served() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let config = |listen: &[&str]| proxy("web", listen, &[&upstream.address], "max_connections = 1");
    let (web, drained) = (config(&[one]), start(&config(&[one, other])));
    // While the proxy is full nobody is taken in.
    let (client, server) = pair(one, &upstream);
    let clients: Vec<_> = (0..20).map(|_| connect(other)).collect();
    drained.daemon.wait_line(&format!("{other} waits in the backlog"));
    reload(&drained.scratch, &web);
    drop((client, server));
    let servers: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let server = upstream.accept();
            talk(&client, &server);
        })
        .collect();
    assert_eq!(servers.len(), 20);
    until("refusal", || try_connect(other).is_err());
    drained.stop();
}

#[test]
fn a_listener_that_moves_to_another_proxy_is_never_closed() {
    let (port, upstreams) = (Port::reserve(), [Listener::new(), Listener::new()]);
    let [first, second] = upstreams.each_ref().map(|u| proxy_for(&port, u));
    let drained = start(&first);
    let held = pair(port.address(), &upstreams[0]);
    let inode = listening_inode(&drained);
    // Who stands in the backlog meanwhile is served by either.
    reload(&drained.scratch, &second.replace("proxy.p", "proxy.q"));
    assert_eq!(listening_inode(&drained), inode);
    drop(pair(port.address(), &upstreams[1]));
    // The old proxy drains what it has.
    assert_eq!((end_of(&held.1), end_of(&held.0)), (Ended::Fin, Ended::Fin));
    drained.stop();
}

fn proxy_for(port: &Port, upstream: &Listener) -> String {
    proxy("p", &[port.address()], &[&upstream.address], "")
}

/// The inodes of its sockets that listen on TCP.
fn listening_inode(drained: &crate::support::drained::Drained) -> Vec<String> {
    let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", drained.pid())).unwrap();
    let listening: Vec<_> = tcp
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"0A")).then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", drained.pid())).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let mut own: Vec<_> = links
        .filter_map(|link| link.to_str().map(str::to_owned))
        .filter(|link| listening.contains(link))
        .collect();
    own.sort();
    own
}

#[test]
fn connections_go_on_when_their_upstream_is_gone() {
    let (port, upstreams) = (Port::reserve(), [Listener::new(), Listener::new(), Listener::new()]);
    let [a, b, c] = upstreams.each_ref().map(|u| u.address.as_str());
    let config = |upstream: &[&str]| proxy("p", &[port.address()], upstream, "");
    let drained = start(&config(&[a]));
    let first = pair(port.address(), &upstreams[0]);
    reload(&drained.scratch, &config(&[b]));
    talk(&first.0, &first.1);
    let second = pair(port.address(), &upstreams[1]);
    reload(&drained.scratch, &config(&[c, b]));
    let proxy = &status(&drained.scratch)["proxies"]["p"];
    // The upstream that stays has its connection, wherever it stands in the list.
    let told: Vec<_> =
        proxy["upstreams"].as_array().unwrap().iter().map(|u| u["connections"].as_u64()).collect();
    assert_eq!(told, [Some(0), Some(1)]);
    let third = pair(port.address(), &upstreams[2]);
    [&first, &second, &third].iter().for_each(|(client, server)| talk(client, server));
    assert_eq!(status(&drained.scratch)["proxies"]["p"]["connections"]["active"], 3);
    drop((first, second, third));
    until("no connection", || status(&drained.scratch)["proxies"]["p"]["connections"]["active"] == 0);
    let upstreams = status(&drained.scratch)["proxies"]["p"]["upstreams"].clone();
    assert!(upstreams.as_array().unwrap().iter().all(|u| u["connections"] == 0), "{upstreams}");
    drained.stop();
}

#[test]
fn a_client_that_is_being_connected_to_an_upstream_that_goes_gets_another() {
    let (port, full, upstream) = (Port::reserve(), Listener::refusing("127.0.0.1:0"), Listener::new());
    let _filling = full.fill();
    let config = |to: &str| proxy("p", &[port.address()], &[to], "connect_timeout = \"60s\"");
    let drained = start(&config(&full.address));
    let client = connect(port.address());
    until("it is accepted", || status(&drained.scratch)["proxies"]["p"]["connections"]["accepted"] == 1);
    reload(&drained.scratch, &config(&upstream.address));
    talk(&client, &upstream.accept());
    drop(client);
    drained.stop();
}

/// Gives up a connect under way to `slow`, by `give_up`, in the very turn in which it is made: nobody else than `stuck`
/// is there to take the client.
fn given_up_as_it_is_made(give_up: fn(&crate::support::drained::Drained, [&str; 2]) -> Option<Child>) {
    let [slow, stuck] = [(); 2].map(|()| Listener::refusing("127.0.0.1:0"));
    let (port, filling, _filling) = (Port::reserve(), slow.fill(), stuck.fill());
    let config = |to: &[&str]| proxy("p", &[port.address()], to, "connect_timeout = \"3s\"\nhold = \"0s\"");
    let drained = start(&config(&[&slow.address]));
    let client = connect(port.address());
    let upstream = || status(&drained.scratch)["proxies"]["p"]["upstreams"][0].clone();
    until("its connect has begun", || upstream()["connections"] == 1);
    reload(&drained.scratch, &config(&[&slow.address, &stuck.address]));
    let held = drained.daemon.hold_threads(&["worker-0", "worker-1"]);
    // The news comes first, and then the connect is made that is to be given up for it.
    let without_slow = config(&[&stuck.address]);
    let control = give_up(&drained, [&slow.address, &without_slow]);
    until("both workers have news", || unread_news(&drained) == 2);
    let others: Vec<_> = filling.iter().map(|filling| filling.local_addr().unwrap()).collect();
    let _made = std::iter::repeat_with(|| slow.accept())
        .find(|server| !others.contains(&server.peer_addr().unwrap()))
        .unwrap();
    drop(held);
    assert_eq!(end_of(&client), Ended::Fin);
    assert_eq!(status(&drained.scratch)["proxies"]["p"]["connections"]["failed"], 1);
    control.into_iter().for_each(|mut control| assert!(control.wait().unwrap().success()));
    drained.stop();
}

#[test]
fn an_event_of_a_connect_that_a_reload_gave_up_says_nothing_of_the_next() {
    given_up_as_it_is_made(|drained, [_, without_slow]| {
        write(&drained.scratch, without_slow);
        drained.signal(Signal::SIGHUP);
        None
    });
}

#[test]
fn an_event_of_a_connect_that_a_drain_gave_up_says_nothing_of_the_next() {
    given_up_as_it_is_made(|drained, [slow, _]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drainctl"));
        command.arg("--socket").arg(drained.scratch.path("control.sock"));
        command.args(["drain", "p", "--upstream", slow]);
        Some(command.stdout(Stdio::null()).spawn().unwrap())
    });
}

/// How many eventfds of a daemon have been written and not read, of those that are watched level-triggered: the workers'
/// mailboxes.
fn unread_news(drained: &crate::support::drained::Drained) -> usize {
    const LEVEL_IN: &str = "19";
    let fds = format!("/proc/{}/fdinfo", drained.pid());
    let infos = std::fs::read_dir(&fds).unwrap().map(|fd| fd.unwrap().file_name().into_string().unwrap());
    let infos: HashMap<_, _> = infos
        .filter_map(|fd| Some((std::fs::read_to_string(format!("{fds}/{fd}")).ok()?, fd)))
        .map(|(info, fd)| (fd, info))
        .collect();
    let watched = infos.values().flat_map(|info| info.lines()).filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words.first() == Some(&"tfd:") && words[3] == LEVEL_IN).then(|| infos.get(words[1]))?
    });
    let count = |info: &String| {
        let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"))?;
        u64::from_str_radix(count.trim(), 16).ok()
    };
    watched.filter_map(count).filter(|count| *count > 0).count()
}

#[test]
fn a_shorter_idle_timeout_and_another_limit_hold_at_once() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    // The timer of a connect must not be what ends it.
    let config = |more: &str| {
        let more = format!("connect_timeout = \"1h\"\n{more}");
        proxy("p", &[port.address()], &[&upstream.address], &more)
    };
    let drained = start(&config("max_connections = 1"));
    let idle = pair(port.address(), &upstream);
    let waiting = connect(port.address());
    drained.daemon.wait_line("waits in the backlog");
    reload(&drained.scratch, &config("max_connections = 2"));
    talk(&waiting, &upstream.accept());
    reload(&drained.scratch, &config("idle_timeout = \"200ms\""));
    assert_eq!((end_of(&idle.0), end_of(&idle.1)), (Ended::Fin, Ended::Fin));
    drained.stop();
}

#[test]
fn a_proxy_that_comes_back_while_it_drains_serves_again() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let (web, app) =
        (proxy("web", &[one], &[&upstream.address], ""), proxy("app", &[other], &[&upstream.address], ""));
    let drained = start(&(web.clone() + &app));
    let (mut busy, mut server) = pair(other, &upstream);
    busy.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reload(&drained.scratch, &web);
    reload(&drained.scratch, &(web + &app));
    drop(pair(other, &upstream));
    assert_eq!(status(&drained.scratch)["proxies"]["app"]["state"], "running");
    until("one is left", || status(&drained.scratch)["proxies"]["app"]["connections"]["active"] == 1);
    server.write_all(b"!").unwrap();
    busy.read_exact(&mut [0]).unwrap();
    drop((busy, server));
    until("none is left", || status(&drained.scratch)["proxies"]["app"]["connections"]["active"] == 0);
    drained.stop();
}

#[test]
fn a_listener_of_a_socket_unit_is_taken_let_go_of_and_taken_again() {
    let (passed, port, upstream) = (Listener::new(), Port::reserve(), Listener::new());
    let own = proxy("own", &[port.address()], &[&upstream.address], "");
    let both = own.clone() + &proxy("web", &["systemd:web"], &[&upstream.address], "");
    let drained = Setup::new(&own).passed(&passed.fd, "web").start();
    drained.daemon.wait_line("systemd passed a socket named web that no proxy listens on");
    for _ in 0..3 {
        reload(&drained.scratch, &both);
        drop(pair(&passed.address, &upstream));
        reload(&drained.scratch, &own);
        // It is left as it is, with its backlog.
        let waiting = connect(&passed.address);
        reload(&drained.scratch, &both);
        talk(&waiting, &upstream.accept());
        reload(&drained.scratch, &own);
    }
    assert!(passed.fd.as_fd().try_clone_to_owned().is_ok());
    drained.stop();
}

#[test]
fn a_socket_file_goes_with_its_listener_and_one_that_was_deleted_is_made_anew() {
    let (files, port, upstream) = (Scratch::new(), Port::reserve(), Listener::new());
    let unix = format!("unix:{}", files.path("in").display());
    let config = |listen: &[&str]| proxy("p", listen, &[&upstream.address], "");
    let drained = start(&config(&[port.address()]));
    for _ in 0..2 {
        reload(&drained.scratch, &config(&[port.address(), &unix]));
        let held = pair(&unix, &upstream);
        std::fs::remove_file(files.path("in")).unwrap();
        reload(&drained.scratch, &config(&[port.address(), &unix]));
        drop(pair(&unix, &upstream));
        reload(&drained.scratch, &config(&[port.address()]));
        assert!(!files.path("in").exists());
        talk(&held.0, &held.1);
    }
    drained.stop();
}

#[test]
fn a_sighup_reloads_and_systemd_hears_when() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let drained = start("");
    write(&drained.scratch, &proxy("p", &[port.address()], &[&upstream.address], ""));
    hup(&drained);
    drop(pair(port.address(), &upstream));
    let messages = drained.manager.messages();
    let at = |what: &str| messages.iter().rposition(|message| message.says(what));
    assert!(
        messages[at("RELOADING=1").unwrap()].value("MONOTONIC_USEC").unwrap().parse::<u64>().unwrap() > 0
    );
    assert!(at("RELOADING=1") < at("READY=1"));
    drained.manager.wait_for(SOON, |message| message.stores_listener());
    drained.stop();
}

#[test]
fn keys_that_need_a_restart_are_named_and_the_rest_holds() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let drained = start("");
    let config = format!(
        "[handover]\ncrash_after = \"5s\"\n{}",
        proxy("p", &[port.address()], &[&upstream.address], "")
    );
    let done = reload(&drained.scratch, &config);
    assert_eq!(done["needs_restart"], serde_json::json!(["handover.crash_after"]), "{done}");
    drop(pair(port.address(), &upstream));
    let output = drainctl(&drained.scratch, &["reload"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().next(), Some("Reloaded: no proxy has changed"));
    assert!(text.contains("handover.crash_after has changed"), "{text}");
    drained.daemon.wait_line("handover.crash_after has changed");
    drained.stop();
}
