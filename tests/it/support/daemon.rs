//! A process under test: its lines, its threads, its end. Killed when dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::SOON;

/// An example, as `cargo test` has built it beside the tests.
pub fn example(name: &str) -> Command {
    let mut command = Command::new(example_path(name));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// Where `cargo test` has built the example.
pub fn example_path(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --examples`", path.display());
    path
}

pub struct Daemon {
    child: Child,
    lines: Arc<Lines>,
}

#[derive(Default)]
struct Lines {
    so_far: Mutex<Vec<String>>,
    more: Condvar,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct End {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub at: Instant,
    /// All lines of standard output and standard error.
    pub lines: Vec<String>,
}

impl End {
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    pub fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(text)).count()
    }
}

/// A thread that stands still: see [`Daemon::hold_threads`].
pub struct HeldThread(Pid);

impl HeldThread {
    fn new(thread: Pid) -> HeldThread {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        let held = HeldThread(thread);
        let until = Instant::now() + SOON;
        loop {
            match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::PtraceEvent(..) => return held,
                state => assert!(state == WaitStatus::StillAlive && Instant::now() < until, "{state:?}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = ptrace::detach(self.0, None);
    }
}

impl Daemon {
    pub fn start(mut command: Command) -> Daemon {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Daemon::start_as_is(command)
    }

    /// With the standard streams that the command says. Lines are collected of those that are piped.
    pub fn start_as_is(mut command: Command) -> Daemon {
        super::tell_failures();
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Lines::default());
        match child.stdout.take() {
            Some(stdout) => collect(stdout, lines.clone()),
            None => collect(std::io::empty(), lines.clone()),
        }
        match child.stderr.take() {
            Some(stderr) => collect(stderr, lines.clone()),
            None => collect(std::io::empty(), lines.clone()),
        }
        Daemon { child, lines }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.so_far.lock().unwrap().iter().filter(|line| !line.is_empty()).cloned().collect()
    }

    /// How many lines so far contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line that contains `text`, and returns it.
    pub fn wait_line(&self, text: &str) -> String {
        let until = Instant::now() + SOON;
        let mut lines = self.lines.so_far.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {text:?} among {lines:#?}");
            lines = self.lines.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Sends a signal to the process; returns when.
    pub fn signal(&self, signal: Signal) -> Instant {
        let at = Instant::now();
        kill(Pid::from_raw(self.pid()), signal).unwrap();
        at
    }

    /// Sends a signal to the one thread of that name (as far as the kernel keeps it: 15 bytes).
    pub fn signal_thread(&self, name: &str, signal: Signal) {
        tgkill(self.pid(), self.wait_thread(name), signal);
    }

    /// The id of the thread of that name. A thread gives itself its name after it has started.
    pub fn wait_thread(&self, name: &str) -> i32 {
        let until = Instant::now() + SOON;
        loop {
            if let Some((tid, _)) = self.threads().into_iter().find(|(_, n)| n == name) {
                return tid;
            }
            assert!(Instant::now() < until, "no thread {name} among {:?}", self.threads());
            std::thread::yield_now();
        }
    }

    /// Stops the threads of these names until what is returned is dropped: what comes for them meanwhile they find
    /// together.
    pub fn hold_threads(&self, names: &[&str]) -> Vec<HeldThread> {
        names.iter().map(|name| HeldThread::new(Pid::from_raw(self.wait_thread(name)))).collect()
    }

    /// Each thread's id and name.
    pub fn threads(&self) -> Vec<(i32, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let name = |tid| fs::read_to_string(format!("/proc/{}/task/{tid}/comm", self.pid())).ok();
        let tids = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
        tids.filter_map(|tid: i32| Some((tid, name(tid)?.trim_end().to_owned()))).collect()
    }

    /// A field of a thread's /proc/PID/task/TID/status.
    pub fn thread_status(&self, tid: i32, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/task/{tid}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        waitid(Id::Pid(Pid::from_raw(self.pid())), flags).unwrap() != WaitStatus::StillAlive
    }

    /// Waits for the end of the process, at most `bound`.
    pub fn wait_end_within(mut self, bound: Duration) -> End {
        let (done, ended) = std::sync::mpsc::channel();
        let pid = Pid::from_raw(self.pid());
        std::thread::spawn(move || {
            // Leaves the process to be reaped by its owner.
            let result = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let _ = done.send((result, Instant::now()));
        });
        let Ok((result, at)) = ended.recv_timeout(bound) else {
            panic!("still running after {bound:?}; lines: {:#?}", self.lines.so_far.lock().unwrap());
        };
        result.unwrap();
        let status = self.child.wait().unwrap();
        End { code: status.code(), signal: status.signal(), at, lines: self.lines.all() }
    }

    pub fn wait_end(self) -> End {
        self.wait_end_within(SOON)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    /// All lines, once both streams have ended: the last word is an empty line from each.
    fn all(&self) -> Vec<String> {
        let lines = self.so_far.lock().unwrap();
        let ended = |lines: &mut Vec<String>| lines.iter().filter(|line| line.is_empty()).count() < 2;
        let (lines, timeout) = self.more.wait_timeout_while(lines, SOON, ended).unwrap();
        assert!(!timeout.timed_out(), "the streams of the process are still open");
        lines.iter().filter(|line| !line.is_empty()).cloned().collect()
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Arc<Lines>) {
    std::thread::spawn(move || {
        let stream = BufReader::new(stream).lines().map_while(Result::ok).filter(|line| !line.is_empty());
        for line in stream.chain([String::new()]) {
            lines.so_far.lock().unwrap().push(line);
            lines.more.notify_all();
        }
    });
}

/// tgkill(2), by way of perl: no dependency wraps it.
fn tgkill(pid: i32, tid: i32, signal: Signal) {
    let numbers = [nix::libc::SYS_tgkill, pid.into(), tid.into(), signal as i64].map(|n| n.to_string());
    let call = "exit(syscall($ARGV[0] + 0, $ARGV[1] + 0, $ARGV[2] + 0, $ARGV[3] + 0) == 0 ? 0 : 1)";
    let status = Command::new("perl").args(["-e", call]).args(numbers).status();
    assert!(status.expect("perl is needed for tgkill").success(), "tgkill({pid}, {tid}, {signal}) failed");
}

/// A command that runs `program` with these arguments and environment, in the manner of a unit.
pub fn unit(mut command: Command, arguments: &[&str], environment: &[(&str, &str)]) -> Daemon {
    command.args(arguments.iter().map(OsStr::new)).envs(environment.iter().copied());
    Daemon::start(command)
}
