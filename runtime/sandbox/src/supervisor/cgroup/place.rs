//! Where the directory of a sandbox is made, and what has to be done above it first (v2).
//!
//! A cgroup that has processes in it cannot hand controllers down ("no internal processes", cgroups(7)); only the
//! root of the hierarchy may. Below a delegated cgroup the keeper therefore moves the gateway and what it started
//! into a leaf of its own before it enables anything:
//!
//! ```text
//! D                      delegated: was the gateway's, now nobody's
//! ├─ palisade-gateway    gateway, keepers, supervisors, unpacking children
//! └─ palisade
//!    └─ <pid>-<start>    one sandbox, with its limits
//! ```

use std::io::{self, Write};
use std::path::Path;

use nix::unistd::getppid;
use palisade_sys::dir::Dir;

use super::super::{During, StepError};
use super::files::Plan;
use crate::host::CgroupPlace;
use crate::host::cgroups::{CGROUP_ROOT, FILE_MAX, OWN_LEAF, own_base, pids, stranger_in};

/// The directory that holds ours in each hierarchy.
pub(super) const PARENT: &str = "palisade";

/// The directory below which `palisade` is made, ready to hand down what `plan` needs.
pub(super) fn base(place: Option<CgroupPlace>, plan: &Plan) -> Result<Dir, StepError> {
    const STEP: &str = "opening the cgroup hierarchy";
    match place {
        None | Some(CgroupPlace::Top) => {
            Dir::open_ambient(&Path::new(CGROUP_ROOT).join(plan.hierarchy)).during(STEP)
        }
        Some(CgroupPlace::Own) => {
            let (_path, base) = own_base().ok_or_else(|| StepError::new(STEP, "it is gone"))?;
            move_aside(&base)?;
            Ok(base)
        }
    }
}

/// A process may start another one between our reading of the list and its own move; each try catches those of
/// the one before, and a gateway starts a handful of processes at most at a time.
const MOVE_TRIES: u32 = 64;

/// Moves the gateway and what it has started out of `base`.
fn move_aside(base: &Dir) -> Result<(), StepError> {
    const STEP: &str = "moving our own processes into a cgroup beside the sandboxes";
    let gateway = u32::try_from(getppid().as_raw()).unwrap_or_default();
    for _ in 0..MOVE_TRIES {
        let members = pids(&base.read_bounded(Path::new("cgroup.procs"), FILE_MAX).during(STEP)?);
        if members.is_empty() {
            return Ok(());
        }
        if let Some(pid) = stranger_in(base, gateway) {
            return Err(StepError::new(STEP, format!("process {pid} is in ours and was not started by us")));
        }
        let leaf = base.ensure_dir(Path::new(OWN_LEAF), 0o755).during(STEP)?;
        for pid in members {
            match write_file(&leaf, "cgroup.procs", &pid.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                moved => moved.during(STEP)?,
            }
        }
    }
    Err(StepError::new(STEP, "new processes keep appearing in it"))
}

/// Lets the cgroups below `dir` have the controllers.
pub(super) fn hand_down(dir: &Dir, plan: &Plan) -> io::Result<()> {
    for controller in &plan.controllers {
        write_file(dir, "cgroup.subtree_control", &format!("+{controller}"))?;
    }
    Ok(())
}

/// Takes back what [`hand_down`] gave, when nothing is left that has it: a cgroup that hands controllers down takes
/// no process, and palisade could not be started in it a second time. Below a sandbox that has just been made
/// the kernel refuses (`EBUSY`), and its keeper takes care later.
pub(super) fn take_back(dir: &Dir, controllers: &[&str]) {
    for controller in controllers {
        if write_file(dir, "cgroup.subtree_control", &format!("-{controller}")).is_err() {
            return;
        }
    }
}

pub(super) fn write_file(dir: &Dir, file: &str, value: &str) -> io::Result<()> {
    dir.open_file_rw(Path::new(file))?.write_all(value.as_bytes())
}
