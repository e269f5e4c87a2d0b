//! `palisade`: parse, call one function, render, exit.
//!
//! The map of the crate, in reading order: [`cli`] (every flag, once), [`environment`] (the only place
//! that reads the environment), [`assemble`] (from a policy file to a server that can be started: the
//! page to read first), [`warm`] (sandboxes that are kept ready), [`commands`] (one file for each command), [`failure`] (how an error is shown
//! and which status it gives).
//!
//! The binary has two more roles, which only our own processes start: `__supervise`
//! (`palisade_sandbox::supervisor`) and `__unpack` (`palisade_image::unpack`). They are looked for
//! before anything else, since both need a process that has done nothing yet.

#![forbid(unsafe_code)]

mod assemble;
mod cli;
mod commands;
mod environment;
mod failure;
mod output;
mod warm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Err(error) = harden() {
        let hint = "`palisade` needs /proc, and resource limits that can be lowered";
        return failure::Failure::new(failure::Status::Failed, &error, Some(hint.into()))
            .because("this process cannot be hardened")
            .report();
    }
    if let Some(status) = role() {
        return status;
    }
    let arguments = cli::Arguments::parse();
    failure::log_to_stderr(arguments.verbose);
    let environment = environment::Environment::read();
    match commands::run(arguments, &environment) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// What every role does first: nothing of the caller's descriptors, limits and signal settings may
/// reach a server or put a secret on the disk, and no other process of the same user may look into this one.
fn harden() -> std::io::Result<()> {
    palisade_sys::process::close_on_exec_from(3)?;
    palisade_sys::process::reset_sigchld()?;
    palisade_sys::process::forbid_core_dumps()?;
    palisade_sys::process::forbid_inspection()
}

/// Runs as one of our own child processes, when that is what this is.
fn role() -> Option<ExitCode> {
    let role = std::env::args_os().nth(1)?;
    if role == palisade_sandbox::supervisor::ROLE {
        // Descriptor 0 is the control socket (palisade_sys::child).
        let control = palisade_sys::dir::take_inherited(0);
        return Some(ExitCode::from(
            control.map_or(1, |control| palisade_sandbox::supervisor::main(&control)),
        ));
    }
    (role == palisade_image::unpack::UNPACK_ROLE).then(palisade_image::unpack_child_main)
}
