use std::collections::BTreeSet;

use palisade_policy::{Baseline, CallChange, SeccompMode, Syscalls};
use proptest::prelude::*;

use super::list::{BASELINES, answered, changed, files, never, ours};
use super::*;

mod filter;
mod machine;
mod recorded;

use machine::run;

const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const KILL: u32 = 0x8000_0000;

const MODES: [SeccompMode; 3] = [SeccompMode::Enforce, SeccompMode::Kill, SeccompMode::Log];

fn plain(baseline: Baseline, seccomp: SeccompMode) -> Syscalls {
    Syscalls { baseline, seccomp, add: vec![], remove: vec![] }
}

fn change(call: &str) -> CallChange {
    CallChange { call: call.into(), reason: "a test".into() }
}

fn native() -> u32 {
    calls::audit_arch().unwrap()
}

fn program(list: &Allowlist) -> Vec<Instruction> {
    let [filter] = list.compile().unwrap().try_into().unwrap();
    filter.program.iter().copied().map(unpack).collect()
}

/// What the lists say of a call, read line by line: what the filter must answer.
fn naive(list: &Allowlist, architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    if architecture != native() {
        return KILL;
    }
    let name = calls::numbers().find(|(_, known)| *known == number).map(|(name, _)| name);
    let holds =
        |condition: &Condition| args[usize::from(condition.index)] & condition.mask.0 == condition.is.0;
    let mut rules = list.rules.iter().filter(|rule| Some(rule.syscall.as_str()) == name).peekable();
    if rules.peek().is_some() {
        return if rules.any(|rule| rule.args.iter().all(holds)) { ALLOW } else { EPERM };
    }
    if let Some(line) = answered().unwrap().iter().find(|line| Some(line.syscall.as_str()) == name) {
        return if line.syscall == "clone3" { ENOSYS } else { EPERM };
    }
    if let Some(answer) = elsewhere(list, name, holds) {
        return answer;
    }
    let forbidden = name.is_none_or(|name| never().unwrap().iter().any(|note| note.syscall == name));
    match list.mode {
        SeccompMode::Enforce => EPERM,
        SeccompMode::Kill => KILL,
        SeccompMode::Log => {
            if forbidden {
                EPERM
            } else {
                LOG
            }
        }
    }
}

/// Conditions of another baseline hold where calls outside the list are carried out.
fn elsewhere(list: &Allowlist, name: Option<&str>, holds: impl Fn(&Condition) -> bool) -> Option<u32> {
    let lists = BASELINES.map(|baseline| allowlist(baseline).unwrap().rules);
    let is_it = |rule: &&Rule| Some(rule.syscall.as_str()) == name;
    let rules = lists.iter().rfind(|rules| rules.iter().any(|rule| is_it(&rule)))?;
    let rules: Vec<&Rule> = rules.iter().filter(is_it).collect();
    if list.mode != SeccompMode::Log || rules.iter().any(|rule| rule.args.is_empty()) {
        return None;
    }
    let allowed = rules.iter().any(|rule| rule.args.iter().all(&holds));
    Some(if allowed { ALLOW } else { EPERM })
}

/// Values around those that the lists compare with, and others.
fn argument() -> impl Strategy<Value = u64> {
    let known: Vec<u64> = BASELINES
        .iter()
        .flat_map(|baseline| allowlist(*baseline).unwrap().rules)
        .flat_map(|rule| rule.args)
        .flat_map(|condition| [condition.is.0, condition.mask.0, condition.is.0 ^ 1])
        .collect();
    prop_oneof![
        6 => prop::sample::select(known),
        2 => 0_u64..64,
        1 => any::<u64>(),
        // What lies above 32 bits is not looked at.
        1 => any::<u32>().prop_map(|high| u64::from(high) << 32 | 2),
    ]
}

fn any_number() -> impl Strategy<Value = u32> {
    let conditions: Vec<u32> = allowlist(Baseline::Browser)
        .unwrap()
        .rules
        .iter()
        .filter(|rule| !rule.args.is_empty())
        .filter_map(|rule| number(&rule.syscall).unwrap())
        .collect();
    prop_oneof![
        4 => 0_u32..480,
        4 => prop::sample::select(conditions),
        1 => any::<u32>(),
        1 => (0_u32..600).prop_map(|number| number | 0x4000_0000),
    ]
}

