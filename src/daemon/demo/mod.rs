//! `drained demo`: a stop, a restart and a SIGKILL under load, shown in about fifteen seconds.
//!
//! The real daemon runs as a child. This process is everything around it: the service manager
//! (`manager`) with its file descriptor store (`store`), the service behind it (`upstream`) and its
//! clients, all on loopback, without root and without systemd. In the first part (`stopping`) the
//! clients (`clients`) are in the midst of something when the stop comes. In the second (`outliving`)
//! a crowd of them (`crowd`, `staying`) keeps its connections over a restart and a SIGKILL, while
//! others (`visitors`) come and go. What it shows it also checks: damaged bytes, a connection that was lost, a
//! client that was treated wrong, or an exit code other than 0 make the demo itself fail.
//!
//! Not a test of the daemon's corners, and no benchmark.

mod clients;
mod crowd;
mod manager;
mod outliving;
mod pass;
mod pattern;
mod screen;
mod stage;
mod staying;
mod stopping;
mod store;
mod table;
mod upstream;
mod visitors;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use crate::{Error, Exit, Result};

use manager::Manager;
pub use pass::Pass;
use screen::Screen;
use stage::{Notes, Stage};
use upstream::Upstream;

/// Runs the show. The exit code is 0 if all went as it should; else a line on the screen says what
/// did not. An error means that the show could not be given at all.
pub fn run() -> Result<ExitCode> {
    let screen = Screen::new();
    screen.text(
        "drained is started as a service manager would start it, in front of a small service. Twenty \
         clients use the service through it when it is told to stop. Then it is started anew, for a \
         restart and a SIGKILL.",
    );
    let upstream = Upstream::start(crowd::size())?;
    let mut stage = Stage { screen, manager: Manager::new()?, notes: Notes::default() };
    let mut faults = stopping::show(&mut stage, free_address()?, upstream.address())?;

    stage.screen.text("");
    stage.screen.text(
        "A stop is for good. When it is restarted or killed, the manager keeps what drained has stored \
         there, as systemd does, and passes it to the next process: the connections go on.",
    );
    faults.extend(outliving::show(&mut stage, free_address()?, &upstream)?);
    Ok(if faults.is_empty() { Exit::Orderly } else { Exit::Software }.into())
}

/// A port that was free a moment ago. The daemon binds it itself, as the stop shall close it.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| Error::system("reserve a port on 127.0.0.1", e))
}

/// One proxy, named as on the command line, and `more`.
fn config(listen: SocketAddr, upstream: SocketAddr, more: &str) -> String {
    format!("{more}[proxy.default]\nlisten = \"{listen}\"\nupstream = \"{upstream}\"\n")
}
