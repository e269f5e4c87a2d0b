//! How the demonstration is told: lines of at most 120 columns, readable without colour.
//!
//! The sample server is hostile, and part of what is printed is its text: control characters are shown and
//! not sent to the terminal, and every line is cut.

use std::io::Write;
use std::time::{Duration, Instant};

use super::attack::{Attempt, Outcome};
use super::judge::Verdict;
use crate::failure::Failure;
use crate::output;

/// A line is never longer, so that a terminal of this width wraps none.
pub(super) const COLUMNS: usize = 120;

/// Where the story goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// People who watch: everything, on standard output.
    Watching,
    /// A client has standard output; the steps alone, on standard error.
    Serving,
}

impl Audience {
    /// A step that has been taken.
    pub(super) fn step(self, name: &str, text: &str) -> Result<(), Failure> {
        let line = cut(&format!("{name:<11}{text}"), COLUMNS);
        match self {
            Self::Watching => output::line(&line),
            Self::Serving => {
                // Progress only: a client that closed our standard error still wants its server.
                match writeln!(std::io::stderr(), "palisade demo: {line}") {
                    Ok(()) | Err(_) => Ok(()),
                }
            }
        }
    }

    /// More about the step before.
    pub(super) fn more(self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Watching => output::line(cut(&format!("           {text}"), COLUMNS).trim_end()),
            Self::Serving => Ok(()),
        }
    }

    /// Several lines that are kept as they are.
    pub(super) fn verbatim(self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Watching => text.lines().try_for_each(|line| output::line(&format!("    {line}"))),
            Self::Serving => Ok(()),
        }
    }
}

/// How much is said of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Which layer.
    Layer,
    /// And why it is that one.
    Reason,
}

impl Detail {
    /// As `--verbose` says.
    pub(crate) fn of(verbose: bool) -> Self {
        if verbose { Self::Reason } else { Self::Layer }
    }
}

/// How attempts are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    pub(super) detail: Detail,
    /// The path of the demonstration's directory, shown as [`ROOT`].
    pub(super) root: &'a str,
}

/// What the demonstration's directory is called in paths.
pub(super) const ROOT: &str = "$DEMO";

impl Style<'_> {
    fn shorten(&self, text: &str) -> String {
        text.replace(UP, "../…/..").replace(self.root, ROOT)
    }
}

/// What stands above the attempts.
pub(super) fn heading() -> String {
    row("outcome", "errno", "refused by", "what was tried")
}

/// One attempt as one line, and a second one where it needs an explanation.
pub(super) fn attempt(attempt: &Attempt, verdict: &Verdict, style: Style<'_>) -> String {
    let (word, layer, note) = match verdict {
        Verdict::Refused(layer, why) => ("refused", layer.name(), (*why).to_owned()),
        Verdict::Harmless(why) => ("harmless", "", (*why).to_owned()),
        Verdict::Moot(why) => ("moot", "", (*why).to_owned()),
        Verdict::Unexpected(why) => {
            ("UNEXPECTED", "", format!("{}, {}; {why}", attempt.outcome.name(), attempt.detail))
        }
    };
    let plain = match verdict {
        // One that failed before it was made is not plainly a refusal: say why it is one.
        Verdict::Refused(..) => attempt.outcome == Outcome::Refused,
        Verdict::Moot(_) => true,
        Verdict::Harmless(_) | Verdict::Unexpected(_) => false,
    };
    let errno = attempt.errno.as_deref().unwrap_or("");
    let mut lines = row(word, errno, layer, &style.shorten(&attempt.what));
    if !plain || style.detail == Detail::Reason {
        lines.push('\n');
        lines.push_str(&cut(&format!("{:13}({note})", ""), COLUMNS));
    }
    lines
}

/// How the sample server writes "as far up as it goes".
const UP: &str = "../../../../../../../../../../../../../../../..";

fn row(outcome: &str, errno: &str, layer: &str, text: &str) -> String {
    cut(&format!("  {outcome:<11}{errno:<13}{layer:<19}{text}"), COLUMNS)
}

/// Control characters shown, and no longer than `columns`.
pub(super) fn cut(text: &str, columns: usize) -> String {
    let shown: String = text
        .chars()
        .map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character })
        .collect();
    if shown.chars().count() <= columns {
        return shown;
    }
    shown.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// How long each phase took.
#[derive(Debug)]
pub(super) struct Clock {
    since: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { since: Instant::now(), phases: Vec::new() }
    }

    /// The phase that ends now.
    pub(super) fn phase(&mut self, name: &'static str) {
        self.phases.push((name, self.since.elapsed()));
        self.since = Instant::now();
    }

    pub(super) fn summary(&self) -> String {
        let phases: Vec<String> =
            self.phases.iter().map(|(name, took)| format!("{name} {} ms", took.as_millis())).collect();
        phases.join(", ")
    }
}
