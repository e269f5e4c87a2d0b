//! A root of the supervisor's own, with nothing of the host in it but what the policy mounts.
//!
//! libcontainer assembles the sandbox below a directory that the image controls, and path tricks in
//! such code are a class of their own (CVE-2021-30465, CVE-2025-31133, CVE-2025-52881). They need
//! something of the host to reach. Here there is nothing: before libcontainer runs, the supervisor
//! has pivoted into a tmpfs that holds
//!
//! ```text
//! /proc             the host's procfs; libcontainer needs it, the sandbox gets a fresh one
//! /sys/fs/cgroup    cgroup2, read-only, so that libcontainer leaves cgroups to us
//! /dev              six harmless devices
//! /rootfs           the image's layers, a read-only overlay
//! /mounts/N         the policy's mounts, with their flags
//! /work             libcontainer's bundle and state, gone with the namespace
//! ```
//!
//! The topmost layer of the overlay is a skeleton of empty directories that we make, one for each
//! mount point. A directory hides whatever lower layers have under its name, so an image whose
//! `/proc` or `/dev` is a symbolic link does not decide where something is mounted.
//!
//! The attacker: the image's layers, and somebody who swaps a path of the host while we start. All
//! sources arrive as descriptors; they are opened again here, since a mount can only be cloned in
//! the namespace that it is in, and compared with the descriptor by device and inode.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{SFlag, fstat};
use palisade_sys::dir::{Dir, open_ambient_path, open_without_links, path_of};
use palisade_sys::mount::{Attributes, attach, clone_tree, set_attributes, set_id_map};

use super::identity::{Entered, id_map_namespace, server_on_the_stage};
use super::{During, StepError};
use crate::spec::{DEVICES, MountKind, SandboxSpec, StartedBy};

/// The supervisor's root is this and nothing else.
#[derive(Debug)]
pub(crate) struct Staged(());

/// Where the sandbox's root file system is, seen from the supervisor.
pub(crate) const ROOTFS: &str = "/rootfs";
/// Where libcontainer finds `config.json`.
pub(crate) const BUNDLE: &str = "/work/bundle";
/// Where libcontainer keeps its state.
pub(crate) const STATE: &str = "/work/state";

/// Where the `index`th host mount of the spec is, seen from the supervisor.
pub(crate) fn host_mount_path(index: usize) -> String {
    format!("/mounts/{index}")
}

/// The tmpfs is mounted over the first of these that is there; everything that is taken from the host has
/// been cloned by then, so it does not matter what it covers. A small container may lack `/tmp`; nothing
/// starts without `/proc`.
pub(crate) const MOUNT_POINTS: [&str; 3] = ["/tmp", "/run", "/proc"];

/// Directories, a `config.json` of 20 KiB and libcontainer's state: 4 MiB is ample.
const TMPFS_OPTIONS: &str = "mode=0755,size=4m,nr_inodes=4096";

/// Builds the root and moves into it.
pub(super) fn build(
    _entered: &Entered,
    spec: &SandboxSpec,
    layers: &[OwnedFd],
    mounts: &[OwnedFd],
) -> Result<Staged, StepError> {
    // Cloned while the host's paths are still visible.
    let sources = Sources::clone_all(spec, layers, mounts)?;

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mount_point =
        MOUNT_POINTS.into_iter().find(|path| Dir::open_ambient(Path::new(path)).is_ok()).ok_or_else(
            || StepError::new("mounting the stage", "there is no /tmp, /run or /proc to mount it on"),
        )?;
    mount(Some("stage"), mount_point, Some("tmpfs"), flags, Some(TMPFS_OPTIONS))
        .during("mounting the stage")?;
    nix::unistd::chdir(mount_point).during("entering the stage")?;
    let stage = Dir::open_ambient(Path::new(".")).during("entering the stage")?;

    sources.attach_all(&stage, spec).during("attaching mounts to the stage")?;
    if sources.cgroup.is_none() {
        mount_cgroup()?;
    }
    mount_rootfs(&stage, spec, layers.len())?;
    make_work_dirs(&stage, spec).during("making the work directory")?;
    pivot()?;
    Ok(Staged(()))
}

/// Detached clones of everything that the stage will hold.
struct Sources {
    proc: OwnedFd,
    /// `None` in a container that has no cgroup file system.
    cgroup: Option<OwnedFd>,
    devices: Vec<(&'static str, OwnedFd)>,
    layers: Vec<OwnedFd>,
    mounts: Vec<(OwnedFd, Shape)>,
}

/// A mount point must be of the same kind as what is mounted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Directory,
    File,
}

