//! Reloads of the daemon.
//!
//! - `back`: upstreams and proxies that are taken out and come back.
//! - `change`: what becomes of proxies, listeners and connections.
//! - `refused`: when nothing changes, and what whoever asked is told.
//! - `hold`: clients that wait, and a hold by hand, under another `hold`.
//! - `many`: reload after reload under load: nothing is lost, nothing grows.
//! - `outlive`: restarts and kills after a reload and in its midst.

mod back;
mod change;
mod hold;
mod many;
mod outlive;
mod refused;

use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::support::drained::{Drained, Setup};
use crate::support::peers::Port;
use crate::support::scratch::Scratch;

/// A proxy's part of a configuration.
fn proxy(name: &str, listen: &[&str], upstream: &[&str], more: &str) -> String {
    format!("[proxy.{name}]\nlisten = {listen:?}\nupstream = {upstream:?}\n{more}\n")
}

/// Writes another configuration for a daemon with its files there.
fn write(scratch: &Scratch, config: &str) {
    let control = scratch.path("control.sock");
    let config = format!("[daemon]\nworkers = 2\ncontrol = \"{}\"\n{config}", control.display());
    // As a whole, as an editor does: no reload reads the half of it.
    let new = scratch.write("drained.new", config);
    std::fs::rename(new, scratch.path("drained.toml")).unwrap();
}

fn drainctl(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainctl"));
    command.arg("--socket").arg(scratch.path("control.sock")).args(arguments);
    command.output().unwrap()
}

/// A reload that goes well, with what it has done.
fn reload(scratch: &Scratch, config: &str) -> serde_json::Value {
    write(scratch, config);
    let output = drainctl(scratch, &["--json", "reload"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A reload that is refused: the exit code, and what drainctl says.
fn refused(scratch: &Scratch, config: &str) -> (i32, String) {
    write(scratch, config);
    let output = drainctl(scratch, &["reload"]);
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn status(scratch: &Scratch) -> serde_json::Value {
    serde_json::from_slice(&drainctl(scratch, &["--json", "status"]).stdout).unwrap()
}

fn start(config: &str) -> Drained {
    Setup::new(config).start()
}

/// SIGHUP, and the end of the reload that it asks for.
fn hup(drained: &Drained) {
    let seen = drained.manager.messages().len();
    drained.signal(Signal::SIGHUP);
    let bound = crate::support::SOON;
    let (seen, _) = drained.manager.wait_after(seen, bound, |message| message.says("RELOADING=1"));
    drained.manager.wait_after(seen, bound, |message| message.says("READY=1"));
}
