//! From an image reference to a verified image to an unpacked root file system.
//!
//! ```text
//! OCI image layout ── Store::import ──► Store ── verify ──► VerifiedImage ── unpack ──► UnpackedRootfs
//! ```
//!
//! Each arrow takes the proof of the one before: [`unpack()`] takes a [`VerifiedImage`] by value, and
//! only [`verify()`] makes one, so an image that nobody vouched for is never unpacked. After an
//! import a name is resolved once; everything later goes by digest.
//!
//! Reading order: [`name`] and [`digest`](Digest) (what an image is called), [`store`] (where its bytes
//! are kept), `document` and [`config`] (its JSON, parsed strictly), [`import`], [`mod@verify`],
//! [`mod@unpack`], and [`layout`], which writes images. `limits` holds every bound on what an image may
//! contain.
//!
//! The attacker considered: whoever made the image, or could change it on its way here, and who may
//! make any byte of it what they like. Not considered: somebody who can already write into the store,
//! which belongs to the user who runs this.
//!
//! Deliberately absent: the network (a later change pulls from a registry into the same store), async
//! code, and any path that follows a symbolic link out of an image.

#![forbid(unsafe_code)]

pub mod name;

mod digest;
mod limits;
mod shown;

pub mod store;

mod document;
mod tarball;

pub mod config;
pub mod import;
pub mod verify;

pub mod unpack;

pub mod layout;

pub use config::ImageConfig;
pub use document::DocumentError;
pub use import::{ImportError, Imported};
pub use name::{ImageName, NameError};
pub use palisade_policy::Digest;
pub use store::{Listed, Removed, Store, StoreError};
pub use tarball::TarFault;
pub use unpack::{
    LandlockNeed, LayerReport, UnpackError, UnpackOptions, UnpackedRootfs, unpack, unpack_child_main,
    unpack_with,
};
pub use verify::{
    Evidence, KeyError, PrivateKey, Proof, PublicKey, SignError, Signed, SignedObject, Trust, VerifiedImage,
    VerifyError, VerifyRequest, keygen, sign, verify,
};
