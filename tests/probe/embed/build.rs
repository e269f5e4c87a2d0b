//! Builds the probe program as one static binary, and tells the compiler where it is.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script is told everything by its environment, and runs cargo"
)]

#[path = "../../../build/static_program.rs"]
mod static_program;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What the binary is built from.
const SOURCES: [&str; 8] = [
    "build/static_program.rs",
    "Cargo.toml",
    "Cargo.lock",
    "demo/server/Cargo.toml",
    "demo/server/src",
    "tests/probe/Cargo.toml",
    "tests/probe/src",
    "tests/probe/embed/build.rs",
];

fn main() -> ExitCode {
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."));
    match static_program::build("palisade-probe", "PALISADE_PROBE", workspace, &SOURCES) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match writeln!(std::io::stderr(), "error: {error}") {
            // Without stderr the exit code is all that can be said.
            Ok(()) | Err(_) => ExitCode::FAILURE,
        },
    }
}
