//! `drained demo`: the whole show, and what becomes of its daemon when it is broken off.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::drained::until;
use crate::support::scratch::Scratch;
use crate::support::steady::steady;

/// The show takes about fifteen seconds on an idle machine.
const BOUND: Duration = Duration::from_secs(60);

struct Demo {
    child: Child,
    lines: Receiver<String>,
    /// Where it makes its files.
    scratch: Scratch,
}

impl Demo {
    fn start() -> Demo {
        let scratch = Scratch::new();
        let mut child = Command::new(env!("CARGO_BIN_EXE_drained"))
            .arg("demo")
            .env("TMPDIR", scratch.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Demo { child, lines, scratch }
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

    /// The processes of the daemon, by the place of their configuration.
    fn daemons(&self) -> Vec<Pid> {
        let place = self.scratch.path("");
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(place.to_str().unwrap())
        };
        let processes = fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        pids.filter(is_one).map(Pid::from_raw).collect()
    }

    /// Its end. Nothing of it is left.
    fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("waited");
        assert_eq!(self.daemons(), []);
        assert_eq!(fs::read_dir(self.scratch.path("")).unwrap().count(), 0);
        status
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number that stands before `words` in a line.
fn before(line: &str, words: &str) -> Option<f64> {
    line.split_once(words)?.0.split_whitespace().last()?.parse().ok()
}

/// When the line with `words` came, in milliseconds on its time line.
fn time_of(lines: &[String], words: &str) -> f64 {
    let line =
        lines.iter().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {lines:#?}"));
    1e3 * before(line, " s ").unwrap_or_else(|| panic!("{line}"))
}

/// Of a restart or a SIGKILL: what is told must agree with itself and with what the daemon says.
fn assert_outlived(lines: &[String], all: f64) {
    let told = |words: &str| {
        let told = lines.iter().find_map(|line| before(line, words));
        told.unwrap_or_else(|| panic!("{words}: {lines:#?}"))
    };
    assert_eq!((told(" connections before"), told(" after:"), told(" lost")), (all, all, 0.0));
    assert!(told(" connections and 1 listener") >= all, "{lines:#?}");
    assert!(told(" served") > 0.0 && told(" refused") == 0.0, "{lines:#?}");
    // Somebody asks every few milliseconds, and nobody is answered while no daemon runs.
    let absent = time_of(lines, "READY=1") - time_of(lines, "the daemon has ended");
    let pause = lines.iter().find_map(|line| before(line.split_once("longest pause")?.1, " ms"));
    let pause = pause.unwrap_or_else(|| panic!("{lines:#?}"));
    let most = time_of(lines, "longest pause");
    assert!(absent > 0.0 && pause > absent / 5.0 && pause < most, "{pause} {absent}: {lines:#?}");
}

#[test]
fn the_show_goes_well_and_says_so() {
    steady(|| {
        let mut demo = Demo::start();
        let lines: Vec<_> = std::iter::from_fn(|| demo.line()).collect();
        let status = demo.ended();
        let whole = lines.join("\n");
        assert_eq!(status.code(), Some(0), "{whole}");
        let wide: Vec<_> = lines.iter().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:?}");
        assert!(!whole.contains('\x1b'), "plain where it is no terminal");

        // The parts, by their headings.
        let mut parts: Vec<_> = lines.split(|line| line.starts_with("--- ")).collect();
        let headings: Vec<_> = lines.iter().filter(|line| line.starts_with("--- ")).collect();
        assert_eq!(headings.len(), 6, "{headings:#?}");
        let (killed, restarted) = (parts.pop().unwrap(), parts.pop().unwrap());
        let stopped = parts[3].join("\n");
        for words in ["STOPPING=1", "STATUS=Draining: ", "refused", "cut (RST)", "All went as it should"] {
            assert!(stopped.contains(words), "{words}:\n{whole}");
        }

        let all = before(headings[3], " clients that stay").unwrap();
        assert_outlived(restarted, all);
        assert_outlived(killed, all);
        let handed_over = |line: &String| before(line.split_once("handed over ")?.1, " connections");
        assert!(restarted.iter().find_map(handed_over) >= Some(all), "{whole}");
        assert!(killed.join("\n").contains("All went as it should"), "{whole}");

        // The table: a row a kind, all of whose clients are there.
        let table = killed.iter().skip_while(|line| !line.starts_with("client ")).skip(1);
        let rows: Vec<_> = table.take_while(|line| !line.is_empty()).collect();
        let number = |row: &&String| row[21..28].trim().parse::<f64>().unwrap();
        assert_eq!(rows.iter().map(number).sum::<f64>(), all, "{rows:#?}");
        assert!(rows.iter().all(|row| row.contains("  yes       0 ")), "{rows:#?}");
    });
}

#[test]
fn breaking_it_off_ends_its_daemon_too() {
    let mut demo = Demo::start();
    let said = demo.until("20 connected");
    let address = said.split_once("listens on ").and_then(|(_, rest)| rest.split_whitespace().next());
    let address: SocketAddr = address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(demo.daemons().len(), 1);
    demo.signal(Signal::SIGINT);
    let status = demo.ended();
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status}");
    assert!(TcpStream::connect(address).is_err(), "the daemon still listens");
}

#[test]
fn breaking_it_off_in_a_restart_ends_its_daemon_too() {
    let mut demo = Demo::start();
    demo.until("manager starts the daemon, with");
    demo.signal(Signal::SIGTERM);
    let status = demo.ended();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
}

#[test]
fn not_even_a_kill_leaves_its_daemon_behind() {
    let mut demo = Demo::start();
    demo.until("20 connected");
    assert_eq!(demo.daemons().len(), 1);
    demo.signal(Signal::SIGKILL);
    demo.child.wait().expect("waited");
    until("the daemon to be gone", || demo.daemons().is_empty());
}

#[test]
fn a_daemon_that_ends_by_itself_is_a_failure() {
    let mut demo = Demo::start();
    demo.until("20 connected");
    demo.daemons().into_iter().for_each(|pid| kill(pid, Signal::SIGKILL).expect("sent"));
    let status = demo.ended();
    let mut said = String::new();
    demo.child.stderr.take().expect("a pipe").read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(70), "{said}");
    assert!(said.contains("the daemon ended before it was told to"), "{said}");
}