impl Sources {
    fn clone_all(spec: &SandboxSpec, layers: &[OwnedFd], mounts: &[OwnedFd]) -> Result<Self, StepError> {
        let layer = |fd| -> io::Result<OwnedFd> {
            let tree = clone_tree(open_again(fd)?)?;
            set_attributes(&tree, Attributes::BASE.read_only())?;
            Ok(tree)
        };
        let device = |name: &'static str| -> io::Result<(&'static str, OwnedFd)> {
            let tree = clone_path(&Path::new("/dev").join(name))
                .map_err(|error| io::Error::other(format!("/dev/{name}: {error}")))?;
            set_attributes(&tree, Attributes::DEVICE)?;
            Ok((name, tree))
        };
        let host = spec.mounts.iter().filter_map(|mount| match mount.kind {
            MountKind::Host { write, .. } => Some(write),
            MountKind::Layers | MountKind::Proc | MountKind::Devices | MountKind::Tmpfs { .. } => None,
        });
        Ok(Self {
            proc: clone_path(Path::new("/proc")).during("cloning /proc")?,
            cgroup: clone_cgroup().during("cloning the cgroup file system")?,
            devices: DEVICES.into_iter().map(device).collect::<io::Result<_>>().during("cloning devices")?,
            layers: layers
                .iter()
                .map(layer)
                .collect::<io::Result<_>>()
                .during("opening the image's layers")?,
            mounts: mounts
                .iter()
                .zip(host)
                .map(|(fd, write)| host_mount(spec, fd, write))
                .collect::<Result<_, _>>()?,
        })
    }

    fn attach_all(&self, stage: &Dir, spec: &SandboxSpec) -> io::Result<()> {
        attach(&self.proc, stage.create_dir(Path::new("proc"), 0o755)?)?;
        stage.create_dir(Path::new("sys"), 0o755)?.create_dir(Path::new("fs"), 0o755)?;
        let cgroup = stage.create_dir(Path::new("sys/fs/cgroup"), 0o755)?;
        if let Some(tree) = &self.cgroup {
            attach(tree, cgroup)?;
        }
        let dev = stage.create_dir(Path::new("dev"), 0o755)?;
        for (name, tree) in &self.devices {
            attach_shape(&dev, Path::new(name), tree, Shape::File)?;
        }
        let layers = stage.create_dir(Path::new("layers"), 0o755)?;
        for (index, tree) in self.layers.iter().enumerate() {
            attach_shape(&layers, Path::new(&index.to_string()), tree, Shape::Directory)?;
        }
        let mounts = stage.create_dir(Path::new("mounts"), 0o755)?;
        for (index, (tree, shape)) in self.mounts.iter().enumerate() {
            attach_shape(&mounts, Path::new(&index.to_string()), tree, *shape)?;
        }
        self.make_skeleton(stage, spec)
    }

    /// One mount point for each mount of the spec, and the working directory.
    fn make_skeleton(&self, stage: &Dir, spec: &SandboxSpec) -> io::Result<()> {
        let skeleton = stage.create_dir(Path::new("skeleton"), 0o755)?;
        let mut host = self.mounts.iter().map(|(_, shape)| *shape);
        for mount in &spec.mounts {
            let shape = match mount.kind {
                MountKind::Layers => continue,
                MountKind::Host { .. } => host.next().unwrap_or(Shape::Directory),
                MountKind::Proc | MountKind::Devices | MountKind::Tmpfs { .. } => Shape::Directory,
            };
            make_mount_point(&skeleton, &mount.target, shape)?;
        }
        make_mount_point(&skeleton, &spec.working_directory, Shape::Directory)
    }
}

fn attach_shape(parent: &Dir, name: &Path, tree: &OwnedFd, shape: Shape) -> io::Result<()> {
    match shape {
        Shape::Directory => attach(tree, parent.create_dir(name, 0o755)?),
        Shape::File => {
            drop(parent.create_file(name, 0o644)?);
            attach(tree, parent.open_path(name)?)
        }
    }
}

/// Makes `target` and its parents below the skeleton; what is there already is fine.
fn make_mount_point(skeleton: &Dir, target: &Path, shape: Shape) -> io::Result<()> {
    let names: Vec<_> = target
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Path::new(name)),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    let Some((last, parents)) = names.split_last() else { return Ok(()) };
    let mut dir = skeleton.try_clone()?;
    for name in parents {
        dir = dir.ensure_dir(name, 0o755)?;
    }
    match shape {
        Shape::Directory => drop(dir.ensure_dir(last, 0o755)?),
        Shape::File => drop(dir.create_file(last, 0o644)?),
    }
    Ok(())
}

fn clone_path(path: &Path) -> io::Result<OwnedFd> {
    clone_tree(open_ambient_path(path)?)
}

