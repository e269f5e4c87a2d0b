//! `symlink_escape`: out of the root by symlinks, `..`, /proc's magic links and descriptors that somebody leaked.
//!
//! The goal is a file of the host (`host_file`, /etc/passwd by default, which no minimal image holds).

use std::os::unix::fs::symlink;

use nix::errno::Errno;

use super::{Arguments, errno, list, open, open_at, own_pid, read, read_some};
use crate::raw::{self, Arg, Call};
use crate::report::{Attempt, Control, Plan, Report};

const PROVES: &str = "files of the host can be read";
const UNCONFINED: &str = "succeeds for a file that the user may read (/etc/shadow: as root)";

/// More than any real path has components: `..` at the root stays there, so too many do no harm.
const UP: &str = "../../../../../../../../../../../../../../../..";

pub(crate) fn run(arguments: &Arguments<'_>) -> Report {
    let goal = arguments.text("host_file").unwrap_or("/etc/passwd");
    let folder = format!("/tmp/palisade-demo-{}", own_pid());
    if let Err(error) = std::fs::create_dir(&folder) {
        let plan = Plan::new("symlink", format!("make symlinks in {folder}"));
        let mut attempts = vec![plan.not_tried(errno(&error), "could not make the directory")];
        attempts.extend(without_symlinks(goal, arguments));
        return Report { controls: Vec::new(), attempts };
    }
    let controls = vec![Control::new("follow a symlink to a file it may read", own_link(&folder))];
    let mut attempts = vec![
        follow("symlink_shadow", &folder, "/etc/shadow"),
        follow("symlink_absolute", &folder, goal),
        follow("symlink_relative", &folder, &format!("{UP}{goal}")),
        follow("symlink_proc_root", &folder, &format!("/proc/1/root{goal}")),
        follow("symlink_proc_cwd", &folder, &format!("/proc/1/cwd/{UP}{goal}")),
    ];
    attempts.extend(without_symlinks(goal, arguments));
    if let Err(error) = std::fs::remove_dir(&folder) {
        let plan = Plan::new("clean_up", format!("remove {folder}"));
        attempts.push(plan.not_tried(errno(&error), "something was left behind"));
    }
    Report { controls, attempts }
}

fn own_link(folder: &str) -> Result<String, Errno> {
    through_link(folder, "/proc/self/status").map_err(|(errno, _step)| errno)
}

fn follow(id: &'static str, folder: &str, target: &str) -> Attempt {
    let what = format!("open {target} through a symlink in {folder}");
    judge_steps(Plan::new(id, what).proves(PROVES).unconfined(UNCONFINED), through_link(folder, target))
}

/// Makes a symlink, reads what it points to, removes it; an error names the step.
fn through_link(folder: &str, target: &str) -> Result<String, (Errno, Step)> {
    let link = format!("{folder}/palisade-demo-link-{}", own_pid());
    symlink(target, &link).map_err(|error| (errno(&error), Step::Before))?;
    let followed = read_some(&link);
    std::fs::remove_file(&link).map_err(|error| (errno(&error), Step::Before))?;
    followed.map_err(|errno| (errno, Step::Itself))
}

/// Whether it was the attempt that failed or something that had to be done for it.
enum Step {
    Before,
    Itself,
}

fn judge_steps(plan: Plan, result: Result<String, (Errno, Step)>) -> Attempt {
    match result {
        Ok(detail) => plan.judge(Ok(detail)),
        Err((errno, Step::Itself)) => plan.judge(Err(errno)),
        Err((errno, Step::Before)) => plan.not_tried(errno, "could not make or remove the symlink"),
    }
}

fn without_symlinks(goal: &str, arguments: &Arguments<'_>) -> Vec<Attempt> {
    let plan = |id, path: &str| Plan::new(id, format!("open {path}")).proves(PROVES).unconfined(UNCONFINED);
    let paths = [
        ("dot_dot", format!("/tmp/{UP}{goal}")),
        ("proc_self_root", format!("/proc/self/root/{UP}{goal}")),
        ("proc_1_root", format!("/proc/1/root{goal}")),
        ("proc_1_cwd", format!("/proc/1/cwd/{UP}{goal}")),
    ];
    let mut attempts: Vec<Attempt> =
        paths.iter().map(|(id, path)| plan(id, path).judge(read_some(path))).collect();
    attempts.push(working_directory(goal));
    attempts.push(leaked_descriptors());
    attempts.extend(arguments.text("directory").map(|directory| climb(directory, goal)));
    attempts.extend(arguments.text("directory").map(|directory| follow("mount_symlink", directory, goal)));
    attempts
}

/// runc's CVE-2024-21626: a working directory outside the root makes every `..` lead through the host.
fn working_directory(goal: &str) -> Attempt {
    let path = format!("{UP}{goal}");
    Plan::new("working_directory", format!("open {path} from its working directory"))
        .proves("the working directory lies outside the sandbox's root")
        .unconfined(UNCONFINED)
        .judge(read_below(libc::AT_FDCWD, &path))
}

fn climb(directory: &str, goal: &str) -> Attempt {
    let path = format!("{UP}{goal}");
    let plan = Plan::new("mount_climb", format!("openat {path} from the mounted directory {directory}"))
        .proves("a mounted directory leads to the rest of the host's file system")
        .unconfined(UNCONFINED);
    match open(directory) {
        Ok(_readable) => {
            plan.judge(open_at(libc::AT_FDCWD, directory, |fd| read_below(fd, &path)).and_then(|read| read))
        }
        Err(errno) => plan.not_tried(errno, "could not open the directory"),
    }
}

fn read_below(directory: i32, path: &str) -> Result<String, Errno> {
    let mut content = [0; 4096];
    let room = i32::try_from(content.len()).map_err(|_too_wide| Errno::EOVERFLOW)?;
    let read = open_at(directory, path, |fd| {
        raw::call(Call::READ, &mut [Arg::Value(fd), Arg::Fill(&mut content), Arg::Value(room)])
    })??;
    Ok(format!("read {read} bytes of it"))
}

/// Descriptors beyond standard input, output and error that whoever started this process left open.
fn leaked_descriptors() -> Attempt {
    let plan = Plan::new("leaked_descriptors", "use descriptors that the launcher left open (/proc/self/fd)")
        .proves("the launcher leaks open files or directories into the sandbox")
        .unconfined("succeeds where the parent left any without close-on-exec");
    let names = match list("/proc/self/fd") {
        Ok(names) => names,
        Err(errno) => return plan.not_tried(errno, "could not list them"),
    };
    // The descriptor of the listing itself is closed by now, and so does not open.
    let leaked: Vec<String> = names
        .into_iter()
        .filter(|name| !["0", "1", "2"].contains(&name.as_str()))
        .filter(|name| read(&format!("/proc/self/fdinfo/{name}")).is_ok())
        .collect();
    if leaked.is_empty() {
        plan.refused(None, "there are none beyond 0, 1 and 2")
    } else {
        plan.succeeded(format!("descriptors {}", leaked.join(", ")))
    }
}
