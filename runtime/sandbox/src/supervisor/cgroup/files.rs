//! Which file of which hierarchy gets which value, and whether the kernel took it: no input or output.

use std::path::Path;

use super::disks::Disk;
use crate::host::cgroups::CGROUP_ROOT;
use crate::spec::{CgroupKind, CgroupLimits};

/// One limit in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LimitFile {
    /// The promise that it keeps, as the enforcement lines say it.
    pub(super) what: &'static str,
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// What is written in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its directory below `/sys/fs/cgroup`; empty for v2.
    pub(super) hierarchy: &'static str,
    /// What has to be enabled above the group (v2).
    pub(super) controllers: Vec<&'static str>,
    pub(super) files: Vec<LimitFile>,
}

/// The period of the processor limit in microseconds, the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// Everything that is to be written for `limits`.
pub(super) fn plans(limits: &CgroupLimits, disks: &[Disk]) -> Vec<Plan> {
    match limits.kind {
        CgroupKind::None { .. } => Vec::new(),
        CgroupKind::V2 { .. } => vec![v2(limits, disks)],
        CgroupKind::V1 => v1(limits, disks),
    }
}

fn file(what: &'static str, name: &'static str, value: impl Into<String>) -> LimitFile {
    LimitFile { what, name, value: value.into() }
}

fn v2(limits: &CgroupLimits, disks: &[Disk]) -> Plan {
    let mut plan = Plan { hierarchy: "", controllers: Vec::new(), files: Vec::new() };
    if let Some(bytes) = limits.memory_bytes {
        plan.controllers.push("memory");
        plan.files.push(file("limit on memory", "memory.max", bytes.to_string()));
        if let Some(swap) = limits.swap_bytes {
            plan.files.push(file("limit on swap", "memory.swap.max", swap.to_string()));
        }
        // One process out of memory must not leave half a server behind.
        plan.files.push(file("limit on memory", "memory.oom.group", "1"));
    }
    if let Some(millis) = limits.cpu_millis {
        plan.controllers.push("cpu");
        plan.files.push(file("limit on cpus", "cpu.max", format!("{} {CPU_PERIOD_US}", cpu_quota(millis))));
    }
    if let Some(pids) = limits.pids {
        plan.controllers.push("pids");
        plan.files.push(file("limit on pids", "pids.max", pids.to_string()));
    }
    if let Some(io) = limits.io {
        plan.controllers.push("io");
        let rate = io.bytes_per_second;
        let of = |disk: &Disk| file("limit on io", "io.max", format!("{disk} rbps={rate} wbps={rate}"));
        plan.files.extend(disks.iter().map(of));
    }
    plan
}

fn v1(limits: &CgroupLimits, disks: &[Disk]) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut add = |hierarchy, files| plans.push(Plan { hierarchy, controllers: Vec::new(), files });
    if let Some(bytes) = limits.memory_bytes {
        let mut files = vec![file("limit on memory", "memory.limit_in_bytes", bytes.to_string())];
        if let Some(swap) = limits.swap_bytes {
            // Memory and swap together.
            let both = bytes.saturating_add(swap);
            files.push(file("limit on swap", "memory.memsw.limit_in_bytes", both.to_string()));
        }
        add("memory", files);
    }
    if let Some(millis) = limits.cpu_millis {
        let period = file("limit on cpus", "cpu.cfs_period_us", CPU_PERIOD_US.to_string());
        add("cpu", vec![period, file("limit on cpus", "cpu.cfs_quota_us", cpu_quota(millis).to_string())]);
    }
    if let Some(pids) = limits.pids {
        add("pids", vec![file("limit on pids", "pids.max", pids.to_string())]);
    }
    if let Some(io) = limits.io {
        let names = ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"];
        let of = |disk: &Disk| {
            names.map(|name| file("limit on io", name, format!("{disk} {}", io.bytes_per_second)))
        };
        add("blkio", disks.iter().flat_map(of).collect());
    }
    plans
}

fn cpu_quota(millis: u64) -> u64 {
    millis.saturating_mul(CPU_PERIOD_US).div_euclid(1000)
}

