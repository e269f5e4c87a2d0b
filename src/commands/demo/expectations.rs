//! What each attempt must meet, as data: the error number, and the layer that gives it.
//!
//! The reasons are in the table. An error number that is not listed is never explained away.

use super::attack::Outcome;

/// A layer of the sandbox, as precisely as an error number tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// The root file system holds the image and what the policy mounts.
    OwnRoot,
    /// Process ids of the host do not exist.
    PidNamespace,
    /// No address, no route, and abstract sockets of its own.
    NetworkNamespace,
    /// A mount that is read-only.
    ReadOnly(&'static str),
    /// A mount from which nothing runs.
    NoExec(&'static str),
    /// The procfs, with the option that hides it.
    Procfs(&'static str),
    /// The filter answers before the kernel looks at the call.
    Seccomp(&'static str),
    /// Landlock.
    Landlock,
    /// The cgroup's and the user namespace's count of processes.
    ProcessLimit,
    /// The environment is made from image and policy.
    OwnEnvironment,
    /// Descriptors 0 to 2 and no other.
    Descriptors,
}

/// One way in which an attempt may end. Several rows may stand for one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) id: &'static str,
    /// Words of its description, where one id stands for several attempts. A row with words that fit hides
    /// those without.
    pub(super) about: &'static str,
    pub(super) outcome: Outcome,
    pub(super) errno: Option<&'static str>,
    pub(super) meaning: Meaning,
    /// Why this end shows what it is said to show.
    pub(super) why: &'static str,
}

/// What an end shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    Refused(Layer),
    /// As `Refused`, if what is looked for is there outside; otherwise not finding it shows nothing.
    RefusedIfPlanted(Layer),
    /// The attempt worked, and gave the server nothing.
    Harmless,
    /// It fails in any process, so that its failing shows nothing.
    Moot,
}

const fn refused(id: &'static str, errno: &'static str, layer: Layer, why: &'static str) -> Row {
    let (outcome, meaning) = (Outcome::Refused, Meaning::Refused(layer));
    Row { id, about: "", outcome, errno: Some(errno), meaning, why }
}

/// Refused without an error number: it looked, and there was nothing.
const fn not_found(id: &'static str, layer: Layer, why: &'static str) -> Row {
    let (outcome, meaning) = (Outcome::Refused, Meaning::Refused(layer));
    Row { id, about: "", outcome, errno: None, meaning, why }
}

/// A call that the filter does not let through. It is the first to look, so its answer is the answer.
const fn filtered(id: &'static str, call: &'static str) -> Row {
    let why = "the filter has no such call, or not with these arguments; it answers before the kernel looks";
    refused(id, "EPERM", Layer::Seccomp(call), why)
}

impl Row {
    const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    const fn means(self, meaning: Meaning) -> Self {
        Self { meaning, ..self }
    }

    const fn if_planted(self) -> Self {
        match self.meaning {
            Meaning::Refused(layer) => self.means(Meaning::RefusedIfPlanted(layer)),
            Meaning::RefusedIfPlanted(_) | Meaning::Harmless | Meaning::Moot => self,
        }
    }

    const fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

use Layer::{
    Descriptors, Landlock, NetworkNamespace, NoExec, OwnEnvironment, OwnRoot, PidNamespace, ProcessLimit,
    Procfs, ReadOnly,
};

const NO_SUCH_FILE: &str = "the sandbox's root is another one, and no mount leads out of it";
const NO_SUCH_PID: &str = "the number belongs to a process outside, and means nothing inside";
const HIDDEN_PID: &str = "process 1 is there, but not dumpable, and hidepid=invisible hides it";
const NO_SETTINGS: &str = "subset=pid: this procfs has nothing but processes";
const NOT_INHERITED: &str = "the sandbox's environment is made from the image's and the policy's variables";

pub(super) const ROWS: &[Row] = &[
    // steal_ssh_keys
    refused("list_home", "ENOENT", OwnRoot, NO_SUCH_FILE).if_planted(),
    refused("list_ssh_directory", "ENOENT", OwnRoot, NO_SUCH_FILE).if_planted(),
    refused("read_ssh_files", "ENOENT", OwnRoot, NO_SUCH_FILE).if_planted(),
    // read_environment
    not_found("own_canary", OwnEnvironment, NOT_INHERITED).if_planted(),
    not_found("own_session", OwnEnvironment, NOT_INHERITED),
    refused("own_home", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("other_environ", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID).about("/proc/1/"),
    refused("other_environ", "ENOENT", PidNamespace, NO_SUCH_PID),
    refused("every_environ", "ENOENT", PidNamespace, NO_SUCH_PID),
    refused("other_canary", "ENOENT", PidNamespace, NO_SUCH_PID).if_planted(),
    // list_host_processes
    not_found("list_proc", PidNamespace, "/proc is mounted in the server's own pid namespace"),
    refused("kill_sweep", "ESRCH", PidNamespace, NO_SUCH_PID),
    refused("kill", "ESRCH", PidNamespace, NO_SUCH_PID),
    not_found("kill", PidNamespace, "process 1 is the server's own reaper, and signal 0 does nothing")
        .about("process 1 ")
        .outcome(Outcome::Succeeded)
        .means(Meaning::Harmless),
    filtered("ptrace_seize", "ptrace"),
    filtered("process_vm_readv", "process_vm_readv"),
    refused("proc_mem", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID).about("/proc/1/"),
    refused("proc_mem", "ENOENT", PidNamespace, NO_SUCH_PID),
    refused("proc_root", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID).about("/proc/1/"),
    refused("proc_root", "ENOENT", PidNamespace, NO_SUCH_PID),
    refused("proc_cwd", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID).about("/proc/1/"),
    refused("proc_cwd", "ENOENT", PidNamespace, NO_SUCH_PID),
    refused("proc_environ", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID).about("/proc/1/"),
    refused("proc_environ", "ENOENT", PidNamespace, NO_SUCH_PID),
    filtered("pidfd_getfd", "pidfd_getfd").about("process 1 "),
    refused("pidfd_getfd", "ESRCH", PidNamespace, "pidfd_open comes first and finds no such process"),
    filtered("ptrace_traceme", "ptrace"),
    // dial_metadata, dial_public
    refused("metadata_tcp", "EACCES", Landlock, "no rule grants a port (Landlock ABI 4 and later)"),
    refused("metadata_tcp", "ENETUNREACH", NetworkNamespace, "no route (Landlock before ABI 4)"),
    refused("public_tcp", "EACCES", Landlock, "no rule grants a port (Landlock ABI 4 and later)"),
    refused("public_tcp", "ENETUNREACH", NetworkNamespace, "no route (Landlock before ABI 4)"),
    refused("public_udp", "ENETUNREACH", NetworkNamespace, "the network namespace has no route"),
    filtered("raw_socket", "socket"),
    filtered("packet_socket", "socket"),
    filtered("netlink_socket", "socket"),
    filtered("vsock_socket", "socket"),
    filtered("alg_socket", "socket"),
    filtered("abstract_unix", "socket"),
    // fork_bomb
    refused("fork", "EAGAIN", ProcessLimit, "both limits are the policy's, and both answer like this"),
    // symlink_escape
    refused("symlink_shadow", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("symlink_absolute", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("symlink_relative", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("symlink_proc_root", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID),
    refused("symlink_proc_cwd", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID),
    refused("dot_dot", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("proc_self_root", "ENOENT", OwnRoot, NO_SUCH_FILE),
    refused("proc_1_root", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID),
    refused("proc_1_cwd", "ENOENT", Procfs("hidepid=invisible"), HIDDEN_PID),
    refused(
        "working_directory",
        "ENOENT",
        OwnRoot,
        "the working directory is inside, and .. ends at the root",
    ),
    not_found("leaked_descriptors", Descriptors, "all but 0, 1 and 2 were closed before the server started"),
    refused(
        "mount_climb",
        "ENOENT",
        OwnRoot,
        "the mount holds this directory only, and .. leads to its target",
    ),
    refused("mount_symlink", "EROFS", ReadOnly("/workspace"), "no link can be planted in it to begin with")
        .outcome(Outcome::NotTried),
    // write_outside
    refused("create_root", "EROFS", ReadOnly("/"), "the root is read-only"),
    refused("create_etc", "EROFS", ReadOnly("/"), "the root is read-only"),
    refused("create_usr", "EROFS", ReadOnly("/"), "the root is read-only"),
    refused("create_var", "EROFS", ReadOnly("/"), "the root is read-only"),
    refused("create_dev", "EROFS", ReadOnly("/dev"), "a tmpfs of six devices, read-only once they are there"),
    refused("create_proc", "ENOENT", OwnRoot, "no process can make files in a procfs").means(Meaning::Moot),
    refused("create_sys", "ENOENT", OwnRoot, "no sysfs is mounted"),
    refused("core_pattern", "ENOENT", Procfs("subset=pid"), NO_SETTINGS),
    refused("hostname", "ENOENT", Procfs("subset=pid"), NO_SETTINGS),
    refused("sysrq", "ENOENT", Procfs("subset=pid"), NO_SETTINGS),
    refused("own_binary", "EROFS", ReadOnly("/"), "the image is mounted read-only"),
    refused("exec_tmp", "EACCES", NoExec("/tmp"), "execve(2): EACCES on a noexec mount"),
    refused("mmap_exec_tmp", "EPERM", NoExec("/tmp"), "mmap(2): EPERM for PROT_EXEC on a noexec mount"),
    filtered("exec_memfd", "memfd_create"),
    filtered("set_id_create", "openat"),
    filtered("set_id_change", "chmod"),
    filtered("file_lease", "fcntl"),
    // become_root
    filtered("setuid", "setuid"),
    filtered("capset", "capset"),
    filtered("ptrace", "ptrace"),
    filtered("tiocsti", "ioctl"),
    filtered("unshare_user", "unshare"),
    filtered("unshare_mount", "unshare"),
    filtered("setns_filter", "setns"),
    filtered("setns", "setns"),
    filtered("mount", "mount"),
    filtered("fsopen", "fsopen"),
    filtered("pivot_root", "pivot_root"),
    filtered("chroot", "chroot"),
    filtered("mknod", "mknod"),
    filtered("open_by_handle_at", "open_by_handle_at"),
    filtered("bpf", "bpf"),
    filtered("perf_event_open", "perf_event_open"),
    filtered("io_uring_setup", "io_uring_setup"),
    filtered("keyctl", "keyctl"),
    filtered("userfaultfd", "userfaultfd"),
    filtered("kexec_load", "kexec_load"),
    filtered("init_module", "init_module"),
    filtered("clock_settime", "clock_settime"),
    filtered("reboot", "reboot"),
    filtered("syslog", "syslog"),
    filtered("personality", "personality"),
    filtered("clone_user", "clone"),
    refused(
        "clone3_user",
        "ENOSYS",
        Layer::Seccomp("clone3"),
        "flags behind a pointer cannot be read, so libc is told to use clone",
    ),
];

impl Layer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OwnRoot => "mount namespace",
            Self::PidNamespace => "pid namespace",
            Self::NetworkNamespace => "network namespace",
            Self::ReadOnly(_) => "read-only mount",
            Self::NoExec(_) => "noexec mount",
            Self::Procfs(_) => "procfs options",
            Self::Seccomp(_) => "seccomp filter",
            Self::Landlock => "Landlock",
            Self::ProcessLimit => "process limit",
            Self::OwnEnvironment => "own environment",
            Self::Descriptors => "closed descriptors",
        }
    }

    /// The layer without the place or call where it was met.
    pub(super) fn kind(self) -> Self {
        match self {
            Self::ReadOnly(_) => Self::ReadOnly(""),
            Self::NoExec(_) => Self::NoExec(""),
            Self::Procfs(_) => Self::Procfs(""),
            Self::Seccomp(_) => Self::Seccomp(""),
            Self::OwnRoot
            | Self::PidNamespace
            | Self::NetworkNamespace
            | Self::Landlock
            | Self::ProcessLimit
            | Self::OwnEnvironment
            | Self::Descriptors => self,
        }
    }

    /// What the layer does.
    pub(super) fn means(self) -> &'static str {
        match self {
            Self::OwnRoot => {
                "the root holds the image and what the policy mounts; the host's files have no name"
            }
            Self::PidNamespace => "the host's processes have no number",
            Self::NetworkNamespace => "no address, no route; abstract sockets of the host are elsewhere",
            Self::ReadOnly(_) => "the image and the mounted directory cannot be written",
            Self::NoExec(_) => "what can be written does not run",
            Self::Procfs(_) => "/proc shows no kernel setting and no process that is not the server's",
            Self::Seccomp(_) => "a call that is not on the list does not reach the kernel",
            Self::Landlock => "no rule grants a TCP port, or making devices",
            Self::ProcessLimit => "so many processes and no more, by cgroup where there is one and by rlimit",
            Self::OwnEnvironment => "made from image and policy, not inherited",
            Self::Descriptors => "only 0, 1 and 2 are open",
        }
    }
}
