//! Paths of the host that a server has no business with, opened for reading. The id is the path.

use palisade_attack::steps::open;

use super::{Row, row};

macro_rules! paths {
    ($($path:literal),* $(,)?) => {
        [$(row($path, concat!("open ", $path), |_| open($path).map(drop))),*]
    };
}

pub(super) const ROWS: [Row; 66] = paths![
    // Kernel settings and what the kernel says of the machine.
    "/proc/sys",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net",
    "/proc/sysrq-trigger",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/timer_list",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/modules",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kpagecount",
    "/proc/partitions",
    "/proc/version",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/bus",
    "/proc/irq",
    "/proc/fs",
    "/proc/tty",
    "/proc/driver",
    "/proc/config.gz",
    "/proc/latency_stats",
    "/proc/asound",
    // The devices' and the kernel's objects.
    "/sys",
    "/sys/kernel",
    "/sys/kernel/security",
    "/sys/kernel/debug",
    "/sys/fs/cgroup",
    "/sys/firmware",
    "/sys/class/net",
    "/sys/devices/virtual/powercap",
    // Device nodes.
    "/dev/kmsg",
    "/dev/mem",
    "/dev/kvm",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/loop-control",
    "/dev/loop0",
    "/dev/vda",
    "/dev/sda",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/console",
    "/dev/tty0",
    "/dev/port",
    "/dev/hwrng",
    "/dev/userfaultfd",
    "/dev/vsock",
    // The rest of the host.
    "/run",
    "/var/lib",
    "/root",
    "/home",
    "/boot",
];
