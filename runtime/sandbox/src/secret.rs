//! Secrets: values that exist only between the place they were read and the server they are for.
//!
//! A [`Secret`] cannot be printed, compared, cloned or serialised; its bytes are wiped when it is
//! dropped. `grep expose` finds every line that reads one.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// Largest value: an environment string may be 128 KiB (`MAX_ARG_STRLEN`, execve(2)); keys,
/// tokens and certificates are far below 32 KiB.
pub const SECRET_MAX_BYTES: usize = 32 * 1024;

/// One secret value.
#[expect(missing_debug_implementations, reason = "what cannot be printed cannot leak into a log")]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes a value over.
    ///
    /// # Errors
    /// When it is empty, too long, or holds a NUL byte, which no environment can carry.
    pub fn new(value: Vec<u8>) -> Result<Self, SecretError> {
        let value = Zeroizing::new(value);
        match value.len() {
            0 => Err(SecretError::Empty),
            length if length > SECRET_MAX_BYTES => Err(SecretError::TooLong),
            _ if value.contains(&0) => Err(SecretError::NulByte),
            _ => Ok(Self(value)),
        }
    }

    /// Lends the value to `reader`.
    pub fn expose<T>(&self, reader: impl FnOnce(&[u8]) -> T) -> T {
        reader(&self.0)
    }
}

/// What is wrong with a secret's value; it never says what the value is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// No bytes.
    #[error("the value is empty")]
    Empty,
    /// More than [`SECRET_MAX_BYTES`].
    #[error("the value is longer than {SECRET_MAX_BYTES} bytes")]
    TooLong,
    /// A NUL byte.
    #[error("the value holds a NUL byte")]
    NulByte,
}

/// The secrets of one server, by the name that its policy gives them.
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// No secret.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one; an earlier value of the same name is wiped.
    pub fn insert(&mut self, name: String, secret: Secret) {
        drop(self.0.insert(name, secret));
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Name and value, NUL-separated, for the pipe into the sandbox: the only encoding there is.
    pub(crate) fn encode(&self, names: &[String]) -> Result<Zeroizing<Vec<u8>>, String> {
        let pairs: Vec<(&String, &Secret)> = names
            .iter()
            .map(|name| self.get(name).map(|secret| (name, secret)).ok_or_else(|| name.clone()))
            .collect::<Result<_, _>>()?;
        // Exact, since a vector that grows leaves an unwiped copy behind.
        let size = pairs.iter().fold(0_usize, |size, (name, secret)| {
            size.saturating_add(name.len()).saturating_add(secret.0.len()).saturating_add(2)
        });
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        for (name, secret) in pairs {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            secret.expose(|value| bytes.extend_from_slice(value));
            bytes.push(0);
        }
        Ok(bytes)
    }

    /// The reverse of [`Secrets::encode`], inside the sandbox.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SecretError> {
        let mut secrets = Self::none();
        let mut parts = bytes.split(|byte| *byte == 0);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let name = String::from_utf8_lossy(name).into_owned();
            secrets.insert(name, Secret::new(value.to_vec())?);
        }
        Ok(secrets)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Secrets").field(&self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_and_decode_are_each_others_reverse() {
        let mut secrets = Secrets::none();
        secrets.insert("a".into(), Secret::new(b"one".to_vec()).unwrap());
        secrets.insert("b".into(), Secret::new(b"two\nlines".to_vec()).unwrap());
        let bytes = secrets.encode(&["a".into(), "b".into()]).unwrap();
        let again = Secrets::decode(&bytes).unwrap();
        assert!(again.get("a").unwrap().expose(|value| value == b"one"));
        assert!(again.get("b").unwrap().expose(|value| value == b"two\nlines"));
    }

    #[test]
    fn a_missing_secret_is_named() {
        assert_eq!(Secrets::none().encode(&["token".into()]).unwrap_err(), "token");
    }

    #[test]
    fn debug_shows_names_and_no_value() {
        let mut secrets = Secrets::none();
        secrets.insert("token".into(), Secret::new(b"hunter2".to_vec()).unwrap());
        let shown = format!("{secrets:?}");
        assert!(shown.contains("token") && !shown.contains("hunter2"));
    }

    #[test]
    fn values_that_no_environment_can_carry_are_refused() {
        assert_eq!(Secret::new(vec![]).err(), Some(SecretError::Empty));
        assert_eq!(Secret::new(b"a\0b".to_vec()).err(), Some(SecretError::NulByte));
        assert_eq!(Secret::new(vec![b'x'; SECRET_MAX_BYTES + 1]).err(), Some(SecretError::TooLong));
    }
}
