//! The command line of `drained`.
//!
//! The configuration is read and checked whole before anything is started: a wrong one ends the
//! program with 78 and never leaves a daemon half started.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use slog::Level;

use crate::config::{self, Config, DEFAULT_FILE, Errors};
use crate::lifecycle::BlockedSignals;
use crate::{Exit, Result, daemon};

/// The whole program, from its arguments to its exit code.
pub fn main(signals: Result<BlockedSignals>) -> ExitCode {
    if let Some(pass) = daemon::demo::Pass::asked_for(std::env::args_os()) {
        return super::fail("drained", &pass.become_daemon(signals));
    }
    let options = match super::parse::<Options>().and_then(Options::checked) {
        Ok(options) => options,
        Err(code) => return code,
    };
    match options.command {
        Some(Command::Check) => check(&options.config_file()),
        Some(Command::Demo) => daemon::demo::run().unwrap_or_else(|e| super::fail("drained", &e)),
        None => run(signals, &options).unwrap_or_else(daemon::code_of_a_failed_start),
    }
}

/// Runs the daemon; an error is the code of a start that failed, and why was said.
fn run(signals: Result<BlockedSignals>, options: &Options) -> std::result::Result<ExitCode, ExitCode> {
    let config = options.load()?;
    let file = options.proxy.listen.is_empty().then(|| options.config_file());
    match signals.and_then(|signals| daemon::run(signals, config, file, options.log_level.into())) {
        Ok(outcome) => Ok(outcome.finish()),
        Err(error) => Err(super::fail("drained", &error)),
    }
}

/// Relays connections, and stops without hurting them.
///
/// Without a command, runs in the foreground until SIGTERM or SIGINT and then drains: takes in no
/// new connection, lets those that are at work finish, and cuts what is left at the deadline.
#[derive(Debug, Parser)]
#[command(name = "drained", version, max_term_width = 100)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration; *.toml in conf.d beside it are read after it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, global = true)]
    config: PathBuf,

    /// The least of what is logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,

    #[command(flatten)]
    proxy: ProxyOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration: 0 if it is valid, 78 with all errors on standard error if not
    Check,
    /// Show a stop, a restart and a SIGKILL under load: a daemon with clients and a server of its own
    Demo,
}

/// One proxy named "default", without a file.
#[derive(Args, Debug)]
#[command(next_help_heading = "Without a file, one proxy")]
struct ProxyOptions {
    /// Where clients connect to: IP:PORT, unix:/PATH or systemd:NAME
    #[arg(long, value_name = "ADDR", num_args = 1.., requires = "upstream", conflicts_with = "config")]
    listen: Vec<String>,

    /// Where their connections go to: IP:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR", num_args = 1.., requires = "listen")]
    upstream: Vec<String>,

    /// The protocol of the connections: tcp
    #[arg(long, value_name = "PROTOCOL", requires = "listen")]
    protocol: Option<String>,

    /// How long a stop waits for connections at work, as in 30s or 2m [default: 30s]
    #[arg(long, value_name = "TIME", requires = "listen")]
    deadline: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warning => Level::Warning,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        }
    }
}

impl Options {
    /// What clap does not see: options of the run beside a command that does not run.
    fn checked(self) -> std::result::Result<Options, ExitCode> {
        if self.command.is_some() && !self.proxy.listen.is_empty() {
            let message = "--listen and --upstream cannot be used with a command";
            return Err(super::refuse(&Options::command().error(ErrorKind::ArgumentConflict, message)));
        }
        Ok(self)
    }

    fn config_file(&self) -> PathBuf {
        self.config.clone()
    }

    fn load(&self) -> std::result::Result<Config, ExitCode> {
        let ProxyOptions { listen, upstream, protocol, deadline } = &self.proxy;
        if listen.is_empty() {
            return config::load(&self.config).map_err(|errors| refuse("", &errors, Exit::Config));
        }
        Config::from_command_line(listen, upstream, protocol.as_deref(), deadline.as_deref())
            .map_err(|errors| refuse("drained: ", &errors, Exit::Usage))
    }
}

fn check(file: &std::path::Path) -> ExitCode {
    match config::load(file) {
        Ok(config) => {
            let count = match config.proxies.len() {
                0 => "no proxy".to_string(),
                1 => "1 proxy".to_string(),
                n => format!("{n} proxies"),
            };
            super::say(format_args!("{}: valid, {count}", file.display()));
            Exit::Orderly.into()
        }
        Err(errors) => refuse("", &errors, Exit::Config),
    }
}

fn refuse(prefix: &str, Errors(lines): &Errors, exit: Exit) -> ExitCode {
    for line in lines {
        super::complain(format_args!("{prefix}{line}"));
    }
    exit.into()
}
