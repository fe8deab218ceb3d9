//! The daemon: ordered startup, and the steps of its stop.

mod by_hand;
pub mod demo;
mod handover;
mod intent;
mod looking;
pub mod metrics;
mod operator;
mod reload;
mod report;
mod stop;

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use slog::{Level, Logger, info, o, warn};

use self::reload::{Last, Reloader};
use self::stop::Stop;
use crate::config::{self, Config};
use crate::control::ControlServer;
use crate::control::server::{MODE, Running};
use crate::event::Event;
use crate::fault;
use crate::handover::LEDGER;
use crate::handover::adopt::{self, Estate};
use crate::lifecycle::{BlockedSignals, Handle, Lifecycle, Outcome, State, StopLevel};
use crate::proxy::{self, Fleet};
use crate::sys::limits;
use crate::systemd::journal::{self, LogStats};
use crate::systemd::listen_fds::{self, PassedFd};
use crate::{Exit, Result};

/// How long connections live after a second SIGTERM or SIGINT.
const HURRY: Duration = Duration::from_secs(2);
/// What the life cycle grants beyond the bounds that the workers keep by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// File descriptors for which there is room from the start: 8,000 connections.
const FD_ROOM: u64 = 16_384;
/// How long the last words may take on their way to the journal.
const LOG_FLUSH: Duration = Duration::from_secs(1);
/// How long a failed start waits that will be tried again.
const RETRY_START: Duration = Duration::from_secs(1);
/// How often STATUS= may change while nothing happens but traffic.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the stop is over; a reload reads `file` anew. An error means that nothing was started.
///
/// # Errors
/// Exit 71: the system refused, an address in use for one. Exit 78: systemd passed other sockets
/// than the configuration names.
pub fn run(signals: BlockedSignals, config: Config, file: Option<PathBuf>, level: Level) -> Result<Outcome> {
    let began = Instant::now();
    let fd_limit = limits::raise_file_descriptors()?;
    let mut passed = listen_fds::take()?;
    // While there is but one thread: with more, thousands of file descriptors would take 100 ms.
    limits::make_room(FD_ROOM);
    let workers = config.daemon.workers.unwrap_or_else(cores);
    let room = u64::from(proxy::room(fd_limit, workers)) * u64::from(proxy::FDS_PER_CONNECTION);
    let mut estate = adopt::estate(&mut passed, room);
    let (log, log_thread) = journal::open(level);
    let (from, given) = ((config, file), (&mut passed, &mut estate));
    let result = serve(signals, from, began, (&log, log_thread.stats()), (fd_limit, workers), given);
    if result.is_err() {
        estate.give_back();
    }
    log_thread.flush(LOG_FLUSH);
    result
}

/// Goes on from what systemd `left`: sockets of .socket units, and the estate of the last incarnation.
fn serve(
    signals: BlockedSignals,
    (config, file): (Config, Option<PathBuf>),
    began: Instant,
    (log, log_stats): (&Logger, LogStats),
    (fd_limit, workers): (u64, usize),
    left: (&mut Vec<PassedFd>, &mut Estate),
) -> Result<Outcome> {
    let (passed, estate) = left;
    let endpoint = metrics::bind(&config.daemon.metrics)?;
    let mut fleet = Fleet::open(&config, workers, fd_limit, HURRY, passed, estate)?;
    let mut life = Lifecycle::new(signals, log.clone());
    handover::keep(&mut fleet, estate, config.handover, life.handle().notifier(), log)?;
    let fleet = Arc::new(fleet);
    info!(
        log,
        "drained {}, {workers} workers, room for {} connections",
        env!("CARGO_PKG_VERSION"),
        fleet.room()
    );
    for unwanted in passed.iter() {
        warn!(log, "systemd passed a socket named {} that no proxy listens on", unwanted.name);
    }

    fleet.keep_passed(std::mem::take(passed));
    let kept = control_path(&config).map(|path| by_hand::file_of(&path));
    if let Some(kept) = &kept {
        by_hand::restore(&fleet, kept, log);
    }

    life.hurry(HURRY + GRACE);
    if let Some(endpoint) = endpoint {
        metrics::start(endpoint, &mut life, &fleet, log_stats, log)?;
    }
    let on_restart = Arc::new(Mutex::new(config.handover.on_restart));
    let mut reloader = Reloader {
        fleet: fleet.clone(),
        handle: life.handle(),
        log: log.clone(),
        file,
        in_force: config.clone(),
        kept: kept.clone(),
        on_restart: on_restart.clone(),
        last: Last::default(),
    };
    let control = start_control(&config, &fleet, &life.handle(), log, &reloader.last)?;
    life.on_reload(move || reloader.run());
    let stop = Stop::new(&fleet, life.handle(), on_restart, kept);
    start_workers(&mut life, &fleet, &stop, log);
    stop.declare(&mut life, control);
    let (report_fleet, report_handle, report_log) = (fleet.clone(), life.handle(), log.clone());
    life.on_report(move || report::write(&report_fleet, &report_handle, &report_log));
    Ok(life.run(|handle| {
        fault::pass("start-workers");
        announce_start(&config, &fleet, handle, log);
        let stores = config.handover != handover::NEVER;
        let staying = if stores { fleet.own_listeners() } else { Vec::new() };
        handover::say_adopted(&fleet, (estate, &staying), began, handle, log);
        if stores {
            handover::store_listeners(&fleet, handle.notifier(), log);
        }
        fault::pass("start-listeners");
        handle.ready();
        fault::pass("start-ready");
        fleet.own_listeners().iter().for_each(|listener| listener.own_file());
        Ok(())
    }))
}

