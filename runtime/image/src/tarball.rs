//! The members of a tar archive, one after the other, with every ambiguity refused.
//!
//! The `tar` crate reads blocks, checksums and numbers; it is used in raw mode, because its own
//! handling of extension headers reads as much as an archive says into memory, and because two
//! readers that disagree about where a member ends can be shown two different archives
//! (CVE-2025-62518). Here a size in an extension header must equal the size in the header, and a
//! member without contents must not have a size.
//!
//! Extended attributes, owners and times in extension headers are dropped.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use tar::{Entries, EntryType, Header};

use crate::limits::{EXTENSIONS_MAX, PATH_BYTES_MAX, PAX_BYTES_MAX};
use crate::shown::{Escaped, Shown, lossy};

/// One member: what its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As written, without a NUL.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// The target of a hard or symbolic link, as written.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
    /// Bytes of contents.
    pub(crate) size: u64,
    /// Where the contents begin in the archive.
    pub(crate) offset: u64,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharacterDevice { is_zero: bool },
    BlockDevice,
    Fifo,
}

/// Why an archive is refused as an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TarFault {
    /// Not tar, or cut short.
    #[error("the archive is not readable: {}", Escaped(.detail))]
    Malformed {
        /// What the reader found.
        detail: String,
    },
    /// An extension header that is too large, or too many of them.
    #[error("the archive has an extension header that is too large")]
    ExtensionTooLarge,
    /// A record of an extension header that cannot be parsed, or that must not be there.
    #[error("the archive has a bad record {} in an extension header", Shown(.record))]
    ExtensionRecord {
        /// Its key, or what there was of it.
        record: String,
    },
    /// Header and extension header give different sizes, or a member without contents has a size.
    #[error("the archive gives two sizes for {}", Shown(.entry))]
    SizeDisagrees {
        /// The member.
        entry: String,
    },
    /// A sparse file.
    #[error("the archive holds the sparse file {}", Shown(.entry))]
    Sparse {
        /// The member.
        entry: String,
    },
    /// A type of member that tar does not define.
    #[error("the archive holds {}, which has the unknown type {typeflag}", Shown(.entry))]
    UnknownType {
        /// The member.
        entry: String,
        /// The type byte.
        typeflag: u8,
    },
    /// A path or link target that is too long or holds a NUL.
    #[error("the archive holds a name that Linux does not allow: {}", Shown(.entry))]
    Name {
        /// The beginning of it.
        entry: String,
    },
    /// Something follows the end of the archive.
    #[error("something other than zeros follows the end of the archive")]
    Trailing,
}

/// What the extension headers before a member said.
#[derive(Default)]
struct Extensions {
    count: usize,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Why a walk ended early: the archive, or the visitor.
#[derive(Debug)]
pub(crate) enum WalkError<E> {
    Tar(TarFault),
    /// The reader below the archive failed; the archive itself may be fine.
    Read(io::Error),
    Visit(E),
}

/// Calls `visit` for each member with a reader of its contents.
pub(crate) fn walk<R: Read, E>(
    entries: Entries<'_, R>,
    visit: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let mut extensions = Extensions::default();
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(read_error)?;
        let (header, size, offset) = (entry.header().clone(), entry.size(), entry.raw_file_position());
        if extensions.take(&header, size, &mut entry)? {
            continue;
        }
        let member =
            member(&header, size, offset, std::mem::take(&mut extensions)).map_err(WalkError::Tar)?;
        visit(&member, &mut entry).map_err(WalkError::Visit)?;
    }
    if extensions.count > 0 {
        return Err(WalkError::Tar(TarFault::Malformed {
            detail: "it ends after an extension header".into(),
        }));
    }
    Ok(())
}

/// The `tar` crate reports its own findings as `Other`; every other kind came from below it.
fn read_error<E>(error: io::Error) -> WalkError<E> {
    let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<crate::unpack::LayerFault>());
    let from_below = ours.is_some();
    if from_below || error.kind() != io::ErrorKind::Other {
        WalkError::Read(error)
    } else {
        WalkError::Tar(TarFault::Malformed { detail: lossy(error.to_string().as_bytes()) })
    }
}

impl Extensions {
    /// Takes an extension header in; false when this is a member.
    fn take<E>(&mut self, header: &Header, size: u64, contents: &mut dyn Read) -> Result<bool, WalkError<E>> {
        let kind = header.entry_type();
        if !matches!(
            kind,
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
        ) {
            return Ok(false);
        }
        self.count = self.count.saturating_add(1);
        if self.count > EXTENSIONS_MAX || size > PAX_BYTES_MAX {
            return Err(WalkError::Tar(TarFault::ExtensionTooLarge));
        }
        let bytes = palisade_sys::dir::read_all_bounded(contents, PAX_BYTES_MAX).map_err(read_error)?;
        if kind == EntryType::GNULongName {
            self.set_path(long_name(&bytes))
        } else if kind == EntryType::GNULongLink {
            self.set_link(long_name(&bytes))
        } else {
            self.pax(&bytes, kind == EntryType::XGlobalHeader)
        }
        .map_err(WalkError::Tar)?;
        Ok(true)
    }

