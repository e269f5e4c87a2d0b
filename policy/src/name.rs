//! Names that palisade itself gives meaning to: servers, secrets, environment variables.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::bounds::MAX_VARIABLE_NAME;

/// How a server's name is written, as a regular expression for editors.
pub(crate) const SERVER_PATTERN: &str = "^[a-z0-9][a-z0-9-]{0,31}$";
/// Longest server name. Model interfaces take tool names of 64 characters, and `server__tool` leaves half to
/// the tool.
pub(crate) const SERVER_MAX: usize = 32;
/// How a secret's name is written, as a regular expression for editors.
pub(crate) const SECRET_PATTERN: &str = "^[a-z0-9][a-z0-9._-]{0,63}$";
/// Longest secret name: the name is also a file name in `--secret-file` directories, far below `NAME_MAX`
/// (255).
pub(crate) const SECRET_MAX: usize = 64;
/// How an environment variable's name is written, as a regular expression for editors.
pub(crate) const VARIABLE_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// The name of a server: `[a-z0-9][a-z0-9-]{0,31}`.
///
/// It is the first half of `server__tool`, so it has no underscore at all and the split is never ambiguous.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(String);

/// The name under which a secret is given to palisade: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name has at least one character")]
    Empty,
    /// More characters than the name may have.
    #[error("the name has {length} characters, {max} are allowed")]
    Long {
        /// Characters found.
        length: usize,
        /// Characters allowed.
        max: usize,
    },
    /// A character that the name may not have at that place.
    #[error("the name may not have the character `{}` there", character.escape_debug())]
    Character {
        /// The first such character.
        character: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
}

impl NameError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::Long { .. } => Some("give a short name such as `github`".into()),
            Self::Character { allowed, .. } => Some(format!("allowed are {allowed}")),
        }
    }
}

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = "lower-case letters, digits and `-`, beginning with a letter or digit";
        check(text, SERVER_MAX, allowed, |c| c == '-')?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for SecretName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = "lower-case letters, digits, `.`, `_` and `-`, beginning with a letter or digit";
        check(text, SECRET_MAX, allowed, |c| matches!(c, '.' | '_' | '-'))?;
        Ok(Self(text.to_owned()))
    }
}

fn check(text: &str, max: usize, allowed: &'static str, inner: fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let length = text.chars().count();
    if length > max {
        return Err(NameError::Long { length, max });
    }
    let bad = text
        .chars()
        .enumerate()
        .find(|&(at, c)| !(c.is_ascii_lowercase() || c.is_ascii_digit() || at > 0 && inner(c)));
    bad.map_or(Ok(()), |(_, character)| Err(NameError::Character { character, allowed }))
}

/// Checks the name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*`, the portable set of POSIX.1-2024 XBD
/// 8.1 with lower case.
pub(crate) fn check_variable(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let length = text.chars().count();
    if length > MAX_VARIABLE_NAME {
        return Err(NameError::Long { length, max: MAX_VARIABLE_NAME });
    }
    let bad = text
        .chars()
        .enumerate()
        .find(|&(at, c)| !(c.is_ascii_alphabetic() || c == '_' || at > 0 && c.is_ascii_digit()));
    let allowed = "letters, digits and `_`, not beginning with a digit";
    bad.map_or(Ok(()), |(_, character)| Err(NameError::Character { character, allowed }))
}

/// Whether a variable steers code of ours rather than the server's, and so can never be set by a policy.
///
/// Everything that a variable does *inside* the sandbox is harmless by construction: the sandbox holds
/// whatever the server does, so `PATH`, `NODE_OPTIONS` or `PYTHONPATH` are the author's business. What is
/// refused are the variables that the dynamic loader or the C library acts on in *any* process before its
/// `main`: should a launcher of ours, on its way to the server, ever run with the server's environment, these
/// would load an attacker's code into it before its locks are on (`ld.so(8)`, secure-execution mode;
/// CVE-2023-4911 for `GLIBC_TUNABLES`; iconv modules for `GCONV_PATH`). `PALISADE_` is kept for what palisade
/// may one day tell a server.
pub(crate) fn is_reserved_variable(name: &str) -> bool {
    name.starts_with("LD_")
        || name.starts_with("PALISADE_")
        || matches!(name, "GCONV_PATH" | "GLIBC_TUNABLES" | "LOCPATH" | "NLSPATH" | "GETCONF_DIR")
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        for good in ["github", "0", "a-b-c", &"a".repeat(32)] {
            assert_eq!(good.parse::<ServerName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a_b", "a__b", "a b", "é", "a.b", &"a".repeat(33)] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secret_names() {
        for good in ["github.token", "a_b", "0"] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "A", "a/b", "../x", &"a".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn variables() {
        for good in ["HOME", "_", "a1", "NODE_OPTIONS"] {
            assert_eq!(check_variable(good), Ok(()), "{good}");
            assert!(!is_reserved_variable(good), "{good}");
        }
        for bad in ["", "1A", "A=B", "A B", "Ä", "A\0"] {
            assert!(check_variable(bad).is_err(), "{bad:?}");
        }
        for reserved in ["LD_PRELOAD", "LD_LIBRARY_PATH", "GCONV_PATH", "GLIBC_TUNABLES", "PALISADE_X"] {
            assert!(is_reserved_variable(reserved), "{reserved}");
        }
    }
}
