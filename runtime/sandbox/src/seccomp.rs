//! The system call allowlists and how they become BPF.
//!
//! The lists are data, one line per call with its reason: `seccomp/*.json`. A baseline is the base
//! list plus that of its family. Everything that is not listed gets `EPERM`; another architecture's
//! calls (int 0x80) end the process; x32 calls match no number and get `EPERM`.
//!
//! Two filters are installed. The first only answers `clone3` with `ENOSYS`, since a filter cannot
//! look at the flags behind its pointer and glibc and musl fall back to `clone` on that errno alone.
//! The second is the allowlist. The kernel takes the strictest answer of all filters, so the
//! allowlist may name `clone3`; it must, because its own `EPERM` would win over the first filter's
//! `ENOSYS` (of two errno answers the most recently installed filter's counts, seccomp(2)).

use std::collections::BTreeMap;

use palisade_policy::Baseline;
use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const BASE: &str = include_str!("seccomp/base.json");
const NODE: &str = include_str!("seccomp/node.json");
const PYTHON: &str = include_str!("seccomp/python.json");
const SUPERVISOR: &str = include_str!("seccomp/supervisor.json");

/// `ENOSYS`.
const NOT_IMPLEMENTED: i32 = 38;
/// `EPERM`.
const NOT_PERMITTED: i32 = 1;

/// One line of a list.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    /// The call, by its name on `x86_64` and `aarch64`.
    pub syscall: String,
    /// Conditions on its arguments, in seccompiler's JSON form; all of them must hold.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Why a server needs it, or why it is harmless.
    pub comment: String,
    /// The architecture that has it, where that is not every one.
    pub only: Option<String>,
}

/// The calls of one baseline.
#[derive(Debug, Clone)]
pub struct Allowlist {
    rules: Vec<Rule>,
}

/// A filter as the kernel takes it: an instruction is one number, `code:16 jt:8 jf:8 k:32`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledFilter(Vec<u64>);

/// What can go wrong with a list; each is a defect of ours.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A list is not in its form.
    #[error("a seccomp list is not readable")]
    List(#[source] serde_json::Error),
    /// The architecture has no list.
    #[error("there is no seccomp list for this architecture")]
    Architecture,
    /// seccompiler refused the rules.
    #[error("the seccomp filter does not compile")]
    Compile(#[source] seccompiler::Error),
    /// The kernel refused the filter.
    #[error("the kernel refused the seccomp filter")]
    Install(#[source] seccompiler::Error),
}

/// The allowlist of a baseline.
///
/// # Errors
/// Only when a list in this crate is broken.
pub fn allowlist(baseline: Baseline) -> Result<Allowlist, FilterError> {
    let families: &[&str] = match baseline {
        Baseline::Static => &[BASE],
        Baseline::Node => &[BASE, NODE],
        Baseline::Python => &[BASE, PYTHON],
    };
    let mut rules = Vec::new();
    for list in families {
        rules.extend(serde_json::from_str::<Vec<Rule>>(list).map_err(FilterError::List)?);
    }
    rules.retain(|rule| rule.only.as_deref().is_none_or(|arch| arch == std::env::consts::ARCH));
    Ok(Allowlist { rules })
}

impl Allowlist {
    /// The rules, in the order of the lists.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How many different calls are allowed.
    pub fn calls(&self) -> usize {
        self.by_call().len()
    }

    /// How many of them only with certain arguments.
    pub fn calls_with_argument_rules(&self) -> usize {
        self.by_call().values().filter(|rules| rules.iter().all(|rule| !rule.args.is_empty())).count()
    }

    fn by_call(&self) -> BTreeMap<&str, Vec<&Rule>> {
        let mut calls: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.rules {
            calls.entry(rule.syscall.as_str()).or_default().push(rule);
        }
        calls
    }

    /// Compiles the two filters, in the order in which they must be installed.
    ///
    /// # Errors
    /// Only when a list in this crate is broken, or on an architecture without one.
    pub fn compile(&self) -> Result<Vec<CompiledFilter>, FilterError> {
        let allowed: Vec<Value> =
            self.by_call().into_iter().flat_map(|(call, rules)| rules_of(call, &rules)).collect();
        let clone3 = compile(
            &json!({ "errno": NOT_IMPLEMENTED }),
            &json!("allow"),
            &[json!({ "syscall": "clone3" })],
        )?;
        let allowlist = compile(&json!("allow"), &json!({ "errno": NOT_PERMITTED }), &allowed)?;
        Ok(vec![clone3, allowlist])
    }
}

/// The filter of the supervisor itself, once its sandbox stands. Another call ends it, and its sandbox
/// with it: what asks for one is no longer our code.
///
/// # Errors
/// Only when the list in this crate is broken.
pub fn supervisor_filter() -> Result<CompiledFilter, FilterError> {
    let mut rules: Vec<Rule> = serde_json::from_str(SUPERVISOR).map_err(FilterError::List)?;
    rules.retain(|rule| rule.only.as_deref().is_none_or(|arch| arch == std::env::consts::ARCH));
    let list = Allowlist { rules };
    let allowed: Vec<Value> =
        list.by_call().into_iter().flat_map(|(call, rules)| rules_of(call, &rules)).collect();
    compile(&json!("allow"), &json!("kill_process"), &allowed)
}

/// A rule without conditions makes the others of its call pointless, and seccompiler wants a call to
/// have one kind only.
fn rules_of(call: &str, rules: &[&Rule]) -> Vec<Value> {
    if rules.iter().any(|rule| rule.args.is_empty()) {
        return vec![json!({ "syscall": call })];
    }
    rules.iter().map(|rule| json!({ "syscall": call, "args": rule.args })).collect()
}

fn compile(matched: &Value, otherwise: &Value, rules: &[Value]) -> Result<CompiledFilter, FilterError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_unknown| FilterError::Architecture)?;
    let document = json!({
        "filter": { "mismatch_action": otherwise, "match_action": matched, "filter": rules }
    });
    let text = document.to_string();
    let mut programs = compile_from_json(text.as_bytes(), arch).map_err(FilterError::Compile)?;
    let program = programs.remove("filter").ok_or(FilterError::Architecture)?;
    Ok(CompiledFilter(program.iter().map(pack).collect()))
}

