//! The service manager of the demo: starts the daemon with a notify socket, listens to what it
//! says there and on standard error, and tells it to stop.
//!
//! Whatever happens, the daemon does not outlive it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::{Error, Exit, Result};

/// What the daemon did.
pub enum Happened {
    /// A message on the notify socket: lines of assignments, see sd_notify(3).
    Notified(String),
    /// A line on standard error.
    Logged(String),
    Exited(ExitStatus),
}

pub struct Manager {
    pid: Pid,
    dir: PathBuf,
    events: Receiver<(Instant, Happened)>,
    started: Instant,
    running: bool,
}

impl Manager {
    /// Starts this program again, with `arguments`, as a service.
    pub fn start(arguments: &[String]) -> Result<Manager> {
        let dir = std::env::temp_dir().join(format!("drained-demo-{}", std::process::id()));
        let start = || {
            fs::create_dir_all(&dir)?;
            let notify = UnixDatagram::bind(dir.join("notify"))?;
            let started = Instant::now();
            let child = command(arguments, &dir)?.spawn()?;
            let pid = Pid::from_raw(child.id() as i32);
            let (tell, events) = mpsc::channel();
            watch(child, notify, &tell)?;
            Ok(Manager { pid, dir: dir.clone(), events, started, running: true })
        };
        start().map_err(|e: io::Error| {
            let _ = fs::remove_dir_all(&dir);
            Error::system("start the daemon", e)
        })
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// The next thing that the daemon does, and when it did it.
    pub fn next(&mut self, until: Instant) -> Result<(Instant, Happened), RecvTimeoutError> {
        let next = self.events.recv_timeout(until.saturating_duration_since(Instant::now()))?;
        self.running &= !matches!(next.1, Happened::Exited(_));
        Ok(next)
    }

    /// Stops the service, as its manager would.
    pub fn stop(&self) -> Result<()> {
        if !self.running {
            return Err(Error::new(Exit::Software, "demo: the daemon ended before it was told to"));
        }
        kill(self.pid, Signal::SIGTERM).map_err(|e| Error::system("send SIGTERM to the daemon", e))
    }

    /// From now on a signal that would end this process ends the daemon too.
    pub fn end_with_us_on_signals(&self) {
        let (pid, dir) = (self.pid, self.dir.clone());
        let signals: SigSet =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM].into_iter().collect();
        // They are blocked in every thread since main began, so that one thread can wait for them.
        let _ = thread::Builder::new().name("signals".into()).spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            let _ = kill(pid, Signal::SIGKILL);
            // Its end, left for the thread that waits for the child to collect.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let _ = fs::remove_dir_all(&dir);
            let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if self.running {
            let _ = kill(self.pid, Signal::SIGKILL);
            let until = Instant::now() + Duration::from_secs(5);
            while self.running && self.next(until).is_ok() {}
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn command(arguments: &[String], dir: &std::path::Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is for the demo: it ends the daemon itself.
        .process_group(0);
    for name in
        ["WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUNTIME_DIRECTORY"]
    {
        command.env_remove(name);
    }
    Ok(command)
}

/// Starts the threads that listen to the daemon. On an error the daemon is killed.
fn watch(mut child: Child, notify: UnixDatagram, tell: &Sender<(Instant, Happened)>) -> io::Result<()> {
    let threads = || -> io::Result<JoinHandle<()>> {
        let stderr = child.stderr.take();
        let told = tell.clone();
        spawn("notified", move || {
            let mut buffer = [0; 8192];
            while let Ok(length) = notify.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if told.send((Instant::now(), Happened::Notified(message))).is_err() {
                    return;
                }
            }
        })?;
        let told = tell.clone();
        spawn("logged", move || {
            for line in
                stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(io::Result::ok)
            {
                let _ = told.send((Instant::now(), Happened::Logged(line)));
            }
        })
    };
    let logged = match threads() {
        Ok(logged) => logged,
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(e);
        }
    };
    let told = tell.clone();
    let pid = Pid::from_raw(child.id() as i32);
    let waiter = spawn("exited", move || {
        let Ok(status) = child.wait() else { return };
        let at = Instant::now();
        // Its last lines are told before its end.
        let _ = logged.join();
        let _ = told.send((at, Happened::Exited(status)));
    });
    waiter.map(drop).inspect_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}
