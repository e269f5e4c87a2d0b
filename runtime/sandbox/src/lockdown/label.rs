//! The security label of the server: an AppArmor profile or an SELinux context for the next `execve`.
//!
//! Its place in the line is between `no_new_privs` and Landlock:
//!
//! - *before Landlock and seccomp*, since a file below `/proc` is written, for which no server has a rule;
//! - *after `no_new_privs`*, which does not stand in its way: the label is only noted here, and taken at
//!   `execve`, where the kernel looks at `no_new_privs` whichever came first. AppArmor then allows what
//!   takes rights away (from no confinement, or by stacking), which is what [`crate::spec::LabelLine`]
//!   decides; SELinux asks its policy (`nnp_transition`, and `nosuid_transition` since every mount of a
//!   sandbox is nosuid), which `packaging/selinux/palisade.cil` answers.
//!
//! The label is noted for the task and survives its fork into reaper and server; the reaper, which
//! executes nothing, never takes it.
//!
//! The file must be the kernel's own ([`palisade_sys::procfs`]): a label that went into a file of the
//! image would not be set, and nobody would notice.

use std::io::{Read, Seek, Write};
use std::path::Path;

use super::LockdownError;
use super::privileges::NoNewPrivileges;
use crate::spec::{LabelLine, LabelWrite};

/// The labels that the host has are noted for the next `execve`.
#[derive(Debug)]
pub struct Labelled(());

const STEP: &str = "setting the security label";

/// Step 5. Writes each label and reads it back.
///
/// # Errors
/// When the kernel does not take a label, or says another.
pub fn set(_stuck: NoNewPrivileges, line: &LabelLine) -> Result<Labelled, LockdownError> {
    for label in &line.writes {
        write(label).map_err(|error| LockdownError::new(STEP, format!("{}: {error}", label.what)))?;
    }
    Ok(Labelled(()))
}

/// A label is a line; the kernel's own limit is a page.
const LABEL_MAX: u64 = 4096;

fn write(label: &LabelWrite) -> std::io::Result<()> {
    let mut file = palisade_sys::procfs::open_own_rw(Path::new(&label.attribute))?;
    file.write_all(label.value.as_bytes())?;
    file.rewind()?;
    let mut found = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "bounded by take")]
    (&file).take(LABEL_MAX).read_to_end(&mut found)?;
    let found = String::from_utf8_lossy(&found);
    // The kernel ends SELinux contexts with a NUL and AppArmor labels with a newline.
    let found = found.trim_end_matches(['\0', '\n']);
    if found == label.read_back {
        return Ok(());
    }
    Err(std::io::Error::other(format!("the kernel says `{}`", found.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(attribute: &str, value: &str, read_back: &str) -> LabelWrite {
        LabelWrite {
            what: "the label of this test".into(),
            attribute: attribute.into(),
            value: value.into(),
            read_back: read_back.into(),
        }
    }

    /// `comm` is a file of the process that says what was written to it, as `attr/exec` does.
    #[test]
    fn what_was_written_is_read_back() {
        write(&label("comm", "labelled", "labelled")).unwrap();
        let error = write(&label("comm", "longer than fifteen", "longer than fifteen")).unwrap_err();
        assert!(error.to_string().contains("the kernel says `longer than fif`"), "{error}");
        let absent = write(&label("attr/no-such-module/exec", "x", "x")).unwrap_err();
        assert_eq!(absent.kind(), std::io::ErrorKind::NotFound);
    }
}
