//! The daemon itself under a fake service manager, with a configuration of the test's.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::SOON;
use super::daemon::{Daemon, End};
use super::manager::Manager;
use super::peers::{Listener, connect, talk};
use super::scratch::Scratch;

/// How the daemon is to be started.
pub struct Setup {
    config: String,
    workers: usize,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    level: &'static str,
    stdin: Stdio,
    stderr: Option<Stdio>,
    readable_by_all: bool,
}

/// A running daemon. Killed when dropped.
pub struct Drained {
    pub daemon: Daemon,
    pub manager: Manager,
    pub scratch: Scratch,
}

impl Setup {
    /// With this configuration in a file.
    pub fn new(config: &str) -> Setup {
        Setup {
            config: config.to_owned(),
            workers: 2,
            wrapper: Vec::new(),
            environment: Vec::new(),
            level: "info",
            stdin: Stdio::null(),
            stderr: None,
            readable_by_all: false,
        }
    }

    /// With one proxy named p that listens on a port which the kernel chooses. `more` follows it.
    pub fn proxy(upstream: &str, more: &str) -> Setup {
        Setup::new(&format!("[proxy.p]\nlisten = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\n{more}\n"))
    }

    /// Every connection is logged.
    pub fn debug(mut self) -> Setup {
        self.level = "debug";
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With so many workers in place of two.
    pub fn workers(mut self, workers: usize) -> Setup {
        self.workers = workers;
        self
    }

    /// With this as standard input.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Setup {
        self.stdin = stdin.into();
        self
    }

    /// Started by this command, whose last argument it becomes.
    pub fn by(mut self, wrapper: &[&str]) -> Setup {
        self.wrapper.extend(wrapper.iter().map(|word| (*word).to_owned()));
        self
    }

    /// With these soft and hard limits on file descriptors.
    pub fn descriptors(self, limit: u32) -> Setup {
        self.by(&["prlimit", &format!("--nofile={limit}:{limit}")])
    }

