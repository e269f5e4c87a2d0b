//! From decisions to BPF.
//!
//! A filter is a tree of comparisons ([`Node`]) whose leaves are answers. The tree is made so that what is asked
//! often is answered early:
//!
//! ```text
//! architecture ─► the calls of HOT, one comparison each ─► binary search over all numbers ─► answer
//!                  └► arguments                            └► arguments
//! ```
//!
//! Calls that are allowed whatever their arguments cost nothing here: since Linux 5.11 the kernel finds out which they are
//! when the filter is installed and does not run it for them. It does so by following the filter with a known call number,
//! and it follows the instructions that are used above the arguments: loads of number and architecture, comparisons,
//! jumps and returns.

use std::collections::BTreeMap;

use palisade_sys::seccomp::Instruction;

/// Offsets in `struct seccomp_data` (`linux/seccomp.h`).
const NUMBER: Load = Load { offset: 0, mask: u32::MAX };
const ARCHITECTURE: Load = Load { offset: 4, mask: u32::MAX };
const ARGUMENTS: u32 = 16;

/// Instructions (`linux/bpf_common.h`): load a word of the input, combine with `k`, compare with `k`, jump, return.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `BPF_MAXINSNS`: the kernel takes no longer filter.
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// What the filter answers (`linux/seccomp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer(u32);

impl Answer {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const KILL: Self = Self(0x8000_0000);

    pub(super) const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | widen(number))
    }
}

#[expect(clippy::as_conversions, reason = "`u32::from` is not const")]
const fn widen(number: u16) -> u32 {
    number as u32
}

/// One comparison of a rule: one half of an argument under a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Comparison {
    /// Which argument, from 0 to 5.
    pub(super) index: u8,
    pub(super) half: Half,
    pub(super) mask: u32,
    pub(super) is: u32,
}

/// A filter loads 32 bits at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    /// All that the kernel reads of an `int`, an `unsigned int` or a mode.
    Low,
    /// The rest of a pointer or a size.
    High,
}

impl Comparison {
    fn load(self) -> Load {
        // The low half comes first on both architectures, which are little-endian.
        let half = match self.half {
            Half::Low => 0,
            Half::High => 4,
        };
        let argument = ARGUMENTS.saturating_add(8_u32.saturating_mul(self.index.into()));
        Load { offset: argument.saturating_add(half), mask: self.mask }
    }
}

/// What is known of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The same answer, whatever the arguments.
    Always(Answer),
    /// Allowed when all comparisons of one alternative hold; else this answer.
    Arguments(Vec<Vec<Comparison>>, Answer),
}

/// Everything that a filter decides.
#[derive(Debug)]
pub(super) struct Table {
    /// `AUDIT_ARCH_*`; calls of any other architecture end the process.
    pub(super) architecture: u32,
    /// By number.
    pub(super) calls: BTreeMap<u32, Decision>,
    /// For each number that is not in `calls`. That covers the x32 calls, whose numbers have bit 30 set.
    pub(super) otherwise: Answer,
    /// The numbers that are looked at first.
    pub(super) hot: Vec<u32>,
}

/// A word of the input under a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    offset: u32,
    mask: u32,
}

enum Node {
    Answer(Answer),
    Compare { load: Load, code: u16, with: u32, yes: Box<Node>, no: Box<Node> },
}

impl Node {
    fn compare(load: Load, code: u16, with: u32, [yes, no]: [Node; 2]) -> Self {
        Self::Compare { load, code, with, yes: Box::new(yes), no: Box::new(no) }
    }
}

/// The filter of a table.
pub(super) fn filter(table: &Table) -> Vec<Instruction> {
    let mut tree = search(&intervals(table));
    for number in table.hot.iter().rev() {
        let Some(decision) = table.calls.get(number) else { continue };
        tree = Node::compare(NUMBER, IF_EQUAL, *number, [decide(decision), tree]);
    }
    let kill = Node::Answer(Answer::KILL);
    let mut program = Vec::new();
    emit(&Node::compare(ARCHITECTURE, IF_EQUAL, table.architecture, [tree, kill]), None, &mut program);
    program
}

/// Where a new decision begins: from this number on.
type Interval = (u32, Decision);

