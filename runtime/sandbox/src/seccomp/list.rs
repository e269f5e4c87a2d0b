//! The lists as they are written, and what a policy makes of them.
//!
//! | file | what a line says |
//! |---|---|
//! | `base.json`, and one for each family | a call that is allowed, on what conditions, and why |
//! | `never.json` | a call that no policy can add |
//! | `answered.json` | a call that is refused with its own errno in every mode, since runtimes try it and go on |
//! | `ours.json` | a call that reaper and lock-down make behind the filter, so that no policy can remove it |
//! | `supervisor.json` | a call of the supervisor itself, while a server runs |
//! | `recorded.json` | what the servers of the test set called; made by `tests/record-calls` |

use std::sync::LazyLock;

use palisade_policy::{Baseline, CallChange, Syscalls};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::FilterError;
use super::calls::{Known, look_up, names};
use super::compile::{Comparison, Half};

const BASE: &str = include_str!("base.json");
const NODE: &str = include_str!("node.json");
const PYTHON: &str = include_str!("python.json");
const BROWSER: &str = include_str!("browser.json");

static NEVER: LazyLock<Result<Vec<Note>, String>> = LazyLock::new(|| read(include_str!("never.json")));
static OURS: LazyLock<Result<Vec<Note>, String>> = LazyLock::new(|| read(include_str!("ours.json")));
static ANSWERED: LazyLock<Result<Vec<Answered>, String>> =
    LazyLock::new(|| read(include_str!("answered.json")));

/// One line of an allowlist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The call, by its name on `x86_64` and `aarch64`.
    pub syscall: String,
    /// The architecture that has it, where that is not every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Conditions on its arguments; all of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Condition>,
    /// Why a server needs it, and why it may have it.
    pub comment: String,
    /// Why the line stays although no server of the test set needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
}

/// A condition on one argument: `argument & mask == is`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub index: u8,
    /// The bits that are looked at; without it, the 32 bits of an `int`. A pointer or a size needs all 64.
    #[serde(default, skip_serializing_if = "Word::is_full")]
    pub mask: Word,
    /// What they must be.
    pub is: Word,
    /// What that means.
    pub comment: String,
}

/// An argument or bits of it, written as `"0x…"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(pub u64);

/// A call and why it is in its list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    pub(super) syscall: String,
    #[expect(dead_code, reason = "for whoever reads the list; the table knows it as well")]
    only: Option<String>,
    pub(super) comment: String,
}

/// A call that is refused with an errno of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answered {
    pub(super) syscall: String,
    pub(super) errno: Errno,
    #[expect(dead_code, reason = "for whoever reads the list")]
    comment: String,
}

/// The errors that a filter gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Errno {
    /// The call does not exist.
    #[serde(rename = "ENOSYS")]
    NotImplemented,
    /// The call is refused.
    #[serde(rename = "EPERM")]
    NotPermitted,
}

impl Errno {
    pub(super) fn number(self) -> u16 {
        match self {
            Self::NotPermitted => 1,
            Self::NotImplemented => 38,
        }
    }
}

impl Default for Word {
    fn default() -> Self {
        Self(u32::MAX.into())
    }
}

impl Word {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_full(&self) -> bool {
        *self == Self::default()
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits =
            text.strip_prefix("0x").ok_or_else(|| serde::de::Error::custom("a word begins with 0x"))?;
        u64::from_str_radix(digits, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl Condition {
    /// One for each half of the argument that is looked at.
    pub(super) fn comparisons(&self) -> impl Iterator<Item = Comparison> {
        let ([mask_high, mask_low], [high, low]) = (halves(self.mask), halves(self.is));
        let index = self.index;
        [(Half::Low, mask_low, low), (Half::High, mask_high, high)]
            .into_iter()
            .filter(|(_, mask, is)| *mask != 0 || *is != 0)
            .map(move |(half, mask, is)| Comparison { index, half, mask, is })
    }
}

fn halves(Word(word): Word) -> [u32; 2] {
    // Neither is longer than 32 bits.
    [word >> 32, word & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX))
}

pub(super) fn read<T: serde::de::DeserializeOwned>(list: &str) -> Result<Vec<T>, String> {
    serde_json::from_str(list).map_err(|error| error.to_string())
}

fn shared<T>(list: &'static LazyLock<Result<Vec<T>, String>>) -> Result<&'static [T], FilterError> {
    match &**list {
        Ok(lines) => Ok(lines),
        Err(message) => Err(FilterError::List(message.clone())),
    }
}

/// The calls that no policy can add.
pub(super) fn never() -> Result<&'static [Note], FilterError> {
    shared(&NEVER)
}

/// The calls that reaper and lock-down make behind the filter.
pub(super) fn ours() -> Result<&'static [Note], FilterError> {
    shared(&OURS)
}

/// The calls that are refused with an errno of their own in every mode.
pub(super) fn answered() -> Result<&'static [Answered], FilterError> {
    shared(&ANSWERED)
}

/// The files of a baseline, each with its name.
pub(super) fn files(baseline: Baseline) -> &'static [(&'static str, &'static str)] {
    const BASE_FILE: (&str, &str) = ("base.json", BASE);
    match baseline {
        Baseline::Static => &[BASE_FILE],
        Baseline::Node => &[BASE_FILE, ("node.json", NODE)],
        Baseline::Python => &[BASE_FILE, ("python.json", PYTHON)],
        // A browser is started by a server, most often one on node.
        Baseline::Browser => &[BASE_FILE, ("node.json", NODE), ("browser.json", BROWSER)],
    }
}

/// Every baseline.
pub(super) const BASELINES: [Baseline; 4] =
    [Baseline::Static, Baseline::Node, Baseline::Python, Baseline::Browser];