    fn set_path(&mut self, path: Vec<u8>) -> Result<(), TarFault> {
        set_once(&mut self.path, path, "path")
    }

    fn set_link(&mut self, link: Vec<u8>) -> Result<(), TarFault> {
        set_once(&mut self.link, link, "linkpath")
    }

    fn pax(&mut self, mut rest: &[u8], is_global: bool) -> Result<(), TarFault> {
        while !rest.is_empty() {
            let PaxRecord { key, value, rest: after } = pax_record(rest)?;
            rest = after;
            let refused = || TarFault::ExtensionRecord { record: lossy(key) };
            match key {
                // For all members that follow: nothing honest needs that.
                b"path" | b"linkpath" | b"size" if is_global => return Err(refused()),
                b"path" => self.set_path(value.to_vec())?,
                b"linkpath" => self.set_link(value.to_vec())?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    set_once(&mut self.size, size.ok_or_else(refused)?, "size")?;
                }
                sparse if sparse.starts_with(b"GNU.sparse.") => {
                    return Err(TarFault::Sparse { entry: lossy(self.path.as_deref().unwrap_or_default()) });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, key: &str) -> Result<(), TarFault> {
    if slot.replace(value).is_some() {
        return Err(TarFault::ExtensionRecord { record: key.into() });
    }
    Ok(())
}

/// GNU tar ends the name with a NUL.
fn long_name(bytes: &[u8]) -> Vec<u8> {
    bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec()
}

/// One record of a PAX header, and the bytes after it.
struct PaxRecord<'b> {
    key: &'b [u8],
    value: &'b [u8],
    rest: &'b [u8],
}

/// Splits `<length> <key>=<value>\n` off; the length counts all of it.
fn pax_record(bytes: &[u8]) -> Result<PaxRecord<'_>, TarFault> {
    let bad = || TarFault::ExtensionRecord { record: lossy(bytes.get(..32).unwrap_or(bytes)) };
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
    let length = bytes.get(..space).and_then(|digits| std::str::from_utf8(digits).ok());
    let length: usize = length.and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    let record = bytes.get(space.saturating_add(1)..length).and_then(|record| record.strip_suffix(b"\n"));
    let record = record.ok_or_else(bad)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
    let key = record.get(..equals).ok_or_else(bad)?;
    let value = record.get(equals.saturating_add(1)..).ok_or_else(bad)?;
    Ok(PaxRecord { key, value, rest: bytes.get(length..).ok_or_else(bad)? })
}

fn member(header: &Header, size: u64, offset: u64, extensions: Extensions) -> Result<Member, TarFault> {
    let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let shown = lossy(&path);
    let link = extensions.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let link = link.unwrap_or_default();
    let kind = kind(header, &path, &shown)?;
    let has_contents = kind == MemberKind::File;
    let sizes_agree = extensions.size.is_none_or(|found| found == size) && (has_contents || size == 0);
    if !sizes_agree {
        return Err(TarFault::SizeDisagrees { entry: shown });
    }
    for name in [&path, &link] {
        if name.len() > PATH_BYTES_MAX || name.contains(&0) {
            return Err(TarFault::Name { entry: lossy(name) });
        }
    }
    let mode =
        header.mode().map_err(|error| TarFault::Malformed { detail: lossy(error.to_string().as_bytes()) })?;
    // Times before 1970 are written in ways that readers disagree about; nothing depends on them.
    let mtime = header.mtime().ok().filter(|seconds| i64::try_from(*seconds).is_ok()).unwrap_or(0);
    Ok(Member { path, kind, link, mode, mtime, size, offset })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest of the enum is every other type byte")]
fn kind(header: &Header, path: &[u8], shown: &str) -> Result<MemberKind, TarFault> {
    let number = |field: io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
    Ok(match header.entry_type() {
        // Before POSIX, a directory was a file whose name ends in a slash.
        EntryType::Regular if path.ends_with(b"/") => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous => MemberKind::File,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Symlink => MemberKind::Symlink,
        EntryType::Link => MemberKind::Hardlink,
        EntryType::Char => {
            let is_zero = number(header.device_major()) == 0 && number(header.device_minor()) == 0;
            MemberKind::CharacterDevice { is_zero }
        }
        EntryType::Block => MemberKind::BlockDevice,
        EntryType::Fifo => MemberKind::Fifo,
        EntryType::GNUSparse => return Err(TarFault::Sparse { entry: shown.into() }),
        other => return Err(TarFault::UnknownType { entry: shown.into(), typeflag: other.as_byte() }),
    })
}

/// Reads what follows the last member: nothing but zeros may.
pub(crate) fn check_padding(rest: &mut dyn Read) -> Result<(), WalkError<std::convert::Infallible>> {
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) if buffer.iter().take(read).all(|byte| *byte == 0) => {}
            Ok(_) => return Err(WalkError::Tar(TarFault::Trailing)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(WalkError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests;
