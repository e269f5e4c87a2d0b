//! `palisade demo`: the main job on an embedded default.
//!
//! ```text
//! place           a private temporary directory
//! set_up          image ── sign ──► import ── verify against a policy ──► unpack ──► resolve
//! conversation    gateway ◄── MCP client: list, call, attack; each refusal traced to its layer
//! serve           the same set-up, then the gateway on standard input and output (`--serve`)
//! ```
//!
//! Reading order: this page; [`mod@set_up`] with [`image`] and [`policies`]; [`conversation`] with [`client`];
//! [`tally`] with [`attack`] (the bait and the calls), [`expectations`] (what each attempt must meet, as data)
//! and [`judge`] (whether it did); [`render`]; [`place`].
//!
//! Nothing here is special: the image is imported, verified and started by the code that other commands use.
//! Deliberately absent: any state. It never touches the user's store.

mod attack;
mod client;
mod conversation;
mod expectations;
mod image;
mod judge;
mod place;
mod policies;
mod render;
mod set_up;
mod tally;

use std::sync::Arc;

use palisade_gateway::{CancellationToken, Context};
use palisade_sandbox::SandboxSpec;
use palisade_sandbox::spec::State;

use self::conversation::call_and_attack;
use self::place::Place;
pub(super) use self::render::Detail;
use self::render::{Audience, Clock};
use self::set_up::set_up;
use self::tally::conclude;
use super::{Done, gateway};
use crate::cli::Demo;
use crate::environment::Environment;
use crate::failure::{Failure, Status};

pub(super) fn run(options: &Demo, detail: Detail, environment: &Environment) -> Done {
    let runtime = gateway::runtime()?;
    let done = runtime.block_on(async {
        // From here on a signal ends us in order, and the directory is removed.
        let shutdown = gateway::cancelled_by_signals()?;
        let place = Place::make(&environment.temporary())?;
        let ended = if options.serve {
            serve(&place, environment, shutdown).await
        } else {
            watch(&place, environment, detail, shutdown).await
        };
        let removed = place.remove();
        if let (Err(_), Err(left)) = (&ended, &removed) {
            tracing::warn!("{left}");
        }
        ended.and(removed)
    });
    // A read from a terminal or file cannot be called off; it must not hold up the end.
    runtime.shutdown_background();
    done
}

/// The attacking server behind a gateway on standard input and output, until the client leaves.
async fn serve(place: &Place, environment: &Environment, shutdown: CancellationToken) -> Done {
    let servers = set_up(place, environment, Audience::Serving, &mut Clock::start())?;
    let context = context(place, shutdown)?;
    Audience::Serving.step("gateway", "ready on standard input and output")?;
    gateway::serve_on_stdio(vec![gateway::entry(servers.attacker)], context).await
}

/// The whole story.
async fn watch(
    place: &Place,
    environment: &Environment,
    detail: Detail,
    shutdown: CancellationToken,
) -> Done {
    let mut clock = Clock::start();
    let servers = set_up(place, environment, Audience::Watching, &mut clock)?;
    let spec = servers.attacker.spec().clone();
    show_sandbox(&spec)?;
    let interrupted = shutdown.clone();
    let context = context(place, shutdown)?;
    let entries = vec![gateway::entry(servers.attacker), gateway::entry(servers.neighbour)];
    let attacked = call_and_attack(place, entries, context, &spec, (detail, &mut clock)).await;
    if interrupted.is_cancelled() {
        return Err(Failure::say(Status::Failed, "the demo was interrupted", "start it again"));
    }
    conclude(&attacked?, &clock)
}

/// What will be enforced, and what this host cannot.
fn show_sandbox(spec: &SandboxSpec) -> Done {
    let id = &spec.identity;
    let audience = Audience::Watching;
    audience.step("sandbox", &format!("own namespaces: {}", spec.namespaces.join(", ")))?;
    audience.more(&format!(
        "user {} inside is user {} outside; {} system calls; Landlock ABI {}; no capability",
        id.inside_uid, id.outside_uid, spec.seccomp.allowed_calls, spec.landlock.abi
    ))?;
    for line in &spec.enforcement {
        if let State::Degraded { reason } = &line.state {
            audience.more(&format!("not enforced here, as the policy accepts: {} ({reason})", line.what))?;
        }
    }
    Ok(())
}

fn context(place: &Place, shutdown: CancellationToken) -> Result<Context, Failure> {
    let log = gateway::audit_log(Some(&place.path("audit.jsonl")), &place.path("store"))?;
    Ok(Context { audit: Arc::new(log), shutdown })
}

/// Something that only a mistake of ours can bring about.
fn defect(message: impl Into<String>) -> Failure {
    Failure::say(Status::Failed, message, "this is a defect of palisade: please report it")
}

/// Random bytes in hexadecimal.
fn random_hex(bytes: usize) -> Result<String, getrandom::Error> {
    let mut random = vec![0_u8; bytes];
    getrandom::fill(&mut random)?;
    let digits = random.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    Ok(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
}
