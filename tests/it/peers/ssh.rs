//! sshd with ssh and scp.

use std::fs;
use std::time::Duration;

use super::{LONG, SOON};
use crate::support::real_peers::client::{Client, run, run_with};
use crate::support::real_peers::drained::Drained;
use crate::support::real_peers::server::Server;
use crate::support::real_peers::{random_file, sha256, text, wait_for};
use crate::support::steady::steady;

pub(super) const HOST: &str = "root@127.0.0.1";

/// The options of a client that trusts the test's server and takes nothing from the user's files.
pub(super) fn options(sshd: &Server, port: u16) -> Vec<String> {
    let key = text(&sshd.directory.path("key"));
    let mut options = vec!["-F".into(), "none".into(), "-i".into(), key, "-o".into(), format!("Port={port}")];
    let settings =
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"];
    settings.iter().for_each(|setting| options.extend(["-o".to_owned(), setting.to_string()]));
    options
}

pub(super) fn and(options: &[String], more: &[&str]) -> Vec<String> {
    options.iter().cloned().chain(more.iter().map(ToString::to_string)).collect()
}

#[test]
#[ignore = "needs openssh and root: `make test` as root"]
fn scp_brings_the_same_file_both_ways() {
    let sshd = Server::sshd();
    let drained = Drained::start(sshd.tcp, LONG);
    let options = options(&sshd, drained.tcp.port());
    let [file, there, back] = ["file", "there", "back"].map(|name| sshd.directory.path(name));
    let whole = random_file(&file, 200);
    run("scp", and(&options, &[&text(&file), &format!("{HOST}:{}", text(&there))])).success();
    assert_eq!(sha256(&there), whole);
    run("scp", and(&options, &[&format!("{HOST}:{}", text(&there)), &text(&back)])).success();
    assert_eq!(sha256(&back), whole);
    drained.stop();
}

#[test]
#[ignore = "needs openssh and root: `make test` as root"]
fn ssh_runs_commands_as_without_drained() {
    let sshd = Server::sshd();
    let drained = Drained::start(sshd.tcp, LONG);
    for port in [sshd.tcp.port(), drained.tcp.port()] {
        let ssh = |more: &[&str], input: &[u8]| run_with("ssh", and(&options(&sshd, port), more), input);
        let ended = ssh(&[HOST, "echo out; echo err >&2; exit 7"], b"");
        assert_eq!((ended.status.code(), ended.text().as_str()), (Some(7), "out\n"), "{ended:?}");
        assert_eq!(ended.err, "err\n");
        // cat ends when its input does.
        let input: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let ended = ssh(&[HOST, "cat"], &input);
        assert!(ended.status.success() && ended.out == input, "{}", ended.err);
        let ended = ssh(&["-tt", HOST, "stty size; tty; read word; echo got $word"], b"hello\n");
        let text = ended.text();
        assert!(text.contains("/dev/pts/") && text.contains("got hello"), "{ended:?}");
    }
    drained.stop();
}

#[test]
#[ignore = "needs openssh and root: `make test` as root"]
fn scp_finishes_after_sigterm_and_drained_right_after_it() {
    steady(|| {
        let sshd = Server::sshd();
        let mut drained = Drained::start(sshd.tcp, LONG);
        let options = options(&sshd, drained.tcp.port());
        let (file, there) = (sshd.directory.path("file"), sshd.directory.path("there"));
        let whole = random_file(&file, 60);
        // 160,000 kbit/s are 20 MB/s.
        let limited = ["-l", "160000", &text(&file), &format!("{HOST}:{}", text(&there))];
        let mut scp = Client::start("scp", and(&options, &limited));
        let length = || fs::metadata(&there).map_or(0, |file| file.len());
        wait_for("first bytes", Duration::from_secs(10), || (length() > 1 << 20).then_some(()));

        let stopping = drained.terminate();
        drained.wait_entry("stopping");
        assert!(length() < 40 << 20 && scp.is_running(), "the signal came too late");
        scp.end(Duration::from_secs(30)).success();
        let ended = stopping.since.elapsed();
        let (status, took) = drained.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        assert!(took < ended + SOON, "drained took {took:?}, scp {ended:?}");
        assert_eq!(sha256(&there), whole);
        drained.assert_no_complaint();
    });
}
