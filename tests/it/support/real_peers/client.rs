//! Running clients: to their end within a bound, or beside the test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{BOUND, wait_for};

/// How a client ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ended {
    /// What it printed, once it said that all went well.
    pub fn success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.text()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs a client without input to its end.
pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, args: I) -> Ended {
    run_with(program, args, b"")
}

/// Runs a client with `input` to its end.
pub fn run_with<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, args: I, input: &[u8]) -> Ended {
    let mut client = Client::start(program, args);
    let (mut stdin, input) = (client.stdin.take(), input.to_vec());
    // A thread, since the client may want its output read before it reads on.
    let writer = thread::spawn(move || {
        if let Some(stdin) = &mut stdin {
            let _ = stdin.write_all(&input);
        }
    });
    let ended = client.end(BOUND);
    writer.join().unwrap();
    ended
}

/// A client that runs beside the test. Dropping it ends it at once.
pub struct Client {
    child: Child,
    /// Its input; dropped it is at its end.
    pub stdin: Option<ChildStdin>,
    out: Option<JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
    said: String,
    name: String,
}

impl Client {
    pub fn start<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, args: I) -> Client {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) starts");
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let out = thread::spawn(move || {
            let mut all = Vec::new();
            let _ = out.read_to_end(&mut all);
            all
        });
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut err = BufReader::new(err);
            let mut line = Vec::new();
            while err.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let stdin = child.stdin.take();
        Client { child, stdin, out: Some(out), lines, said: String::new(), name: program.to_owned() }
    }

    /// Waits for a line on its standard error that has `words` in it.
    pub fn wait_line(&mut self, words: &str) -> String {
        let until = Instant::now() + BOUND;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(e) => panic!("{} never said {words:?} ({e}) but: {}", self.name, self.said),
            };
            self.said.push_str(&line);
            if line.contains(words) {
                return line;
            }
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end. What is left open of its input stays open.
    pub fn end(mut self, bound: Duration) -> Ended {
        let status = wait_for(&format!("end of {}", self.name), bound, || self.child.try_wait().unwrap());
        let out = self.out.take().expect("it is joined once").join().unwrap();
        self.said.extend(self.lines.iter());
        Ended { status, out, err: std::mem::take(&mut self.said) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
