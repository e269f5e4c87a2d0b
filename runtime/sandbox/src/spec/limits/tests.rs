use super::*;
use crate::host::{HostUser, UserNamespaces};

fn policy(more: &str) -> Policy {
    let text = format!("palisade: 1\nserver: s\nimage: {{ reference: i, unsigned: \"a test\" }}\n{more}\n");
    palisade_policy::parse("p", &text).unwrap()
}

fn host(cgroups: Cgroups) -> HostSupport {
    HostSupport {
        kernel: String::new(),
        user: HostUser { uid: 1000, gid: 1000 },
        user_namespaces: UserNamespaces::Available,
        landlock_abi: 6,
        seccomp_filters: true,
        cgroups,
        ..HostSupport::probe()
    }
}

fn v2(controllers: &[&str], swap: Swap) -> HostSupport {
    let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
    host(Cgroups::V2 { place: CgroupPlace::Own, controllers, swap })
}

fn v1(controllers: &[&str], swap: Swap) -> HostSupport {
    host(Cgroups::V1 { controllers: controllers.iter().map(|&name| name.to_owned()).collect(), swap })
}

fn without() -> HostSupport {
    host(Cgroups::Unusable { reason: "there is none".into(), remedy: "make one".into() })
}

const ALL: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// The state of a line: `enforced`, `soft`, `degraded`, or that there is none.
fn state<'a>(limits: &'a Limits, what: &str) -> &'a str {
    match limits.lines.iter().find(|line| line.what == what).map(|line| &line.state) {
        Some(State::Enforced) => "enforced",
        Some(State::Soft { .. }) => "soft",
        Some(State::Degraded { .. }) => "degraded",
        None => "none",
    }
}

fn refusal(policy: &Policy, host: &HostSupport) -> String {
    let Err(error) = resolve(policy, host) else { panic!("it was accepted") };
    format!("{error} ¦ {}", error.hint().unwrap())
}

fn rlimit(limits: &Limits, kind: RlimitKind) -> Option<u64> {
    limits.rlimits.iter().find(|limit| limit.kind == kind).map(|limit| limit.value)
}

#[test]
fn with_all_controllers_everything_is_enforced() {
    let limits =
        resolve(&policy("limits: { memory: 64MiB, swap: 1MiB, io: 1MiB }"), &v2(&ALL, Swap::Limited));
    let limits = limits.unwrap();
    for what in ["limit on memory", "limit on swap", "limit on cpus", "limit on pids", "limit on io"] {
        assert_eq!(state(&limits, what), "enforced", "{what}");
    }
    assert_eq!((limits.cgroup.memory_bytes, limits.cgroup.swap_bytes), (Some(64 << 20), Some(1 << 20)));
    assert_eq!(limits.memory_watch, None);
    assert_eq!(rlimit(&limits, RlimitKind::Data), None);
    // The cgroup's count is the one that is reached.
    assert_eq!(rlimit(&limits, RlimitKind::Processes), Some(64 + 1 + 8));
}

#[test]
fn without_a_cgroup_memory_is_watched_and_that_must_be_accepted() {
    let bare = "limits: { memory: 64MiB, swap: 1MiB, pids: 10 }\n";
    let said = refusal(&policy(bare), &without());
    assert_eq!(
        said,
        "this host cannot enforce the limit on memory: there is none ¦ make one; or write `accept_degraded: [memory]` in the policy"
    );
    let said = refusal(&policy(&format!("{bare}accept_degraded: [memory]")), &without());
    assert!(said.contains("limit on cpus"), "{said}");
    let limits = resolve(&policy(&format!("{bare}accept_degraded: [memory, cpus]")), &without()).unwrap();
    assert_eq!(state(&limits, "limit on memory"), "soft");
    assert_eq!(state(&limits, "limit on cpus"), "degraded");
    assert_eq!(state(&limits, "limit on pids"), "enforced");
    assert_eq!(limits.memory_watch, Some(65 << 20));
    assert_eq!(rlimit(&limits, RlimitKind::Data), Some((65 + 128 + 10 * 8) << 20));
    assert_eq!(rlimit(&limits, RlimitKind::Processes), Some(11));
}

#[test]
fn each_controller_counts_for_itself() {
    let some = v2(&["memory", "pids"], Swap::Limited);
    assert!(refusal(&policy(""), &some).starts_with("this host cannot enforce the limit on cpus"));
    let limits = resolve(&policy("accept_degraded: [cpus]"), &some).unwrap();
    assert_eq!(state(&limits, "limit on memory"), "enforced");
    assert_eq!((limits.cgroup.cpu_millis, limits.cgroup.pids), (None, Some(64)));
}

#[test]
fn swap_that_is_not_counted_must_be_accepted_with_memory() {
    let uncounted = v1(&ALL, Swap::Unlimited);
    assert!(refusal(&policy(""), &uncounted).contains("does not count swap"));
    let limits = resolve(&policy("accept_degraded: [memory]"), &uncounted).unwrap();
    assert_eq!(
        (state(&limits, "limit on memory"), state(&limits, "limit on swap")),
        ("enforced", "degraded")
    );
    let none = resolve(&policy(""), &v1(&ALL, Swap::None)).unwrap();
    assert_eq!((state(&none, "limit on swap"), none.cgroup.swap_bytes), ("enforced", None));
}

#[test]
fn disks_are_only_limited_when_the_policy_says_so() {
    let silent = resolve(&policy(""), &v1(&["memory", "cpu", "pids", "blkio"], Swap::Limited)).unwrap();
    assert_eq!((state(&silent, "limit on io"), silent.cgroup.io), ("none", None));

    // v1 does not slow down what goes through the page cache.
    let blkio = v1(&["memory", "cpu", "pids", "blkio"], Swap::Limited);
    assert!(refusal(&policy("limits: { io: 1MiB }"), &blkio).contains("accept_degraded: [io]"));
    let limits = resolve(&policy("limits: { io: 1MiB }\naccept_degraded: [io]"), &blkio).unwrap();
    assert_eq!(state(&limits, "limit on io"), "soft");
    let expected = IoLimit { bytes_per_second: 1 << 20, without_disk: WithoutDisk::Accept };
    assert_eq!(limits.cgroup.io, Some(expected));

    // v2 needs the memory controller beside it for the same reason.
    let alone = v2(&["cpu", "pids", "io"], Swap::Limited);
    let limits = resolve(&policy("limits: { io: 1MiB }\naccept_degraded: [memory, io]"), &alone).unwrap();
    assert_eq!((state(&limits, "limit on io"), limits.cgroup.io), ("degraded", None));
}
