//! When nothing changes, and what whoever asked is told.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Port, drainctl, proxy, refused, reload, start, status, write};
use crate::support::drained::until;
use crate::support::peers::{Listener, connect, talk, try_connect};
use crate::support::scratch::Scratch;

#[test]
fn a_wrong_file_changes_nothing_and_every_mistake_is_told() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let good = proxy("p", &[port.address()], &[&upstream.address], "");
    let drained = start(&good);
    let seen = drained.manager.messages().len();
    let (code, text) =
        refused(&drained.scratch, &(good.clone() + "idle_timeot = \"1s\"\nconnect_timeout = 3\n"));
    assert_eq!(code, 78, "{text}");
    let file = drained.scratch.path("drained.toml");
    for place in ["8:1: unknown key", "9:19: connect_timeout: 3 has no unit"] {
        assert!(text.contains(&format!("{}:{place}", file.display())), "{text}");
    }
    drained.manager.settle();
    let messages = drained.manager.messages();
    assert!(messages[seen..].iter().any(|message| message.says("RELOADING=1")), "{messages:#?}");
    assert!(messages[seen..].iter().any(|message| message.says("READY=1")), "{messages:#?}");
    drained.daemon.wait_line("not reloaded: ");
    drained.daemon.wait_line("8:1: unknown key");
    let client = connect(port.address());
    talk(&client, &upstream.accept());
    // A file that is not there.
    std::fs::remove_file(file).unwrap();
    let output = drainctl(&drained.scratch, &["--json", "reload"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &told["exit"], &told["reloaded"]),
        (Some(78), &78.into(), &false.into())
    );
    // And once it is mended it is loaded.
    assert_eq!(reload(&drained.scratch, &good)["kept"], serde_json::json!(["p"]));
    drop(client);
    drained.stop();
}

#[test]
fn where_one_listener_cannot_be_opened_nothing_changes() {
    let (ports, upstream, taken) = ([Port::reserve(), Port::reserve()], Listener::new(), Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let good = proxy("web", &[one], &[&upstream.address], "");
    let drained = start(&good);
    let bad = proxy("app", &[other], &[&upstream.address], "")
        + &proxy("b", &[&taken.address], &[&upstream.address], "");
    let (code, text) = refused(&drained.scratch, &bad);
    assert_eq!(code, 71, "{text}");
    assert!(text.contains(&format!("proxy b: listening on {}", taken.address)), "{text}");
    assert!(try_connect(other).is_err(), "what was opened meanwhile is closed");
    let client = connect(one);
    talk(&client, &upstream.accept());
    assert!(status(&drained.scratch)["proxies"]["app"].is_null());
    // An address that overlaps one that is to be closed.
    let port = one.rsplit_once(':').unwrap().1;
    let any = format!("0.0.0.0:{port}");
    let (code, text) = refused(&drained.scratch, &proxy("web", &[&any], &[&upstream.address], ""));
    assert!(code == 71 && text.contains("overlaps"), "{code} {text}");
    let (code, text) =
        refused(&drained.scratch, &(good + &proxy("s", &["systemd:none"], &[&upstream.address], "")));
    assert!(code == 78 && text.contains("systemd passed no socket named none"), "{code} {text}");
    drop(client);
    drained.stop();
}

#[test]
fn a_drain_is_not_reloaded_into() {
    let (port, upstream) = (Port::reserve(), Listener::new());
    let good = proxy("p", &[port.address()], &[&upstream.address], "");
    let drained = start(&good);
    let (mut client, mut server) = (connect(port.address()), upstream.accept());
    talk(&client, &server);
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drained.term_and_drain();
    let seen = drained.manager.messages().len();
    let (code, text) = refused(&drained.scratch, &good);
    assert_eq!(
        (code, text.trim()),
        (69, "drainctl: not reloaded, all stays as it was: cannot reload while draining")
    );
    drained.signal(Signal::SIGHUP);
    drained.daemon.wait_line("not reloaded: cannot reload while draining");
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop((client, server));
    let messages = drained.manager.messages();
    assert!(!messages[seen..].iter().any(|m| m.says("RELOADING=1") || m.says("READY=1")), "{messages:#?}");
    let end = drained.wait_end();
    assert_eq!(end.code, Some(0), "{:#?}", end.lines);
}

#[test]
fn a_daemon_without_a_file_says_so() {
    let (upstream, scratch) = (Listener::new(), Scratch::new());
    let mut command = Command::new(env!("CARGO_BIN_EXE_drained"));
    command.args(["--listen", "127.0.0.1:0", "--upstream", &upstream.address]);
    command.env("RUNTIME_DIRECTORY", scratch.path(".")).env_remove("NOTIFY_SOCKET");
    let daemon = crate::support::daemon::Daemon::start(command);
    daemon.wait_line("ready");
    let output = drainctl(&scratch, &["reload"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("the configuration is on the command line"), "{text}");
    assert_eq!(output.status.code(), Some(78));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_end().code, Some(0));
}

#[test]
fn who_asks_during_a_reload_is_told_of_the_next_one() {
    let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
    let [one, other] = ports.each_ref().map(Port::address);
    let web = proxy("web", &[one], &[&upstream.address], "");
    let app = proxy("app", &[other], &[&upstream.address], "");
    let drained = start(&web);
    // Whoever writes a file and then asks is told what became of that file, or of a later one.
    for round in 0..20 {
        write(&drained.scratch, &(web.clone() + &app));
        let told: Vec<_> = thread::scope(|scope| {
            let ask = || {
                let output = drainctl(&drained.scratch, &["--json", "reload"]);
                serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
            };
            let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for told in &told {
            assert_eq!(told["reloaded"], true, "{told}");
            let (added, kept) = (told["added"].as_array().unwrap(), told["kept"].as_array().unwrap());
            assert!(added.contains(&"app".into()) || kept.contains(&"app".into()), "round {round}: {told}");
        }
        let added = told.iter().filter(|told| told["added"] == serde_json::json!(["app"])).count();
        assert!(added >= 1, "{told:?}");
        reload(&drained.scratch, &web);
    }
    until("refusal", || try_connect(other).is_err());
    drained.stop();
}

#[test]
fn a_stop_in_the_midst_of_a_reload_is_an_orderly_stop() {
    for round in 0..20 {
        let (ports, upstream) = ([Port::reserve(), Port::reserve()], Listener::new());
        let [one, other] = ports.each_ref().map(Port::address);
        let drained = start(&proxy("web", &[one], &[&upstream.address], ""));
        let client = connect(one);
        let server = upstream.accept();
        talk(&client, &server);
        write(&drained.scratch, &proxy("app", &[other], &[&upstream.address], ""));
        drained.signal(Signal::SIGHUP);
        thread::sleep(Duration::from_micros(300 * round));
        drop((client, server));
        let manager = drained.manager.address().to_owned();
        let messages = {
            drained.signal(Signal::SIGTERM);
            let end = drained.daemon.wait_end();
            assert_eq!((end.code, end.signal), (Some(0), None), "{manager} {:#?}", end.lines);
            drained.manager.settle();
            drained.manager.messages()
        };
        let stopping = messages.iter().position(|message| message.says("STOPPING=1")).unwrap();
        assert!(
            !messages[stopping..].iter().any(|m| m.says("READY=1") || m.says("RELOADING=1")),
            "{messages:#?}"
        );
    }
}
