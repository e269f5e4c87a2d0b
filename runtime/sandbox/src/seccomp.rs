//! The system call allowlists and how they become BPF.
//!
//! The lists are data, one line a call with its reason: `seccomp/*.json` ([`list`] says which file is which). A baseline is
//! the base list plus those of its family; a policy adds calls to it or removes some, each with a reason. What is on
//! no list is refused, as the policy's `seccomp` mode says ([`Allowlist::compile`]).
//!
//! Reading order: [`list`] the data, [`calls`] names and numbers, this file what is decided of each call, [`compile`] the
//! filter.
//!
//! The attacker considered is a server that tries any call with any arguments. Memory behind a pointer is out of a
//! filter's reach and could be changed after the check, so only values in registers are ever looked at.

mod calls;
mod compile;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{LazyLock, Mutex};

use palisade_policy::{Baseline, SeccompMode, Syscalls};
use palisade_sys::seccomp::{Instruction, Logging, install_filter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use compile::{Answer, Decision, Table};
use list::Errno;

pub use list::{ChangeProblem, Condition, Rule, Word, WrongChange};

/// The calls that are made most, of those whose arguments are looked at: of 12,800 in the recording of the whole test set,
/// 8,000 were openat, 2,200 ioctl, 1,500 fcntl and 300 prctl. Each comparison more would be paid by all calls after it.
const HOT: [&str; 4] = ["openat", "ioctl", "fcntl", "prctl"];

/// The calls of one server.
#[derive(Debug, Clone)]
pub struct Allowlist {
    rules: Vec<Rule>,
    mode: SeccompMode,
}

/// A filter as the kernel takes it: an instruction is one number, `code:16 jt:8 jf:8 k:32`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledFilter {
    program: Vec<u64>,
    /// Whether the kernel logs what the filter does not allow.
    log: bool,
}

/// What can go wrong with a list; each but the last is a defect of ours.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A list is not in its form.
    #[error("a seccomp list is not readable: {0}")]
    List(String),
    /// A list names a call that the table does not have.
    #[error("a seccomp list names `{0}`, which is no system call")]
    Unknown(String),
    /// The architecture has no list.
    #[error("there is no seccomp list for this architecture")]
    Architecture,
    /// The filter is longer than the kernel takes.
    #[error("the seccomp filter has {0} instructions, and the kernel takes {max}", max = compile::INSTRUCTIONS_MAX)]
    TooLong(usize),
    /// The kernel refused the filter.
    #[error("the kernel refused the seccomp filter")]
    Install(#[source] io::Error),
}

/// Why a policy's list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A list of ours is broken.
    #[error("the seccomp baseline could not be read")]
    Broken(#[from] FilterError),
    /// The policy asks for changes that cannot be made. Never empty.
    #[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Changes(Vec<WrongChange>),
}

impl ListError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Broken(_) => None,
            Self::Changes(wrong) => wrong.first().map(WrongChange::hint),
        }
    }
}

/// The allowlist of a baseline as it is.
///
/// # Errors
/// Only when a list in this crate is broken.
pub fn allowlist(baseline: Baseline) -> Result<Allowlist, FilterError> {
    Ok(Allowlist { rules: list::baseline(baseline)?, mode: SeccompMode::Enforce })
}

impl Allowlist {
    /// The allowlist that a policy asks for.
    ///
    /// # Errors
    /// When it adds or removes a call that cannot be added or removed.
    pub fn of(syscalls: &Syscalls) -> Result<Self, ListError> {
        let mut wrong = Vec::new();
        let rules = list::changed(syscalls, &mut wrong)?;
        if wrong.is_empty() {
            Ok(Self { rules, mode: syscalls.seccomp })
        } else {
            Err(ListError::Changes(wrong))
        }
    }

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

    /// Whether a Unix socket can be opened that may be connected to others; pairs can not.
    pub(crate) fn allows_unix_sockets(&self) -> bool {
        const AF_UNIX: u64 = 1;
        let family = |rule: &Rule| rule.args.iter().find(|condition| condition.index == 0).cloned();
        self.rules
            .iter()
            .filter(|rule| rule.syscall == "socket")
            .any(|rule| family(rule).is_none_or(|family| AF_UNIX & family.mask.0 == family.is.0))
    }

