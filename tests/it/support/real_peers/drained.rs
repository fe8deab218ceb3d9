//! The real binary, with the test as its journald.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

use super::{BOUND, text, wait_for};
use crate::support::scratch::Scratch;

/// One journal entry: its fields by name.
pub type Fields = BTreeMap<String, String>;

/// A running drained with one proxy. Dropping it ends it at once.
pub struct Drained {
    child: Child,
    entries: Arc<Mutex<Vec<Fields>>>,
    /// Where it listens with TCP.
    pub tcp: SocketAddr,
    /// Its UNIX listener, named as libpq expects it in a directory.
    pub unix: std::path::PathBuf,
    _stream: UnixStream,
    _directory: Scratch,
}

/// A stop that was asked for.
pub struct Stopping {
    pub since: Instant,
}

impl Drained {
    /// Starts it between a TCP and a UNIX listener and `upstream`, and waits until it serves.
    pub fn start(upstream: impl ToString, deadline: &str) -> Drained {
        let directory = Scratch::new();
        fs::create_dir_all(directory.path("run/systemd/journal")).unwrap();
        let journald = UnixDatagram::bind(directory.path("run/systemd/journal/socket")).unwrap();
        let entries = Arc::<Mutex<Vec<Fields>>>::default();
        let sink = entries.clone();
        thread::spawn(move || collect(&journald, &sink));

        let unix = directory.path(".s.PGSQL.5432");
        // Standard error as the journal's stream, see systemd.exec(5), $JOURNAL_STREAM.
        let (ours, stream) = UnixStream::pair().unwrap();
        let stat = fstat(&stream).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["sh", "-euc", "mount --bind \"$1\" /run; shift; exec \"$@\"", "sh"])
            .arg(directory.path("run"))
            .args([env!("CARGO_BIN_EXE_drained"), "--listen", "127.0.0.1:0"])
            .arg(format!("unix:{}", text(&unix)))
            .args(["--upstream", &upstream.to_string(), "--deadline", deadline])
            .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::os::fd::OwnedFd::from(stream))
            .spawn()
            .expect("setpriv (util-linux) starts");
        let unknown = SocketAddr::from(([0; 4], 0));
        let mut drained =
            Drained { child, entries, tcp: unknown, unix, _stream: ours, _directory: directory };
        drained.wait_entry("started");
        let listening = drained.entries("listening");
        let words = listening.iter().flat_map(|entry| entry["MESSAGE"].split(' '));
        drained.tcp = words.filter_map(|word| word.parse().ok()).next().expect("a TCP listener");
        drained
    }

    /// Asks for a stop, as systemd does.
    pub fn terminate(&self) -> Stopping {
        let since = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        Stopping { since }
    }

    /// Waits for the end of a stop. Returns how long it took from the signal on.
    pub fn wait(&mut self, stopping: &Stopping) -> (ExitStatus, Duration) {
        let status = wait_for("end of drained", BOUND, || self.child.try_wait().unwrap());
        let took = stopping.since.elapsed();
        self.wait_entry("stopped");
        (status, took)
    }

    /// Stops it where nothing is left to drain, and checks that nothing went wrong before.
    pub fn stop(mut self) {
        let stopping = self.terminate();
        let (status, _) = self.wait(&stopping);
        assert_eq!(status.code(), Some(0));
        self.assert_no_complaint();
    }

    /// Nothing was logged as a warning or worse.
    pub fn assert_no_complaint(&self) {
        let entries = self.entries.lock().unwrap();
        let worse: Vec<_> = entries.iter().filter(|e| e["PRIORITY"].as_str() < "5").collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }

    /// The entries of one event so far.
    pub fn entries(&self, event: &str) -> Vec<Fields> {
        let is = |entry: &&Fields| entry.get("DRAINED_EVENT").is_some_and(|word| word == event);
        self.entries.lock().unwrap().iter().filter(is).cloned().collect()
    }

    pub fn wait_entry(&mut self, event: &str) {
        wait_for(&format!("entry {event}"), BOUND, || {
            let ended = self.child.try_wait().unwrap();
            if self.entries(event).is_empty() {
                assert!(event == "stopped" || ended.is_none(), "drained ended with {ended:?}");
                return None;
            }
            Some(())
        });
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Journald's native protocol in its simple form, a line a field. The thread lasts as long as the
/// test binary: a datagram socket that is bound to a path never ends.
fn collect(journald: &UnixDatagram, entries: &Mutex<Vec<Fields>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = journald.recv(&mut buffer) {
        let entry = String::from_utf8_lossy(&buffer[..length]);
        let fields = entry.lines().filter_map(|line| line.split_once('='));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        entries.lock().unwrap().push(fields);
    }
}
