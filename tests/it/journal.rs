//! The log thread against a fake journald, whose socket path is fixed by the protocol.
//!
//! So each test runs a child in a mount namespace of its own, where /run is the test's directory.
//! The child is this test binary again, running [`child`]. Where namespaces are not allowed the
//! tests say so and are left out.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drained::event::Event;
use drained::systemd::journal;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::{Pid, Uid};
use slog::{Level, crit, debug, error, info, warn};

const BOUND: Duration = Duration::from_secs(20);

/// What the child does: not a test of its own.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let Ok(scenario) = std::env::var("JOURNAL_TEST") else { return };
    let (log, thread) = journal::open(Level::Debug);
    let stats = thread.stats();
    match scenario.as_str() {
        "levels" => {
            crit!(log, "a crit");
            error!(log, "an error");
            warn!(log, "a warning"; Event::Cut, "DRAINED_CLIENT" => "192.0.2.7:40112", "DRAINED_STEP" => None::<u8>);
            info!(log, "an info\nof two lines"; Event::Started);
            debug!(log, "a debug");
        }
        "flood" => (0..50_000).for_each(|n| info!(log, "line {n}")),
        other => panic!("{other}"),
    }
    let flushed = thread.flush(Duration::from_millis(300));
    println!("\nflushed={flushed} written={} dropped={}", stats.written(), stats.dropped());
}

/// A directory that is the child's /run.
struct FakeRun(PathBuf);

impl FakeRun {
    fn new(name: &str) -> Option<FakeRun> {
        if !unshare().arg("true").status().is_ok_and(|s| s.success()) {
            crate::support::left_out("this user may not make a mount namespace");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("drained-it-{}-run-{name}", std::process::id()));
        fs::create_dir_all(dir.join("systemd/journal")).expect("a directory");
        Some(FakeRun(dir))
    }

    fn journald(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.0.join("systemd/journal/socket")).expect("a socket");
        socket.set_read_timeout(Some(BOUND)).expect("a timeout");
        socket
    }

    /// Runs the child with its standard error as a journal stream. Returns what it printed there.
    fn run(&self, scenario: &str) -> (Output, String) {
        let (mut ours, stream) = UnixStream::pair().expect("a socket pair");
        let stat = fstat(&stream).expect("a stat");
        let mut command = unshare();
        command
            .args(["sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""])
            .arg(&self.0)
            .arg(std::env::current_exe().expect("a path"))
            .args(["--exact", "journal::child", "--ignored", "--nocapture"])
            .env("JOURNAL_TEST", scenario)
            .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
            .stdout(Stdio::piped())
            .stderr(OwnedFd::from(stream));
        let output = run_within(command, BOUND);
        let mut errors = String::new();
        ours.read_to_string(&mut errors).expect("text");
        (output, errors)
    }
}

impl Drop for FakeRun {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !Uid::effective().is_root() {
        command.arg("--map-root-user");
    }
    command
}

/// Runs `command` to its end, which must come within `bound`.
fn run_within(mut command: Command, bound: Duration) -> Output {
    let child = command.spawn().expect("started");
    // Its copy of the child's standard error would keep our end from ever seeing the end.
    drop(command);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(bound) {
        Ok(output) => output.expect("waited"),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            panic!("it did not end within {bound:?}");
        }
    }
}

fn entry(journald: &UnixDatagram) -> io::Result<Vec<String>> {
    let mut buffer = [0; 65536];
    let length = journald.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect())
}

fn result(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find(|l| l.starts_with("flushed=")).unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn entries_have_priority_identifier_and_fields() {
    let Some(run) = FakeRun::new("levels") else { return };
    let journald = run.journald();
    let (output, errors) = run.run("levels");
    assert_eq!((result(&output).as_str(), errors.as_str()), ("flushed=true written=5 dropped=0", ""));
    let exe = std::env::current_exe().expect("a path");
    let name = Path::new(&exe).file_name().expect("a name").to_string_lossy().into_owned();
    let identifier = format!("SYSLOG_IDENTIFIER={name}");
    let entries: Vec<_> = (0..5).map(|_| entry(&journald).expect("an entry")).collect();
    for (entry, priority) in entries.iter().zip(["2", "3", "4", "6", "7"]) {
        assert_eq!(entry[0], format!("PRIORITY={priority}"));
        assert!(entry.contains(&identifier), "{entry:?}");
        assert!(!entry.iter().any(|field| field.starts_with("CODE_")), "{entry:?}");
    }
    let mut cut = entries[2][1..].to_vec();
    cut.sort();
    assert_eq!(
        cut,
        [
            "DRAINED_CLIENT=192.0.2.7:40112",
            "DRAINED_CLIENT_IP=192.0.2.7",
            "DRAINED_EVENT=cut",
            "MESSAGE=a warning",
            &format!("MESSAGE_ID={}", Event::Cut.message_id()),
            &identifier,
        ]
    );
}

#[test]
fn a_journald_that_stands_still_holds_up_neither_callers_nor_the_end() {
    let Some(run) = FakeRun::new("flood") else { return };
    let _never_read = run.journald();
    let (output, _) = run.run("flood");
    let result = result(&output);
    assert!(output.status.success() && result.starts_with("flushed=false "), "{result}");
    let dropped: u64 = result.rsplit('=').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(dropped > 0 && dropped >= 50_000 - journal::QUEUE as u64 - 2000, "{result}");
}

#[test]
fn without_journald_lines_go_to_standard_error() {
    let Some(run) = FakeRun::new("gone") else { return };
    let (output, errors) = run.run("levels");
    assert_eq!(result(&output), "flushed=true written=5 dropped=0");
    let lines = [
        "<2>a crit",
        "<3>an error",
        "<4>a warning  event=cut client=192.0.2.7:40112",
        "<6>an info | of two lines  event=started",
        "<7>a debug",
    ];
    assert_eq!(errors.lines().collect::<Vec<_>>(), lines);
}