/// Opens what `held` is in this mount namespace, by the path that the kernel gives for it, and makes
/// sure that it is the same file.
fn open_again(held: &OwnedFd) -> io::Result<OwnedFd> {
    let path = path_of(held)?;
    let again = open_without_links(&path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let path = path.display();
            return io::Error::other(format!(
                "`{path}` is gone or was replaced (start palisade again, or mount its directory)"
            ));
        }
        error
    })?;
    let (was, is) = (fstat(held)?, fstat(&again)?);
    if (was.st_dev, was.st_ino) != (is.st_dev, is.st_ino) {
        return Err(io::Error::other(format!("`{}` was replaced while the sandbox started", path.display())));
    }
    Ok(again)
}

/// A directory or file of the host, with the flags that the policy asks for.
fn host_mount(spec: &SandboxSpec, held: &OwnedFd, write: bool) -> Result<(OwnedFd, Shape), StepError> {
    let again = open_again(held).during("opening a mount source")?;
    let stat = fstat(&again).during("looking at a mount source")?;
    let is_dir = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
    let tree = clone_tree(&again).during("cloning a mount source")?;
    let flags = Attributes::BASE.no_exec();
    let flags = if write { flags } else { flags.read_only() };
    set_attributes(&tree, flags).during("setting a mount's flags")?;
    if spec.identity.started_by == StartedBy::Root {
        // The server's outside id owns nothing; through this mount it acts as the source's owner.
        let owner = (stat.st_uid, stat.st_gid);
        let namespace = id_map_namespace(owner, &spec.identity).during("making a mount's id map")?;
        set_id_map(&tree, namespace).during(
            "mapping the owner of a mount source (its file system may not support idmapped mounts)",
        )?;
    }
    Ok((tree, if is_dir { Shape::Directory } else { Shape::File }))
}

/// libcontainer asks which cgroups there are and puts its child into one, unless it may not write
/// (`EROFS`): our own [`super::cgroup`] has done that already. `None` in a container without cgroup2.
fn clone_cgroup() -> io::Result<Option<OwnedFd>> {
    let is_cgroup2 = |path: &Path| {
        nix::sys::statfs::statfs(path)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
    };
    let root = Path::new(crate::host::CGROUP_ROOT);
    let unified = root.join("unified");
    let Some(path) = [root, &unified].into_iter().find(|path| is_cgroup2(path)) else { return Ok(None) };
    let tree = clone_path(path)?;
    set_attributes(&tree, Attributes::BASE.read_only().no_exec())?;
    Ok(Some(tree))
}

/// A cgroup2 for libcontainer to find where the container that we are in has none: read-only, and of a
/// cgroup namespace of our own, since only its owner may mount it.
fn mount_cgroup() -> Result<(), StepError> {
    const STEP: &str = "mounting a cgroup file system";
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).during(STEP)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), "sys/fs/cgroup", Some("cgroup2"), flags, None::<&str>).during(STEP)
}

/// Mounts the overlay: skeleton on top, then the layers, highest first.
fn mount_rootfs(stage: &Dir, spec: &SandboxSpec, layers: usize) -> Result<(), StepError> {
    const STEP: &str = "mounting the root file system";
    drop(stage.create_dir(Path::new("rootfs"), 0o755).during(STEP)?);
    let lower: Vec<String> = (0..layers).rev().map(|index| format!("layers/{index}")).collect();
    // Relative names, since the option string of mount(2) is one page and there may be 128 layers.
    // userxattr: layers are unpacked without privilege, so their opaque marks are user.overlay.*.
    let options = format!("userxattr,lowerdir=skeleton:{}", lower.join(":"));
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), "rootfs", Some("overlay"), flags, Some(options.as_str())).during(STEP).map_err(
        |error| StepError::new(STEP, format!("{} ({} layers of {})", error.message, layers, spec.server)),
    )
}

/// libcontainer writes here, after this process has become the sandbox's outside id.
fn make_work_dirs(stage: &Dir, spec: &SandboxSpec) -> io::Result<()> {
    let work = stage.create_dir(Path::new("work"), 0o700)?;
    let below = [work.create_dir(Path::new("bundle"), 0o700)?, work.create_dir(Path::new("state"), 0o700)?];
    if let Some((uid, gid)) = server_on_the_stage(&spec.identity) {
        for dir in below.iter().chain([&work]) {
            nix::unistd::fchown(dir.as_fd(), Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// `pivot_root(".", ".")` stacks the old root on the new one; detaching it leaves only the new
/// (`pivot_root(2)`, NOTES).
fn pivot() -> Result<(), StepError> {
    nix::unistd::pivot_root(".", ".").during("pivoting into the stage")?;
    umount2(".", MntFlags::MNT_DETACH).during("detaching the host's root")?;
    nix::unistd::chdir("/").during("entering the new root")
}
