//! From nothing to two servers that can be started: the path that every image takes.

use std::path::{Path, PathBuf};

use palisade_image::{ImageName, PrivateKey, PublicKey, Store, Trust, VerifyError, VerifyRequest};
use palisade_sandbox::HostSupport;

use super::place::Place;
use super::policies::{self, ATTACKER, NEIGHBOUR, SECRET, SECRET_VARIABLE};
use super::render::{Audience, Clock, ROOT};
use super::{attack, defect, image, random_hex};
use crate::assemble::{self, PreparedServer, load, prepare};
use crate::cli::Start;
use crate::commands::Done;
use crate::environment::Environment;
use crate::failure::{Failure, Status};

/// Two servers of one image.
pub(super) struct Servers {
    /// The one that attacks.
    pub(super) attacker: PreparedServer,
    /// The one that has a secret.
    pub(super) neighbour: PreparedServer,
}

/// The attacker's policy file.
const POLICY: &str = "demo.yaml";

/// Builds, signs, imports, verifies, unpacks, resolves.
pub(super) fn set_up(
    place: &Place,
    environment: &Environment,
    audience: Audience,
    clock: &mut Clock,
) -> Result<Servers, Failure> {
    audience.step("directory", &format!("{} ({ROOT} below), removed at the end", place.root().display()))?;
    let name = image_name()?;
    let key = PrivateKey::generate().map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    let digest = image::write_signed(place, &name, &key)?;
    let size = image::program_bytes() / 1024;
    audience.step("image", &format!("{name}  {digest}"))?;
    audience
        .more(&format!("one static binary ({size} KiB) and /etc/passwd; nothing comes from this host"))?;
    audience.step("signed", &format!("by a fresh key, {}", key.public().fingerprint()))?;
    clock.phase("image");

    let store = import(place, &name, audience)?;
    clock.phase("import");

    let key_file = place.write("demo.pub", 0o644, key.public().to_pem().as_bytes())?;
    let bait = attack::make_files(place)?;
    let text = policies::attacker(&name, &digest, &key_file, &bait);
    let policy = place.write(POLICY, 0o644, text.as_bytes())?;
    audience.step("policy", &format!("{ROOT}/{POLICY}"))?;
    audience.verbatim(&text)?;
    check_trust(&store, &name, &policy, audience)?;
    clock.phase("verify");

    let text = policies::neighbour(&name, &digest, &key_file);
    let neighbour = place.write("neighbour.yaml", 0o644, text.as_bytes())?;
    let servers = unpack_and_resolve(place, environment, &store, [policy, neighbour])?;
    audience.step(
        "unpacked",
        &format!("for two servers: `{ATTACKER}`, which attacks, and `{NEIGHBOUR}`, which has"),
    )?;
    audience.more(&format!("a secret ({SECRET_VARIABLE}) that the other must not get"))?;
    clock.phase("unpack");
    Ok(servers)
}

fn image_name() -> Result<ImageName, Failure> {
    "palisade-demo:1"
        .parse()
        .map_err(|error: palisade_image::NameError| Failure::new(Status::Failed, &error, error.hint()))
}

/// A store of the demonstration's own, with the image in it.
fn import(place: &Place, name: &ImageName, audience: Audience) -> Result<Store, Failure> {
    let store = Store::open(&place.path("store"))
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    let imported = store
        .import(&place.path(image::LAYOUT), name)
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    audience.step(
        "imported",
        &format!(
            "layers: {}, bytes: {}, signatures: {}; every blob checked by its digest",
            imported.layers, imported.size_bytes, imported.signatures
        ),
    )?;
    Ok(store)
}

/// The image under the policy's key, and under a key that did not sign it.
fn check_trust(store: &Store, name: &ImageName, policy: &Path, audience: Audience) -> Done {
    let verified = assemble::verify(store, &load(policy)?)?;
    audience.step("verified", &format!("{} is signed by the policy's key", verified.manifest_digest()))?;
    let other = PrivateKey::generate()
        .and_then(|key| PublicKey::from_pem(&key.public().to_pem()))
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    let request = VerifyRequest { name, expected_digest: None, trust: Trust::SignedBy(vec![other]) };
    match palisade_image::verify(store, &request) {
        Err(error @ VerifyError::UntrustedKey { .. }) => {
            audience.step("refused", "the same image, under a policy with another key:")?;
            audience.more(&error.to_string())
        }
        Err(error) => Err(Failure::new(Status::Failed, &error, error.hint())),
        Ok(_verified) => Err(defect("an image was accepted under a key that did not sign it")),
    }
}

fn unpack_and_resolve(
    place: &Place,
    environment: &Environment,
    store: &Store,
    [attacker, neighbour]: [PathBuf; 2],
) -> Result<Servers, Failure> {
    let token = random_hex(16).map_err(|error| Failure::new(Status::Failed, &error, None))?;
    let token = place.write("neighbour.token", 0o600, token.as_bytes())?;
    let secret = (SECRET.to_owned(), token.to_string_lossy().into_owned());
    let host = HostSupport::probe();
    let prepare = |policy: PathBuf, secret_file| {
        let start = Start { secret_file, secret_env: Vec::new(), audit_log: None };
        prepare(store, load(&policy)?, &host, environment, &start)
    };
    Ok(Servers { attacker: prepare(attacker, Vec::new())?, neighbour: prepare(neighbour, vec![secret])? })
}
