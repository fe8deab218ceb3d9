//! A stand-in for systemd that holds the daemon's file descriptor store over its restarts.
//!
//! It keeps what sd_pid_notify_with_fds(3) documents: the same file stored twice is one,
//! FDSTOREREMOVE=1 removes every entry of the name, BARRIER=1 is answered by closing what came with
//! it, entries beyond the limit are closed. What is stored goes to the next incarnation from 3 on,
//! in another order each time. What systemd would put up with, but would harm the connections, is
//! remembered as a fault and fails the test at the next restart: an entry without FDPOLL=0, a
//! barrier without its one file descriptor, file descriptors that nobody asked to store.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::SOON;
use super::daemon::{Daemon, End, example_path};
use super::drained::Setup;
use super::manager::{Fd, Manager, Received};
use super::scratch::Scratch;

/// FileDescriptorStoreMax= of the shipped unit.
const MAX: usize = 512;
/// In one message, see SCM_MAX_FD in unix(7).
const FDS_OF_A_MESSAGE: usize = 253;

pub const LEDGER: &str = "drained-ledger";
pub const LOT: &str = "drained-lot";
pub const LISTENER: &str = "drained-listener";

/// The manager, its store, and the incarnation that runs, if one does.
pub struct Store {
    pub manager: Manager,
    pub scratch: Scratch,
    held: Arc<Mutex<Held>>,
    daemon: Option<Daemon>,
    /// How many messages there were when the incarnation was started.
    seen: usize,
    shuffles: u64,
}

/// What a restart, or a kill and the start after it, was.
#[derive(Debug)]
pub struct Restarted {
    /// How the old incarnation ended.
    pub end: End,
    /// From the signal to READY=1 of the new one.
    pub pause: Duration,
}

#[derive(Default)]
struct Held {
    entries: Vec<Entry>,
    faults: Vec<String>,
}

struct Entry {
    name: String,
    fd: Fd,
    file: Identity,
}

/// Device and inode, and the access mode, which tells the two ends of a pipe apart.
type Identity = (u64, u64, u32);

impl Store {
    /// Starts the first incarnation, with nothing in the store, and waits until it is ready.
    pub fn start(setup: Setup) -> Store {
        let mut store = Store::empty();
        store.spawn(setup);
        store
    }

    /// Nothing is stored and nothing runs.
    pub fn empty() -> Store {
        let held = Arc::new(Mutex::new(Held::default()));
        let keeper = Arc::clone(&held);
        let manager = Manager::keeping(move |message, fds| keeper.lock().unwrap().take(message, fds));
        Store { manager, scratch: Scratch::new(), held, daemon: None, seen: 0, shuffles: 0 }
    }

    /// Starts an incarnation with all that is stored, and waits until it is ready.
    pub fn spawn(&mut self, setup: Setup) {
        self.spawn_unready(setup);
        let daemon = self.daemon();
        let ready = |message: &Received| message.says("READY=1");
        let told = std::panic::AssertUnwindSafe(|| self.manager.wait_after(self.seen, SOON, ready));
        if let Err(panic) = std::panic::catch_unwind(told) {
            eprintln!("{} is not ready: {:#?}", daemon.pid(), daemon.lines());
            std::panic::resume_unwind(panic);
        }
    }

    /// Starts an incarnation with all that is stored.
    pub fn spawn_unready(&mut self, setup: Setup) {
        assert!(self.daemon.is_none(), "one runs already");
        self.manager.settle();
        self.seen = self.manager.messages().len();
        let (setup, sender) = self.pass_stored(setup);
        let daemon = setup.spawn_in(&self.scratch, self.manager.address());
        drop(sender);
        self.daemon = Some(daemon);
    }

    /// SIGTERM, an orderly end, and the next incarnation, up and ready.
    pub fn restart(&mut self, setup: Setup) -> Restarted {
        let began = Instant::now();
        let end = self.end();
        self.spawn(setup);
        Restarted { end, pause: began.elapsed() }
    }

