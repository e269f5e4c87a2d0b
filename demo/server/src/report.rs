//! What an attack says about itself: attempts, their outcome, and the controls that show that the probes work.

use nix::errno::Errno;
use serde_json::{Value, json};

/// Everything that one attack tool tried.
#[derive(Debug, Default)]
pub struct Report {
    /// What must work.
    pub controls: Vec<Control>,
    /// What was tried.
    pub attempts: Vec<Attempt>,
}

/// Something of the same kind as the attempts that is allowed, and so must work: otherwise a refusal means nothing.
#[derive(Debug)]
pub struct Control {
    what: &'static str,
    result: Result<(), Errno>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel said no, or there was nothing there to take.
    Refused,
    /// It worked, or the kernel objected only to an argument that was invalid on purpose.
    Succeeded,
    /// A step before it failed, so that nothing is known. Never to be read as a refusal.
    NotTried,
}

/// One attempt, before it is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A stable name, for whoever looks up which layer ought to refuse it.
    pub id: &'static str,
    /// What is tried, in words.
    pub what: String,
    /// What a success would have shown.
    pub proves: &'static str,
    /// What happens to a plain process.
    pub unconfined: &'static str,
    /// Error numbers that show that permission was given and an argument refused.
    pub reached: &'static [Errno],
}

/// One attempt, made.
#[derive(Debug)]
pub struct Attempt {
    plan: Plan,
    outcome: Outcome,
    errno: Option<Errno>,
    detail: String,
    figures: Option<Value>,
}

/// How a child process ended that made an attempt which would have changed this one.
#[derive(Debug, Clone, Copy)]
pub enum ChildEnd {
    /// The attempt succeeded.
    Done,
    /// The kernel's answer.
    Failed(Errno),
    /// By this signal.
    Killed(i32),
}

impl Plan {
    /// An attempt of that name.
    pub fn new(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, what: what.into(), proves: "", unconfined: "", reached: &[] }
    }

    /// Says what a success shows.
    #[must_use]
    pub fn proves(self, proves: &'static str) -> Self {
        Self { proves, ..self }
    }

    /// Says what happens to a plain process.
    #[must_use]
    pub fn unconfined(self, unconfined: &'static str) -> Self {
        Self { unconfined, ..self }
    }

    /// Names the error numbers that count as a success.
    #[must_use]
    pub fn reached(self, reached: &'static [Errno]) -> Self {
        Self { reached, ..self }
    }

    /// It worked.
    pub fn succeeded(self, detail: impl Into<String>) -> Attempt {
        self.end(Outcome::Succeeded, None, detail.into())
    }

    /// It did not.
    pub fn refused(self, errno: impl Into<Option<Errno>>, detail: impl Into<String>) -> Attempt {
        self.end(Outcome::Refused, errno.into(), detail.into())
    }

    /// A step before it failed.
    pub fn not_tried(self, errno: impl Into<Option<Errno>>, why: impl Into<String>) -> Attempt {
        self.end(Outcome::NotTried, errno.into(), why.into())
    }

    /// The outcome that `result` shows; the text of a success is its detail.
    pub fn judge(self, result: Result<String, Errno>) -> Attempt {
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
    pub fn judge_child(self, result: Result<ChildEnd, Errno>) -> Attempt {
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
    #[must_use]
    pub fn with_figures(self, figures: Value) -> Self {
        Self { figures: Some(figures), ..self }
    }

    /// As the tools and the probes print it.
    pub fn to_json(&self) -> Value {
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
    /// Something that was done, and how that ended.
    pub fn new<T>(what: &'static str, result: Result<T, Errno>) -> Self {
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
    /// The report of one tool.
    pub fn to_json(&self, tool: &str) -> Value {
        json!({
            "tool": tool,
            "controls": self.controls.iter().map(Control::to_json).collect::<Vec<_>>(),
            "attempts": self.attempts.iter().map(Attempt::to_json).collect::<Vec<_>>(),
        })
    }

    /// One line per attempt, for people.
    pub fn to_text(&self) -> String {
        self.attempts.iter().map(Attempt::to_line).collect()
    }
}

/// The symbolic name, `ENOENT`.
fn name(errno: Errno) -> String {
    format!("{errno:?}")
}

/// The JSON Schema of [`Report::to_json`], as the tools announce it.
pub fn schema() -> Value {
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
