//! The command line of `drainctl`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{actions, adopt};
use crate::Result;
use crate::control::{self, client};

/// The whole program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let options = match super::parse::<Options>() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match options.run() {
        Ok(text) => {
            if !text.is_empty() {
                super::say(text);
            }
            crate::Exit::Orderly.into()
        }
        Err(error) => super::fail("drainctl", &error),
    }
}

/// Asks a running drained.
#[derive(Debug, Parser)]
#[command(name = "drainctl", version, max_term_width = 100)]
pub struct Options {
    /// The control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_SOCKET, global = true)]
    socket: PathBuf,

    /// Print the answer as one line of JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the daemon, its proxies and their connections
    Status,

    /// Take an upstream out of service: no new connection goes there, those that it has are drained
    Drain(actions::Drain),

    /// Put upstreams back into service: clients go there as soon as a connect succeeds
    Resume(actions::Resume),

    /// Have new clients of a proxy wait
    Hold(actions::Hold),

    /// Have systemd drain a service behind a proxy whenever it stops or restarts it
    Adopt(adopt::Adopt),
}

impl Options {
    fn run(&self) -> Result<String> {
        match &self.command {
            Command::Status => {
                let status = client::status(&self.socket)?;
                Ok(if self.json { status.to_json() } else { control::screen::render(&status) })
            }
            Command::Drain(drain) => drain.run(&self.socket, self.json),
            Command::Resume(resume) => resume.run(&self.socket, self.json),
            Command::Hold(hold) => hold.run(&self.socket, self.json),
            Command::Adopt(adopt) => adopt.run(&self.socket),
        }
    }
}
