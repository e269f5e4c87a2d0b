//! Outside the machine: its disk, qemu, and the reports that come back.

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::guest::Report;
use crate::scenario::{SCENARIOS, Scenario};
use crate::support::{need, wait_within};

/// From power on to power off: a boot takes 4 s and all cases a minute, on two busy cores three times that.
const LIMIT: Duration = Duration::from_mins(8);

/// The system's binaries, images and the stores of all cases; the file is sparse.
const DISK_SIZE: &str = "1G";

/// The kernel of a release whose support has ended (`LEAVING` in `tests/fixtures/fixturelib/kernels.py`): the only one
/// that may be missing in CI.
const LEAVING: &str = "5.10";

/// Test binaries that come along and run inside as they are.
pub(crate) const SUITES: [&str; 2] = ["claims", "lifecycle"];

/// All cases of all scenarios, in turn, so that two that run at once boot two machines.
pub(crate) fn trials() -> Vec<Trial> {
    let mut queues: Vec<Vec<Trial>> = SCENARIOS.iter().map(trials_of).collect();
    let longest = queues.iter().map(Vec::len).max().unwrap_or_default();
    let mut trials = Vec::new();
    for _ in 0..longest {
        trials.extend(queues.iter_mut().filter(|queue| !queue.is_empty()).map(|queue| queue.remove(0)));
    }
    trials
}

fn trials_of(scenario: &Scenario) -> Vec<Trial> {
    static OUTCOMES: [OnceLock<Option<Outcome>>; SCENARIOS.len()] =
        [const { OnceLock::new() }; SCENARIOS.len()];
    let index = SCENARIOS.iter().position(|each| each.name == scenario.name).unwrap();
    let scenario = *scenario;
    let trial = |case: &'static str| {
        Trial::test(format!("{}::{case}", scenario.name), move || {
            match OUTCOMES[index].get_or_init(|| have_kernel(&scenario).then(|| boot(&scenario))) {
                None => Ok(()),
                Some(outcome) => outcome.of(case),
            }
        })
    };
    scenario.all_cases().into_iter().map(|(case, _run)| trial(case)).collect()
}

/// What a machine reported, and what it had on its console.
struct Outcome {
    reports: HashMap<String, Report>,
    console: String,
}

impl Outcome {
    fn of(&self, case: &str) -> Result<(), Failed> {
        match self.reports.get(case) {
            Some(Report { failure: None, .. }) => Ok(()),
            Some(Report { failure: Some(failure), seconds, .. }) => {
                Err(format!("after {seconds:.1} s inside the machine: {failure}").into())
            }
            None => Err(format!("the machine ended before this case did\n{}", self.console).into()),
        }
    }
}

fn kernel(scenario: &Scenario) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/kernels").join(scenario.kernel)
}

fn have_kernel(scenario: &Scenario) -> bool {
    if scenario.kernel == LEAVING && !kernel(scenario).is_dir() {
        eprintln!("SKIPPED: the mirrors do not have Linux {LEAVING} any more");
        return false;
    }
    need("target/fixtures/kernels (run tests/run)", kernel(scenario).join("initrd").is_file())
}

fn boot(scenario: &Scenario) -> Outcome {
    let dir = tempfile::Builder::new().prefix("palisade-machine-").tempdir().unwrap();
    let [disk, console, reports] = ["disk", "console", "reports"].map(|name| dir.path().join(name));
    make_disk(&dir.path().join("tree"), &disk);
    // Should this test be killed, the machine goes with it.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", "tcg", "-cpu", "max", "-m", "512", "-display", "none", "-nodefaults", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", reports.display()))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()))
        .arg("-kernel")
        .arg(kernel(scenario).join("linux"))
        .arg("-initrd")
        .arg(kernel(scenario).join("initrd"))
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 scenario={} {}", scenario.name, scenario.append))
        .stdin(Stdio::null());
    let mut child = qemu.spawn().unwrap();
    let ended = wait_within(&mut child, LIMIT);
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let reports = text(&reports)
        .lines()
        .filter_map(|line| serde_json::from_str::<Report>(line.trim()).ok())
        .map(|report| (report.case.clone(), report))
        .collect();
    Outcome { reports, console: format!("qemu: {ended:?}\n{}", text(&console)) }
}

/// The machine's root file system: this binary, the program where the tests expect it, the libraries that both link.
/// ext4, since a store needs `user.*` attributes, which a tmpfs has only since Linux 6.6.
fn make_disk(tree: &Path, disk: &Path) {
    for name in ["bin", "sbin", "lib", "etc", "proc", "sys", "dev", "run", "root", "tmp"] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
    }
    std::fs::set_permissions(tree.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(tree.join("etc/group"), "root:x:0:\n").unwrap();
    std::fs::write(tree.join("init"), include_str!("guest.sh")).unwrap();
    // The kernel starts it to load the module of a file system.
    symlink("../bin/busybox", tree.join("sbin/modprobe")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_palisade"));
    let this = std::env::current_exe().unwrap();
    install(program, tree, program);
    install(&this, tree, Path::new("/kernels"));
    for (name, suite) in suites() {
        install(suite, tree, &Path::new("/suites").join(name));
    }
    for library in libraries(program).into_iter().chain(libraries(&this)) {
        install(&library, tree, &library);
    }
    // An ordinary user's PATH may not lead there.
    let mke2fs = if Path::new("/usr/sbin/mke2fs").is_file() { "/usr/sbin/mke2fs" } else { "mke2fs" };
    must(
        Command::new(mke2fs)
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0"])
            .arg("-d")
            .arg(tree)
            .arg(disk)
            .arg(DISK_SIZE),
    );
}

/// The other test binaries, which cargo has built by now, or builds when only this one was asked for.
fn suites() -> &'static Vec<(String, PathBuf)> {
    static BUILT: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--no-run", "--message-format=json", "--locked", "--package", "palisade"]);
        cargo.args(SUITES.iter().flat_map(|name| ["--test", name]));
        let messages = must(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
        let executable = |message: Value| {
            let (name, path) = (message["target"]["name"].as_str()?, message["executable"].as_str()?);
            SUITES.contains(&name).then(|| (name.to_owned(), PathBuf::from(path)))
        };
        let built: Vec<_> =
            messages.lines().filter_map(|line| executable(serde_json::from_str(line).ok()?)).collect();
        assert_eq!(built.len(), SUITES.len(), "{built:?}");
        built
    })
}

/// Copies without what only a debugger reads: the disk is written in a fifth of the time.
fn install(from: &Path, tree: &Path, to: &Path) {
    let target = tree.join(to.strip_prefix("/").unwrap());
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    must(Command::new("strip").arg("--strip-debug").arg("-o").arg(&target).arg(from));
}

/// What the dynamic linker says that a program needs, the linker itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = must(Command::new("ldd").arg(program));
    output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
