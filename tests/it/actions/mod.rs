//! What an administrator does to the service behind a proxy: drain, resume, hold, adopt.
//!
//! - `restart`: the service is restarted under clients that connect all the time.
//! - `draining`: single upstreams are drained, with and without cuts, by one or by two.
//! - `holding`: clients that wait: their order, their time, and that they may leave.
//! - `kept`: what was set, and who waits, over restarts and kills of the daemon.
//! - `permission`: who may change something, and clients of the socket that do harm.
//! - `told`: what the answer and the journal say of each call.
//! - `adopt`: the files for systemd.

mod adopt;
mod draining;
mod holding;
mod kept;
mod permission;
mod restart;
mod told;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::drained::{Drained, until};

/// How a drainctl ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// drainctl, asking on that socket.
fn command(socket: PathBuf, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainctl"));
    command.arg("--socket").arg(socket).args(words).stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn ctl(drained: &Drained, words: &[&str]) -> Ended {
    run(command(drained.scratch.path("control.sock"), words))
}

/// One that goes well and says nothing on standard error; what it prints.
fn ok(drained: &Drained, words: &[&str]) -> String {
    let ended = ctl(drained, words);
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{words:?}: {ended:?}");
    ended.out
}

/// One that is left running.
fn spawn(drained: &Drained, words: &[&str]) -> Child {
    let mut command = command(drained.scratch.path("control.sock"), words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn status(drained: &Drained) -> Value {
    serde_json::from_str(&ok(drained, &["--json", "status"])).unwrap()
}

fn proxy(drained: &Drained) -> Value {
    status(drained)["proxies"]["p"].clone()
}

/// The state of the first upstream.
fn upstream_state(drained: &Drained) -> String {
    proxy(drained)["upstreams"][0]["state"].as_str().unwrap().to_owned()
}

fn wait_held(drained: &Drained, count: u64) {
    until("held clients", || proxy(drained)["connections"]["held"] == count);
}
