//! The command line of `drainctl`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
            super::say(text);
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
}

impl Options {
    fn run(&self) -> Result<String> {
        match self.command {
            Command::Status => {
                let status = client::status(&self.socket)?;
                Ok(if self.json { status.to_json() } else { control::screen::render(&status) })
            }
        }
    }
}
