//! Who is measured: how each is started, with a configuration that stands beside this file.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::meter;
use crate::server::{Addresses, Servers};
use crate::support::manager::Manager;

/// Everybody, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Drained,
    /// drained under a service manager that keeps what it stores, with every connection parked before its first
    /// byte: as one that outlives a crash.
    Parked,
    /// drained with one worker, where the others have more.
    Single,
    /// Another build of drained, to judge a change by.
    Other,
    Haproxy,
    Nginx,
    Proxyd,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Direct,
        Kind::Drained,
        Kind::Parked,
        Kind::Single,
        Kind::Other,
        Kind::Haproxy,
        Kind::Nginx,
        Kind::Proxyd,
    ];
    /// Who drained is compared to.
    pub const PEERS: [Kind; 3] = [Kind::Haproxy, Kind::Nginx, Kind::Proxyd];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "no proxy",
            Kind::Drained => "drained",
            Kind::Parked => "drained, parked at once",
            Kind::Single => "drained, one worker",
            Kind::Other => "the other drained",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
            Kind::Proxyd => "socket-proxyd",
        }
    }

    /// So many workers are all that it can have.
    pub fn most_workers(self) -> usize {
        if matches!(self, Kind::Proxyd | Kind::Single) { 1 } else { usize::MAX }
    }

    /// Its program, and the argument that has it print its version.
    fn program(self, other: &str) -> (&str, &'static str) {
        match self {
            Kind::Direct => ("", ""),
            Kind::Other => (other, "--version"),
            Kind::Drained | Kind::Parked | Kind::Single => (env!("CARGO_BIN_EXE_drained"), "--version"),
            Kind::Haproxy => ("haproxy", "-v"),
            Kind::Nginx => ("nginx", "-v"),
            Kind::Proxyd => ("/lib/systemd/systemd-socket-proxyd", "--version"),
        }
    }
}

/// One of them, running. Killed when dropped.
pub struct Contender {
    pub kind: Kind,
    child: Option<Child>,
    /// Keeps what is stored, for as long as it is measured.
    _store: Option<Manager>,
    /// Where its clients connect, for each kind of server.
    pub addresses: Addresses,
    /// Memory of its processes before the first connection.
    pub fresh: u64,
    directory: PathBuf,
}

impl Contender {
    /// Starts it with so many workers, on this processor if one is named, and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or does not come up: its last words.
    pub fn start(
        kind: Kind,
        workers: usize,
        processor: Option<usize>,
        servers: &Servers,
        other: &str,
    ) -> Result<Contender, Box<dyn Error>> {
        let upstream = servers.addresses;
        let directory = std::env::temp_dir().join(format!("drained-bench-{}-{kind:?}", std::process::id()));
        fs::create_dir_all(&directory)?;
        if kind == Kind::Direct {
            let addresses = upstream;
            return Ok(Contender { kind, child: None, _store: None, addresses, fresh: 0, directory });
        }
        let listen = Addresses { echo: free()?, source: free()?, sink: free()? };
        let mut command = Command::new("taskset");
        let processors = processor.map_or(format!("0-{}", meter::processors() - 1), |one| one.to_string());
        command.args(["-c", &processors]);
        match kind {
            Kind::Proxyd => proxyd(&mut command, listen, upstream),
            _ => {
                let config = directory.join("config");
                fs::write(
                    &config,
                    fill(kind, workers.min(kind.most_workers()), &directory, listen, upstream),
                )?;
                command.arg(kind.program(other).0).args(match kind {
                    Kind::Haproxy => &["-db", "-f"][..],
                    Kind::Nginx => &["-c"],
                    _ => &["--config"],
                });
                command.arg(&config);
            }
        }
        let store = (kind == Kind::Parked).then(|| {
            let mut kept = Vec::new();
            Manager::keeping(move |_, fds| kept.extend(fds))
        });
        store.iter().for_each(|store| _ = command.env("NOTIFY_SOCKET", store.address()));
        let log = fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = Some(command.spawn()?);
        let mut contender = Contender { kind, child, _store: store, addresses: listen, fresh: 0, directory };
        for address in [listen.echo, listen.source, listen.sink] {
            contender.wait_for(address)?;
        }
        Ok(contender)
    }

    /// Notes what memory it has before the first connection.
    pub fn begin(&mut self) {
        self.fresh = meter::memory(&self.pids());
    }

    fn wait_for(&mut self, address: SocketAddr) -> Result<(), Box<dyn Error>> {
        let bound = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(address).is_err() {
            let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > bound {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                return Err(format!("it does not listen: {log}").into());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its processes: the one that was started and all below it.
    pub fn pids(&self) -> Vec<u32> {
        self.child.as_ref().map_or(Vec::new(), |child| meter::family(child.id()))
    }

    /// Its name and version.
    pub fn version(&self, other: &str) -> String {
        let (program, argument) = self.kind.program(other);
        if program.is_empty() {
            return self.kind.name().to_owned();
        }
        let output = Command::new(program).arg(argument).output();
        let output = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&output);
        format!("{}: {}", self.kind.name(), text.lines().next().unwrap_or("unknown"))
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        self.child.iter_mut().for_each(|child| _ = child.wait());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Takes one listener a process, so there are three.
fn proxyd(command: &mut Command, listen: Addresses, upstream: Addresses) {
    let one = |listen: SocketAddr, upstream: SocketAddr| {
        format!(
            "systemd-socket-activate -l {listen} {} --connections-max=9000 {upstream} &",
            Kind::Proxyd.program("").0
        )
    };
    let all = [(listen.echo, upstream.echo), (listen.source, upstream.source), (listen.sink, upstream.sink)];
    let script: String = all.into_iter().map(|(listen, upstream)| one(listen, upstream)).collect();
    command.args(["sh", "-c", &(script + " wait")]);
}

fn fill(kind: Kind, workers: usize, directory: &Path, listen: Addresses, upstream: Addresses) -> String {
    let template = match kind {
        Kind::Haproxy => include_str!("haproxy.cfg"),
        Kind::Nginx => include_str!("nginx.conf"),
        _ => include_str!("drained.toml"),
    };
    let handover = match kind {
        Kind::Parked => "on_restart = \"always\"\ncrash_after = \"0s\"",
        _ => "",
    };
    [
        ("@HANDOVER@", handover.to_owned()),
        ("@DIRECTORY@", directory.display().to_string()),
        ("@WORKERS@", workers.to_string()),
        ("@LISTEN_ECHO@", listen.echo.to_string()),
        ("@LISTEN_SOURCE@", listen.source.to_string()),
        ("@LISTEN_SINK@", listen.sink.to_string()),
        ("@ECHO@", upstream.echo.to_string()),
        ("@SOURCE@", upstream.source.to_string()),
        ("@SINK@", upstream.sink.to_string()),
    ]
    .iter()
    .fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// A port that nobody has at this moment.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
