//! The one error type of the crate, and the exit codes.
//!
//! An [`Error`] names the operation that failed and on what, then its cause chain, once. The
//! library neither prints nor exits: the binaries turn an error into a line and an [`Exit`].

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

/// A result whose error says its exit code.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit codes of `drained` and `drainctl`: an interface, see sysexits.h(3head).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// An orderly end, also where a deadline cut connections.
    Orderly = 0,
    /// EX_USAGE: the command line is wrong.
    Usage = 64,
    /// EX_DATAERR: the daemon refused what drainctl asked for, an unknown proxy for one.
    Refused = 65,
    /// EX_UNAVAILABLE: the daemon that drainctl talks to isn't there.
    Unavailable = 69,
    /// EX_SOFTWARE: a worker or step was left behind, or a bug.
    Software = 70,
    /// EX_OSERR: the system refused (address in use, too few file descriptors, ...).
    System = 71,
    /// EX_TEMPFAIL: a drain had to cut connections, or what was waited for did not come about.
    Unfinished = 75,
    /// EX_CONFIG: the configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What failed, on what, why, and the exit code that the program ends with if it ends by it.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause below it.
    pub fn new(exit: Exit, message: impl Into<String>) -> Error {
        Error { exit, message: message.into(), source: None }
    }

    /// The system refused: `message` names the operation and its object, `source` is the errno.
    pub fn system(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error { exit: Exit::System, message: message.into(), source: Some(source.into()) }
    }

    /// The exit code for a program that ends by this error.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    /// The message, then the whole cause chain, parted by `: `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

// `source` stays None: Display already tells the whole chain, and a caller that walks it too
// would print every cause twice.
impl StdError for Error {}
