//! The `replay` binary: `primalcore replay` on its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    primalcore::replay()
}
