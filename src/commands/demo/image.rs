//! The sample image: one static binary, the name of a user, and nothing of the host.

use palisade_image::layout::{Builder, LayerFiles, LayoutError, Runtime};
use palisade_image::verify::signature_artifact;
use palisade_image::{ImageName, PrivateKey};
use palisade_policy::Digest;

use super::place::Place;
use crate::failure::{Failure, Status};

/// The sample server, built beside this program (build.rs).
const SERVER: &[u8] = include_bytes!(env!("PALISADE_DEMO_SERVER"));

const PROGRAM: &str = "bin/palisade-demo-server";
const PASSWD: &[u8] = b"demo:x:1000:1000:sample server:/tmp:/nonexistent\n";
const GROUP: &[u8] = b"demo:x:1000:\n";

/// Where the image layout is, in the demonstration's directory.
pub(super) const LAYOUT: &str = "layout";

/// Writes the image as an OCI layout, together with its signature by `key`.
pub(super) fn write_signed(place: &Place, name: &ImageName, key: &PrivateKey) -> Result<Digest, Failure> {
    let image = build(name).map_err(|error| layout_failure(&error))?;
    let digest = image.manifest_digest().map_err(|error| layout_failure(&error))?;
    let signature = signature_artifact(name.repository(), &digest, key)
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    image.signature(signature).write(&place.path(LAYOUT)).map_err(|error| layout_failure(&error))
}

/// How large the program in the image is.
pub(super) const fn program_bytes() -> usize {
    SERVER.len()
}

fn build(name: &ImageName) -> Result<Builder, LayoutError> {
    let files = LayerFiles::new()
        .directory("bin", 0o755)?
        .file(PROGRAM, 0o755, SERVER)?
        .directory("etc", 0o755)?
        .file("etc/passwd", 0o644, PASSWD)?
        .file("etc/group", 0o644, GROUP)?
        // Empty, so that there is somewhere to write that must not be written.
        .directory("usr", 0o777)?
        .directory("var", 0o777)?;
    let runtime =
        Runtime { entrypoint: vec![format!("/{PROGRAM}")], user: "demo".into(), ..Runtime::default() };
    Builder::new(runtime).tag(name.tag()).layer(files)
}

fn layout_failure(error: &LayoutError) -> Failure {
    Failure::new(Status::Failed, error, error.hint())
}
