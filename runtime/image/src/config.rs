//! What an image says about how it is run.

use oci_spec::image::Config;
use serde::Serialize;

use crate::limits::{CONFIG_STRING_BYTES_MAX, CONFIG_STRINGS_MAX};
use crate::shown::Shown;

/// The part of an image's configuration that matters for running it, as written in the image.
///
/// Nothing here is granted: what the sandbox makes of it is for the policy to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Name and value, in the image's order; a name may come twice.
    pub env: Vec<(String, String)>,
    /// An absolute path, or empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` and so on, or empty.
    pub user: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too many strings in a list.
    #[error("the image's {what} has {found} entries; the limit is {CONFIG_STRINGS_MAX}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// A string that is too long.
    #[error("the image's {what} has an entry of {found} bytes; the limit is {CONFIG_STRING_BYTES_MAX}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Its length.
        found: usize,
    },
    /// A NUL byte, which ends a string for the kernel and not for us.
    #[error("the image's {what} holds a NUL character")]
    Nul {
        /// Which field.
        what: &'static str,
    },
    /// An environment entry that is not `NAME=VALUE`.
    #[error("the image's environment entry {} is not NAME=VALUE", Shown(.entry))]
    Environment {
        /// The entry.
        entry: String,
    },
}

impl ConfigError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some("rebuild the image with a usable configuration, or ask whoever published it".into())
    }
}

impl ImageConfig {
    pub(crate) fn of(config: Option<&Config>) -> Result<Self, ConfigError> {
        let Some(config) = config else { return Ok(Self::default()) };
        let list = |what, strings: &Option<Vec<String>>| {
            let strings = strings.clone().unwrap_or_default();
            check_list(what, &strings).map(|()| strings)
        };
        let string = |what, text: &Option<String>| {
            let text = text.clone().unwrap_or_default();
            check_string(what, &text).map(|()| text)
        };
        let env = list("environment", config.env())?;
        Ok(Self {
            entrypoint: list("entrypoint", config.entrypoint())?,
            cmd: list("command", config.cmd())?,
            env: env.iter().map(|entry| environment(entry)).collect::<Result<_, _>>()?,
            working_dir: string("working directory", config.working_dir())?,
            user: string("user", config.user())?,
        })
    }
}

fn check_list(what: &'static str, strings: &[String]) -> Result<(), ConfigError> {
    if strings.len() > CONFIG_STRINGS_MAX {
        return Err(ConfigError::TooMany { what, found: strings.len() });
    }
    strings.iter().try_for_each(|text| check_string(what, text))
}

fn check_string(what: &'static str, text: &str) -> Result<(), ConfigError> {
    if text.len() > CONFIG_STRING_BYTES_MAX {
        return Err(ConfigError::TooLong { what, found: text.len() });
    }
    if text.contains('\0') { Err(ConfigError::Nul { what }) } else { Ok(()) }
}

fn environment(entry: &str) -> Result<(String, String), ConfigError> {
    match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        Some(_) | None => Err(ConfigError::Environment { entry: entry.into() }),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::ConfigBuilder;

    use super::*;

    fn with_env(env: Vec<String>) -> Result<ImageConfig, ConfigError> {
        ImageConfig::of(Some(&ConfigBuilder::default().env(env).build().unwrap()))
    }

    #[test]
    fn environment_is_name_and_value() {
        let parsed = with_env(vec!["A=b=c".into(), "EMPTY=".into()]).unwrap();
        assert_eq!(parsed.env, [("A".into(), "b=c".into()), ("EMPTY".into(), String::new())]);
        for bad in ["A", "=x", ""] {
            assert_eq!(with_env(vec![bad.into()]), Err(ConfigError::Environment { entry: bad.into() }));
        }
    }

    #[test]
    fn strings_are_bounded() {
        let most = "x".repeat(CONFIG_STRING_BYTES_MAX - 2);
        assert!(with_env(vec![format!("A={most}")]).is_ok());
        assert!(matches!(with_env(vec![format!("A={most}x")]), Err(ConfigError::TooLong { .. })));
        assert!(with_env(vec!["A=b".into(); CONFIG_STRINGS_MAX]).is_ok());
        assert!(matches!(
            with_env(vec!["A=b".into(); CONFIG_STRINGS_MAX + 1]),
            Err(ConfigError::TooMany { .. })
        ));
        assert_eq!(with_env(vec!["A=\0".into()]), Err(ConfigError::Nul { what: "environment" }));
    }
}