/// All numbers, as the fewest intervals of one decision each; a call with arguments is alone in its own. What a hot call
/// would be answered here does not matter any more, so it joins the one before it.
fn intervals(table: &Table) -> Vec<Interval> {
    let mut found: Vec<Interval> = Vec::new();
    let mut begin = |from: u32, decision: &Decision| {
        let constant = matches!(decision, Decision::Always(_));
        if !constant || found.last().is_none_or(|(_, last)| last != decision) {
            found.push((from, decision.clone()));
        }
    };
    let otherwise = Decision::Always(table.otherwise);
    let after = table.calls.keys().next_back().map_or(0, |last| last.saturating_add(1));
    for number in (0..after).filter(|number| !table.hot.contains(number)) {
        begin(number, table.calls.get(&number).unwrap_or(&otherwise));
    }
    begin(after, &otherwise);
    found
}

fn search(intervals: &[Interval]) -> Node {
    match intervals {
        [] => Node::Answer(Answer::KILL),
        [(_, decision)] => decide(decision),
        _ => {
            let (low, high) = intervals.split_at(intervals.len() / 2);
            let from = high.first().map_or(u32::MAX, |(from, ..)| *from);
            Node::compare(NUMBER, IF_AT_LEAST, from, [search(high), search(low)])
        }
    }
}

fn decide(decision: &Decision) -> Node {
    match decision {
        Decision::Always(answer) => Node::Answer(*answer),
        Decision::Arguments(alternatives, otherwise) => arguments(alternatives, *otherwise),
    }
}

/// Takes the first word that any alternative looks at, and decides what is left for each value that it may have.
fn arguments(alternatives: &[Vec<Comparison>], otherwise: Answer) -> Node {
    if alternatives.iter().any(Vec::is_empty) {
        return Node::Answer(Answer::ALLOW);
    }
    let Some(load) = alternatives.iter().flatten().next().map(|comparison| comparison.load()) else {
        return Node::Answer(otherwise);
    };
    let about = |comparison: &Comparison| comparison.load() == load;
    let mut values: Vec<u32> =
        alternatives.iter().flatten().copied().filter(about).map(|comparison| comparison.is).collect();
    values.sort_unstable();
    values.dedup();
    let rest = |value: Option<u32>| {
        let possible = alternatives.iter().filter(|alternative| {
            alternative.iter().copied().filter(about).all(|comparison| Some(comparison.is) == value)
        });
        let left: Vec<Vec<Comparison>> = possible
            .map(|all| all.iter().copied().filter(|comparison| !about(comparison)).collect())
            .collect();
        arguments(&left, otherwise)
    };
    one_of(load, &values, &rest)
}

/// Few values are compared one by one, many are searched.
fn one_of(load: Load, values: &[u32], rest: &dyn Fn(Option<u32>) -> Node) -> Node {
    /// Below this, a search takes as many comparisons as a chain does on average.
    const CHAIN: usize = 4;
    match values {
        [] => rest(None),
        [first, others @ ..] if values.len() <= CHAIN => {
            Node::compare(load, IF_EQUAL, *first, [rest(Some(*first)), one_of(load, others, rest)])
        }
        _ => {
            let (low, high) = values.split_at(values.len() / 2);
            let from = high.first().copied().unwrap_or_default();
            Node::compare(load, IF_AT_LEAST, from, [one_of(load, high, rest), one_of(load, low, rest)])
        }
    }
}

/// Appends the instructions of a tree. `holds` is what the accumulator is known to hold.
fn emit(node: &Node, holds: Option<Load>, program: &mut Vec<Instruction>) {
    let (load, code, with, yes, no) = match node {
        Node::Answer(Answer(answer)) => return program.push(plain(RETURN, *answer)),
        Node::Compare { load, code, with, yes, no } => (*load, *code, *with, yes, no),
    };
    if holds != Some(load) {
        program.push(plain(LOAD, load.offset));
        if load.mask != u32::MAX {
            program.push(plain(AND, load.mask));
        }
    }
    let mut then = Vec::new();
    emit(yes, Some(load), &mut then);
    match u8::try_from(then.len()) {
        Ok(over) => program.push(Instruction { code, jt: 0, jf: over, k: with }),
        // A comparison jumps 255 instructions at most; an unconditional jump has 32 bits.
        Err(_too_far) => {
            program.push(Instruction { code, jt: 1, jf: 0, k: with });
            program.push(plain(JUMP, u32::try_from(then.len()).unwrap_or(u32::MAX)));
        }
    }
    program.append(&mut then);
    emit(no, Some(load), program);
}

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}
