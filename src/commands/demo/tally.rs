//! The attacks, one after the other, and what they come to.

use std::collections::BTreeMap;

use palisade_policy::Baseline;
use palisade_sandbox::SandboxSpec;
use serde_json::json;

use super::attack::{Bait, Report, planted};
use super::client::Client;
use super::expectations::Layer;
use super::judge::{Facts, Verdict, judge};
use super::place::Place;
use super::policies::ATTACKER;
use super::render::{self, COLUMNS, Clock, Detail, Style};
use crate::commands::Done;
use crate::failure::{Failure, Status};
use crate::output;

/// How the attempts ended.
#[derive(Debug, Default)]
pub(super) struct Tally {
    refused: BTreeMap<Layer, usize>,
    harmless: usize,
    moot: usize,
    unexpected: usize,
}

pub(super) async fn attack_all(
    place: &Place,
    client: &Client,
    spec: &SandboxSpec,
    detail: Detail,
) -> Result<Tally, Failure> {
    let bait = Bait::lay(place)?;
    let allowlist = palisade_sandbox::seccomp::allowlist(Baseline::Static)
        .map_err(|error| Failure::new(Status::Failed, &error, None))?;
    let facts = Facts { spec, allowlist: &allowlist, planted: &planted };
    let root = place.root().to_string_lossy();
    let style = Style { detail, root: &root };
    let mut tally = Tally::default();
    output::line(&format!("\n{}", render::heading()))?;
    for call in bait.calls() {
        let tool = format!("{ATTACKER}__{}", call.tool);
        output::line(format!("\n{} {}", call.tool, call.aim).trim_end())?;
        let report = Report::read(client.call(&tool, call.arguments).await?)?;
        show_report(&report, facts, style, &mut tally)?;
    }
    for trace in bait.traces(place)? {
        tally.unexpected = tally.unexpected.saturating_add(1);
        output::line(&format!("\n  UNEXPECTED seen from outside: {trace}"))?;
    }
    Ok(tally)
}

fn show_report(report: &Report, facts: Facts<'_>, style: Style<'_>, tally: &mut Tally) -> Done {
    for control in report.controls.iter().filter(|control| !control.works) {
        tally.unexpected = tally.unexpected.saturating_add(1);
        output::line(&render::cut(
            &format!("  UNEXPECTED control does not work: {}", control.what),
            COLUMNS,
        ))?;
    }
    for attempt in &report.attempts {
        let verdict = judge(attempt, facts);
        output::line(&render::attempt(attempt, &verdict, style))?;
        tally.count(&verdict);
    }
    Ok(())
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Refused(layer, _why) => self.refused.entry(layer.kind()).or_default(),
            Verdict::Harmless(_) => &mut self.harmless,
            Verdict::Moot(_) => &mut self.moot,
            Verdict::Unexpected(_) => &mut self.unexpected,
        };
        *counter = counter.saturating_add(1);
    }
}

pub(super) fn conclude(tally: &Tally, clock: &Clock) -> Done {
    let refused: usize = tally.refused.values().sum();
    let all = [refused, tally.harmless, tally.moot, tally.unexpected].iter().sum::<usize>();
    output::line(&format!(
        "\n{all} attempts: {refused} refused, {} harmless, {} moot, {} unexpected",
        tally.harmless, tally.moot, tally.unexpected
    ))?;
    for (layer, count) in &tally.refused {
        output::line(&format!("  {count:>3}  {:<19}{}", layer.name(), layer.means()))?;
    }
    if tally.moot > 0 {
        output::line(
            "  moot: outside the sandbox there was nothing to be had either; with PALISADE_DEMO_CANARY=1 there is more",
        )?;
    }
    output::line(&format!("\ntook: {}", clock.summary()))?;
    if tally.unexpected > 0 {
        return Err(Failure::say(
            Status::Failed,
            format!("the sandbox did not hold as expected: {} of {all} attempts", tally.unexpected),
            "look for UNEXPECTED above, and compare with `palisade doctor`",
        ));
    }
    show_client_lines()
}

/// What a person pastes into a client.
fn show_client_lines() -> Done {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Status::Failed, &error, None).because("our own path is not known"))?;
    output::line("\nto attack from a client of your own, put this into its MCP configuration:\n")?;
    output::json(&json!({
        "mcpServers": { "palisade-demo": { "command": program, "args": ["demo", "--serve"] } }
    }))
}