impl CompiledFilter {
    /// Installs the filter on this thread, for good.
    ///
    /// # Errors
    /// Without `no_new_privs`, or when the kernel refuses the program.
    pub(crate) fn install(&self) -> Result<(), FilterError> {
        let program: BpfProgram = self.0.iter().copied().map(unpack).collect();
        seccompiler::apply_filter(&program).map_err(FilterError::Install)
    }

    /// Instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no instruction; a compiled filter always has some.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn pack(instruction: &sock_filter) -> u64 {
    let [high, low] = instruction.code.to_be_bytes();
    let [a, b, c, d] = instruction.k.to_be_bytes();
    u64::from_be_bytes([high, low, instruction.jt, instruction.jf, a, b, c, d])
}

fn unpack(packed: u64) -> sock_filter {
    let [high, low, jt, jf, a, b, c, d] = packed.to_be_bytes();
    sock_filter { code: u16::from_be_bytes([high, low]), jt, jf, k: u32::from_be_bytes([a, b, c, d]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Baseline; 3] = [Baseline::Static, Baseline::Node, Baseline::Python];

    #[test]
    fn every_baseline_compiles_and_packs_without_loss() {
        for baseline in ALL {
            for filter in allowlist(baseline).unwrap().compile().unwrap() {
                let again: Vec<u64> = filter.0.iter().copied().map(unpack).map(|i| pack(&i)).collect();
                assert_eq!(again, filter.0);
                assert!(filter.len() < 4096, "BPF_MAXINSNS");
            }
        }
    }

    #[test]
    fn every_line_has_a_reason_and_no_line_is_twice() {
        for baseline in ALL {
            let list = allowlist(baseline).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for rule in list.rules() {
                assert!(rule.comment.len() > 8, "{} has no reason", rule.syscall);
                assert!(
                    seen.insert((rule.syscall.clone(), format!("{:?}", rule.args))),
                    "{} is twice",
                    rule.syscall
                );
            }
        }
    }

    #[test]
    fn calls_that_reach_the_kernel_deeply_are_in_no_list() {
        const NEVER: [&str; 28] = [
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "unshare",
            "setns",
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
            "seccomp",
            "clock_settime",
            "memfd_secret",
        ];
        for baseline in ALL {
            let list = allowlist(baseline).unwrap();
            for call in NEVER {
                assert!(!list.by_call().contains_key(call), "{baseline:?} allows {call}");
            }
        }
    }
}
