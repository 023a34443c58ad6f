//! The `primalcore` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    primalcore::primalcore()
}