/// The lines of a baseline that this architecture has.
pub(super) fn baseline(baseline: Baseline) -> Result<Vec<Rule>, FilterError> {
    let mut rules: Vec<Rule> = Vec::new();
    for (_, list) in files(baseline) {
        rules.extend(read::<Rule>(list).map_err(FilterError::List)?);
    }
    rules.retain(|rule| rule.only.as_deref().is_none_or(|arch| arch == std::env::consts::ARCH));
    Ok(rules)
}

/// The lines that a policy's changes leave.
pub(super) fn changed(syscalls: &Syscalls, wrong: &mut Vec<WrongChange>) -> Result<Vec<Rule>, FilterError> {
    let mut rules = baseline(syscalls.baseline)?;
    for (index, change) in syscalls.remove.iter().enumerate() {
        match why_not_remove(change, &rules)? {
            Some(problem) => wrong.push(WrongChange::new("remove", index, change, problem)),
            None => rules.retain(|rule| rule.syscall != change.call),
        }
    }
    let before = rules.clone();
    for (index, change) in syscalls.add.iter().enumerate() {
        match why_not_add(change, &before)? {
            Some(problem) => wrong.push(WrongChange::new("add", index, change, problem)),
            None => rules.extend(lines_of(change)?),
        }
    }
    Ok(rules)
}

/// A call that another baseline allows on conditions is added on the same ones.
fn lines_of(change: &CallChange) -> Result<Vec<Rule>, FilterError> {
    for other in BASELINES {
        let mut lines = baseline(other)?;
        lines.retain(|rule| rule.syscall == change.call);
        if !lines.is_empty() {
            for line in &mut lines {
                line.comment.clone_from(&change.reason);
            }
            return Ok(lines);
        }
    }
    if look_up(&change.call) == Known::Elsewhere {
        return Ok(Vec::new());
    }
    let (syscall, comment) = (change.call.clone(), change.reason.clone());
    Ok(vec![Rule { syscall, only: None, args: Vec::new(), comment, keep: None }])
}

fn why_not_add(change: &CallChange, rules: &[Rule]) -> Result<Option<ChangeProblem>, FilterError> {
    let reason = never()?.iter().find(|note| note.syscall == change.call).map(|note| note.comment.clone());
    if let Some(reason) = reason {
        return Ok(Some(ChangeProblem::Never { reason }));
    }
    let mut lines = rules.iter().filter(|rule| rule.syscall == change.call).peekable();
    if lines.peek().is_some() {
        let conditions = lines.all(|rule| !rule.args.is_empty());
        return Ok(Some(if conditions { ChangeProblem::Conditions } else { ChangeProblem::Allowed }));
    }
    Ok((look_up(&change.call) == Known::Nowhere).then_some(ChangeProblem::Unknown))
}

fn why_not_remove(change: &CallChange, rules: &[Rule]) -> Result<Option<ChangeProblem>, FilterError> {
    let reason = ours()?.iter().find(|note| note.syscall == change.call).map(|note| note.comment.clone());
    if let Some(reason) = reason {
        return Ok(Some(ChangeProblem::Ours { reason }));
    }
    let there = rules.iter().any(|rule| rule.syscall == change.call);
    Ok(match look_up(&change.call) {
        Known::Nowhere => Some(ChangeProblem::Unknown),
        Known::Here(_) if !there => Some(ChangeProblem::NotThere),
        Known::Here(_) | Known::Elsewhere => None,
    })
}

/// A change that a policy cannot make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongChange {
    /// Where the policy says so: a path such as `syscalls.add[0].call`.
    pub path: String,
    /// The call, as the policy writes it.
    pub call: String,
    /// Why not.
    pub problem: ChangeProblem,
}

/// Why a policy cannot add or remove a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeProblem {
    /// There is no such call.
    Unknown,
    /// No policy can add it.
    Never {
        /// What the list says of it.
        reason: String,
    },
    /// The baseline has it.
    Allowed,
    /// The baseline has it, with conditions on its arguments.
    Conditions,
    /// The baseline does not have it.
    NotThere,
    /// Reaper or lock-down make it themselves.
    Ours {
        /// What the list says of it.
        reason: String,
    },
}

impl WrongChange {
    fn new(key: &str, index: usize, change: &CallChange, problem: ChangeProblem) -> Self {
        Self { path: format!("syscalls.{key}[{index}].call"), call: change.call.clone(), problem }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match &self.problem {
            ChangeProblem::Unknown => match palisade_policy::nearest(&self.call, names()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => {
                    "calls have the names of section 2 of the manual, in the form that `strace` prints".into()
                }
            },
            ChangeProblem::Never { .. } => {
                "remove the line; a server that cannot do without it cannot run in a sandbox".into()
            }
            ChangeProblem::Allowed | ChangeProblem::NotThere | ChangeProblem::Ours { .. } => {
                "remove the line".into()
            }
            ChangeProblem::Conditions => {
                "remove the line; `palisade explain` shows the conditions, and no policy can lift them".into()
            }
        }
    }
}

impl std::fmt::Display for WrongChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = self.call.escape_debug();
        match &self.problem {
            ChangeProblem::Unknown => write!(f, "`{call}` is no system call that this version knows"),
            ChangeProblem::Never { reason } => write!(f, "`{call}` can be added by no policy: {reason}"),
            ChangeProblem::Allowed => write!(f, "`{call}` is in the baseline already"),
            ChangeProblem::Conditions => {
                write!(f, "`{call}` is in the baseline already, with conditions on its arguments")
            }
            ChangeProblem::NotThere => write!(f, "`{call}` is not in the baseline"),
            ChangeProblem::Ours { reason } => {
                write!(
                    f,
                    "`{call}` cannot be removed, since palisade makes it in the sandbox itself: {reason}"
                )
            }
        }
    }
}
