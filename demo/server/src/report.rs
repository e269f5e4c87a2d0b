//! What an attack says about itself: attempts, their outcome, and the controls that show that the probes work.

use nix::errno::Errno;
use serde_json::{Value, json};

/// Everything that one attack tool tried.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) controls: Vec<Control>,
    pub(crate) attempts: Vec<Attempt>,
}

/// Something of the same kind as the attempts that is allowed, and so must work: otherwise a refusal means nothing.
#[derive(Debug)]
pub(crate) struct Control {
    what: &'static str,
    result: Result<(), Errno>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel said no, or there was nothing there to take.
    Refused,
    /// It worked, or the kernel objected only to an argument that was invalid on purpose.
    Succeeded,
    /// A step before it failed, so that nothing is known. Never to be read as a refusal.
    NotTried,
}

/// One attempt, before it is made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// A stable name, for whoever looks up which layer ought to refuse it.
    pub(crate) id: &'static str,
    pub(crate) what: String,
    /// What a success would have shown.
    pub(crate) proves: &'static str,
    /// What happens to a plain process.
    pub(crate) unconfined: &'static str,
    /// Error numbers that show that permission was given and an argument refused.
    pub(crate) reached: &'static [Errno],
}

/// One attempt, made.
#[derive(Debug)]
pub(crate) struct Attempt {
    plan: Plan,
    outcome: Outcome,
    errno: Option<Errno>,
    detail: String,
    figures: Option<Value>,
}

/// How a child process ended that made an attempt which would have changed this one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ChildEnd {
    Done,
    Failed(Errno),
    Killed(i32),
}

impl Plan {
    pub(crate) fn new(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, what: what.into(), proves: "", unconfined: "", reached: &[] }
    }

    pub(crate) fn proves(self, proves: &'static str) -> Self {
        Self { proves, ..self }
    }

    pub(crate) fn unconfined(self, unconfined: &'static str) -> Self {
        Self { unconfined, ..self }
    }

    pub(crate) fn reached(self, reached: &'static [Errno]) -> Self {
        Self { reached, ..self }
    }

    pub(crate) fn succeeded(self, detail: impl Into<String>) -> Attempt {
        self.end(Outcome::Succeeded, None, detail.into())
    }

    pub(crate) fn refused(self, errno: impl Into<Option<Errno>>, detail: impl Into<String>) -> Attempt {
        self.end(Outcome::Refused, errno.into(), detail.into())
    }

    pub(crate) fn not_tried(self, errno: impl Into<Option<Errno>>, why: impl Into<String>) -> Attempt {
        self.end(Outcome::NotTried, errno.into(), why.into())
    }

    /// The outcome that `result` shows; the text of a success is its detail.
    pub(crate) fn judge(self, result: Result<String, Errno>) -> Attempt {
        match result {
            Ok(detail) => self.succeeded(detail),
            Err(errno) if self.reached.contains(&errno) => {
                let detail = format!("permission was given; then: {} (invalid on purpose)", errno.desc());
                self.end(Outcome::Succeeded, Some(errno), detail)
            }
            Err(errno) => self.refused(errno, errno.desc()),
        }
    }

    /// As [`Plan::judge`], for an attempt made by a child process.
    pub(crate) fn judge_child(self, result: Result<ChildEnd, Errno>) -> Attempt {
        match result {
            Ok(ChildEnd::Done) => self.judge(Ok("the kernel did it".to_owned())),
            Ok(ChildEnd::Failed(errno)) => self.judge(Err(errno)),
            Ok(ChildEnd::Killed(signal)) => self.refused(None, format!("killed by signal {signal}")),
            Err(errno) => {
                self.not_tried(errno, format!("could not start a process for it: {}", errno.desc()))
            }
        }
    }

    fn end(self, outcome: Outcome, errno: Option<Errno>, detail: String) -> Attempt {
        Attempt { plan: self, outcome, errno, detail, figures: None }
    }
}

impl Attempt {
    /// Adds numbers that a test may want to check.
    pub(crate) fn with_figures(self, figures: Value) -> Self {
        Self { figures: Some(figures), ..self }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "id": self.plan.id,
            "attempt": self.plan.what,
            "outcome": self.outcome.name(),
            "errno": self.errno.map(name),
            "detail": self.detail,
            "success_would_prove": self.plan.proves,
            "without_sandbox": self.plan.unconfined,
        });
        if let (Some(object), Some(figures)) = (value.as_object_mut(), &self.figures) {
            object.insert("figures".to_owned(), figures.clone());
        }
        value
    }

    fn to_line(&self) -> String {
        let errno = self.errno.map(|errno| format!(" ({})", name(errno))).unwrap_or_default();
        format!("{}{errno}: {}: {}\n", self.outcome.name(), self.plan.what, self.detail)
    }
}

impl Control {
    pub(crate) fn new<T>(what: &'static str, result: Result<T, Errno>) -> Self {
        Self { what, result: result.map(drop) }
    }

    fn to_json(&self) -> Value {
        json!({ "control": self.what, "works": self.result.is_ok(), "errno": self.result.err().map(name) })
    }
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Succeeded => "succeeded",
            Self::NotTried => "not_tried",
        }
    }
}

impl Report {
    pub(crate) fn to_json(&self, tool: &str) -> Value {
        json!({
            "tool": tool,
            "controls": self.controls.iter().map(Control::to_json).collect::<Vec<_>>(),
            "attempts": self.attempts.iter().map(Attempt::to_json).collect::<Vec<_>>(),
        })
    }

    /// One line per attempt, for people.
    pub(crate) fn to_text(&self) -> String {
        self.attempts.iter().map(Attempt::to_line).collect()
    }
}

/// The symbolic name, `ENOENT`.
fn name(errno: Errno) -> String {
    format!("{errno:?}")
}

/// The JSON Schema of [`Report::to_json`], as the tools announce it.
pub(crate) fn schema() -> Value {
    let text = json!({ "type": "string" });
    let errno = json!({ "type": ["string", "null"] });
    let attempt = json!({
        "type": "object",
        "properties": {
            "id": text,
            "attempt": text,
            "outcome": { "enum": ["refused", "succeeded", "not_tried"] },
            "errno": errno,
            "detail": text,
            "success_would_prove": text,
            "without_sandbox": text,
            "figures": { "type": "object" },
        },
        "required": ["id", "attempt", "outcome", "errno", "detail", "success_would_prove", "without_sandbox"],
    });
    let control = json!({
        "type": "object",
        "properties": { "control": text, "works": { "type": "boolean" }, "errno": errno },
        "required": ["control", "works", "errno"],
    });
    json!({
        "type": "object",
        "properties": {
            "tool": text,
            "controls": { "type": "array", "items": control },
            "attempts": { "type": "array", "items": attempt },
        },
        "required": ["tool", "controls", "attempts"],
    })
}