fn any_list() -> impl Strategy<Value = Allowlist> {
    let removed =
        prop::sample::subsequence(vec!["openat", "socket", "prctl", "getppid", "bind", "clone"], 0..4);
    let added = prop::sample::subsequence(
        vec!["inotify_init1", "mlockall", "sched_setscheduler", "swapcontext"],
        0..3,
    );
    let baselines = prop::sample::select(BASELINES.to_vec());
    (baselines, prop::sample::select(MODES.to_vec()), added, removed).prop_map(
        |(baseline, mode, added, removed)| {
            let mut list = allowlist(baseline).unwrap();
            list.mode = mode;
            list.rules.retain(|rule| !removed.contains(&rule.syscall.as_str()));
            let known = added.iter().filter(|call| number(call).is_ok_and(|number| number.is_some()));
            list.rules.extend(known.map(|call| Rule {
                syscall: (*call).into(),
                only: None,
                args: vec![],
                comment: "a test".into(),
                keep: None,
            }));
            list
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The filter answers as the lists say, for whatever list, mode, call and arguments.
    #[test]
    fn the_filter_says_what_the_lists_say(
        list in any_list(),
        calls in prop::collection::vec((any_number(), prop::array::uniform6(argument()), prop::bool::weighted(0.05)), 64),
    ) {
        let program = program(&list);
        for (number, args, foreign) in calls {
            let architecture = if foreign { 0x4000_0003 } else { native() };
            let answer = run(&program, architecture, number, args).answer;
            prop_assert_eq!(answer, naive(&list, architecture, number, args), "{} {:?}", number, args);
        }
    }
}

/// The calls of the lists as seccompiler reads them: another compiler with another author.
fn by_seccompiler(list: &Allowlist) -> Vec<Instruction> {
    let rules: Vec<serde_json::Value> = list
        .by_call()
        .into_iter()
        .flat_map(|(call, rules)| {
            let free = rules.iter().any(|rule| rule.args.is_empty());
            let rules: Vec<&Rule> = if free { vec![rules[0]] } else { rules };
            rules.into_iter().map(move |rule| {
                let args: Vec<_> = rule
                    .args
                    .iter()
                    .map(|condition| serde_json::json!({
                        "index": condition.index, "type": "dword", "op": { "masked_eq": condition.mask.0 }, "val": condition.is.0
                    }))
                    .collect();
                if free { serde_json::json!({ "syscall": call }) } else { serde_json::json!({ "syscall": call, "args": args }) }
            })
        })
        .collect();
    let text = serde_json::json!({
        "filter": { "mismatch_action": { "errno": 1 }, "match_action": "allow", "filter": rules }
    })
    .to_string();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let mut programs = seccompiler::compile_from_json(text.as_bytes(), arch).unwrap();
    let program = programs.remove("filter").unwrap();
    program.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

#[test]
fn seccompiler_agrees_on_every_call() {
    for baseline in BASELINES {
        let list = allowlist(baseline).unwrap();
        let (ours, theirs) = (program(&list), by_seccompiler(&list));
        let mut arguments = vec![[0; 6], [u64::MAX; 6]];
        for condition in list.rules.iter().flat_map(|rule| &rule.args) {
            arguments.push([condition.is.0; 6]);
            let mut one = [0; 6];
            one[usize::from(condition.index)] = condition.is.0;
            arguments.push(one);
        }
        for rule in &list.rules {
            let mut args = [0; 6];
            for condition in &rule.args {
                args[usize::from(condition.index)] = condition.is.0;
            }
            arguments.push(args);
        }
        for (name, number) in calls::numbers().filter(|(name, _)| *name != "clone3") {
            for args in &arguments {
                let [a, b] = [&ours, &theirs].map(|program| run(program, native(), number, *args).answer);
                assert_eq!(a, b, "{baseline:?} {name} {args:x?}");
            }
        }
        for number in [470, 0x4000_0000, 0x4000_0001, u32::MAX] {
            let [a, b] = [&ours, &theirs].map(|program| run(program, native(), number, [0; 6]).answer);
            assert_eq!(a, b, "{baseline:?} {number}");
        }
    }
}

/// What is asked most is answered in a few instructions, and nothing takes many.
#[test]
fn calls_that_are_made_most_are_decided_early() {
    let program = program(&allowlist(Baseline::Browser).unwrap());
    assert!(program.len() < 500, "{}", program.len());
    let steps = |call: &str, args| run(&program, native(), number(call).unwrap().unwrap(), args).steps;
    assert!(steps("openat", [0; 6]) <= 8, "{}", steps("openat", [0; 6]));
    assert!(steps("fcntl", [0, 3, 0, 0, 0, 0]) <= 14, "{}", steps("fcntl", [0, 3, 0, 0, 0, 0]));
    for (name, number) in calls::numbers() {
        let steps = run(&program, native(), number, [1; 6]).steps;
        assert!(steps <= 24, "{name} takes {steps}");
    }
}

#[test]
fn filters_pack_without_loss() {
    for baseline in BASELINES {
        for filter in allowlist(baseline).unwrap().compile().unwrap() {
            let again: Vec<u64> = filter.program.iter().copied().map(unpack).map(pack).collect();
            assert_eq!(again, filter.program);
            assert!(!filter.is_empty() && filter.len() <= compile::INSTRUCTIONS_MAX);
        }
    }
}

#[test]
fn every_line_has_a_reason_and_no_line_is_twice() {
    for baseline in BASELINES {
        let list = allowlist(baseline).unwrap();
        let mut seen = BTreeSet::new();
        for rule in list.rules() {
            assert!(rule.comment.len() > 8, "{} has no reason", rule.syscall);
            assert!(
                rule.keep.as_ref().is_none_or(|keep| keep.len() > 8),
                "{} stays for no reason",
                rule.syscall
            );
            assert!(seen.insert((rule.syscall.clone(), alternative(rule))), "{} is twice", rule.syscall);
            for condition in &rule.args {
                assert!(condition.index < 6 && condition.comment.len() > 2, "{}", rule.syscall);
                assert_eq!(
                    condition.is.0 & condition.mask.0,
                    condition.is.0,
                    "{} can never hold",
                    rule.syscall
                );
            }
        }
    }
    let notes: Vec<(&str, &str)> = never()
        .unwrap()
        .iter()
        .chain(ours().unwrap())
        .map(|note| (note.syscall.as_str(), note.comment.as_str()))
        .collect();
    let names: BTreeSet<&str> = never().unwrap().iter().map(|note| note.syscall.as_str()).collect();
    assert_eq!(names.len(), never().unwrap().len(), "a call is twice");
    for (call, comment) in notes {
        assert!(calls::look_up(call) != calls::Known::Nowhere && comment.len() > 8, "{call}");
    }
}

/// A word that is no call would be a line without effect, and `only` is there where one architecture lacks the call.
#[test]
fn every_line_names_a_call_of_its_architectures() {
    let table: BTreeMap<&str, Vec<&str>> = calls::TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').map(|(name, numbers)| (name, numbers.split(' ').collect())).unwrap())
        .collect();
    for baseline in BASELINES {
        for (file, text) in files(baseline) {
            for rule in serde_json::from_str::<Vec<Rule>>(text).unwrap() {
                let has = |column: usize| table[rule.syscall.as_str()][column] != "-";
                let meant = match rule.only.as_deref() {
                    None => (true, true),
                    Some("x86_64") => (true, false),
                    Some(other) => panic!("{file}: {other}"),
                };
                assert_eq!((has(0), has(1)), meant, "{file}: {}", rule.syscall);
            }
        }
    }
    assert_eq!(calls::names().count(), table.len());
}

#[test]
fn calls_that_reach_the_kernel_deeply_are_in_no_list() {
    let never: Vec<&str> = never().unwrap().iter().map(|note| note.syscall.as_str()).collect();
    for call in [
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "clone3",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "keyctl",
        "add_key",
        "request_key",
        "kexec_load",
        "init_module",
        "finit_module",
        "reboot",
        "open_by_handle_at",
        "fsopen",
        "move_mount",
        "open_tree",
        "clock_settime",
        "memfd_secret",
    ] {
        assert!(never.contains(&call), "{call}");
    }
    for baseline in BASELINES {
        let list = allowlist(baseline).unwrap();
        for call in &never {
            assert!(!list.by_call().contains_key(call), "{baseline:?} allows {call}");
        }
        assert!(!list.by_call().contains_key("seccomp"), "{baseline:?}");
    }
}

/// What a call of `never.json` gets.
fn refusal(call: &str, mode: SeccompMode) -> u32 {
    match (call, mode) {
        ("clone3", _) => ENOSYS,
        ("io_uring_setup", _) | (_, SeccompMode::Enforce | SeccompMode::Log) => EPERM,
        (_, SeccompMode::Kill) => KILL,
    }
}

/// Whatever a policy says, a call of `never.json` is refused, with `log` as well; a runtime's attempt is never killed.
#[test]
fn no_policy_and_no_mode_allows_what_is_never_allowed() {
    // What is answered and could be added is not `refusal`'s.
    let known = answered()
        .unwrap()
        .iter()
        .filter(|line| never().unwrap().iter().any(|note| note.syscall == line.syscall));
    assert_eq!(known.count(), 2, "`refusal` knows them");
    for mode in MODES {
        let mut syscalls = plain(Baseline::Static, mode);
        let program = program(&Allowlist::of(&syscalls).unwrap());
        for note in never().unwrap() {
            if let Some(number) = number(&note.syscall).unwrap() {
                let answer = run(&program, native(), number, [0; 6]).answer;
                assert_eq!(answer, refusal(&note.syscall, mode), "{mode:?} {}", note.syscall);
            }
            syscalls.add = vec![change(&note.syscall)];
            let Err(ListError::Changes(wrong)) = Allowlist::of(&syscalls) else { panic!("{}", note.syscall) };
            assert!(matches!(wrong[0].problem, ChangeProblem::Never { .. }), "{}", note.syscall);
        }
    }
}

#[test]
fn changes_are_made_or_refused_with_their_place() {
    let mut syscalls = plain(Baseline::Node, SeccompMode::Enforce);
    let before = Allowlist::of(&syscalls).unwrap();
    syscalls.add = vec![change("inotify_init1"), change("memfd_create")];
    syscalls.remove = vec![change("listen"), change("ioctl")];
    let after = Allowlist::of(&syscalls).unwrap();
    let program = program(&after);
    let answer = |call: &str, args| run(&program, native(), number(call).unwrap().unwrap(), args).answer;
    assert_eq!(answer("inotify_init1", [0; 6]), ALLOW);
    assert_eq!(answer("listen", [0; 6]), EPERM);
    assert_eq!(answer("ioctl", [0, 0x5401, 0, 0, 0, 0]), EPERM, "all lines of a call go");
    // The conditions of another baseline come along: a memfd that cannot be executed.
    assert_eq!(answer("memfd_create", [0, 8, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer("memfd_create", [0, 0, 0, 0, 0, 0]), EPERM);
    assert_ne!(before.digest(), after.digest());

    syscalls.add = ["opnat", "bind", "socket", "mount", "inotify_init1"].map(change).to_vec();
    syscalls.remove = ["read", "inotify_init1", "flok", "listen"].map(change).to_vec();
    let Err(ListError::Changes(wrong)) = Allowlist::of(&syscalls) else { panic!("accepted") };
    let told: Vec<String> =
        wrong.iter().map(|wrong| format!("{}: {wrong} ({})", wrong.path, wrong.hint())).collect();
    assert_eq!(
        told,
        [
            "syscalls.remove[0].call: `read` cannot be removed, since palisade makes it in the sandbox itself: \
             reads the lock-down back from /proc/self/status (remove the line)",
            "syscalls.remove[1].call: `inotify_init1` is not in the baseline (remove the line)",
            "syscalls.remove[2].call: `flok` is no system call that this version knows (did you mean `flock`?)",
            "syscalls.add[0].call: `opnat` is no system call that this version knows (did you mean `openat`?)",
            "syscalls.add[1].call: `bind` is in the baseline already (remove the line)",
            "syscalls.add[2].call: `socket` is in the baseline already, with conditions on its arguments (remove the line; \
             `palisade explain` shows the conditions, and no policy can lift them)",
            "syscalls.add[3].call: `mount` can be added by no policy: puts file systems over the read-only root and the \
             masked paths (remove the line; a server that cannot do without it cannot run in a sandbox)",
        ]
    );
}

/// Every call that palisade makes behind the filter is in every baseline, so that none of them leaves it stranded.
#[test]
fn what_palisade_needs_itself_is_in_every_baseline() {
    for baseline in BASELINES {
        let list = allowlist(baseline).unwrap();
        for note in ours().unwrap() {
            if number(&note.syscall).unwrap().is_some() {
                assert!(
                    list.by_call().contains_key(note.syscall.as_str()),
                    "{baseline:?} lacks {}",
                    note.syscall
                );
            }
        }
    }
}

#[test]
fn equal_lists_are_compiled_once_and_others_have_other_digests() {
    let mut digests = BTreeSet::new();
    for baseline in BASELINES {
        for mode in MODES {
            let list = Allowlist::of(&plain(baseline, mode)).unwrap();
            assert!(digests.insert(list.digest()), "{baseline:?} {mode:?}");
            assert_eq!(list.compile().unwrap(), list.compile().unwrap());
            assert_eq!(list.compile().unwrap(), [list.compile_anew().unwrap()]);
        }
    }
    // A reason is no decision.
    let mut list = allowlist(Baseline::Static).unwrap();
    let digest = list.digest();
    list.rules[0].comment = "another".into();
    list.rules.reverse();
    assert_eq!(list.digest(), digest);
    assert!(list.compile_anew().unwrap() == list.compile().unwrap()[0], "the order of lines does not matter");
}

#[test]
fn only_log_asks_the_kernel_to_log() {
    for mode in MODES {
        let [filter] =
            Allowlist::of(&plain(Baseline::Static, mode)).unwrap().compile().unwrap().try_into().unwrap();
        assert_eq!(filter.log, mode == SeccompMode::Log);
    }
}

#[test]
fn the_changed_list_of_no_change_is_the_baseline() {
    for baseline in BASELINES {
        let mut wrong = Vec::new();
        let rules = changed(&plain(baseline, SeccompMode::Enforce), &mut wrong).unwrap();
        assert_eq!(rules, allowlist(baseline).unwrap().rules);
        assert!(wrong.is_empty());
    }
}

/// A pointer is compared as a whole, and a process of ours is ended for anything that its list does not say.
#[test]
fn the_supervisors_list_is_strict() {
    let filter = own_process_filter(crate::supervisor::SYSTEM_CALLS).unwrap();
    let program: Vec<Instruction> = filter.program.iter().copied().map(unpack).collect();
    let answer =
        |call: &str, arguments| run(&program, native(), number(call).unwrap().unwrap(), arguments).answer;
    let (read_only, for_writing) = ([0; 6], [0, 0, 1, 0, 0, 0]);
    for call in ["read", "recvmsg", "sendmsg", "wait4", "pidfd_send_signal", "exit_group"] {
        assert_eq!(answer(call, read_only), ALLOW, "{call}");
    }
    assert_eq!(answer("openat", read_only), ALLOW);
    assert_eq!(answer("openat", for_writing), KILL);
    let executable = [0, 0, 4, 0, 0, 0];
    for call in ["mmap", "mprotect"] {
        assert_eq!(answer(call, executable), KILL, "{call}");
    }
    for call in ["execve", "socket", "connect", "kill", "clone", "ptrace", "mount", "openat2", "prctl"] {
        assert_eq!(answer(call, read_only), KILL, "{call}");
    }
}

#[test]
fn a_list_of_our_own_is_strict() {
    let list = r#"[
        {"syscall": "getpid", "comment": "a test"},
        {"syscall": "sendto", "args": [{"index": 4, "mask": "0xffffffffffffffff", "is": "0x0", "comment": "null"}], "comment": "a test"}
    ]"#;
    let filter = own_process_filter(list).unwrap();
    let program: Vec<Instruction> = filter.program.iter().copied().map(unpack).collect();
    let answer = |call: &str, fifth| {
        run(&program, native(), number(call).unwrap().unwrap(), [0, 0, 0, 0, fifth, 0]).answer
    };
    assert_eq!(answer("getpid", 1), ALLOW);
    assert_eq!(answer("sendto", 0), ALLOW);
    for pointer in [1, 1 << 32, u64::MAX] {
        assert_eq!(answer("sendto", pointer), KILL, "{pointer:#x}");
    }
    for call in ["clone3", "io_uring_setup", "read", "mount"] {
        assert_eq!(answer(call, 0), KILL, "{call}");
    }
    assert!(matches!(
        own_process_filter(r#"[{"syscall": "opnat", "comment": "a test"}]"#),
        Err(FilterError::Unknown(_))
    ));
    assert!(matches!(own_process_filter(r#"[{"syscal": "read"}]"#), Err(FilterError::List(_))));
}
