//! How an error is shown, and which exit status it gives.
//!
//! Statuses are documented in the README and stable: 2 usage, 3 refused by policy, 125 we failed, 126
//! not executable, 127 not found; a single server's own status passes through.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use palisade_policy::PolicyError;

/// Something that a command could not do.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    policy: Option<Box<PolicyError>>,
}

/// The exit statuses of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The command line is wrong, or names something that is not there.
    Usage,
    /// The policy does not allow it, or is itself refused.
    Refused,
    /// We or the host failed.
    Failed,
    /// The server's program cannot be executed.
    NotExecutable,
    /// The server's program is not there.
    NotFound,
}

impl Status {
    const fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Failed => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

impl Failure {
    /// A failure of `error` and its causes.
    pub(crate) fn new(status: Status, error: &dyn Error, hint: Option<String>) -> Self {
        let mut causes: Vec<String> = Vec::new();
        let message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let sentence = cause.to_string();
            // An error that only carries another one says the same as that one.
            if causes.last().unwrap_or(&message) != &sentence {
                causes.push(sentence);
            }
            source = cause.source();
        }
        Self { status, message, causes, hint, policy: None }
    }

    /// A failure in our own words.
    pub(crate) fn say(status: Status, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, message: message.into(), causes: Vec::new(), hint: Some(hint.into()), policy: None }
    }

    /// The same failure, with the words of what was being done in front.
    pub(crate) fn because(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self
    }

    /// A policy file that cannot be read; shown with the lines it is about.
    pub(crate) fn policy(error: PolicyError) -> Self {
        Self {
            status: Status::Refused,
            message: error.to_string(),
            causes: Vec::new(),
            hint: None,
            policy: Some(Box::new(error)),
        }
    }

    /// Shows the failure on standard error; gives its status.
    pub(crate) fn report(&self) -> ExitCode {
        self.show();
        ExitCode::from(self.status.code())
    }

    /// Shows the failure on standard error.
    pub(crate) fn show(&self) {
        match std::io::stderr().lock().write_all(self.to_string().as_bytes()) {
            // With standard error closed, the status is all that can be said.
            Ok(()) | Err(_) => {}
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(policy) = &self.policy {
            return f.write_str(&render_policy(policy));
        }
        writeln!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            writeln!(f, "  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

fn render_policy(error: &PolicyError) -> String {
    let renderer = Renderer::plain();
    let mut text = String::new();
    for finding in error.findings() {
        if !text.is_empty() {
            text.push('\n');
        }
        let mut snippet = Snippet::source(error.source_text()).path(error.file_name());
        snippet =
            snippet.annotation(AnnotationKind::Primary.span(finding.span.clone()).label(&finding.label));
        if let Some(related) = &finding.related {
            snippet =
                snippet.annotation(AnnotationKind::Context.span(related.span.clone()).label(&related.label));
        }
        let group = Group::with_title(Level::ERROR.primary_title(&finding.message)).element(snippet);
        text.push_str(&renderer.render(&[group]));
        text.push('\n');
        if let Some(hint) = &finding.hint {
            // Writing to a String cannot fail.
            if writeln!(text, "\nhint: {hint}").is_err() {
                break;
            }
        }
    }
    if error.omitted() > 0 && writeln!(text, "\n… and {} more", error.omitted()).is_err() {
        return text;
    }
    text
}

/// Warnings of the gateway go to standard error; `--verbose` adds what it does.
pub(crate) fn log_to_stderr(verbose: bool) {
    let level = if verbose { tracing::Level::INFO } else { tracing::Level::WARN };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .init();
}
