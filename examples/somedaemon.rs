//! A daemon with three worker threads, TCP clients, a peer that must be told goodbye, and a cleanup
//! step that hangs when asked to: `cargo run --no-default-features --example somedaemon -- --hang`,
//! then Ctrl-C. With `--peer ADDRESS` the peer is somebody else than its own server.

#![allow(clippy::unwrap_used, reason = "a poisoned lock is a bug of this example")]
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use std::{env::args, io, io::Write, os::fd::AsFd, process::ExitCode, sync::Arc, sync::Mutex};

use drained::lifecycle::{self, Lifecycle, Outcome, Phase, StepContext, StopLevel, StopSwitch, StopToken};
use drained::{Error, Result, systemd::journal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use slog::{Level, info};

const SECOND: Duration = Duration::from_secs(1);

type Streams = Arc<Mutex<Vec<TcpStream>>>;

fn main() -> ExitCode {
    somedaemon().map(Outcome::finish).unwrap_or_else(|error| {
        eprintln!("somedaemon: {error}");
        error.exit().into()
    })
}

fn somedaemon() -> Result<Outcome> {
    let signals = lifecycle::block_signals()?;
    let (log, log_thread) = journal::open(Level::Info);
    let mut life = Lifecycle::new(signals, log.clone());
    let server = TcpListener::bind("127.0.0.1:0").map_err(|e| Error::system("bind", e))?;
    let own = server.local_addr().map_err(|e| Error::system("bind", e))?.to_string();
    let peer = args().skip_while(|a| a != "--peer").nth(1).unwrap_or_else(|| own.clone());
    let peer = TcpStream::connect(&peer).map_err(|e| Error::system(format!("connect to {peer}"), e))?;
    let (peer, clients) = (Arc::new(Mutex::new(vec![peer])), Streams::default());

    let [accepted, ticked, left, counted] = [(); 4].map(|()| clients.clone());
    life.worker("accept", SECOND, move |stop| accept(&server, &accepted, &stop));
    life.worker("clients-tick", SECOND, move |stop| tick(&ticked, &stop));
    let [ticked, warned] = [(); 2].map(|()| peer.clone());
    life.worker("peer-tick", SECOND, move |stop| tick(&ticked, &stop));

    life.step(Phase::Announce, "announce", SECOND, move |_| say(&warned, "going"));
    life.step(Phase::Drain, "goodbye-peer", 5 * SECOND, move |step| goodbye(&peer, step));
    life.step(Phase::Drain, "goodbye-clients", SECOND, move |step| goodbye(&left, step));
    if args().any(|a| a == "--hang") {
        let never = StopSwitch::new()?.token();
        life.step(Phase::Finish, "hang", SECOND, move |_| tick(&Streams::default(), &never));
    }
    let [reports, words] = [(); 2].map(|()| log.clone());
    life.on_report(move || info!(reports, "{} clients", counted.lock().unwrap().len()));
    life.at_exit("last-words", move || info!(words, "these were the last words"));
    info!(log, "listening on {}", own);
    let outcome = life.run(|handle| {
        handle.ready();
        Ok(())
    });
    log_thread.flush(SECOND);
    Ok(outcome)
}

/// Takes in clients, in a wait of its own that the stop token ends.
fn accept(server: &TcpListener, clients: &Streams, stop: &StopToken) -> Result<()> {
    let pause = stop.beat_interval().map_or(PollTimeout::NONE, |i| i.try_into().unwrap_or(PollTimeout::MAX));
    while stop.level() == StopLevel::Running {
        stop.beat();
        let mut fds = [server.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, pause).map_err(|e| Error::system("poll", e))?;
        if fds[0].any() == Some(true) {
            clients.lock().unwrap().push(server.accept().map_err(|e| Error::system("accept", e))?.0);
        }
    }
    Ok(())
}

fn tick(streams: &Streams, stop: &StopToken) -> Result<()> {
    while stop.wait(SECOND) == StopLevel::Running {
        say(streams, "tick")?;
    }
    Ok(())
}

/// Says something to each, and forgets those that are gone.
fn say(streams: &Streams, text: &str) -> Result<()> {
    streams.lock().unwrap().retain_mut(|stream| writeln!(stream, "{text}").is_ok());
    Ok(())
}

/// Says goodbye to each, then waits, within the bound, until it has closed too.
fn goodbye(streams: &Streams, step: &StepContext) -> Result<()> {
    say(streams, "goodbye")?;
    let streams = std::mem::take(&mut *streams.lock().unwrap());
    streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Write)));
    for mut stream in streams {
        let left = (step.deadline() - SECOND / 10).saturating_duration_since(Instant::now());
        let _ = stream.set_read_timeout(Some(left.max(SECOND / 1000)));
        let _ = io::copy(&mut stream, &mut io::sink());
    }
    Ok(())
}
