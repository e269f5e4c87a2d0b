//! Which kernels are booted, and what is expected of each.

use crate::cases::{self, Case};

/// One boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The directory below `target/fixtures/kernels`.
    pub(crate) kernel: &'static str,
    /// Added to the kernel's command line.
    pub(crate) append: &'static str,
    /// The Landlock ABI that the kernel offers, at least.
    pub(crate) landlock: u32,
    /// What of an image's layers it can do.
    pub(crate) images: Images,
    pub(crate) cases: &'static [fn() -> Vec<Case>],
}

/// What of an image's layers the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Images {
    /// No deleted files (6.8), no store on a tmpfs (6.6).
    Plain,
    /// Everything.
    All,
}

/// Those that take long come first, so that two at a time end together.
pub(crate) const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "linux-6.12",
        kernel: "6.12",
        append: "",
        landlock: 6,
        images: Images::All,
        cases: &[
            cases::host::cases,
            cases::everything::cases,
            cases::limits::cases,
            cases::sandbox::cases,
            cases::images::cases,
            cases::suites::claims,
        ],
    },
    Scenario {
        name: "newest",
        kernel: "newest",
        append: "",
        landlock: 9,
        images: Images::All,
        cases: &[
            cases::host::cases,
            cases::everything::cases,
            cases::limits::cases,
            cases::sandbox::cases,
            cases::suites::lifecycle,
        ],
    },
    Scenario {
        name: "linux-6.1",
        kernel: "6.1",
        append: "",
        landlock: 2,
        images: Images::Plain,
        cases: &[
            cases::host::cases,
            cases::old_landlock::cases,
            cases::limits::cases,
            cases::sandbox::cases,
            cases::images::cases,
        ],
    },
    Scenario {
        name: "linux-6.1-without-landlock",
        kernel: "6.1",
        append: "lsm=lockdown,yama,apparmor",
        landlock: 0,
        images: Images::Plain,
        cases: &[cases::old_landlock::cases],
    },
    Scenario {
        name: "linux-5.10",
        kernel: "5.10",
        append: "",
        landlock: 0,
        images: Images::Plain,
        cases: &[cases::too_old::cases],
    },
];

impl Scenario {
    pub(crate) fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    pub(crate) fn all_cases(&self) -> Vec<Case> {
        self.cases.iter().flat_map(|cases| cases()).collect()
    }

    /// Whether the Landlock ABI that was found is what the kernel is known for.
    pub(crate) fn fits(&self, abi: u64) -> bool {
        let known = u64::from(self.landlock);
        if self.kernel == "newest" { abi >= known } else { abi == known }
    }
}
