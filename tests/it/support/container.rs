//! A booted Debian with a real systemd as PID 1, for the tests of the third rung.
//!
//! Invariant: whatever becomes of the test, nothing outlives it but an empty cgroup. The container
//! runs in a process namespace that dies with the thread that booted it, the overlay and its memory
//! live in a mount namespace of their own, and the pristine root below it is never written to.
//!
//! Not here: what a test says about drained. This file knows systemd only.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, getpid};
use serde_json::Value;

use super::image::Release;

/// No command in a container may take longer, and no boot.
const BOUND: Duration = Duration::from_secs(90);

/// A running container. Dropping it ends it at once, without an orderly shutdown.
pub struct Container {
    pub release: Release,
    /// unshare(1), with whose end everything in the container ends.
    outer: Child,
    /// PID 1 of the container, as the host numbers it.
    leader: i32,
    cgroups: Vec<PathBuf>,
}

impl Container {
    /// Boots `release` and returns once systemd has finished starting it. The first boot of a
    /// release on a machine makes its root, which takes a minute and a network.
    pub fn boot(release: Release) -> Container {
        assert!(Uid::effective().is_root(), "these tests boot containers and need root: sudo make test");
        let root = release.root();
        let scratch = super::image::cache().join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let name = format!("drained-test-{}-{}", getpid(), next_number());
        let cgroups = make_cgroups(&name);
        let ready_path = std::env::temp_dir().join(format!("{name}.notify"));
        let ready = UnixDatagram::bind(&ready_path).unwrap();
        ready.set_read_timeout(Some(BOUND)).unwrap();

        let console = File::create(std::env::temp_dir().join(format!("{name}.console"))).unwrap();
        let outer = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-euc", BOOT, "sh"])
            .args([&scratch, &root])
            .arg(&name)
            .args(&cgroups)
            .env("NOTIFY_SOCKET", &ready_path)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("setpriv (util-linux) starts");
        let mut container = Container { release, outer, leader: 0, cgroups };
        wait_ready(&ready, &name);
        let nspawn = child_of(container.outer.id() as i32);
        container.leader = child_of(nspawn);
        fs::remove_file(&ready_path).unwrap();
        fs::remove_file(std::env::temp_dir().join(format!("{name}.console"))).unwrap();
        container
    }

