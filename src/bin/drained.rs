//! drained: see drained(8).

use std::process::ExitCode;

use drained::{cli, lifecycle};

fn main() -> ExitCode {
    let signals = lifecycle::block_signals();
    cli::drained::main(signals)
}