    /// SIGTERM and an orderly end. The store is kept, as in a restart.
    pub fn end(&mut self) -> End {
        self.daemon().signal(Signal::SIGTERM);
        let end = self.daemon.take().expect("one runs").wait_end();
        self.manager.settle();
        assert_eq!((end.code, end.signal), (Some(0), None), "{:#?}", end.lines);
        let faults = &self.held.lock().unwrap().faults;
        assert!(faults.is_empty(), "{faults:#?}");
        end
    }

    /// SIGTERM and an orderly end, after which systemd keeps nothing. Returns the names of what was
    /// stored at that moment.
    pub fn stop(&mut self) -> (End, Vec<String>) {
        let end = self.end();
        let names = self.names();
        self.held.lock().unwrap().entries.clear();
        (end, names)
    }

    /// SIGKILL, and the next incarnation, up and ready.
    pub fn kill(&mut self, setup: Setup) -> Restarted {
        let began = Instant::now();
        self.daemon().signal(Signal::SIGKILL);
        let end = self.wait_killed();
        self.spawn(setup);
        Restarted { end, pause: began.elapsed() }
    }

    /// Waits for the end of an incarnation that was killed. The store is kept.
    pub fn wait_killed(&mut self) -> End {
        self.wait_died(Signal::SIGKILL)
    }

    /// Waits for the end of an incarnation by a signal. The store is kept.
    pub fn wait_died(&mut self, signal: Signal) -> End {
        let end = self.daemon.take().expect("one runs").wait_end();
        self.manager.settle();
        assert_eq!(end.signal, Some(signal as i32), "{:#?}", end.lines);
        end
    }

    /// Waits for the end of an incarnation that fails with this exit code. The store is kept.
    pub fn wait_failed(&mut self, code: i32) -> End {
        let end = self.daemon.take().expect("one runs").wait_end();
        self.manager.settle();
        assert_eq!(end.code, Some(code), "{:#?}", end.lines);
        end
    }

    /// Waits for the end of an incarnation, whatever it is. The store is kept.
    pub fn wait_any_end(&mut self) -> End {
        let end = self.daemon.take().expect("one runs").wait_end();
        self.manager.settle();
        let faults = &self.held.lock().unwrap().faults;
        assert!(faults.is_empty(), "{faults:#?}");
        end
    }