/// The kernel rounds bytes down to whole pages and otherwise repeats what was written; files with a line for each
/// disk repeat it somewhere, and v2 adds what is not limited.
pub(super) fn took_effect(written: &str, found: &str) -> bool {
    if let (Ok(written), Ok(found)) = (written.parse::<u64>(), found.parse::<u64>()) {
        return found <= written && written.saturating_sub(found) < 65_536;
    }
    found
        .lines()
        .any(|line| line == written || line.strip_prefix(written).is_some_and(|rest| rest.starts_with(' ')))
}

/// The file's path for a message.
pub(super) fn shown(hierarchy: &str, name: &str) -> String {
    Path::new(CGROUP_ROOT).join(hierarchy).join("…").join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::CgroupPlace;
    use crate::spec::{IoLimit, WithoutDisk};

    fn limits(kind: CgroupKind) -> CgroupLimits {
        CgroupLimits {
            kind,
            memory_bytes: Some(64 << 20),
            swap_bytes: Some(1 << 20),
            cpu_millis: Some(1500),
            pids: Some(20),
            io: Some(IoLimit { bytes_per_second: 1 << 20, without_disk: WithoutDisk::Refuse }),
        }
    }

    fn written(plan: &Plan) -> Vec<(&str, &str)> {
        plan.files.iter().map(|file| (file.name, file.value.as_str())).collect()
    }

    #[test]
    fn v2_writes_one_directory() {
        let plans =
            plans(&limits(CgroupKind::V2 { place: CgroupPlace::Own }), &[Disk { major: 8, minor: 0 }]);
        assert_eq!(plans.len(), 1);
        assert_eq!(plans[0].controllers, ["memory", "cpu", "pids", "io"]);
        assert_eq!(
            written(&plans[0]),
            [
                ("memory.max", "67108864"),
                ("memory.swap.max", "1048576"),
                ("memory.oom.group", "1"),
                ("cpu.max", "150000 100000"),
                ("pids.max", "20"),
                ("io.max", "8:0 rbps=1048576 wbps=1048576"),
            ]
        );
    }

    #[test]
    fn v1_writes_a_directory_for_each_controller_and_swap_with_memory() {
        let disks = [Disk { major: 8, minor: 0 }, Disk { major: 8, minor: 16 }];
        let plans = plans(&limits(CgroupKind::V1), &disks);
        let names: Vec<_> = plans.iter().map(|plan| plan.hierarchy).collect();
        assert_eq!(names, ["memory", "cpu", "pids", "blkio"]);
        assert_eq!(
            written(&plans[0]),
            [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "68157440")]
        );
        assert_eq!(written(&plans[1]), [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000")]);
        assert_eq!(written(&plans[3])[3], ("blkio.throttle.write_bps_device", "8:16 1048576"));
    }

    #[test]
    fn what_is_not_limited_is_not_written() {
        let none = CgroupLimits {
            memory_bytes: None,
            swap_bytes: None,
            cpu_millis: None,
            pids: Some(3),
            io: None,
            ..limits(CgroupKind::V2 { place: CgroupPlace::Top })
        };
        let plans = plans(&none, &[]);
        assert_eq!((written(&plans[0]), &plans[0].controllers), (vec![("pids.max", "3")], &vec!["pids"]));
        assert_eq!(super::plans(&limits(CgroupKind::None { reason: String::new() }), &[]), []);
    }

    #[test]
    fn what_the_kernel_shows_is_compared_with_what_was_written() {
        for (written, found, same) in [
            ("67108864", "67108864", true),
            ("67109000", "67108864", true),
            ("67108864", "max", false),
            ("67108864", "67112960", false),
            ("67108864", "9223372036854771712", false),
            ("150000 100000", "150000 100000", true),
            ("150000 100000", "max 100000", false),
            (
                "8:0 rbps=1 wbps=1",
                "8:16 rbps=2 wbps=max riops=max\n8:0 rbps=1 wbps=1 riops=max wiops=max",
                true,
            ),
            ("8:0 rbps=1 wbps=1", "8:0 rbps=1 wbps=10 riops=max wiops=max", false),
            ("8:0 1048576", "8:0 1048576", true),
            ("8:0 1048576", "", false),
        ] {
            assert_eq!(took_effect(written, found), same, "{written:?} {found:?}");
        }
    }
}
