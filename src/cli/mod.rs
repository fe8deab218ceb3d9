//! Arguments to options, and results to exit codes: what stands between a door and the library.
//!
//! Everything that the two programs print themselves is printed here, once, by the name of the
//! program; nothing below this prints or exits.

mod actions;
mod adopt;
pub mod drainctl;
pub mod drained;
mod looking;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::systemd::journal;
use crate::{Error, Exit};

/// Reads the arguments, or says why not: help and version end with 0, a wrong usage with 64.
fn parse<P: Parser>() -> Result<P, ExitCode> {
    P::try_parse().map_err(|error| refuse(&error))
}

fn refuse(error: &clap::Error) -> ExitCode {
    // A reader that went away is no reason to end otherwise.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Orderly.into() }
}

/// Prints the error by which `program` ends, and gives its exit code.
fn fail(program: &str, error: &Error) -> ExitCode {
    complain(format_args!("{program}: {error}"));
    error.exit().into()
}

/// Prints on standard error; for the journal with the priority of an error, see sd-daemon(3).
fn complain(line: impl Display) {
    let priority = if journal::stderr_is_journal() { "<3>" } else { "" };
    let _ = writeln!(std::io::stderr(), "{priority}{line}");
}

/// Prints on standard output; a reader that went away is no error. Where it cannot be written otherwise,
/// what is there would pass for the whole: the program ends with 71.
fn say(text: impl Display) {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(format_args!("writing to standard output: {e}"));
            std::process::exit(Exit::System as i32);
        }
        _ => {}
    }
}
