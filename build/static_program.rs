//! A cargo inside cargo that builds one static binary, for a build script.
//!
//! It builds into a target directory of its own, since the outer cargo holds the lock on the usual one. The outer
//! build's flags, wrappers and package variables are meant for other crates and are taken away; the job server is kept.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROFILE: &str = "demo-server";

/// Variables that configure the outer build and would change or break this one: clippy and coverage tools come as
/// wrappers, and flags for them would reach a binary that must be small and static.
const NOT_PASSED_ON: [&str; 10] = [
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
    "CLIPPY_ARGS",
];

/// Prefixes of what cargo tells a build script about the package `palisade`.
const ABOUT_THE_OUTER_PACKAGE: [&str; 5] =
    ["CARGO_PKG_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "DEP_"];

/// Builds the binary of `package`, whose sources are `sources` (a directory stands for everything below it), and tells
/// the compiler in the variable `variable` where it is. `workspace` is where the workspace's manifest is.
pub(crate) fn build(
    package: &'static str,
    variable: &str,
    workspace: &Path,
    sources: &[&str],
) -> Result<(), Box<dyn Error>> {
    let build = Build::from_environment(package, workspace)?;
    let mut to_cargo = io::stdout().lock();
    for source in sources {
        writeln!(to_cargo, "cargo::rerun-if-changed={}", workspace.join(source).display())?;
    }
    let binary = build.run()?;
    writeln!(to_cargo, "cargo::rustc-env={variable}={}", binary.display())?;
    Ok(())
}

struct Build {
    package: &'static str,
    cargo: OsString,
    target: String,
    manifest: PathBuf,
    target_dir: PathBuf,
}

impl Build {
    fn from_environment(package: &'static str, workspace: &Path) -> Result<Self, Box<dyn Error>> {
        let told = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
        Ok(Self {
            package,
            cargo: told("CARGO")?,
            target: env::var("TARGET")?,
            manifest: workspace.join("Cargo.toml"),
            target_dir: Path::new(&told("OUT_DIR")?).join(package),
        })
    }

    fn run(&self) -> Result<PathBuf, Box<dyn Error>> {
        // Offline and locked is the rule: the outer build has fetched the same packages. It fails where this target
        // needs one that the outer build did not, and only then may cargo go and look.
        let mut output = self.cargo(&["--locked", "--offline"])?;
        if !output.status.success() && wants_the_registry(&output) {
            output = self.cargo(&[])?;
        }
        if !output.status.success() {
            return Err(self.explain(&output).into());
        }
        let binary = self.target_dir.join(&self.target).join(PROFILE).join(self.package);
        if !binary.is_file() {
            return Err(
                format!("cargo built {} but left nothing at {}", self.package, binary.display()).into()
            );
        }
        Ok(binary)
    }

    fn cargo(&self, flags: &[&str]) -> io::Result<Output> {
        let mut command = Command::new(&self.cargo);
        command
            .args([
                "build",
                "--package",
                self.package,
                "--bin",
                self.package,
                "--profile",
                PROFILE,
                "--target",
                &self.target,
            ])
            .arg("--manifest-path")
            .arg(&self.manifest)
            .arg("--target-dir")
            .arg(&self.target_dir)
            .args(flags);
        for (name, _value) in env::vars_os().filter(|(name, _value)| is_meant_for_the_outer_build(name)) {
            command.env_remove(name);
        }
        // Takes precedence over every other source of flags, configuration files among them.
        command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").output()
    }

    fn explain(&self, output: &Output) -> String {
        let said = String::from_utf8_lossy(&output.stderr);
        let hint = if lacks_static_libraries(&said) {
            format!(
                "\n\nhint: a static binary for {} needs the static C library (libc.a): install libc6-dev on Debian \
                 and Ubuntu, glibc-static on Fedora, or build with `--target {}`",
                self.target,
                self.target.replace("-gnu", "-musl")
            )
        } else {
            String::new()
        };
        format!("could not build {}:\n{said}{hint}", self.package)
    }
}

fn is_meant_for_the_outer_build(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let flags_of_one_target = name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS");
    NOT_PASSED_ON.contains(&name.as_ref())
        || ABOUT_THE_OUTER_PACKAGE.iter().any(|prefix| name.starts_with(prefix))
        || flags_of_one_target
}

/// Whether cargo stopped because `--locked` or `--offline` kept it from what it needed.
fn wants_the_registry(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    ["--offline", "--locked", "offline mode"].iter().any(|word| said.contains(word))
}

/// The linkers' ways of saying that a library or the start file of a static executable is not there.
fn lacks_static_libraries(said: &str) -> bool {
    ["-lc:", "-lc\n", "-lc`", "-lm", "-lgcc_eh", "-l:libc.a", "crt1.o", "unable to find library"]
        .iter()
        .any(|word| said.contains(word))
}
