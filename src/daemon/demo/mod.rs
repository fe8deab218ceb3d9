//! `drained demo`: a stop under load, shown in about ten seconds.
//!
//! The real daemon runs as a child. This process is everything around it: the service manager
//! (`manager`), the service behind it (`upstream`) and its clients (`clients`), all on loopback,
//! without root and without systemd. What it shows it also checks: damaged bytes, a client that was
//! treated wrong, or an exit code other than 0 make the demo itself fail.
//!
//! Not a test of the daemon's corners, and no benchmark.

mod clients;
mod manager;
mod pattern;
mod screen;
mod table;
mod upstream;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::{Error, Exit, Result};

use clients::Clients;
use manager::{Happened, Manager};
use screen::Screen;
use upstream::Upstream;

/// What the demo gives the daemon to end its connections.
const DEADLINE: Duration = Duration::from_secs(6);
/// How long clients and daemon work before the stop.
const WORK: Duration = Duration::from_secs(3);
/// No single wait of the demo is longer.
const BOUND: Duration = Duration::from_secs(15);

/// Runs the show. The exit code is 0 if all went as it should; else a line on the screen says what
/// did not. An error means that the show could not be given at all.
pub fn run() -> Result<ExitCode> {
    let screen = Screen::new();
    screen.text(
        "drained is started as a service manager would start it, in front of a small service. Twenty \
         clients use the service through it when it is told to stop.",
    );
    let upstream = Upstream::start()?;
    let address = free_address()?;
    let manager = Manager::start(&[
        "--listen".into(),
        address.to_string(),
        "--upstream".into(),
        upstream.address().to_string(),
        "--deadline".into(),
        format!("{}s", DEADLINE.as_secs()),
    ])?;
    manager.end_with_us_on_signals();

    let show = Show { screen, address, manager, notes: Notes::default() };
    show.play()
}

/// A port that was free a moment ago. The daemon binds it itself, as the stop shall close it.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| Error::system("reserve a port on 127.0.0.1", e))
}

/// What was seen and must have been.
#[derive(Default)]
struct Notes {
    ready: bool,
    stopping_asked_for_time: bool,
    /// The phase after Refuse has begun.
    listener_closed: bool,
    refused: bool,
    exit: Option<std::process::ExitStatus>,
}

struct Show {
    screen: Screen,
    address: SocketAddr,
    manager: Manager,
    notes: Notes,
}

impl Show {
    fn play(mut self) -> Result<ExitCode> {
        let started = self.manager.started();
        self.screen.heading("start: what the service manager sees", started);
        self.follow_until(BOUND, |show| show.notes.ready)?;

        let stop = Instant::now() + WORK;
        let clients = Clients::start(self.address, stop);
        self.screen.heading("at work", started);
        for second in 1..=WORK.as_secs() {
            self.follow(stop - WORK + Duration::from_secs(second))?;
            self.screen.line(Instant::now(), "clients", &clients.figures());
        }

        let stop = Instant::now();
        self.screen.heading("stop: SIGTERM, with a deadline of 6 seconds", stop);
        self.manager.stop()?;
        self.screen.line(Instant::now(), "manager", "SIGTERM");
        self.follow_until(BOUND, |show| show.notes.listener_closed || show.notes.exit.is_some())?;
        self.try_a_new_client();
        self.follow_until(DEADLINE + BOUND, |show| show.notes.exit.is_some())?;

        let fates = clients.fates(BOUND)?;
        self.screen.plain(&table::of(&fates, stop));
        let faults = self.faults(&fates, stop);
        self.screen.verdict(&faults, &table::summary(&fates));
        Ok(if faults.is_empty() { Exit::Orderly } else { Exit::Software }.into())
    }

    /// A new client is refused from the phase Drain on.
    fn try_a_new_client(&mut self) {
        let tried = TcpStream::connect_timeout(&self.address, BOUND);
        self.notes.refused = tried.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
        let outcome = match tried {
            Ok(_) => "connected".into(),
            Err(_) if self.notes.refused => "refused".into(),
            Err(e) => e.to_string(),
        };
        self.screen.line(Instant::now(), "clients", &format!("a new client tries to connect: {outcome}"));
    }

    fn faults(&self, fates: &[clients::Fate], stop: Instant) -> Vec<String> {
        let mut faults = table::faults(fates, stop, DEADLINE);
        if !self.notes.stopping_asked_for_time {
            faults.push("STOPPING=1 did not come together with EXTEND_TIMEOUT_USEC".into());
        }
        if !self.notes.refused {
            faults.push("a new client was not refused after the stop began".into());
        }
        if let Some(exit) = self.notes.exit
            && !exit.success()
        {
            faults.push(format!("the daemon ended with {exit}"));
        }
        faults
    }

    /// Shows what happens until then.
    fn follow(&mut self, until: Instant) -> Result<()> {
        while self.next(until)? {}
        Ok(())
    }

    /// Shows what happens until `done`, at most `bound`.
    fn follow_until(&mut self, bound: Duration, done: impl Fn(&Show) -> bool) -> Result<()> {
        let until = Instant::now() + bound;
        while !done(self) {
            if !self.next(until)? {
                return Err(Error::new(
                    Exit::Software,
                    format!("demo: the daemon let us wait for {bound:?}"),
                ));
            }
        }
        Ok(())
    }

    /// Shows the next thing that happens. False if `until` came first.
    fn next(&mut self, until: Instant) -> Result<bool> {
        let (at, happened) = match self.manager.next(until) {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        };
        match happened {
            Happened::Notified(message) => {
                self.notes.ready |= message.lines().any(|l| l == "READY=1");
                self.notes.stopping_asked_for_time |= message.lines().any(|l| l == "STOPPING=1")
                    && message.lines().any(|l| l.starts_with("EXTEND_TIMEOUT_USEC="));
                self.screen.line(at, "notify", &message.lines().collect::<Vec<_>>().join(" "));
            }
            Happened::Logged(line) => {
                self.notes.listener_closed |= line.contains(" phase=drain");
                // The time line has a time of its own.
                self.screen.line(at, "log", line.split_once(' ').map_or(&*line, |(_, rest)| rest));
            }
            Happened::Exited(status) => {
                self.screen.line(at, "manager", &format!("the daemon has ended: {status}"));
                self.notes.exit = Some(status);
                if !self.notes.ready {
                    return Err(gone());
                }
            }
        }
        Ok(true)
    }
}

fn gone() -> Error {
    Error::new(Exit::Software, "demo: the daemon ended before it was ready")
}
