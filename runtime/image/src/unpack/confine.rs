//! What the unpacking process gives up before it reads the first byte of a layer.
//!
//! In this order, each step after those that need what it takes away: standard error (what a taken-over
//! process writes to a terminal can act on it), resource limits, `no_new_privs`, Landlock, and the
//! seccomp filter last. Then it reads back from the kernel what took effect.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::resource::{Resource, setrlimit};
use palisade_sys::dir::{Dir, open_ambient_file, read_all_bounded};
use palisade_sys::process::landlock_abi;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

use super::LayerFault;
use crate::limits::{CHILD_FILES_MAX, CHILD_MEMORY_MAX, FILE_BYTES_MAX, LAYER_TIME_MAX};

/// `/proc/self/status` is some 60 lines of at most a few hundred bytes.
const STATUS_BYTES_MAX: u64 = 64 * 1024;

/// The proof that this process is confined; only [`confine`] makes one.
pub(super) struct Confined {
    landlock_abi: Option<u32>,
}

impl Confined {
    /// `None` when the kernel has no Landlock and the caller accepted that.
    pub(super) fn landlock_abi(&self) -> Option<u32> {
        self.landlock_abi
    }
}

/// Confines this process to writing below `tree`.
pub(super) fn confine(tree: &Dir, landlock_required: bool) -> Result<Confined, LayerFault> {
    // Opened while that is still possible; a read gives the state at the time of the read.
    let status = open_ambient_file("/proc/self/status".as_ref()).map_err(failed("open its status"))?;
    silence_stderr()?;
    limit_resources()?;
    nix::sys::prctl::set_no_new_privs().map_err(failed("set no_new_privs"))?;
    let landlock_abi = restrict_files(tree, landlock_required)?;
    filter_calls()?;
    check_status(status)?;
    Ok(Confined { landlock_abi })
}

/// For the test of this module: confines the calling process, which must have one thread, for good.
#[doc(hidden)]
pub fn confine_this_process(tree: &Dir) -> Result<Option<u32>, LayerFault> {
    Ok(confine(tree, true)?.landlock_abi())
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> LayerFault {
    move |error| LayerFault::Confinement { step: format!("{step}: {error}") }
}

fn silence_stderr() -> Result<(), LayerFault> {
    // Standard output is /dev/null already: whoever started us saw to that.
    nix::unistd::dup2_stderr(std::io::stdout()).map_err(failed("close standard error"))
}

fn limit_resources() -> Result<(), LayerFault> {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, CHILD_FILES_MAX),
        (Resource::RLIMIT_FSIZE, FILE_BYTES_MAX),
        (Resource::RLIMIT_AS, CHILD_MEMORY_MAX),
        (Resource::RLIMIT_CPU, LAYER_TIME_MAX.as_secs()),
    ] {
        setrlimit(resource, limit, limit).map_err(failed("limit its resources"))?;
    }
    Ok(())
}

/// Below the tree: everything that making files, directories and links needs, and no more. Elsewhere:
/// nothing. No connection, no listening socket, no signal to other processes.
fn restrict_files(tree: &Dir, required: bool) -> Result<Option<u32>, LayerFault> {
    let abi = landlock_abi();
    if abi == 0 {
        return if required { Err(LayerFault::NoLandlock) } else { Ok(None) };
    }
    let in_tree = AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let step = "enter its Landlock domain";
    let ruleset = Ruleset::default()
        // Older kernels enforce what they know; the first version already covers all that follows but
        // truncation, which matters only for files that could be opened.
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V7))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(failed(step))?;
    let restricted = ruleset
        .add_rule(PathBeneath::new(tree, in_tree))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(failed(step))?;
    match restricted.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(Some(abi)),
        RulesetStatus::NotEnforced => Err(failed(step)("the kernel did not enforce it")),
    }
}

/// The calls that unpacking makes; everything else is answered EPERM.
fn allowed_calls() -> Vec<i64> {
    vec![
        // Files below the tree. openat2 only: it is what refuses links and `..`.
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_unlinkat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fsetxattr,
        libc::SYS_utimensat,
        libc::SYS_getdents64,
        libc::SYS_newfstatat,
        libc::SYS_fstat,
        libc::SYS_statx,
        // Descriptors that are open.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_lseek,
        libc::SYS_fcntl,
        // The staging lock is given back explicitly.
        libc::SYS_flock,
        libc::SYS_close,
        // The reply.
        libc::SYS_sendmsg,
        // Memory, and the end.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
}

fn filter_calls() -> Result<(), LayerFault> {
    let step = "install its seccomp filter";
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed_calls().into_iter().map(|call| (call, Vec::new())).collect();
    // Memory, but never memory that can be executed.
    let prot_exec = u64::try_from(libc::PROT_EXEC).map_err(failed(step))?;
    let not_executable =
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(prot_exec), 0)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(failed(step))?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![not_executable.clone()]);
    }
    let eperm = SeccompAction::Errno(u32::try_from(libc::EPERM).map_err(failed(step))?);
    let target = std::env::consts::ARCH.try_into().map_err(failed(step))?;
    let filter = SeccompFilter::new(rules, eperm, SeccompAction::Allow, target).map_err(failed(step))?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(failed(step))?;
    apply_filter(&program).map_err(failed(step))
}

/// What the setters claimed is read back.
fn check_status(mut status: File) -> Result<(), LayerFault> {
    let step = "read back what took effect";
    status.seek(SeekFrom::Start(0)).map_err(failed(step))?;
    let text = read_all_bounded(status, STATUS_BYTES_MAX).map_err(failed(step))?;
    let text = String::from_utf8_lossy(&text);
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        if !text.lines().any(|found| found == line) {
            return Err(failed(step)(format!("`{line}` is missing")));
        }
    }
    Ok(())
}
