//! Who may change something over the control socket, and clients of it that mean no good.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use super::{ok, run, status, upstream_state};
use crate::support::drained::{Drained, Setup};
use crate::support::peers::Listener;

const NOBODY: &str = "65534";

/// drainctl, by somebody who may connect but is neither root nor the daemon's user.
fn stranger(drained: &Drained, words: &[&str]) -> super::Ended {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]);
    command.arg(drained.scratch.path("drainctl")).arg("--socket").arg(drained.scratch.path("control.sock"));
    command.args(words).stdin(Stdio::null());
    run(command)
}

#[test]
fn the_group_may_look_and_only_root_and_the_user_of_drained_may_change() {
    if !geteuid().is_root() {
        crate::support::left_out("only root can become somebody else");
        return;
    }
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").readable_by_all().start();
    let open = |path: &str, mode| {
        fs::set_permissions(drained.scratch.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::copy(env!("CARGO_BIN_EXE_drainctl"), drained.scratch.path("drainctl")).unwrap();
    open("drainctl", 0o755);
    let ended = stranger(&drained, &["status"]);
    assert!(ended.code == Some(69) && ended.err.contains("no permission"), "{ended:?}");
    assert!(ended.err.ends_with(": run as root or as a member of the group root\n"), "{ended:?}");
    let ended = stranger(&drained, &["drain", "p"]);
    assert!(ended.err.ends_with(": run as root\n"), "{ended:?}");
    // As if they were in its group.
    open("control.sock", 0o666);
    assert_eq!(stranger(&drained, &["status"]).code, Some(0));
    for words in [&["drain", "p"][..], &["resume", "p"], &["hold", "p"], &["drain", "q", "--wait"]] {
        let ended = stranger(&drained, words);
        let right = format!(
            "drainctl: refused: only root and the user of drained may {}, you are uid {NOBODY}\n",
            words[0]
        );
        assert_eq!((ended.code, ended.err), (Some(65), right));
    }
    assert_eq!(upstream_state(&drained), "up");
    ok(&drained, &["drain", "p", "--wait"]);
    let refused = drained.daemon.wait_line("refused: drain p, asked for by pid");
    assert!(refused.contains(&format!("uid {NOBODY}, gid {NOBODY}")), "{refused}");
    let done = drained.daemon.wait_line(" drain p, asked for by pid");
    assert!(done.contains("event=by-hand"), "{done}");
    drained.daemon.wait_line("uid 0, gid 0");
}

#[test]
fn the_user_of_drained_may_change() {
    if !geteuid().is_root() {
        crate::support::left_out("only root can become somebody else");
        return;
    }
    let upstream = Listener::new();
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let drained = Setup::proxy(&upstream.address, "").by(&user).readable_by_all().start();
    fs::copy(env!("CARGO_BIN_EXE_drainctl"), drained.scratch.path("drainctl")).unwrap();
    fs::set_permissions(drained.scratch.path("drainctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let ended = stranger(&drained, &["drain", "p", "--wait"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // And root may too.
    ok(&drained, &["resume", "p", "--wait"]);
}

fn connect(drained: &Drained) -> UnixStream {
    let stream = UnixStream::connect(drained.scratch.path("control.sock")).unwrap();
    stream.set_read_timeout(Some(crate::support::SOON)).unwrap();
    stream
}

#[test]
fn a_thousand_clients_that_ask_silently_or_for_nonsense_harm_nobody() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let before = drained.descriptors("socket:");
    let mut answers = 0;
    for n in 0..1_000 {
        let mut stream = connect(&drained);
        let line = match n % 4 {
            0 => format!("{{\"version\":1,\"call\":\"drain\",\"proxy\":\"{}\"}}\n", "x".repeat(10_000)),
            1 => "{\"version\":1,\"call\":\"drain\",\"proxy\":{\"p\":1},\"timeout_ms\":-1}\n".to_owned(),
            2 => {
                "{\"version\":1,\"call\":\"resume\",\"proxy\":\"p\",\"upstream\":\"\\u0000\\n\"}\n".to_owned()
            }
            _ => "{\"version\":1,\"call\":\"progress\",\"proxy\":\"p\"}\n".to_owned(),
        };
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert_eq!(answer.contains("\"error\":"), n % 4 != 3, "{answer}");
        assert!(answer.len() < 20_000);
        answers += 1;
    }
    assert_eq!(answers, 1_000);
    // A name is quoted and cut short in the journal.
    assert!(drained.daemon.lines().iter().all(|line| line.len() < 1_000));
    crate::support::drained::until("they are gone", || drained.descriptors("socket:") == before);
    assert_eq!(upstream_state(&drained), "up");
}

/// As the documentation has it: with nothing but a socket.
#[test]
fn others_can_script_it() {
    let upstream = Listener::new();
    let drained = Setup::proxy(&upstream.address, "").start();
    let mut stream = connect(&drained);
    let mut ask = |line: &str| -> serde_json::Value {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        serde_json::from_slice(&answer).unwrap()
    };
    let drain = ask("{\"version\":1,\"call\":\"drain\",\"proxy\":\"p\",\"timeout_ms\":5000}\n");
    assert_eq!((&drain["version"], &drain["ok"]["changed"]), (&1.into(), &true.into()), "{drain}");
    let left = drain["ok"]["upstreams"][0]["drain"]["left_ms"].as_u64().unwrap();
    assert!((1..=5_000).contains(&left), "{drain}");
    let hold = ask("{\"version\":1,\"call\":\"hold\",\"proxy\":\"p\",\"timeout_ms\":60000}\n");
    assert!(hold["ok"]["hold_ms"].as_u64().is_some_and(|ms| ms > 50_000), "{hold}");
    let resume = ask("{\"version\":1,\"call\":\"resume\",\"proxy\":\"p\"}\n");
    assert_eq!((&resume["ok"]["changed"], &resume["ok"]["holding"]), (&true.into(), &false.into()));
    let again = ask("{\"version\":1,\"call\":\"resume\",\"proxy\":\"p\",\"upstream\":null}\n");
    assert_eq!(again["ok"]["changed"], false);
    assert_eq!(status(&drained)["proxies"]["p"]["connections"]["failed"], 0);
}
