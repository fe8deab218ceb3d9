//! The command line of `drainctl`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::looking::{self, Connections};
use super::{actions, adopt};
use crate::control::paint::{self, Paint};
use crate::control::protocol::Call;
use crate::control::reload::Reload;
use crate::control::{self, client};
use crate::{Error, Exit, Result};

/// How long a reload may take, and the one before it that is under way.
const RELOAD: Duration = Duration::from_secs(15);

/// The whole program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let options = match super::parse::<Options>() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match options.run() {
        Ok(()) => Exit::Orderly.into(),
        Err(error) => super::fail("drainctl", &error),
    }
}

const LONG_ABOUT: &str = "\
Shows what a running drained does, and has it drain, hold and resume what is behind its proxies, over the control \
socket of the daemon.";

/// Asks a running drained.
#[derive(Debug, Parser)]
#[command(name = "drainctl", version, max_term_width = 100, long_about = LONG_ABOUT)]
pub struct Options {
    /// The control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_SOCKET, global = true)]
    socket: PathBuf,

    /// Print the answer as JSON: one line, for connections a line each
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the daemon, its proxies and their connections
    Status,
    /// List the connections
    Connections(Connections),

    /// Show all of it on the whole terminal, each second anew: ? tells the keys
    Top,

    /// Take an upstream out of service: no new connection goes there, those that it has are drained
    Drain(actions::Drain),

    /// Put upstreams back into service: clients go there as soon as a connect succeeds
    Resume(actions::Resume),

    /// Have new clients of a proxy wait
    Hold(actions::Hold),

    /// Have systemd drain a service behind a proxy whenever it stops or restarts it
    Adopt(adopt::Adopt),

    /// Read the configuration anew: what is wrong with it is told, and then all stays as it was
    Reload,
}

impl Options {
    fn run(&self) -> Result<()> {
        match &self.command {
            Command::Reload => told(self.reload()),
            Command::Status => {
                let status = client::status(&self.socket)?;
                super::say(match self.json {
                    true => paint::printable_json(status.to_json()),
                    false => control::screen::render(&status, Paint::for_stdout(), paint::width_of_stdout()),
                });
                Ok(())
            }
            Command::Connections(connections) => connections.run(&self.socket, self.json),
            Command::Top => looking::top(&self.socket, self.json),
            Command::Drain(drain) => told(drain.run(&self.socket, self.json)),
            Command::Resume(resume) => told(resume.run(&self.socket, self.json)),
            Command::Hold(hold) => told(hold.run(&self.socket, self.json)),
            Command::Adopt(adopt) => told(adopt.run(&self.socket, self.json)),
        }
    }

    fn reload(&self) -> Result<String> {
        let answer: Reload = client::call_within(&self.socket, &Call::Reload, RELOAD)?;
        if answer.reloaded {
            return Ok(if self.json { answer.to_json() } else { answer.to_text() });
        }
        if self.json {
            super::say(answer.to_json());
        }
        let exits = [Exit::Config, Exit::System, Exit::Unavailable];
        let exit = exits.into_iter().find(|exit| *exit as u8 == answer.exit).unwrap_or(Exit::Software);
        let parting = if answer.errors.len() == 1 { " " } else { "\n" };
        let message = format!("not reloaded, all stays as it was:{parting}{}", answer.errors.join("\n"));
        Err(Error::new(exit, message))
    }
}

/// Prints what there is to print.
fn told(result: Result<String>) -> Result<()> {
    let text = result?;
    if !text.is_empty() {
        super::say(text);
    }
    Ok(())
}
