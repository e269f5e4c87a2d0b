//! Names and numbers of Linux's system calls, as data: `calls.txt`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

pub(super) const TABLE: &str = include_str!("calls.txt");

/// Where this architecture's number is on a line of the table, and its `AUDIT_ARCH_*` (`linux/audit.h`);
/// `None` on an architecture that the table does not have.
const ARCHITECTURE: Option<(usize, u32)> = if cfg!(target_arch = "x86_64") {
    Some((1, 0xC000_003E))
} else if cfg!(target_arch = "aarch64") {
    Some((2, 0xC000_00B7))
} else {
    None
};

/// A call by its name; the number is `None` where this architecture does not have it.
static CALLS: LazyLock<BTreeMap<&str, Option<u32>>> = LazyLock::new(|| {
    let column = ARCHITECTURE.map_or(usize::MAX, |(column, _)| column);
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let number = line.split(' ').nth(column).and_then(|number| number.parse().ok());
            Some((line.split(' ').next()?, number))
        })
        .collect()
});

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A call of this architecture.
    Here(u32),
    /// A call of another architecture only.
    Elsewhere,
    /// No call.
    Nowhere,
}

pub(super) fn look_up(name: &str) -> Known {
    match CALLS.get(name) {
        Some(Some(number)) => Known::Here(*number),
        Some(None) => Known::Elsewhere,
        None => Known::Nowhere,
    }
}

/// Every name, on whatever architecture.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CALLS.keys().copied()
}

/// Every number that has a name on this architecture.
pub(super) fn numbers() -> impl Iterator<Item = (&'static str, u32)> {
    CALLS.iter().filter_map(|(name, number)| Some((*name, (*number)?)))
}

/// What the kernel calls this architecture in a filter's input.
pub(super) fn audit_arch() -> Option<u32> {
    ARCHITECTURE.map(|(_, arch)| arch)
}
