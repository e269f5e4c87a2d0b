//! Palisade on other kernels than this machine's: Debian's, each booted in qemu without KVM.
//!
//! A *scenario* is one boot of one kernel with a list of cases. The machine's disk holds the program and this very
//! test binary, which runs the cases inside, as root and as an ordinary user, and reports each on a serial port
//! ([`guest`]). Outside ([`machine`]), each case is one test; the first that is asked for boots its scenario, and the
//! others of that scenario read the same report.
//!
//! The kernels come from `tests/fixtures/build` (the command of `tests/run`). What is expected of which kernel is in
//! [`scenario`]; what is tried, in [`cases`].

#![expect(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    reason = "tests act as a person would, on paths and with other programs; times are small"
)]

#[cfg(test)]
mod cases;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod scenario;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [guest::ROLE, scenario] => guest::run(scenario),
        _ => libtest_mimic::run(&libtest_mimic::Arguments::from_args(), machine::trials()).exit_code(),
    }
}
