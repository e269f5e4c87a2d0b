//! ECDSA P-256 keys: the only module that talks to the signature libraries.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_policy::Digest;
use palisade_sys::dir::{Dir, read_ambient_bounded};
use sigstore_crypto::{KeyPair, SigningScheme, VerificationKey};
use sigstore_types::{DerPublicKey, SignatureBytes};
use zeroize::{Zeroize, Zeroizing};

use super::KeyError;
use crate::digest::sha256;
use crate::limits::KEY_BYTES_MAX;

/// ECDSA over P-256 with SHA-256: what cosign makes, and the only scheme that is accepted.
const SCHEME: SigningScheme = SigningScheme::EcdsaP256Sha256;

/// PEM lines are 64 characters (RFC 7468).
const PEM_LINE: usize = 64;

/// A trusted public key.
pub struct PublicKey {
    key: VerificationKey,
    der: DerPublicKey,
    fingerprint: Digest,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublicKey").field(&self.fingerprint).finish()
    }
}

impl PublicKey {
    /// Parses a PEM `PUBLIC KEY` block that holds a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| KeyError::Public { source };
        Self::from_der(DerPublicKey::from_pem(pem).map_err(|error| invalid(error.into()))?)
    }

    /// Reads [`PublicKey::from_pem`] from a file; links are followed.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = read_ambient_bounded(path, KEY_BYTES_MAX).map_err(|source| KeyError::Read {
            path: path.to_path_buf(),
            is_public: true,
            source,
        })?;
        let pem = String::from_utf8(bytes).map_err(|error| KeyError::Public { source: error.into() })?;
        Self::from_pem(&pem)
    }

    fn from_der(der: DerPublicKey) -> Result<Self, KeyError> {
        let key = VerificationKey::from_spki_with_scheme(&der, SCHEME)
            .map_err(|error| KeyError::Public { source: error.into() })?;
        // The library checks the point only when a signature is verified.
        sigstore_crypto::validate_raw_public_key(SCHEME, key.as_bytes())
            .map_err(|error| KeyError::Public { source: error.into() })?;
        let fingerprint = sha256(der.as_bytes());
        Ok(Self { key, der, fingerprint })
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo` in DER.
    pub fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// The key as a PEM `PUBLIC KEY` block.
    pub fn to_pem(&self) -> String {
        self.der.to_pem()
    }

    /// Whether `signature` (base64) is this key's over exactly `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        // Strict base64: the library's own decoder also takes the URL alphabet.
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        self.key.verify(message, &SignatureBytes::new(signature)).is_ok()
    }
}

/// A private key. It has no `Debug`, `Clone` or `Serialize`, and its memory is wiped by the library
/// when it is dropped.
#[expect(missing_debug_implementations, reason = "a private key is never printed")]
pub struct PrivateKey {
    pair: KeyPair,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a fresh key that is never written anywhere.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_pkcs8(generate_pkcs8()?.as_ref())
    }

    /// Parses a PEM `PRIVATE KEY` block (PKCS #8, not encrypted).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let der = Zeroizing::new(pem_contents(pem).ok_or(KeyError::Private)?);
        Self::from_pkcs8(&der)
    }

    /// Reads [`PrivateKey::from_pem`] from a file that nobody else can read.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.to_path_buf(), is_public: false, source };
        let file = palisade_sys::dir::open_ambient_file(path).map_err(read)?;
        let mode = nix::sys::stat::fstat(&file).map_err(|error| read(error.into()))?.st_mode;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_path_buf(), mode: mode & 0o777 });
        }
        let bytes = Zeroizing::new(palisade_sys::dir::read_all_bounded(file, KEY_BYTES_MAX).map_err(read)?);
        Self::from_pem(std::str::from_utf8(&bytes).map_err(|_not_text| KeyError::Private)?)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pkcs8_der(der).map_err(|_reason| KeyError::Private)?;
        let public = pair.public_key_der().map_err(|_reason| KeyError::Private)?;
        Ok(Self { pair, public: PublicKey::from_der(public)? })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs; base64.
    pub(super) fn sign(&self, message: &[u8]) -> Result<String, KeyError> {
        let signature = self.pair.sign(message).map_err(|error| KeyError::Sign { source: error.into() })?;
        Ok(STANDARD.encode(signature.as_bytes()))
    }
}

/// Makes a key pair: the private half at `private` (PKCS #8 in PEM, mode 0600), the public half at
/// `public`. Neither file may exist; when one cannot be written, neither is left.
pub fn keygen(private: &Path, public: &Path) -> Result<PublicKey, KeyError> {
    let pkcs8 = generate_pkcs8()?;
    let key = PrivateKey::from_pkcs8(pkcs8.as_ref())?;
    let (private_dir, private_name) = place(private)?;
    let (public_dir, public_name) = place(public)?;
    write_new(&private_dir, private_name, 0o600, private_pem(pkcs8.as_ref()).as_bytes())
        .map_err(|source| KeyError::Write { path: private.to_path_buf(), source })?;
    let written = write_new(&public_dir, public_name, 0o644, key.public.to_pem().as_bytes());
    if let Err(source) = written {
        private_dir
            .remove_file(Path::new(private_name))
            .map_err(|source| KeyError::Write { path: private.to_path_buf(), source })?;
        return Err(KeyError::Write { path: public.to_path_buf(), source });
    }
    Ok(key.public)
}

/// A fresh PKCS #8 document; the library wipes it when it is dropped.
fn generate_pkcs8() -> Result<aws_lc_rs::pkcs8::Document, KeyError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_unspecified| KeyError::Generate)
}

fn place(path: &Path) -> Result<(Dir, &OsStr), KeyError> {
    let write = |source| KeyError::Write { path: path.to_path_buf(), source };
    let name = path.file_name().ok_or_else(|| write(io::ErrorKind::InvalidInput.into()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Dir::open_ambient(parent).map_err(write)?, name))
}

fn write_new(dir: &Dir, name: &OsStr, mode: u32, contents: &[u8]) -> io::Result<()> {
    let mut file = dir.create_file(Path::new(name), mode)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    if written.is_err() {
        dir.remove_file(Path::new(name))?;
    }
    written
}

fn private_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let mut encoded = STANDARD.encode(pkcs8);
    // Reserved at once: a string that grows leaves copies behind that are not wiped.
    let mut pem = Zeroizing::new(String::with_capacity(encoded.len().saturating_mul(2).saturating_add(128)));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    encoded.zeroize();
    pem
}

fn pem_contents(pem: &str) -> Option<Vec<u8>> {
    let body =
        pem.trim().strip_prefix("-----BEGIN PRIVATE KEY-----")?.strip_suffix("-----END PRIVATE KEY-----")?;
    let mut encoded = Zeroizing::new(String::with_capacity(body.len()));
    encoded.extend(body.chars().filter(|character| !character.is_ascii_whitespace()));
    STANDARD.decode(encoded.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
