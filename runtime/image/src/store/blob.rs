//! Blobs: bytes under the name of their digest, published only when size and digest are right.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use palisade_policy::Digest;

use super::{Staging, Store, StoreError};
use crate::digest::{HashingReader, sha256};

/// What a descriptor says about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Why a blob was not stored.
#[derive(Debug)]
pub(crate) enum BlobError {
    /// The source failed.
    Read(io::Error),
    /// It has another size.
    Size {
        /// How much there was; one more than expected means "more".
        found: u64,
    },
    /// It has another digest.
    Digest {
        /// The digest that it has.
        found: Digest,
    },
    /// The store failed.
    Store(StoreError),
}

impl Store {
    /// Stores what `source` gives, if it is what `expected` says. A blob that is there is checked again, and
    /// replaced when it is not what its name says.
    pub(crate) fn put_blob(
        &self,
        staging: &Staging<'_>,
        expected: &Expected,
        source: &mut dyn Read,
    ) -> Result<(), BlobError> {
        if self.has_blob(expected).map_err(BlobError::Store)? {
            return Ok(());
        }
        let io = StoreError::io("store a blob");
        let store = |error| BlobError::Store(io(error));
        let name = Path::new(expected.digest.hex());
        let mut file = staging.dir().create_file(name, 0o600).map_err(store)?;
        // One byte more than expected is enough to know that it is too long.
        let mut reader = HashingReader::new(source.take(expected.size.saturating_add(1)));
        let copied = copy(&mut reader, &mut file);
        let stored =
            copied.and_then(|()| check(expected, reader)).and_then(|()| file.sync_all().map_err(store));
        if let Err(error) = stored {
            staging.dir().remove_file(name).map_err(store)?;
            return Err(error);
        }
        staging.dir().rename(name, &self.blobs, name).map_err(store)?;
        self.blobs.sync().map_err(store)
    }

    /// Stores bytes that we made ourselves.
    pub(crate) fn put_bytes(&self, staging: &Staging<'_>, bytes: &[u8]) -> Result<Expected, StoreError> {
        let size =
            u64::try_from(bytes.len()).map_err(io::Error::other).map_err(StoreError::io("store a blob"))?;
        let expected = Expected { digest: sha256(bytes), size };
        match self.put_blob(staging, &expected, &mut &*bytes) {
            Ok(()) => Ok(expected),
            Err(BlobError::Store(error)) => Err(error),
            Err(BlobError::Read(_) | BlobError::Size { .. } | BlobError::Digest { .. }) => {
                Err(StoreError::Damaged {
                    what: format!("the blob {} changed while it was written", expected.digest),
                })
            }
        }
    }

    fn has_blob(&self, expected: &Expected) -> Result<bool, StoreError> {
        match self.blobs.stat(Path::new(expected.digest.hex())) {
            Ok(stat) if u64::try_from(stat.st_size).is_ok_and(|size| size == expected.size) => {
                self.is_whole(expected).map_err(StoreError::io("look for a blob"))
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look for a blob")(error)),
        }
    }

    fn is_whole(&self, expected: &Expected) -> io::Result<bool> {
        let file = self.blobs.open_file(Path::new(expected.digest.hex()))?;
        let mut reader = HashingReader::new(file.take(expected.size.saturating_add(1)));
        io::copy(&mut reader, &mut io::sink())?;
        Ok(check(expected, reader).is_ok())
    }

    /// Opens a blob for streaming; whoever reads it checks its digest.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.blobs.open_file(Path::new(digest.hex())).map_err(|error| missing(digest, error))
    }

    /// Reads a small blob whole and checks its digest again.
    pub(crate) fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes =
            self.blobs.read_bounded(Path::new(digest.hex()), max).map_err(|error| missing(digest, error))?;
        if sha256(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { what: format!("the bytes stored as {digest} have another digest") })
        }
    }
}

fn missing(digest: &Digest, error: io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::NotFound {
        StoreError::Missing { digest: digest.clone() }
    } else if error.kind() == io::ErrorKind::FileTooLarge {
        StoreError::Damaged { what: format!("the blob {digest} is larger than a blob of its kind may be") }
    } else {
        StoreError::io("read a blob")(error)
    }
}

fn check(expected: &Expected, reader: HashingReader<impl Read>) -> Result<(), BlobError> {
    let (digest, count, _) = reader.finish();
    if count != expected.size {
        return Err(BlobError::Size { found: count });
    }
    if digest != expected.digest {
        return Err(BlobError::Digest { found: digest });
    }
    Ok(())
}

/// As `io::copy`, telling a failing source from a full store.
fn copy(source: &mut impl Read, target: &mut File) -> Result<(), BlobError> {
    let mut buffer = vec![0_u8; 128 * 1024];
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(BlobError::Read(error)),
        };
        let part = buffer.get(..read).unwrap_or_default();
        target.write_all(part).map_err(|error| BlobError::Store(StoreError::io("store a blob")(error)))?;
    }
}