/// The exit code of a start that failed, which by itself is `code`.
///
/// Where the last incarnation left connections in the store, ending for good would let systemd close
/// them: so it ends with 70, for which Restart= starts it again, but not more than once a second. Once
/// the configuration is mended they go on.
pub fn code_of_a_failed_start(code: ExitCode) -> ExitCode {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    if !names.split(':').any(|name| name == LEDGER) {
        return code;
    }
    thread::sleep(RETRY_START);
    Exit::Software.into()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn start_control(
    config: &Config,
    fleet: &Arc<Fleet>,
    handle: &Handle,
    log: &Logger,
    reload: &Last,
) -> Result<Option<Running>> {
    let Some(path) = control_path(config) else { return Ok(None) };
    let (kept, log) = (by_hand::file_of(&path), log.clone());
    let operator = operator::Daemon::new(fleet.clone(), handle.clone(), (kept, reload.clone()), log.clone());
    ControlServer::bind(&path, MODE)?.start(log, operator).map(Some)
}

fn control_path(config: &Config) -> Option<PathBuf> {
    config.daemon.control.clone().or_else(control_path_of_the_unit)
}

/// $RUNTIME_DIRECTORY is set by RuntimeDirectory=, several parted by colons, see systemd.exec(5).
fn control_path_of_the_unit() -> Option<PathBuf> {
    let directories = env::var_os("RUNTIME_DIRECTORY")?;
    let first = directories.as_encoded_bytes().split(|b| *b == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(first)).join("control.sock"))
}

fn start_workers(life: &mut Lifecycle, fleet: &Arc<Fleet>, stop: &Stop, log: &Logger) {
    for index in 0..fleet.workers() {
        let (shared, roster, log) = (fleet.clone(), fleet.proxies(), log.new(o!()));
        life.worker(&format!("worker-{index}"), stop.bound(GRACE * 2), move |token| {
            proxy::run_worker(shared, roster, index, &token, log)
        });
    }
    let (fleet, handle, log) = (fleet.clone(), life.handle(), log.clone());
    life.worker("status", GRACE, move |token| {
        while token.wait(STATUS_INTERVAL) == StopLevel::Running {
            for name in fleet.ended_holds() {
                info!(log, "the hold of the proxy {name} has come to its end: clients go through again";
                    Event::HoldEnded, "DRAINED_PROXY" => &name);
            }
            if handle.state() == State::Running {
                handle.notifier().status(report::running_text(&fleet));
            }
        }
        Ok(())
    });
}

fn announce_start(config: &Config, fleet: &Fleet, handle: &Handle, log: &Logger) {
    for proxy in fleet.proxies().iter() {
        for address in proxy.listening_on() {
            let upstreams = join(&proxy.config.upstream);
            info!(log, "proxy {} listens on {address} for {upstreams}", proxy.config.name; Event::Listening,
                "DRAINED_PROXY" => &proxy.config.name, "DRAINED_LISTENER" => %address,
                "DRAINED_UPSTREAM" => &upstreams);
        }
    }
    if config.proxies.is_empty() {
        warn!(log, "{}", report::NO_PROXY);
    }
    handle.notifier().status(report::running_text(fleet));
}

fn join(upstreams: &[config::UpstreamAddress]) -> String {
    upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