    /// The incarnation has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.manager.has(self.seen, |message| message.says("READY=1"))
    }

    /// The incarnation that runs.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("one runs")
    }

    /// How many messages there were when the incarnation was started.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// How many file descriptors are stored under that name.
    pub fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|n| *n == name).count()
    }

    /// The names of all that is stored, in order.
    pub fn names(&self) -> Vec<String> {
        self.manager.settle();
        let mut names: Vec<_> =
            self.held.lock().unwrap().entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        names
    }

    /// How many file descriptors stand in the queues of the lots.
    pub fn in_flight(&self) -> usize {
        let held = self.held.lock().unwrap();
        let lots = held.entries.iter().filter(|entry| entry.name == LOT);
        lots.map(|lot| in_queue(&lot.fd)).sum()
    }

    /// Waits until so many are stored under that name.
    pub fn wait_count(&self, name: &str, count: usize) {
        super::drained::until(&format!("{count} {name} in the store"), || self.count(name) == count);
    }

    /// Stores a file descriptor of the test's.
    pub fn add(&self, name: &str, fd: OwnedFd) {
        self.held.lock().unwrap().add(name, fd.into());
    }

    /// Forgets all of that name; returns how many there were.
    pub fn remove(&self, name: &str) -> usize {
        let mut held = self.held.lock().unwrap();
        let before = held.entries.len();
        held.entries.retain(|entry| entry.name != name);
        before - held.entries.len()
    }

    /// What the memory file of that name holds.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let held = self.held.lock().unwrap();
        let entry = held.entries.iter().find(|entry| entry.name == name).expect("stored");
        fs::read(format!("/proc/self/fd/{}", entry.fd.number())).unwrap()
    }

    /// A word of the memory file of that name, if there is one.
    pub fn word(&self, name: &str, index: u64) -> Option<u64> {
        let held = self.held.lock().unwrap();
        let entry = held.entries.iter().find(|entry| entry.name == name)?;
        let file = fs::File::open(format!("/proc/self/fd/{}", entry.fd.number())).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, index * 8).unwrap();
        Some(u64::from_le_bytes(word))
    }

    /// The status that the control socket tells.
    pub fn status(&self) -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_drainctl"))
            .arg("--socket")
            .arg(self.scratch.path("control.sock"))
            .args(["--json", "status"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The setup of a daemon that is passed all that is stored, and the socket that passes it.
    fn pass_stored(&mut self, setup: Setup) -> (Setup, Option<UnixStream>) {
        self.shuffles += 1;
        let mut held = self.held.lock().unwrap();
        if held.entries.is_empty() {
            return (setup, None);
        }
        shuffle(&mut held.entries, self.shuffles);
        let (sender, receiver) = UnixStream::pair().unwrap();
        let numbers: Vec<_> = held.entries.iter().map(|entry| entry.fd.number()).collect();
        for numbers in numbers.chunks(FDS_OF_A_MESSAGE) {
            let (slices, rights) = ([std::io::IoSlice::new(b"x")], [ControlMessage::ScmRights(numbers)]);
            sendmsg::<()>(
                std::os::fd::AsRawFd::as_raw_fd(&sender),
                &slices,
                &rights,
                MsgFlags::empty(),
                None,
            )
            .unwrap();
        }
        let names: Vec<_> = held.entries.iter().map(|entry| entry.name.as_str()).collect();
        let passer = example_path("passer");
        let setup = setup
            .env("LISTEN_FDNAMES", &names.join(":"))
            .by(&[passer.to_str().unwrap(), &numbers.len().to_string()])
            .stdin(OwnedFd::from(receiver));
        (setup, Some(sender))
    }
}

impl Held {
    /// Does what a message asks for.
    fn take(&mut self, message: &Received, fds: Vec<Fd>) {
        if message.says("FDSTOREREMOVE=1") {
            let name = message.value("FDNAME").unwrap_or_default();
            self.entries.retain(|entry| entry.name != name);
        }
        // As in service_notify_message() of systemd: one message does one of both.
        else if message.says("FDSTORE=1") {
            if !message.says("FDPOLL=0") {
                self.faults.push(format!("stored to be polled: {message:?}"));
            }
            if fds.is_empty() {
                self.faults.push(format!("nothing to store: {message:?}"));
            }
            let name = message.value("FDNAME").unwrap_or("stored");
            fds.into_iter().for_each(|fd| self.add(name, fd));
        } else if message.says("BARRIER=1") {
            if fds.len() != 1 {
                self.faults.push(format!("a barrier has one file descriptor: {message:?}"));
            }
        } else if !fds.is_empty() {
            self.faults.push(format!("file descriptors for nothing: {message:?}"));
        }
    }

    fn add(&mut self, name: &str, fd: Fd) {
        let file = identity(&fd);
        if self.entries.iter().any(|entry| entry.file == file) {
            return;
        }
        if self.entries.len() == MAX {
            self.faults.push(format!("no room for {name}"));
            return;
        }
        self.entries.push(Entry { name: name.to_owned(), fd, file });
    }
}

fn identity(fd: &Fd) -> Identity {
    let file = fs::metadata(format!("/proc/self/fd/{}", fd.number())).unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.number())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    (file.st_dev(), file.st_ino(), flags & nix::libc::O_ACCMODE as u32)
}

/// The file descriptors on their way to this UNIX socket: `scm_fds` of /proc/PID/fdinfo.
fn in_queue(socket: &Fd) -> usize {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.number())).unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    count.expect("the kernel counts them since 5.10").trim().parse().unwrap()
}

/// Fisher and Yates, with a generator that gives the same orders in each run.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for left in (2..=items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(left - 1, (state >> 16) as usize % left);
    }
}
