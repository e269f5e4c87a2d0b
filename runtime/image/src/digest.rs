//! Digests while bytes stream by.

use std::io::{self, Read};

use palisade_policy::Digest;
use sha2::{Digest as _, Sha256};

/// The digest of bytes in memory.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    from_hash(&Sha256::digest(bytes))
}

#[expect(clippy::expect_used, reason = "64 hexadecimal digits are a digest, whatever they are")]
fn from_hash(hash: &[u8]) -> Digest {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text.parse().expect("32 bytes in hexadecimal are a digest")
}

/// A reader that hashes and counts what passes.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    count: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    /// The digest of all that passed, how much it was, and the reader below.
    pub(crate) fn finish(self) -> (Digest, u64, R) {
        (from_hash(&self.hash.finalize()), self.count, self.inner)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).ok_or(io::ErrorKind::InvalidData)?);
        self.count = self.count.saturating_add(u64::try_from(read).map_err(io::Error::other)?);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streaming_and_at_once_agree() {
        let mut reader = HashingReader::new(&b"hello"[..]);
        assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), 5);
        let (digest, count, _) = reader.finish();
        assert_eq!((digest, count), (sha256(b"hello"), 5));
        assert_eq!(
            sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
