//! One file for each command; this one only tells them apart.

mod demo;
mod doctor;
mod explain;
mod gateway;
mod image;
mod policy;

use std::process::ExitCode;

use crate::cli::{Arguments, Command, Gateway};
use crate::environment::Environment;
use crate::failure::Failure;

/// What most commands return when all went well.
type Done = Result<(), Failure>;

/// Runs the command.
pub(crate) fn run(arguments: Arguments, environment: &Environment) -> Result<ExitCode, Failure> {
    let store = arguments.store.as_deref();
    match arguments.command {
        Command::Run(run) => return gateway::run_one(&run, store, environment),
        Command::Demo(options) => demo::run(&options, demo::Detail::of(arguments.verbose), environment)?,
        Command::Gateway(Gateway::Run(options)) => gateway::run_many(&options, store, environment)?,
        Command::Image(command) => image::run(command, store, environment)?,
        Command::Policy(command) => policy::run(command, environment)?,
        Command::Explain(options) => explain::run(&options, store, environment)?,
        Command::Doctor(options) => doctor::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
