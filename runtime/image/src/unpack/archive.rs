//! From members of an archive to a tree: what each kind of entry may do.

use std::io::Read;

use super::LayerFault;
use super::error::EntryRule;
use super::path::EntryPath;
use super::tree::Tree;
use super::whiteout::Whiteouts;
use crate::limits::LAYER_ENTRIES_MAX;
use crate::tarball::{Member, MemberKind};

/// A layer while its archive is read.
pub(super) struct Unpacking {
    pub(super) tree: Tree,
    pub(super) whiteouts: Whiteouts,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) skipped_devices: u64,
}

impl Unpacking {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, whiteouts: Whiteouts::default(), entries: 0, bytes: 0, skipped_devices: 0 }
    }

    /// Takes one member in.
    pub(super) fn member(&mut self, member: &Member, contents: &mut dyn Read) -> Result<(), LayerFault> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > LAYER_ENTRIES_MAX {
            return Err(LayerFault::Limit { what: "entries".into(), max: LAYER_ENTRIES_MAX });
        }
        let path = EntryPath::parse(&member.path)?;
        if self.whiteouts.take(&path)? {
            return Ok(());
        }
        match member.kind {
            MemberKind::Directory => self.tree.directory(&path, member.mode, member.mtime),
            MemberKind::File => {
                self.bytes = self.bytes.saturating_add(member.size);
                self.tree.file(&path, (member.mode, member.mtime, member.size), contents)
            }
            MemberKind::Symlink => self.tree.symlink(&path, &member.link),
            MemberKind::Hardlink => self.tree.hardlink(&path, &member.link),
            MemberKind::CharacterDevice { is_zero: true } => Err(refused(&path, EntryRule::OverlayMarker)),
            MemberKind::CharacterDevice { is_zero: false } | MemberKind::BlockDevice => {
                self.special(&path, EntryRule::Device)
            }
            MemberKind::Fifo => self.special(&path, EntryRule::Fifo),
        }
    }

    /// Root file systems of distributions carry nodes below /dev, which a sandbox never shows.
    fn special(&mut self, path: &EntryPath, rule: EntryRule) -> Result<(), LayerFault> {
        if !path.is_below_dev() {
            return Err(refused(path, rule));
        }
        self.skipped_devices = self.skipped_devices.saturating_add(1);
        Ok(())
    }
}

fn refused(path: &EntryPath, rule: EntryRule) -> LayerFault {
    LayerFault::entry(path.bytes(), rule)
}

#[cfg(test)]
mod tests {
    use palisade_sys::dir::Dir;

    use super::*;

    #[test]
    fn too_many_entries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut unpacking = Unpacking::new(Tree::new(Dir::open_ambient(dir.path()).unwrap()));
        let member = Member {
            path: b"d".to_vec(),
            kind: MemberKind::Directory,
            link: Vec::new(),
            mode: 0o755,
            mtime: 0,
            size: 0,
            offset: 0,
        };
        for _ in 0..LAYER_ENTRIES_MAX {
            unpacking.member(&member, &mut std::io::empty()).unwrap();
        }
        let refused = unpacking.member(&member, &mut std::io::empty());
        assert_eq!(refused, Err(LayerFault::Limit { what: "entries".into(), max: LAYER_ENTRIES_MAX }));
    }
}
