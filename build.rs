//! Builds the sample server that `palisade demo` packs into an image, and tells the compiler where it is.
//!
//! The server must be one static binary, since nothing else is in its image, and it must be inside `palisade`, since
//! the demo works without a network or a second download.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script is told everything by its environment, and runs cargo"
)]

#[path = "build/static_program.rs"]
mod static_program;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What the binary is built from.
const SOURCES: [&str; 6] = [
    "build.rs",
    "build/static_program.rs",
    "Cargo.toml",
    "Cargo.lock",
    "demo/server/Cargo.toml",
    "demo/server/src",
];

fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    match static_program::build("palisade-demo-server", "PALISADE_DEMO_SERVER", workspace, &SOURCES) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match writeln!(std::io::stderr(), "error: {error}") {
            // Without stderr the exit code is all that can be said.
            Ok(()) | Err(_) => ExitCode::FAILURE,
        },
    }
}
