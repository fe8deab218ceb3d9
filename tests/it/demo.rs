//! `drained demo`: the whole show, and what becomes of its daemon when it is broken off.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The show takes about ten seconds on an idle machine.
const BOUND: Duration = Duration::from_secs(60);

struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start() -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_drained"))
            .arg("demo")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Demo { child, lines }
    }

    fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(BOUND) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {BOUND:?}"),
            line => line.ok(),
        }
    }

    /// The text up to the line with `words`.
    fn until(&self, words: &str) -> String {
        let mut text = String::new();
        while let Some(line) = self.line() {
            text += &line;
            text.push('\n');
            if line.contains(words) {
                return text;
            }
        }
        panic!("{words} was not said:\n{text}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("sent");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_show_goes_well_and_says_so() {
    let mut demo = Demo::start();
    let text: Vec<_> = std::iter::from_fn(|| demo.line()).collect();
    let status = demo.child.wait().expect("waited");
    let whole = text.join("\n");
    assert_eq!(status.code(), Some(0), "{whole}");
    for words in
        ["READY=1", "STOPPING=1", "STATUS=Draining: ", "refused", "cut (RST)", "All went as it should"]
    {
        assert!(whole.contains(words), "{words}:\n{whole}");
    }
    let wide: Vec<_> = text.iter().filter(|l| l.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn breaking_it_off_ends_its_daemon_too() {
    let mut demo = Demo::start();
    let said = demo.until("20 connected");
    let address = said.split_once("listens on ").and_then(|(_, rest)| rest.split_whitespace().next());
    let address: SocketAddr = address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    demo.signal(Signal::SIGINT);
    let status = demo.child.wait().expect("waited");
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status}");
    assert!(TcpStream::connect(address).is_err(), "the daemon still listens");
}
