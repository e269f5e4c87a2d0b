//! The probe program of the escape suite, as bytes: one static binary, built by this crate's build script.

#![forbid(unsafe_code)]

/// The program.
pub const PROBE: &[u8] = include_bytes!(env!("PALISADE_PROBE"));
