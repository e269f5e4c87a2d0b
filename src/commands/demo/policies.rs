//! The two policy files of the demonstration.

use std::path::Path;

use palisade_image::ImageName;
use palisade_policy::Digest;
use serde_json::json;

use super::attack::BaitFiles;

/// The server that attacks.
pub(super) const ATTACKER: &str = "demo";

/// A second server, which has a secret that the first one must not get.
pub(super) const NEIGHBOUR: &str = "neighbour";

/// The neighbour's secret: its name in the policy and the variable that holds it in the neighbour.
pub(super) const SECRET: &str = "github.token";
pub(super) const SECRET_VARIABLE: &str = "GITHUB_TOKEN";

/// The only tool of the neighbour that its policy allows.
pub(super) const NEIGHBOUR_TOOL: &str = "read_environment";

/// Where the attacker sees the mounted directory.
pub(super) const MOUNT: &str = "/workspace";

/// The attacker's policy: this image by this key, one directory to read, and nothing else. It is told of a
/// home directory outside, so that it has somewhere to look for keys.
pub(super) fn attacker(image: &ImageName, digest: &Digest, key: &Path, bait: &BaitFiles) -> String {
    let head = head(ATTACKER, image, digest, key);
    let mounted = json!(bait.mounted.to_string_lossy());
    let home = json!(bait.home.to_string_lossy());
    format!(
        "{head}\
         environment: {{ HOME: {home} }}\n\
         filesystem:\n  mounts:\n    - {{ source: {mounted}, target: {MOUNT}, access: read-only }}\n\
         syscalls: {{ baseline: static }}\n\
         limits: {{ memory: 128MiB, cpus: 1, pids: 64, open_files: 64, tmp: 16MiB }}\n\
         accept_degraded: [landlock, memory, cpus]\n"
    )
}

/// The neighbour's policy.
pub(super) fn neighbour(image: &ImageName, digest: &Digest, key: &Path) -> String {
    let head = head(NEIGHBOUR, image, digest, key);
    format!(
        "{head}\
         secrets:\n  - {{ name: {SECRET}, env: {SECRET_VARIABLE} }}\n\
         tools: {{ allow: [{NEIGHBOUR_TOOL}] }}\n\
         accept_degraded: [landlock, memory, cpus]\n"
    )
}

fn head(server: &str, image: &ImageName, digest: &Digest, key: &Path) -> String {
    let key = json!(key.to_string_lossy());
    format!(
        "palisade: 1\nserver: {server}\n\
         image:\n  reference: \"{image}\"\n  digest: {digest}\n  signed_by:\n    - {{ key: {key}, tlog: optional }}\n"
    )
}