    /// With this as the socket that a .socket unit of that name passes.
    pub fn passed(mut self, listener: &impl std::os::fd::AsFd, name: &str) -> Setup {
        self.stdin = listener.as_fd().try_clone_to_owned().unwrap().into();
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        self.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).by(&["sh", "-c", script])
    }

    /// For another user, who must be able to read the configuration.
    pub fn readable_by_all(mut self) -> Setup {
        self.readable_by_all = true;
        self
    }

    /// With this as standard error: no line is collected.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Setup {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it and returns at once.
    pub fn spawn(self) -> Drained {
        let manager = Manager::new();
        let address = manager.address().to_owned();
        self.spawn_with(manager, &address)
    }

    /// Starts it with this as $NOTIFY_SOCKET and returns at once.
    pub fn spawn_with(self, manager: Manager, notify_socket: &str) -> Drained {
        let scratch = Scratch::new();
        Drained { daemon: self.spawn_in(&scratch, notify_socket), manager, scratch }
    }

    /// Starts it with its files in this directory, which may have been another one's before.
    pub fn spawn_in(self, scratch: &Scratch, notify_socket: &str) -> Daemon {
        let control = scratch.path("control.sock");
        let (workers, control) = (self.workers, control.display());
        let config = format!("[daemon]\nworkers = {workers}\ncontrol = \"{control}\"\n{}", self.config);
        let file = scratch.write("drained.toml", config);
        if self.readable_by_all {
            fs::set_permissions(scratch.path("."), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut words = self.wrapper;
        words.push(env!("CARGO_BIN_EXE_drained").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--config").arg(file).args(["--log-level", self.level]);
        for name in ["WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        // The bus of this machine says nothing of a daemon that no systemd has started.
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
        command.env("NOTIFY_SOCKET", notify_socket).envs(self.environment);
        command.stdin(self.stdin).stdout(Stdio::piped()).stderr(self.stderr.unwrap_or_else(Stdio::piped));
        Daemon::start_as_is(command)
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Drained {
        let drained = self.spawn();
        drained.manager.wait_for(SOON, |message| message.says("READY=1"));
        drained
    }
}

impl Drained {
    /// Where the only proxy listens.
    pub fn address(&self) -> String {
        self.address_of("p")
    }

    /// Where the proxy of that name listens, first.
    pub fn address_of(&self, proxy: &str) -> String {
        let line = self.daemon.wait_line(&format!("proxy {proxy} listens on "));
        let (_, rest) = line.split_once(" listens on ").unwrap();
        rest.split(' ').next().unwrap().to_owned()
    }

    /// Where the proxies listen, all of them in the order of the configuration.
    pub fn addresses(&self) -> Vec<String> {
        // Ready is logged after the listeners.
        self.daemon.wait_line("ready");
        let lines = self.daemon.lines();
        let rests = lines.iter().filter_map(|line| Some(line.split_once(" listens on ")?.1));
        rests.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
    }

    pub fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    pub fn signal(&self, signal: Signal) -> Instant {
        self.daemon.signal(signal)
    }

    /// Stops all its threads, until it is sent SIGCONT.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.pid());
        let is_stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        until("it is stopped", is_stopped);
    }

    /// SIGTERM, then waits until the phase Drain has begun.
    pub fn term_and_drain(&self) -> Instant {
        let at = self.signal(Signal::SIGTERM);
        self.daemon.wait_line("phase drain");
        at
    }

    pub fn wait_end(self) -> End {
        self.daemon.wait_end()
    }

    pub fn wait_end_within(self, bound: Duration) -> End {
        self.daemon.wait_end_within(bound)
    }

    /// SIGTERM, and an orderly end.
    pub fn stop(self) -> End {
        self.signal(Signal::SIGTERM);
        let end = self.daemon.wait_end();
        assert_eq!((end.code, end.signal), (Some(0), None), "{:#?}", end.lines);
        end
    }

    /// The limit on file descriptors under which a daemon like this one has `free` left. What it was
    /// started with may stand at any number.
    pub fn limit_that_leaves(&self, free: usize) -> u32 {
        // The last thing that a start opens something for.
        self.manager.wait_for(SOON, |message| message.stores_listener());
        self.manager.settle();
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().map(|fd| fd.unwrap());
        // What it looks at in /proc is not open for long.
        let lasting = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| !link.starts_with("/proc")));
        let taken: Vec<u32> = lasting.map(|fd| fd.file_name().to_str().unwrap().parse().unwrap()).collect();
        (0..).filter(|number| !taken.contains(number)).nth(free).unwrap()
    }

    /// How many file descriptors it has, of those whose link begins with `kind`.
    pub fn descriptors(&self, kind: &str) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        links.filter(|link| link.to_str().unwrap().starts_with(kind)).count()
    }

    /// The capacity of each pipe of which the daemon holds both ends.
    pub fn pipes(&self) -> Vec<i32> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().map(|fd| fd.unwrap().path());
        let links = fds.filter_map(|fd| Some((fs::read_link(&fd).ok()?, fd)));
        let mut pipes: Vec<_> =
            links.filter(|(link, _)| link.to_str().unwrap().starts_with("pipe:")).collect();
        pipes.sort();
        let both = pipes.windows(2).filter(|two| two[0].0 == two[1].0);
        both.filter_map(|two| fs::File::open(&two[0].1).ok())
            .map(|pipe| fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).unwrap())
            .collect()
    }

    /// A figure of /proc/PID/smaps_rollup, in bytes.
    pub fn memory(&self, field: &str) -> usize {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()).unwrap();
        kib.parse::<usize>().unwrap() * 1024
    }

    /// User and system time that it has used.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = rest.split(' ').collect();
        // Fields 14 and 15 of proc_pid_stat(5), in ticks of 1/100 s.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

/// A client and its upstream's end of a connection through the daemon that has been used.
pub fn pair(drained: &Drained, upstream: &Listener) -> (TcpStream, TcpStream) {
    let client = connect(&drained.address());
    let server = upstream.accept();
    talk(&client, &server);
    (client, server)
}

/// Waits until `done`, looking again and again. For what no event tells.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let bound = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < bound, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets the test's own process have as many file descriptors as it may.
pub fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Held by a test that measures, or that is heavy: no two of them run at the same time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
