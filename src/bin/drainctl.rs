//! drainctl: see drainctl(1).

use std::process::ExitCode;

fn main() -> ExitCode {
    drained::cli::drainctl::main()
}
