//! The service manager of the demo: starts the daemon with a notify socket and what is in its store,
//! listens to what it says there and on standard error, tells it to stop, and kills it.
//!
//! Whatever happens, the daemon does not outlive it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::pass::Pass;
use super::store::Store;
use crate::{Error, Exit, Result};

/// How long the end of a killed daemon is waited for.
const END: Duration = Duration::from_secs(5);

/// What the daemon did.
pub enum Happened {
    /// A message on the notify socket: lines of assignments, see sd_notify(3).
    Notified(String),
    /// A line on standard error.
    Logged(String),
    Exited(ExitStatus),
}

pub struct Manager {
    dir: PathBuf,
    store: Arc<Store>,
    /// The process that runs, if one does. Locked while one is started or collected.
    running: Arc<Mutex<Option<Pid>>>,
    tell: Sender<(Instant, Happened)>,
    events: Receiver<(Instant, Happened)>,
}

impl Manager {
    /// One that runs nothing yet.
    pub fn new() -> Result<Manager> {
        let dir = std::env::temp_dir().join(format!("drained-demo-{}", std::process::id()));
        let open = || {
            fs::create_dir_all(&dir)?;
            let store = Arc::new(Store::open(&dir.join("notify"))?);
            let (tell, events) = mpsc::channel();
            let (listens, told) = (store.clone(), tell.clone());
            spawn("notified", move || while listens.wait().is_ok() && take_in(&listens, &told).is_ok() {})?;
            Ok(Manager { dir: dir.clone(), store, running: Arc::default(), tell, events })
        };
        let manager = open().map_err(|e: io::Error| {
            let _ = fs::remove_dir_all(&dir);
            Error::system("open the demo's notify socket", e)
        })?;
        manager.end_with_us_on_signals();
        Ok(manager)
    }

    /// Starts this program again as a service, with all that is stored, under that configuration.
    pub fn start(&self, config: &str) -> Result<()> {
        let mut running = lock(&self.running);
        let start = || {
            let file = self.dir.join("drained.toml");
            fs::write(&file, config)?;
            let (sender, receiver) = UnixStream::pair()?;
            self.store.send_all(&sender)?;
            let names = self.store.names();
            let child = command(&self.dir, &file, &names, receiver)?.spawn()?;
            let pid = Pid::from_raw(child.id() as i32);
            watch(child, &self.store, &self.running, &self.tell)?;
            Ok(pid)
        };
        *running = Some(start().map_err(|e: io::Error| Error::system("start the daemon", e))?);
        Ok(())
    }

    /// The next thing that the daemon does, and when it did it.
    pub fn next(&self, until: Instant) -> Result<(Instant, Happened), RecvTimeoutError> {
        self.events.recv_timeout(until.saturating_duration_since(Instant::now()))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        match *lock(&self.running) {
            Some(pid) => {
                kill(pid, signal).map_err(|e| Error::system(format!("send {signal} to the daemon"), e))
            }
            None => Err(Error::new(Exit::Software, "demo: the daemon ended before it was told to")),
        }
    }

    /// The names of what is stored.
    pub fn stored(&self) -> Vec<String> {
        self.store.names()
    }

    /// Closes what is stored: the service is stopped for good.
    pub fn forget(&self) {
        self.store.clear();
    }

    /// From now on a signal that would end this process ends the daemon too.
    fn end_with_us_on_signals(&self) {
        let (running, dir) = (self.running.clone(), self.dir.clone());
        let signals: SigSet =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM].into_iter().collect();
        // They are blocked in every thread since main began, so that one thread can wait for them.
        let _ = thread::Builder::new().name("signals".into()).spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            // Held to the end: nobody starts another.
            let running = lock(&running);
            if let Some(pid) = *running {
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            }
            let _ = fs::remove_dir_all(&dir);
            let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let until = Instant::now() + END;
        if self.signal(Signal::SIGKILL).is_ok() {
            while lock(&self.running).is_some() && self.next(until).is_ok() {}
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn command(dir: &Path, file: &Path, names: &[String], stored: UnixStream) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(Pass::arguments(names.len()))
        .arg("--config")
        .arg(file)
        .env("NOTIFY_SOCKET", dir.join("notify"))
        // What this service is about is not in the jobs of the machine's own manager.
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .stdin(OwnedFd::from(stored))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is for the demo: it ends the daemon itself.
        .process_group(0);
    for name in
        ["WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUNTIME_DIRECTORY"]
    {
        command.env_remove(name);
    }
    if !names.is_empty() {
        command.env("LISTEN_FDNAMES", names.join(":"));
    }
    Ok(command)
}

/// Starts the threads that listen to the daemon. On an error the daemon is killed.
fn watch(
    mut child: Child,
    store: &Arc<Store>,
    running: &Arc<Mutex<Option<Pid>>>,
    tell: &Sender<(Instant, Happened)>,
) -> io::Result<()> {
    let stderr = child.stderr.take();
    let told = tell.clone();
    let logged = spawn("logged", move || {
        for line in
            stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(io::Result::ok)
        {
            let _ = told.send((Instant::now(), Happened::Logged(line)));
        }
    });
    let logged = logged.inspect_err(|_| end(&mut child))?;
    let (store, running, told) = (store.clone(), running.clone(), tell.clone());
    let pid = Pid::from_raw(child.id() as i32);
    let waiter = spawn("exited", move || {
        // Only looked at, so that the number stays his until nobody takes it for running.
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let at = Instant::now();
        // His last messages and lines are told before his end.
        let _ = take_in(&store, &told);
        let _ = logged.join();
        let mut running = lock(&running);
        *running = None;
        if let Ok(status) = child.wait() {
            let _ = told.send((at, Happened::Exited(status)));
        }
    });
    waiter.map(drop).inspect_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
    })
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn take_in(store: &Store, tell: &Sender<(Instant, Happened)>) -> io::Result<()> {
    store.take_in(|text| _ = tell.send((Instant::now(), Happened::Notified(text))))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