    /// Runs a command in the container and returns what it printed on stdout. A failure is one of
    /// the test.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> String {
        let output = self.output(command);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
        stdout.trim_end().to_owned()
    }

    /// Runs a command in the container, within a bound, and returns how it ended.
    pub fn output<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        self.command(command).output().unwrap()
    }

    /// The command, to be started: in all the container's namespaces, killed after 90 s.
    pub fn command<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Command {
        let mut enter = Command::new("timeout");
        enter.args(["--kill-after=1", &BOUND.as_secs().to_string(), "nsenter", "--all", "--target"]);
        enter.arg(self.leader.to_string()).args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
        ]);
        enter.args(command).stdin(Stdio::null());
        enter
    }

    /// `systemctl` with these arguments.
    pub fn systemctl<const N: usize>(&self, args: [&str; N]) -> String {
        self.run(["systemctl"].iter().chain(&args))
    }

    /// One property of a unit, as systemd believes it.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(["show", unit, "--value", "--property", property])
    }

    /// One property of a unit that is a number.
    pub fn show_number(&self, unit: &str, property: &str) -> u64 {
        let value = self.show(unit, property);
        value.parse().unwrap_or_else(|_| panic!("{property} of {unit} is no number: {value:?}"))
    }

    /// Waits until the property of the unit is what `wanted` says, and returns it.
    pub fn wait_property(
        &self,
        unit: &str,
        property: &str,
        bound: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let end = Instant::now() + bound;
        loop {
            let value = self.show(unit, property);
            if wanted(&value) {
                return value;
            }
            assert!(Instant::now() < end, "{property} of {unit} is still {value:?} after {bound:?}");
            // systemctl has no way to wait for a property.
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All journal entries that match, as journald has them, oldest first.
    pub fn journal<const N: usize>(&self, matches: [&str; N]) -> Vec<Value> {
        self.systemd_sync();
        let lines = self.run(["journalctl", "-o", "json", "--all", "--no-pager"].iter().chain(&matches));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for the first journal entry that matches, from the boot on.
    pub fn wait_journal<const N: usize>(&self, matches: [&str; N], bound: Duration) -> Value {
        let seconds = bound.as_secs().to_string();
        let follow = ["timeout", &seconds, "journalctl", "-o", "json", "--all", "--follow", "--no-tail"];
        let mut child = self
            .command(follow.iter().chain(&matches))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        assert!(!line.is_empty(), "no journal entry {matches:?} within {bound:?}");
        serde_json::from_str(&line).unwrap()
    }

    /// The whole of a file in the container.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Writes a file in the container, with the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Copies a file of the host into the container's /var/tmp and returns its path there.
    pub fn copy_in(&self, from: &Path) -> String {
        let to = format!("/var/tmp/{}", from.file_name().unwrap().to_str().unwrap());
        fs::copy(from, self.path(&to)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        to
    }

    /// Whether there is anything at the path in the container, a dangling link included.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// A path in the container as the host reaches it. Absolute symbolic links on the way are
    /// followed on the host's side.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Runs `f`, and every thread that it starts, in the container's network: its sockets reach
    /// the container's loopback.
    pub fn in_network<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.leader)).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The host's number of the container's PID 1.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// The host's number of the unit's main process.
    pub fn host_pid(&self, unit: &str) -> i32 {
        let inside = self.show(unit, "MainPID");
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.leader);
        let found = processes().find(|p| p.innermost == inside && namespace(p.pid) == own);
        found.unwrap_or_else(|| panic!("{unit} has no process {inside}")).pid
    }

    /// Sends a signal to the main process of the unit, without systemd's knowing.
    pub fn kill(&self, unit: &str, signal: Signal) {
        kill(Pid::from_raw(self.host_pid(unit)), signal).unwrap();
    }

    /// Lets journald write what it has received so far.
    fn systemd_sync(&self) {
        self.run(["journalctl", "--sync"]);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() && self.leader != 0 {
            let output =
                self.output(["journalctl", "--no-pager", "-n", "80", "-o", "short-precise", "-u", "drained"]);
            eprintln!(
                "--- journal of drained on {:?}\n{}",
                self.release,
                String::from_utf8_lossy(&output.stdout)
            );
        }
        _ = self.outer.kill();
        _ = self.outer.wait();
        let end = Instant::now() + Duration::from_secs(10);
        while self.cgroups.iter().any(|cgroup| remove_cgroup(cgroup).is_err()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What runs in the mount namespace before nspawn: $1 a folder to mount on, $2 the pristine root,
/// $3 the name, the rest the container's cgroups.
const BOOT: &str = r#"
    scratch=$1 root=$2 name=$3; shift 3
    for cgroup; do echo $$ > "$cgroup/cgroup.procs"; done
    mount -t tmpfs -o mode=0755 "$name" "$scratch"
    mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
    mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" "$name" "$scratch/root"
    exec systemd-nspawn --quiet --directory="$scratch/root" --machine="$name" --register=no --keep-unit --boot \
        --private-network --notify-ready=yes --console=pipe
"#;

/// Waits for nspawn's READY=1, which it passes on from the container's systemd.
fn wait_ready(ready: &UnixDatagram, name: &str) {
    let mut buffer = [0; 4096];
    loop {
        match ready.recv(&mut buffer) {
            Ok(length) if buffer[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") => return,
            Ok(_) => {}
            Err(e) => {
                let console = fs::read_to_string(std::env::temp_dir().join(format!("{name}.console")));
                panic!("{name} did not boot: {e}\n{}", console.unwrap_or_default());
            }
        }
    }
}

/// A process as the host sees it.
struct Process {
    pid: i32,
    parent: i32,
    /// Its number in its own, innermost namespace.
    innermost: String,
}

/// Every process of the host.
fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let parent = field("PPid:")?.trim().parse().ok()?;
        let innermost = field("NSpid:")?.split_whitespace().last()?.to_owned();
        Some(Process { pid, parent, innermost })
    })
}

fn child_of(parent: i32) -> i32 {
    processes().find(|p| p.parent == parent).unwrap_or_else(|| panic!("process {parent} has no child")).pid
}

/// One cgroup of this name in each hierarchy that systemd uses. Two containers in one cgroup would
/// take each other's for their own.
fn make_cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let hierarchies = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|mount| {
        mount[2] == "cgroup2" || (mount[2] == "cgroup" && mount[3].split(',').any(|o| o == "name=systemd"))
    });
    let cgroups: Vec<PathBuf> = hierarchies.map(|mount| Path::new(mount[1]).join(name)).collect();
    for cgroup in &cgroups {
        fs::create_dir(cgroup).unwrap_or_else(|e| panic!("{}: {e}", cgroup.display()));
    }
    cgroups
}

/// Removes a cgroup and those below it. They must be without processes.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)?.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// CLOCK_MONOTONIC in microseconds: systemd's and journald's monotonic timestamps.
pub fn monotonic_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

/// A field of a journal entry that is a number.
pub fn number(entry: &Value, field: &str) -> u64 {
    let text = entry[field].as_str().unwrap_or_else(|| panic!("no {field} in {entry}"));
    text.parse().unwrap_or_else(|_| panic!("{field} is no number: {text:?}"))
}

fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}