    /// `sha256:…` of what the filter decides: equal lists, and only those, have equal digests. Reasons are not in it.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}\n", self.mode));
        for (call, rules) in self.by_call() {
            let mut alternatives: Vec<_> = rules.iter().map(|rule| alternative(rule)).collect();
            alternatives.sort_unstable();
            hash.update(format!("{call} {alternatives:?}\n"));
        }
        hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }

    fn by_call(&self) -> BTreeMap<&str, Vec<&Rule>> {
        let mut calls: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.rules {
            calls.entry(rule.syscall.as_str()).or_default().push(rule);
        }
        calls
    }

    /// The filters, in the order in which they must be installed; there is one. Compiled once for each list, see
    /// [`Allowlist::digest`].
    ///
    /// - A call of the list is allowed when its arguments are; when they are not, it gets `EPERM` in every mode, since runtimes
    ///   probe families of sockets and options of `prctl` in passing.
    /// - A call that is on no list gets `EPERM` with `enforce`, ends the process with `kill`, is carried out and logged with
    ///   `log`. With `log`, calls that no policy can add, and numbers that this version knows no call for, still get `EPERM`.
    /// - A call of another architecture (`int 0x80`) ends the process. x32 calls are numbers without a call.
    ///
    /// # Errors
    /// Only when a list in this crate is broken, or on an architecture without one.
    pub fn compile(&self) -> Result<Vec<CompiledFilter>, FilterError> {
        let digest = self.digest();
        let mut cache = CACHE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(filter) = cache.get(&digest) {
            return Ok(vec![filter.clone()]);
        }
        let filter = self.compile_anew()?;
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(digest, filter.clone());
        Ok(vec![filter])
    }

    /// As [`compile`](Self::compile), without the cache.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_anew(&self) -> Result<CompiledFilter, FilterError> {
        let log = if self.mode == SeccompMode::Log { Logging::On } else { Logging::Off };
        compiled(&self.table()?, log)
    }

    fn table(&self) -> Result<Table, FilterError> {
        let refused = Answer::errno(Errno::NotPermitted.number());
        let (unlisted, forbidden) = match self.mode {
            SeccompMode::Enforce => (refused, refused),
            SeccompMode::Kill => (Answer::KILL, Answer::KILL),
            SeccompMode::Log => (Answer::LOG, refused),
        };
        let never: BTreeSet<&str> = list::never()?.iter().map(|note| note.syscall.as_str()).collect();
        let decide = |name| if never.contains(name) { forbidden } else { unlisted };
        let mut calls: BTreeMap<u32, Decision> =
            calls::numbers().map(|(name, number)| (number, Decision::Always(decide(name)))).collect();
        if self.mode == SeccompMode::Log {
            calls.extend(conditional_anywhere(refused)?);
        }
        for line in list::answered()? {
            let answer = Answer::errno(line.errno.number());
            calls.extend(number(&line.syscall)?.map(|number| (number, Decision::Always(answer))));
        }
        for (call, rules) in self.by_call() {
            calls.extend(number(call)?.map(|number| (number, decision(&rules, refused))));
        }
        let hot = HOT.iter().filter_map(|call| number(call).transpose()).collect::<Result<_, _>>()?;
        let architecture = calls::audit_arch().ok_or(FilterError::Architecture)?;
        // A number without a name is a call that is newer than this version: nobody has judged it.
        Ok(Table { architecture, calls, otherwise: forbidden, hot })
    }
}

