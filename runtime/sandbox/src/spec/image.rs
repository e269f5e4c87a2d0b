//! What an unpacked image says about how it wants to run, bounded and checked.

use std::path::Path;

use palisade_image::UnpackedRootfs;
use palisade_sys::dir::Dir;

/// What the image's configuration and its `/etc/passwd` decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Digest of the manifest that was verified.
    pub manifest_digest: String,
    /// The image's entry point.
    pub entrypoint: Vec<String>,
    /// The image's default arguments.
    pub cmd: Vec<String>,
    /// The image's variables, in order.
    pub environment: Vec<(String, String)>,
    /// Empty for `/`.
    pub working_directory: String,
    /// The id that the image's USER stands for.
    pub uid: u32,
    /// The group that the image's USER stands for.
    pub gid: u32,
}

/// What is wrong with the image's USER.
#[derive(Debug, thiserror::Error)]
pub enum ImageFactsError {
    /// The name is in no passwd or group file of the image.
    #[error("the image wants to run as {0:?}, and its {1} has no such entry")]
    UnknownName(String, &'static str),
    /// A layer could not be read.
    #[error("the image's {0} cannot be read")]
    Unreadable(&'static str, #[source] std::io::Error),
}

impl ImageFactsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some("rebuild the image with a numeric USER".into())
    }
}

/// passwd and group files of real images are below 4 KiB; a distribution's largest is some 64 KiB.
const PASSWD_MAX: u64 = 256 * 1024;

/// The largest id: the kernel reserves the last one for "none".
const ID_MAX: u32 = u32::MAX - 1;

impl ImageFacts {
    /// Reads the facts of an unpacked image.
    ///
    /// # Errors
    /// When USER names somebody whom the image does not know.
    pub fn of(rootfs: &UnpackedRootfs) -> Result<Self, ImageFactsError> {
        let config = rootfs.config();
        let (uid, gid) = ids(&config.user, rootfs.layers())?;
        Ok(Self {
            manifest_digest: rootfs.manifest_digest().to_string(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            environment: config.env.clone(),
            working_directory: config.working_dir.clone(),
            uid,
            gid,
        })
    }
}

/// USER is `[user][:group]`, each a number or a name (OCI image specification, config.md).
fn ids(user: &str, layers: &[Dir]) -> Result<(u32, u32), ImageFactsError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let (uid, primary) = match number(user) {
        Some(uid) => (uid, entry(layers, "etc/passwd", |fields| fields.get(2) == Some(&user), 3)?),
        None if user.is_empty() => (0, Some(0)),
        None => {
            let uid = entry(layers, "etc/passwd", |fields| fields.first() == Some(&user), 2)?
                .ok_or_else(|| ImageFactsError::UnknownName(user.to_owned(), "/etc/passwd"))?;
            (uid, entry(layers, "etc/passwd", |fields| fields.first() == Some(&user), 3)?)
        }
    };
    let gid = match group {
        None => primary.unwrap_or(0),
        Some(group) => match number(group) {
            Some(gid) => gid,
            None => entry(layers, "etc/group", |fields| fields.first() == Some(&group), 2)?
                .ok_or_else(|| ImageFactsError::UnknownName(group.to_owned(), "/etc/group"))?,
        },
    };
    Ok((uid, gid))
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// The number in `column` of the first line that `matches`, in the topmost layer that has the file.
fn entry(
    layers: &[Dir],
    file: &'static str,
    matches: impl Fn(&[&str]) -> bool,
    column: usize,
) -> Result<Option<u32>, ImageFactsError> {
    for layer in layers.iter().rev() {
        match layer.read_bounded(Path::new(file), PASSWD_MAX) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
                let found = lines.find(|fields| matches(fields));
                return Ok(found.and_then(|fields| fields.get(column).copied().and_then(number)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageFactsError::Unreadable(file, error)),
        }
    }
    Ok(None)
}
