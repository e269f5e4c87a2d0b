//! `sha256:` digests: the name of an image that nobody can rebind.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// How a digest is written, as a regular expression for editors.
pub(crate) const PATTERN: &str = "^sha256:[0-9a-f]{64}$";

const PREFIX: &str = "sha256:";
/// SHA-256 is 32 bytes, two digits each.
const HEX_DIGITS: usize = 64;

/// A SHA-256 digest, `sha256:` and 64 lower-case hexadecimal digits.
///
/// Only SHA-256: it is the one algorithm that every registry and the signature formats in use agree on
/// (OCI image specification, "Registered Algorithms").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// The 64 hexadecimal digits without the `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It does not begin with `sha256:`.
    #[error("a digest begins with `sha256:`")]
    Algorithm,
    /// The number of digits is not 64.
    #[error("a SHA-256 digest has 64 hexadecimal digits, this one has {digits}")]
    Length {
        /// Characters after `sha256:`.
        digits: usize,
    },
    /// A character is not one of `0-9a-f`.
    #[error("a digest is written with the characters 0-9 and a-f only")]
    Character,
}

impl DigestError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Algorithm => "only SHA-256 is supported: `sha256:` and 64 hexadecimal digits".into(),
            Self::Length { .. } => {
                "`palisade image ls` prints the whole digest; a shortened one is not enough".into()
            }
            Self::Character => "write the letters in lower case, without spaces".into(),
        })
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(PREFIX).ok_or(DigestError::Algorithm)?;
        let digits = hex.chars().count();
        if digits != HEX_DIGITS {
            return Err(DigestError::Length { digits });
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Character);
        }
        Ok(Self(hex.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(digest.hex(), text.get(7..).unwrap());
    }

    #[test]
    fn refuses_everything_else() {
        let zeros = "0".repeat(64);
        assert_eq!(zeros.parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!(format!("sha512:{zeros}").parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!("sha256:9f0c…".parse::<Digest>(), Err(DigestError::Length { digits: 5 }));
        assert_eq!(format!("sha256:{zeros}0").parse::<Digest>(), Err(DigestError::Length { digits: 65 }));
        let upper = format!("sha256:{}", "A".repeat(64));
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Character));
        let wide = format!("sha256:{}", "é".repeat(64));
        assert_eq!(wide.parse::<Digest>(), Err(DigestError::Character));
    }
}
