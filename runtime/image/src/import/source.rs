//! Where a layout is read from: a directory, or a tar archive that is read in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::stat::SFlag;
use palisade_sys::dir::{Dir, open_ambient_file, read_all_bounded};

use super::ImportError;
use crate::digest::sha256;
use crate::limits::{DOCUMENT_BYTES_MAX, LAYOUT_MEMBERS_MAX};
use crate::shown::lossy;
use crate::store::Expected;
use crate::tarball::{self, Member, MemberKind, TarFault, WalkError};

/// Two bytes that begin a gzip stream (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Offset and size of each file of an archive. Links and other things are `None`: they are not followed,
/// but count as taking their name.
type Members = BTreeMap<String, Option<(u64, u64)>>;

/// An opened layout.
pub(super) enum Source {
    /// Files below a directory; no link in it is followed.
    Directory(Dir),
    /// Members of an archive: where each begins and how long it is.
    Archive { file: File, members: Members },
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let open = |source| ImportError::Open { path: path.to_path_buf(), source };
        let file = open_ambient_file(path).map_err(open)?;
        let kind = file.metadata().map_err(open)?.file_type();
        if kind.is_dir() {
            let dir = Dir::from_fd(file.into());
            return check_layout(path, Self::Directory(dir));
        }
        if !kind.is_file() {
            return Err(ImportError::NotALayout { path: path.to_path_buf(), found: "a special file" });
        }
        let mut magic = [0_u8; 2];
        if file.read_at(&mut magic, 0).map_err(open)? == magic.len() && magic == GZIP_MAGIC {
            return Err(ImportError::NotALayout { path: path.to_path_buf(), found: "a compressed archive" });
        }
        let members = scan(&file)?;
        check_layout(path, Self::Archive { file, members })
    }

    /// Reads a file of at most `max` bytes.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, ImportError> {
        let (reader, _) = self.open_file(name)?;
        read_all_bounded(reader, max).map_err(|source| ImportError::ReadFile { file: name.into(), source })
    }

    /// Reads a document and checks its size and digest before anything parses it.
    pub(super) fn document(&self, expected: &Expected) -> Result<Vec<u8>, ImportError> {
        let (digest, max) = (expected.digest.clone(), DOCUMENT_BYTES_MAX);
        if expected.size > max {
            return Err(ImportError::BlobTooLarge { digest, size: expected.size, max });
        }
        let bytes = self.read(&blob_path(expected), max)?;
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != expected.size {
            return Err(ImportError::Size { digest, announced: expected.size, found });
        }
        let found = sha256(&bytes);
        if found == digest { Ok(bytes) } else { Err(ImportError::Digest { announced: digest, found }) }
    }

    /// Opens a blob; whoever reads it checks size and digest.
    pub(super) fn open_blob(&self, expected: &Expected) -> Result<Box<dyn Read + '_>, ImportError> {
        let (reader, found) = self.open_file(&blob_path(expected))?;
        if found == expected.size {
            return Ok(reader);
        }
        Err(ImportError::Size { digest: expected.digest.clone(), announced: expected.size, found })
    }

    fn open_file(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), ImportError> {
        let failed = |source: io::Error| {
            let file = name.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                ImportError::MissingFile { file }
            } else {
                ImportError::ReadFile { file, source }
            }
        };
        match self {
            Self::Directory(dir) => {
                let (file, size) = open_regular(dir, name).map_err(failed)?;
                Ok((Box::new(file), size))
            }
            Self::Archive { file, members } => {
                let missing = || failed(io::ErrorKind::NotFound.into());
                let (offset, size) = members.get(name).copied().flatten().ok_or_else(missing)?;
                Ok((Box::new(Window { file, offset, left: size }), size))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.stat(Path::new(name)).is_ok(),
            Self::Archive { members, .. } => members.get(name).copied().flatten().is_some(),
        }
    }
}

fn blob_path(expected: &Expected) -> String {
    format!("blobs/sha256/{}", expected.digest.hex())
}

fn open_regular(dir: &Dir, name: &str) -> io::Result<(File, u64)> {
    let file = dir.open_file(Path::new(name))?;
    let stat = nix::sys::stat::fstat(&file)?;
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, u64::try_from(stat.st_size).map_err(io::Error::other)?))
}

fn check_layout(path: &Path, source: Source) -> Result<Source, ImportError> {
    if source.has("index.json") && source.has("oci-layout") {
        return Ok(source);
    }
    let found = if source.has("manifest.json") {
        // `docker save` before version 25.
        "a Docker archive"
    } else {
        match (&source, source.has("index.json")) {
            (Source::Archive { .. }, _) => "something else",
            (Source::Directory(_), false) => "a directory without `index.json`",
            (Source::Directory(_), true) => "a directory without `oci-layout`",
        }
    };
    Err(ImportError::NotALayout { path: path.to_path_buf(), found })
}

/// Finds the members of an archive without reading their contents.
fn scan(file: &File) -> Result<Members, ImportError> {
    let mut members = Members::new();
    let mut archive = tar::Archive::new(file);
    let unreadable = |source: io::Error| {
        ImportError::Archive(TarFault::Malformed { detail: lossy(source.to_string().as_bytes()) })
    };
    let entries = archive.entries_with_seek().map_err(unreadable)?;
    let walked = tarball::walk(entries, &mut |member, _| record(&mut members, member));
    walked.map_err(|error| match error {
        WalkError::Tar(fault) | WalkError::Visit(fault) => ImportError::Archive(fault),
        WalkError::Read(source) => unreadable(source),
    })?;
    Ok(members)
}

fn record(members: &mut Members, member: &Member) -> Result<(), TarFault> {
    if member.kind == MemberKind::Directory {
        return Ok(());
    }
    let refused = |why: &str| TarFault::Malformed { detail: format!("{why}: {:?}", lossy(&member.path)) };
    let name = String::from_utf8(member.path.clone()).map_err(|_invalid| refused("the name is not text"))?;
    let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
    if members.len() >= LAYOUT_MEMBERS_MAX {
        return Err(refused("too many files"));
    }
    let place = (member.kind == MemberKind::File).then_some((member.offset, member.size));
    if members.insert(name, place).is_some() {
        return Err(refused("the same file twice"));
    }
    Ok(())
}

/// Part of a file, read by position: several of them share one descriptor.
struct Window<'f> {
    file: &'f File,
    offset: u64,
    left: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..most).ok_or(io::ErrorKind::InvalidInput)?;
        let read = self.file.read_at(part, self.offset)?;
        let count = u64::try_from(read).map_err(io::Error::other)?;
        self.offset = self.offset.saturating_add(count);
        self.left = self.left.saturating_sub(count);
        Ok(read)
    }
}
