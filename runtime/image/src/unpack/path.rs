//! Names of entries: what they may be, before anything is done with them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::LayerFault;
use super::error::EntryRule;
use crate::limits::{COMPONENT_BYTES_MAX, PATH_DEPTH_MAX};

/// A path below the layer's root: no `..`, no `.`, no leading or doubled slash; empty is the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(PathBuf);

impl EntryPath {
    /// Normalises a name as it is in an archive. A leading `/` or `./` means the layer's root, as it does
    /// to every unpacker; `..` means nothing good.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, LayerFault> {
        let refuse = |rule| Err(LayerFault::entry(raw, rule));
        let mut path = PathBuf::new();
        let mut depth = 0_usize;
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return refuse(EntryRule::DotDot),
                _ if component.len() > COMPONENT_BYTES_MAX => return refuse(EntryRule::LongComponent),
                _ => path.push(OsStr::from_bytes(component)),
            }
            depth = depth.saturating_add(1);
            if depth > PATH_DEPTH_MAX {
                return refuse(EntryRule::TooDeep);
            }
        }
        if raw.is_empty() { refuse(EntryRule::EmptyPath) } else { Ok(Self(path)) }
    }

    pub(super) fn as_path(&self) -> &Path {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    /// The last component; empty for the root.
    pub(super) fn name(&self) -> &[u8] {
        self.0.file_name().map(OsStr::as_bytes).unwrap_or_default()
    }

    /// The directory that holds it; the root's is the root.
    pub(super) fn parent(&self) -> Self {
        Self(self.0.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    /// The directories above it, the root first, without the root.
    pub(super) fn ancestors(&self) -> Vec<PathBuf> {
        let above = self.0.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let mut above: Vec<PathBuf> = above.map(Path::to_path_buf).collect();
        above.reverse();
        above
    }

    /// Whether it lies below the top-level directory `dev`.
    pub(super) fn is_below_dev(&self) -> bool {
        self.0.components().next().is_some_and(|first| first.as_os_str() == "dev")
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(raw: &[u8]) -> Result<Vec<u8>, EntryRule> {
        match EntryPath::parse(raw) {
            Ok(path) => Ok(path.bytes().to_vec()),
            Err(LayerFault::Entry { rule, .. }) => Err(rule),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn names_are_normalised_or_refused() {
        for (raw, expected) in [
            (&b"a/b"[..], Ok(&b"a/b"[..])),
            (b"./a//b/.", Ok(b"a/b")),
            (b"/etc/passwd", Ok(b"etc/passwd")),
            (b"./", Ok(b"")),
            (b"/", Ok(b"")),
            (b"...", Ok(b"...")),
            (b"a/..b", Ok(b"a/..b")),
            (b"\xff\xfe", Ok(b"\xff\xfe")),
            (b"", Err(EntryRule::EmptyPath)),
            (b"..", Err(EntryRule::DotDot)),
            (b"a/../../b", Err(EntryRule::DotDot)),
            (b"/../x", Err(EntryRule::DotDot)),
            (b"a/..", Err(EntryRule::DotDot)),
        ] {
            assert_eq!(parsed(raw), expected.map(<[u8]>::to_vec), "{raw:?}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = |levels: usize| vec!["d"; levels].join("/").into_bytes();
        assert!(parsed(&deep(PATH_DEPTH_MAX)).is_ok());
        assert_eq!(parsed(&deep(PATH_DEPTH_MAX + 1)), Err(EntryRule::TooDeep));
        assert!(parsed(&[b'n'; COMPONENT_BYTES_MAX]).is_ok());
        assert_eq!(parsed(&[b'n'; COMPONENT_BYTES_MAX + 1]), Err(EntryRule::LongComponent));
    }

    #[test]
    fn relations() {
        let path = EntryPath::parse(b"dev/a/b").unwrap();
        assert_eq!(path.ancestors(), [PathBuf::from("dev"), PathBuf::from("dev/a")]);
        assert_eq!((path.name(), path.parent().bytes()), (&b"b"[..], &b"dev/a"[..]));
        assert!(path.is_below_dev() && !EntryPath::parse(b"devil/x").unwrap().is_below_dev());
        assert!(EntryPath::parse(b"/").unwrap().parent().is_root());
    }
}
