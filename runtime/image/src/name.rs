//! What an image is called: `NAME:TAG`, by the grammar of the OCI distribution specification.

use std::fmt;
use std::str::FromStr;

use crate::shown::Shown;

/// The specification's own limit on host and path together.
const REPOSITORY_BYTES_MAX: usize = 255;

/// The specification's own limit on a tag.
const TAG_BYTES_MAX: usize = 128;

/// The whole name is one file name of the store (`NAME_MAX`), in which `/` and `:` take three bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The tag of a name that has none.
const DEFAULT_TAG: &str = "latest";

/// An image's name: an optional registry host, a path and a tag.
///
/// The text is kept as it was written: nothing is added but the tag `latest`, so `alpine` is
/// `alpine:latest` here and not `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    repository: String,
    tag: String,
}

impl ImageName {
    /// Host and path, without the tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name as one file name: `/`, `:` and `%` as `%` and two digits.
    pub(crate) fn file_name(&self) -> String {
        let mut encoded = String::new();
        for character in self.to_string().chars() {
            match character {
                '/' => encoded.push_str("%2F"),
                ':' => encoded.push_str("%3A"),
                other => encoded.push(other),
            }
        }
        encoded
    }

    /// The name behind a file name of the store; `None` when it is not one of ours.
    pub(crate) fn from_file_name(file_name: &str) -> Option<Self> {
        file_name.replace("%2F", "/").replace("%3A", ":").parse().ok()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// Why a text is not an [`ImageName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is nothing.
    #[error("an image name is empty")]
    Empty,
    /// Host and path, the tag, or all of it.
    #[error("the image name {} is too long: {what} may have {max} bytes", Shown(.name))]
    TooLong {
        /// The name as given.
        name: String,
        /// Which part.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// It ends in `@sha256:…`.
    #[error("the image name {} holds a digest", Shown(.name))]
    Digest {
        /// The name as given.
        name: String,
    },
    /// A part does not follow the grammar.
    #[error("the image name {} is not valid: {} is not {what}", Shown(.name), Shown(.part))]
    Grammar {
        /// The name as given.
        name: String,
        /// The offending part.
        part: String,
        /// What it should have been.
        what: &'static str,
    },
}

impl NameError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty | Self::TooLong { .. } => {
                "write NAME:TAG, for example `example.org/tools/git:1.2`".into()
            }
            Self::Digest { .. } => {
                "leave the digest out of the name; a policy pins it with `image.digest`".into()
            }
            Self::Grammar { name, .. } if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                "names are written in lower case; only a host or a tag may have upper-case letters".into()
            }
            Self::Grammar { .. } => {
                "write [HOST[:PORT]/]PATH[:TAG] with the characters a-z, 0-9 and `.`, `_`, `-`, `/`".into()
            }
        })
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.contains('@') {
            return Err(NameError::Digest { name: text.into() });
        }
        let (repository, tag) = match text.rsplit_once(':') {
            // A colon before the last slash belongs to the port.
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            Some(_) | None => (text, DEFAULT_TAG),
        };
        check_repository(text, repository)?;
        check_tag(text, tag)?;
        let name = Self { repository: repository.into(), tag: tag.into() };
        check_length(text, "the name with its tag", name.file_name().len(), FILE_NAME_BYTES_MAX)?;
        Ok(name)
    }
}

fn check_length(name: &str, what: &'static str, length: usize, max: usize) -> Result<(), NameError> {
    if length > max { Err(NameError::TooLong { name: name.into(), what, max }) } else { Ok(()) }
}

fn check_repository(name: &str, repository: &str) -> Result<(), NameError> {
    check_length(name, "the name without its tag", repository.len(), REPOSITORY_BYTES_MAX)?;
    let path = match repository.split_once('/') {
        Some((first, rest)) if is_host(first) => {
            check_host(name, first)?;
            rest
        }
        Some(_) | None => repository,
    };
    for component in path.split('/') {
        if !is_path_component(component) {
            let what = "a path component: letters a-z and digits, joined by `.`, `_`, `__` or dashes";
            return Err(NameError::Grammar { name: name.into(), part: component.into(), what });
        }
    }
    Ok(())
}

/// As every client decides it: the first part is a host when it could not be a path, or is `localhost`.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_host(name: &str, host: &str) -> Result<(), NameError> {
    let (domain, port) = host.split_once(':').map_or((host, None), |(domain, port)| (domain, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_is_fine = port.is_none_or(|port| port.parse::<u16>().is_ok());
    if domain.split('.').all(label) && port_is_fine {
        return Ok(());
    }
    Err(NameError::Grammar {
        name: name.into(),
        part: host.into(),
        what: "a host name with an optional port",
    })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let mut seen_plain = false;
    for character in component.chars() {
        match character {
            'a'..='z' | '0'..='9' => {
                if !(separator.is_empty() || seen_plain && is_separator(&separator)) {
                    return false;
                }
                separator.clear();
                seen_plain = true;
            }
            '.' | '_' | '-' => separator.push(character),
            _ => return false,
        }
    }
    seen_plain && separator.is_empty() && component.bytes().next().is_some_and(plain)
}

fn is_separator(text: &str) -> bool {
    matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-')
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn check_tag(name: &str, tag: &str) -> Result<(), NameError> {
    check_length(name, "the tag", tag.len(), TAG_BYTES_MAX)?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_fine = tag.bytes().next().is_some_and(word);
    if first_is_fine && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        return Ok(());
    }
    Err(NameError::Grammar { name: name.into(), part: tag.into(), what: "a tag" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar_and_round_trips_as_a_file_name() {
        for (text, repository, tag) in [
            ("alpine", "alpine", "latest"),
            ("a/b__c/d-e:1.2_3-x", "a/b__c/d-e", "1.2_3-x"),
            ("localhost:5000/x", "localhost:5000/x", "latest"),
            ("Example.org:443/x/y:Z", "Example.org:443/x/y", "Z"),
            ("a---b:v", "a---b", "v"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.repository(), name.tag()), (repository, tag), "{text}");
            assert_eq!(ImageName::from_file_name(&name.file_name()).unwrap(), name);
            assert!(!name.file_name().contains('/'));
        }
    }

    #[test]
    fn refuses_everything_else() {
        let long_path = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_both = format!("{}:{}", "a/".repeat(60) + "b", "t".repeat(100));
        for text in [
            "",
            ":",
            "a:",
            ":x",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            "..",
            ".",
            "A",
            "a/B",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:-x",
            "a:.x",
            "a b",
            "a\n",
            "é",
            "host.tld:99999/a",
            "host..tld/a",
            "-h.tld/a",
            "[::1]/a",
            "a%2Fb",
            "a@sha256:0",
            &long_path,
            &long_tag,
            &long_both,
        ] {
            let error = text.parse::<ImageName>().expect_err(text);
            assert!(error.hint().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn a_stranger_in_the_names_directory_is_not_a_name() {
        assert_eq!(ImageName::from_file_name("UPPER%3Ax"), None);
        assert_eq!(ImageName::from_file_name(".."), None);
    }
}
