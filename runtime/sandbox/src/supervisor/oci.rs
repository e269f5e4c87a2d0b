//! The spec in the words of the OCI runtime specification, for libcontainer.
//!
//! Only what libcontainer does for us is in it: namespaces, mounts, devices, the pivot. Limits,
//! Landlock, seccomp, environment and the program itself are not, so a stray `runc run` of this
//! file starts nothing, and no secret can be written to disk with it.

use std::collections::HashSet;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    Mount as OciMount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::stage::{ROOTFS, host_mount_path};
use super::{During, StepError};
use crate::spec::{Mount, MountKind, SandboxSpec};

/// What libcontainer is asked for.
pub(super) fn runtime_spec(spec: &SandboxSpec) -> Result<Spec, StepError> {
    const STEP: &str = "writing the runtime specification";
    let root = RootBuilder::default().path(ROOTFS).readonly(true).build().during(STEP)?;
    let user = UserBuilder::default()
        .uid(spec.identity.inside_uid)
        .gid(spec.identity.inside_gid)
        .build()
        .during(STEP)?;
    // CAP_SETPCAP is what setting the securebits takes; our executor drops it right after that.
    let setpcap: HashSet<Capability> = HashSet::from([Capability::Setpcap]);
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(setpcap.clone())
        .effective(setpcap.clone())
        .permitted(setpcap)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .during(STEP)?;
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(vec!["sandbox".to_owned()])
        .env(Vec::<String>::new())
        .cwd(&spec.working_directory)
        .capabilities(capabilities)
        .rlimits(Vec::new())
        .no_new_privileges(true)
        .build()
        .during(STEP)?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces().during(STEP)?)
        .cgroups_path("/palisade")
        .masked_paths(Vec::<String>::new())
        .readonly_paths(vec!["/dev".to_owned()])
        .build()
        .during(STEP)?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .hostname("sandbox")
        .process(process)
        .mounts(mounts(spec).during(STEP)?)
        .linux(linux)
        .build()
        .during(STEP)
}

/// User namespace: the supervisor's own, which holds exactly one id.
fn namespaces() -> Result<Vec<oci_spec::runtime::LinuxNamespace>, oci_spec::OciSpecError> {
    [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build())
    .collect()
}

fn mounts(spec: &SandboxSpec) -> Result<Vec<OciMount>, oci_spec::OciSpecError> {
    let mut host_index = 0..;
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        let (typ, source, data) = match mount.kind {
            MountKind::Layers => continue,
            MountKind::Proc => ("proc", "proc".to_owned(), Vec::new()),
            MountKind::Devices => {
                ("tmpfs", "dev".to_owned(), vec!["mode=0755".to_owned(), "size=64k".to_owned()])
            }
            MountKind::Tmpfs { bytes, files } => {
                ("tmpfs", "tmpfs".to_owned(), tmpfs_options(mount, bytes, files))
            }
            MountKind::Host { .. } => {
                ("bind", host_mount_path(host_index.next().unwrap_or_default()), vec!["rbind".to_owned()])
            }
        };
        let options: Vec<String> = mount.flags.iter().cloned().chain(data).collect();
        mounts.push(
            MountBuilder::default()
                .destination(&mount.target)
                .typ(typ)
                .source(source)
                .options(options)
                .build()?,
        );
    }
    Ok(mounts)
}

/// An inode costs the kernel about 1 KiB whatever is in it, so the count is limited with the bytes.
fn tmpfs_options(mount: &Mount, bytes: u64, files: u64) -> Vec<String> {
    let mode = if mount.target.as_os_str() == crate::spec::SECRETS_DIR { "mode=0700" } else { "mode=1777" };
    vec![mode.to_owned(), format!("size={bytes}"), format!("nr_inodes={files}")]
}
