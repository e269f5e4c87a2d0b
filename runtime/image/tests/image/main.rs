//! The image crate from outside: layouts in, verified and unpacked trees out.
//!
//! Unpacking starts the running binary again in the role `__unpack`. Here the running binary is this
//! test, so its `main` takes that role, as the `palisade` binary does. The other roles are whole runs
//! that a test kills or starves from outside.

#![expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data is made of small numbers"
)]

#[cfg(test)]
mod support;

#[cfg(test)]
mod confinement;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod import;
#[cfg(test)]
mod overlay;
#[cfg(test)]
mod remove;
#[cfg(test)]
mod space;
#[cfg(test)]
mod unpack;
#[cfg(test)]
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [palisade_image::unpack::UNPACK_ROLE] => palisade_image::unpack_child_main(),
        ["__probe", tree, outside] => confinement::probe(tree, outside),
        ["__prepare", store, name] => crash::prepare(store, name),
        ["__starve", layouts, store] => space::starve(layouts, store),
        _ => run(),
    }
}

fn run() -> ExitCode {
    let trials = [
        confinement::trials(),
        crash::trials(),
        hostile::trials(),
        import::trials(),
        overlay::trials(),
        remove::trials(),
        space::trials(),
        unpack::trials(),
        verify::trials(),
    ];
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials.into_iter().flatten().collect())
        .exit_code()
}
