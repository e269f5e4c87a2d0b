//! What each attempt of the probe must meet inside, as data: by group, and where it differs, by attempt.

/// How an attempt must end.
pub(crate) enum Expected {
    /// Refused with one of these.
    Errno(&'static [&'static str]),
    /// Its process was ended by this signal.
    Killed(i32),
    /// It works, and gives the server nothing that it has not.
    Allowed,
}

/// Attempts that a server may make: they show that the program works inside.
pub(crate) const AFTER_ALL: &[&str] = &["exec_by_descriptor_path"];

/// Attempts that no process of this machine may make, or whose target it does not have.
pub(crate) const NO_CONTROL: &[(&str, &str)] = &[
    ("kexec_load", "the kernel was built without kexec"),
    ("kexec_file_load", "the kernel was built without kexec"),
    ("init_module", "the kernel was built without modules"),
    ("finit_module", "the kernel was built without modules"),
    ("delete_module", "the kernel was built without modules"),
    ("lookup_dcookie", "the kernel has no such call any more"),
    ("x32_getpid", "the kernel was built without the x32 calls"),
    ("x32_unshare", "the kernel was built without the x32 calls"),
    ("x32_ptrace", "the kernel was built without the x32 calls"),
    ("robust_list_of_1", "pid 1 of the machine is guarded from root as well"),
    ("ptrace_seize_1", "pid 1 of the machine is guarded from root as well"),
    ("proc_1_environ", "pid 1 of the machine is guarded from root as well"),
    ("proc_1_root", "pid 1 of the machine is guarded from root as well"),
    ("proc_1_exe", "pid 1 of the machine is guarded from root as well"),
    ("proc_1_mem", "pid 1 of the machine is guarded from root as well"),
    ("directory_by_descriptor", "the test leaves no directory open; `c11_three_descriptors` has the control"),
    ("socket_ping", "net.ipv4.ping_group_range is empty"),
    ("sysfs", "the kernel was built without this old call"),
    ("iopl", "the machine keeps the ports from root as well"),
    ("ioperm", "the machine keeps the ports from root as well"),
    ("set_mm", "root of the machine lacks CAP_SYS_RESOURCE"),
    ("/proc/sys/kernel/modprobe", "the kernel was built without modules"),
    ("/proc/modules", "the kernel was built without modules"),
    ("/proc/sysrq-trigger", "the kernel was built without it"),
    ("/proc/kcore", "the kernel was built without it"),
    ("/proc/scsi", "the machine has none"),
    ("/proc/latency_stats", "the kernel was built without it"),
    ("/proc/asound", "the machine has none"),
    ("/sys/devices/virtual/powercap", "the machine has none"),
    ("/dev/mem", "the kernel was built without it"),
    ("/dev/vda", "the machine guards its disk from root as well"),
    ("/dev/sda", "the machine has none"),
    ("/dev/port", "the kernel was built without it"),
];

use Expected::{Allowed, Errno, Killed};

/// The filter's answer, given before the kernel looks at the call.
const FILTER: Expected = Errno(&["EPERM"]);
const NOT_THERE: Expected = Errno(&["ENOENT"]);
const NO_SUCH_PROCESS: Expected = Errno(&["ESRCH"]);

pub(crate) fn expected(group: &str, id: &str) -> Expected {
    match (group, id) {
        // The filter: glibc falls back to clone, whose flags can be checked.
        ("namespaces", "clone3_user" | "clone3_plain") => Errno(&["ENOSYS"]),
        ("processes", id) => process(id),
        // The filter ends whoever makes calls of another architecture.
        ("kernel", "interrupt_80") => Killed(31),
        ("execution", id) => execution(id),
        ("files", id) => file(id),
        ("paths", "/dev/pts" | "/dev/ptmx") => Errno(&["ENOENT", "EACCES"]),
        ("paths", _) => NOT_THERE,
        ("sockets", "connect_loopback" | "connect_own_host" | "listen_tcp") => {
            // Landlock where it knows TCP (ABI 4), the network namespace otherwise.
            Errno(&["EACCES", "ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"])
        }
        _ => FILTER,
    }
}

/// Ids of outside are nobody's inside.
fn process(id: &str) -> Expected {
    match id {
        "pidfd_open_outside"
        | "kill_outside"
        | "tgkill_outside"
        | "prlimit_outside"
        | "setpriority_outside"
        | "pidfd_getfd_outside" => NO_SUCH_PROCESS,
        id if id.starts_with("proc_") && id != "process_vm_readv" => NOT_THERE,
        _ => FILTER,
    }
}

fn execution(id: &str) -> Expected {
    match id {
        // A mount without execution, or Landlock.
        "exec_tmp" | "exec_shm" | "exec_mount" | "script_tmp" => Errno(&["EACCES"]),
        "map_tmp" | "map_shm" | "map_mount" => Errno(&["EPERM"]),
        "exec_by_descriptor_path" => Allowed,
        "overwrite_self" => Errno(&["EROFS", "EACCES", "ETXTBSY"]),
        _ => FILTER,
    }
}

fn file(id: &str) -> Expected {
    match id {
        // Another mount; Landlock says the same of another directory.
        "link_across" | "link_to_tmp" | "rename_across" | "exchange_across" | "link_from_read_only" => {
            Errno(&["EXDEV"])
        }
        "rename_from_read_only" => Errno(&["EXDEV", "EROFS", "EACCES"]),
        "write_read_only" | "overwrite_read_only" | "write_root" | "write_bin" | "write_dev" => {
            Errno(&["EROFS", "EACCES"])
        }
        "write_etc" | "write_usr" => Errno(&["EROFS", "EACCES", "ENOENT"]),
        "link_leads_out"
        | "climb_out_of_mount"
        | "climb_from_directory"
        | "directory_by_descriptor"
        | "self_root"
        | "thread_root"
        | "host_file" => NOT_THERE,
        _ => FILTER,
    }
}