/// The filter of a list for one of our own processes, in the form of the lists here: another call, and other arguments of a
/// call that is on it, end the process, since what asks for them is no longer our code.
///
/// # Errors
/// When the list is broken.
pub fn own_process_filter(list: &str) -> Result<CompiledFilter, FilterError> {
    let mut rules: Vec<Rule> = list::read(list).map_err(FilterError::List)?;
    rules.retain(|rule| rule.only.as_deref().is_none_or(|arch| arch == std::env::consts::ARCH));
    let list = Allowlist { rules, mode: SeccompMode::Kill };
    let mut calls = BTreeMap::new();
    for (call, rules) in list.by_call() {
        calls.extend(number(call)?.map(|number| (number, decision(&rules, Answer::KILL))));
    }
    let architecture = calls::audit_arch().ok_or(FilterError::Architecture)?;
    compiled(&Table { architecture, calls, otherwise: Answer::KILL, hot: Vec::new() }, Logging::Off)
}

fn compiled(table: &Table, logging: Logging) -> Result<CompiledFilter, FilterError> {
    let program = compile::filter(table);
    if program.len() > compile::INSTRUCTIONS_MAX {
        return Err(FilterError::TooLong(program.len()));
    }
    Ok(CompiledFilter { program: program.into_iter().map(pack).collect(), log: logging == Logging::On })
}

/// Calls that some baseline allows on conditions: where calls outside the list are only logged, the conditions still
/// hold, since other layers count on them (memory that can be executed, for one).
fn conditional_anywhere(refused: Answer) -> Result<BTreeMap<u32, Decision>, FilterError> {
    let mut calls = BTreeMap::new();
    for baseline in list::BASELINES {
        for (call, rules) in allowlist(baseline)?.by_call() {
            if rules.iter().all(|rule| !rule.args.is_empty()) {
                calls.extend(number(call)?.map(|number| (number, decision(&rules, refused))));
            }
        }
    }
    Ok(calls)
}

/// A gateway has a handful of policies, most of them with a baseline as it is.
const CACHE_MAX: usize = 64;

/// Filters by the digest of their list.
static CACHE: LazyLock<Mutex<BTreeMap<String, CompiledFilter>>> = LazyLock::new(Mutex::default);

/// The number of a call; none where this architecture does not have it.
fn number(call: &str) -> Result<Option<u32>, FilterError> {
    match calls::look_up(call) {
        calls::Known::Here(number) => Ok(Some(number)),
        calls::Known::Elsewhere => Ok(None),
        calls::Known::Nowhere => Err(FilterError::Unknown(call.to_owned())),
    }
}

/// A line without conditions makes the others of its call pointless.
fn decision(rules: &[&Rule], refused: Answer) -> Decision {
    if rules.iter().any(|rule| rule.args.is_empty()) {
        return Decision::Always(Answer::ALLOW);
    }
    let mut alternatives: Vec<_> = rules.iter().map(|rule| alternative(rule)).collect();
    // The order of the lines decides nothing, so that equal lists are equal filters.
    alternatives.sort_unstable();
    Decision::Arguments(alternatives, refused)
}

fn alternative(rule: &Rule) -> Vec<compile::Comparison> {
    rule.args.iter().flat_map(Condition::comparisons).collect()
}

impl CompiledFilter {
    /// Installs the filter on this thread, for good.
    ///
    /// # Errors
    /// Without `no_new_privs`, or when the kernel refuses the program.
    pub fn install(&self) -> Result<(), FilterError> {
        let program: Vec<Instruction> = self.program.iter().copied().map(unpack).collect();
        let logging = if self.log { Logging::On } else { Logging::Off };
        install_filter(&program, logging).map_err(FilterError::Install)
    }

    /// Instructions.
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// Whether there is no instruction; a compiled filter always has some.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }
}

fn pack(instruction: Instruction) -> u64 {
    let [high, low] = instruction.code.to_be_bytes();
    let [a, b, c, d] = instruction.k.to_be_bytes();
    u64::from_be_bytes([high, low, instruction.jt, instruction.jf, a, b, c, d])
}

fn unpack(packed: u64) -> Instruction {
    let [high, low, jt, jf, a, b, c, d] = packed.to_be_bytes();
    Instruction { code: u16::from_be_bytes([high, low]), jt, jf, k: u32::from_be_bytes([a, b, c, d]) }
}

#[cfg(test)]
mod tests;
