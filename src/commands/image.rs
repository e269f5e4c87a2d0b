//! `palisade image`: the store, from import to removal.

use std::path::{Path, PathBuf};

use palisade_image::{ImageName, PrivateKey, Proof, SignError, SignedObject};

use super::Done;
use crate::assemble::{self, load, open_store};
use crate::cli::Image;
use crate::environment::Environment;
use crate::failure::{Failure, Status};
use crate::output;

pub(super) fn run(command: Image, store: Option<&Path>, environment: &Environment) -> Done {
    match command {
        Image::Import { layout, name } => import(&layout, &name, store, environment),
        Image::Prepare { policies } => prepare(&policies, store, environment),
        Image::Verify { policy, json } => verify(&policy, json, store, environment),
        Image::Ls { json } => list(json, store, environment),
        Image::Rm { name } => remove(&name, store, environment),
        Image::Sign { name, key } => sign(&name, &key, store, environment),
        Image::Keygen { key } => keygen(&key),
    }
}

fn name(text: &str) -> Result<ImageName, Failure> {
    text.parse().map_err(|error: palisade_image::NameError| Failure::new(Status::Usage, &error, error.hint()))
}

fn import(layout: &Path, as_name: &str, store: Option<&Path>, environment: &Environment) -> Done {
    let as_name = name(as_name)?;
    let (store, _path) = open_store(store, environment)?;
    let imported =
        store.import(layout, &as_name).map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    output::line(&format!(
        "{as_name}: {} ({} layers, {} bytes, {} signatures)",
        imported.manifest, imported.layers, imported.size_bytes, imported.signatures
    ))
}

fn prepare(policies: &[PathBuf], store: Option<&Path>, environment: &Environment) -> Done {
    let (store, _path) = open_store(store, environment)?;
    for file in policies {
        let loaded = load(file)?;
        let rootfs = assemble::unpack(&store, &loaded)?;
        output::line(&format!(
            "{}: {} ({} layers unpacked)",
            loaded.policy.server,
            rootfs.manifest_digest(),
            rootfs.layers().len()
        ))?;
    }
    Ok(())
}

fn verify(policy: &Path, json: bool, store: Option<&Path>, environment: &Environment) -> Done {
    let loaded = load(policy)?;
    let (store, _path) = open_store(store, environment)?;
    let verified = assemble::verify(&store, &loaded)?;
    if json {
        return output::json(&serde_json::json!({ "version": 1, "evidence": verified.evidence() }));
    }
    let evidence = verified.evidence();
    output::line(&format!(
        "{}: {} {}",
        loaded.policy.image.reference,
        evidence.manifest,
        proof(&evidence.proof)
    ))
}

fn proof(proof: &Proof) -> String {
    match proof {
        Proof::SignedByKey { key_fingerprint, signed, .. } => {
            let what = match signed {
                SignedObject::Manifest => "manifest",
                SignedObject::Index => "index",
            };
            format!("signed ({what}) by key {key_fingerprint}")
        }
        Proof::Unsigned { reason } => format!("UNSIGNED, accepted because: {}", reason.escape_debug()),
    }
}

fn list(json: bool, store: Option<&Path>, environment: &Environment) -> Done {
    let (store, _path) = open_store(store, environment)?;
    let images = store.ls().map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    if json {
        return output::json(&serde_json::json!({ "version": 1, "images": images }));
    }
    for image in images {
        let unpacked = if image.unpacked { "unpacked" } else { "packed" };
        output::line(&format!(
            "{}\t{}\t{} bytes\t{} layers, {unpacked}\t{} signatures",
            image.name, image.manifest, image.size_bytes, image.layers, image.signatures
        ))?;
    }
    Ok(())
}

fn remove(image: &str, store: Option<&Path>, environment: &Environment) -> Done {
    let image = name(image)?;
    let (store, _path) = open_store(store, environment)?;
    let removed = store
        .rm(&image)
        .map_err(|error| Failure::new(assemble::store_status(&error), &error, error.hint()))?;
    output::line(&format!(
        "removed {image}: {} blobs ({} bytes), {} unpacked layers",
        removed.blobs, removed.blob_bytes, removed.layers
    ))
}

fn sign(image: &str, key: &Path, store: Option<&Path>, environment: &Environment) -> Done {
    let image = name(image)?;
    let key = PrivateKey::read(key).map_err(|error| Failure::new(Status::Usage, &error, error.hint()))?;
    let (store, _path) = open_store(store, environment)?;
    let signed = palisade_image::sign(&store, &image, &key).map_err(|error| {
        let status =
            if let SignError::Store(error) = &error { assemble::store_status(error) } else { Status::Failed };
        Failure::new(status, &error, error.hint())
    })?;
    output::line(&format!("signed {image}: {} by key {}", signed.manifest, signed.key_fingerprint))
}

fn keygen(private: &Path) -> Done {
    let mut public = private.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    let key = palisade_image::keygen(private, &public)
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    output::line(&format!("wrote {} and {} (key {})", private.display(), public.display(), key.fingerprint()))
}
