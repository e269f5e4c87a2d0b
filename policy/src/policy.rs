//! [`Policy`]: what one server may do, after every default has been filled in and every text understood.
//!
//! Nothing here can be wrong on its own: the types are made by `resolve`, which checks what they say against
//! each other. None of the security types has a `Default`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::digest::Digest;
use crate::name::{SecretName, ServerName};
use crate::size::{ByteSize, Cpus};
use crate::tools::Tools;

/// What one server may do: the policy file, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The server's name; the first half of `server__tool` at the gateway.
    pub server: ServerName,
    /// Which image runs, and why it is trusted.
    pub image: ImagePolicy,
    /// The arguments that replace the image's `Cmd`; `None` keeps the image's.
    pub args: Option<Vec<String>>,
    /// Variables added to the image's environment, by name. Never holds a variable that the loader acts on.
    pub environment: BTreeMap<String, String>,
    /// What the server sees of the host's files.
    pub filesystem: Filesystem,
    /// The secrets that reach the server, and how. The values are never in a policy.
    pub secrets: Vec<SecretGrant>,
    /// Which system calls the server may make.
    pub syscalls: Syscalls,
    /// The second wall around files, ports and signals.
    pub landlock: Landlock,
    /// How much of the host the server may use.
    pub limits: Limits,
    /// Which tools clients may call.
    pub tools: Tools,
    /// When the server starts, and how long starting and stopping may take.
    pub lifecycle: Lifecycle,
    /// The protections without which the server may still run on a host that cannot give them.
    pub accept_degraded: BTreeSet<Degradation>,
}

/// Which image runs, and why it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePolicy {
    /// The image's name, `name:tag` or `name`, never with a digest.
    pub reference: String,
    /// The manifest's digest, when the policy pins it.
    pub digest: Option<Digest>,
    /// Why the image is trusted.
    pub trust: ImageTrust,
}

/// Why an image is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageTrust {
    /// Any one of these signed it. Never empty.
    SignedBy(Vec<Signer>),
    /// Nobody needs to have signed it.
    Unsigned {
        /// Why that is acceptable, in the author's words; written to the audit log. One line, never empty.
        reason: String,
    },
}

/// Somebody whose signature makes an image trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signer {
    /// The holder of a private key.
    Key {
        /// Where the public key is.
        key: KeySource,
        /// Whether the signature must be in a transparency log.
        tlog: Tlog,
    },
}

/// Where a public key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// A PEM file; a relative path is relative to the folder of the policy file.
    File(PathBuf),
    /// The PEM text itself, `-----BEGIN PUBLIC KEY-----` to `-----END PUBLIC KEY-----`. Its base64 is not
    /// checked here.
    Pem(String),
}

/// Whether a signature must be in a transparency log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tlog {
    /// A signature is enough without one.
    Optional,
}

/// What the server sees of the host's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// The host's files and directories in the sandbox. No target is equal to or inside another one.
    pub mounts: Vec<MountGrant>,
}

/// One file or directory of the host in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountGrant {
    /// The path on the host as written: absolute, or beginning with `~/`. Has no `..`.
    pub source: PathBuf,
    /// The path in the sandbox: absolute, normalised, clear of `/proc`, `/dev`, `/sys`, `/tmp` and
    /// `/run/secrets`.
    pub target: PathBuf,
    /// Whether the server may write there.
    pub access: Access,
}

/// What a mount may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading and listing.
    ReadOnly,
    /// Also writing, creating and removing, with the rights of the user who runs palisade.
    ReadWrite,
}

/// One secret that reaches the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretGrant {
    /// The name under which the secret is given to palisade.
    pub name: SecretName,
    /// How the server gets it.
    pub delivery: SecretDelivery,
}

/// How a server gets a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretDelivery {
    /// As an environment variable, which is not in `environment` and no other secret's.
    Env {
        /// The variable's name.
        variable: String,
    },
    /// As a read-only file.
    File {
        /// The file in the sandbox, directly in `/run/secrets/`; no other secret's.
        path: PathBuf,
    },
}

/// Which system calls the server may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Syscalls {
    /// The list of calls for the server's kind of program.
    pub baseline: Baseline,
    /// What happens to other calls. `Log` only where `accept_degraded` has [`Degradation::Seccomp`].
    pub seccomp: SeccompMode,
    /// Calls that are added to the list, in the order of the file. No call is named twice, here and in `remove`
    /// together. Whether there is such a call is not checked.
    pub add: Vec<CallChange>,
    /// Calls that are removed from the list, in the order of the file.
    pub remove: Vec<CallChange>,
}

/// One call that is added to a list or removed from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallChange {
    /// Its name.
    pub call: String,
    /// Why, in the author's words. One line, never empty.
    pub reason: String,
}

/// What happens to a call that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SeccompMode {
    /// It is refused.
    Enforce,
    /// It ends the process.
    Kill,
    /// It is carried out and written to the kernel's log.
    Log,
}

/// A list of system calls for one kind of program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Compiled programs: Go, Rust, C.
    Static,
    /// Node.js.
    Node,
    /// Python.
    Python,
    /// Node.js and Chromium, which it starts without a sandbox of Chromium's own.
    Browser,
}

/// The second wall around files, ports and signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// The oldest ABI that is good enough.
    pub minimum_abi: u32,
}

/// How much of the host the server and everything that it starts may use, together unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: ByteSize,
    /// Swap beside it, in bytes.
    pub swap: ByteSize,
    /// Processor time, in thousandths of one processor.
    #[serde(rename = "cpus_milli")]
    pub cpus: Cpus,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes a second from and to each disk behind the image and the mounts; `None` does not limit them.
    pub io: Option<ByteSize>,
    /// Open descriptors of one process.
    pub open_files: u32,
    /// The longest file that one process may write, in bytes.
    pub file_size: ByteSize,
    /// The size of `/tmp`, in bytes.
    pub tmp: ByteSize,
    /// How many files, directories and links fit into `/tmp`.
    pub tmp_files: u32,
    /// Bytes a second that are read from each of the server's standard output and standard error.
    pub output: ByteSize,
    /// How long one call of a tool may take. Whole milliseconds.
    #[serde(rename = "call_time_ms", serialize_with = "whole_milliseconds")]
    pub call_time: Duration,
}

/// When the server starts, and how long starting and stopping may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lifecycle {
    /// When the server starts.
    pub start: Start,
    /// From launch to the answer to `initialize`. Whole milliseconds.
    #[serde(rename = "start_timeout_ms", serialize_with = "whole_milliseconds")]
    pub start_timeout: Duration,
    /// From end of input to SIGTERM, and from there to SIGKILL. Whole milliseconds.
    #[serde(rename = "stop_timeout_ms", serialize_with = "whole_milliseconds")]
    pub stop_timeout: Duration,
    /// Sandboxes that are kept ready behind a gateway.
    pub warm: u32,
}

/// When a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When a client first needs it.
    OnDemand,
    /// Together with the gateway.
    AtStart,
}

/// A protection that some hosts cannot give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Degradation {
    /// The limit of memory and swap, without a cgroup that can be written: memory is then watched, and a server
    /// that has used more is ended.
    Memory,
    /// The processor limit, without a cgroup that can be written.
    Cpus,
    /// The limit of processes and threads, without a cgroup that can be written.
    Pids,
    /// Landlock, on kernels that lack it or have it switched off.
    Landlock,
    /// The limit of disk traffic, without a cgroup that can be written, on cgroup v1 (which does not slow down
    /// writes that go through the page cache), or on a file system without a disk of its own.
    Io,
    /// The system call list, where the policy itself asks that it only be logged.
    Seccomp,
    /// Sockets of the host, where the list has Unix sockets and a mount of the policy may hold a socket file.
    UnixSockets,
}

/// Why a policy has no canonical JSON.
#[derive(Debug, thiserror::Error)]
#[error("the policy cannot be written as JSON")]
pub struct CanonicalJsonError {
    /// What was in the way: a path that is not UTF-8, which no parsed policy has.
    #[source]
    pub source: serde_json::Error,
}

impl CanonicalJsonError {
    /// The way out: none, since a policy made by parsing a file never fails here.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

impl Policy {
    /// The policy as JSON with sorted keys, no white space and no fractions: equal policies, and only those,
    /// give equal bytes, so their digest names the policy (the idea of RFC 8785, with integers alone).
    pub fn to_canonical_json(&self) -> Result<String, CanonicalJsonError> {
        let mut value = serde_json::to_value(self).map_err(|source| CanonicalJsonError { source })?;
        value.sort_all_objects();
        Ok(value.to_string())
    }
}

fn whole_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

/// The numbers that hold where a policy says nothing, and the ranges in which it may say something else.
pub mod defaults {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use super::{Access, Baseline, ByteSize, Cpus, SeccompMode, Start};

    /// `limits.memory`: room for an interpreter and its libraries several times over, on a host with a few
    /// GiB.
    pub const MEMORY: ByteSize = ByteSize::mebibytes(512);
    /// `limits.cpus`: one processor, so that no server takes the whole host.
    pub const CPUS: Cpus = Cpus::from_milli(1_000);
    /// `limits.pids`: node starts about a dozen threads, and a server may start a few programs of its own.
    pub const PIDS: u32 = 64;
    /// `limits.open_files`: half of the usual soft limit (1,024).
    pub const OPEN_FILES: u32 = 512;
    /// `limits.file_size`: enough for a repository's pack file, less than what fills a disk.
    pub const FILE_SIZE: ByteSize = ByteSize::gibibytes(1);
    /// `limits.tmp`: an eighth of the memory, since what lies there counts as memory.
    pub const TMP: ByteSize = ByteSize::mebibytes(64);
    /// `limits.swap`: none. With it, a limit on memory would only say how soon the server gets slow.
    pub const SWAP: ByteSize = ByteSize::from_bytes(0);
    /// `limits.output`: the longest message that the gateway takes (16 MiB), once a second.
    pub const OUTPUT: ByteSize = ByteSize::mebibytes(16);
    /// `limits.call_time`: clients give up after a minute or so and mostly say so; this is for those that went
    /// away without a word, and for tools that work on something large.
    pub const CALL_TIME: Duration = Duration::from_hours(1);
    /// `limits.tmp_files`: files of one page each are the smallest that hold anything. An inode costs the kernel
    /// some 1 KiB, so that 65,536 of them are 64 MiB, the default of `limits.tmp`.
    pub const fn tmp_files(tmp: ByteSize) -> u32 {
        let pages = tmp.bytes() / 4096;
        if pages <= 64 {
            64
        } else if pages >= 65_536 {
            65_536
        } else {
            // Between the two, so it fits.
            #[expect(clippy::cast_possible_truncation, clippy::as_conversions, reason = "below 65,536")]
            let files = pages as u32;
            files
        }
    }
    /// `lifecycle.start`.
    pub const START: Start = Start::OnDemand;
    /// `lifecycle.start_timeout`: the official TypeScript client gives up on a request after 60 s; half of
    /// that leaves time to say why.
    pub const START_TIMEOUT: Duration = Duration::from_secs(30);
    /// `lifecycle.stop_timeout`: half of what `docker stop` gives, for servers without state of their own.
    pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
    /// `lifecycle.warm`: who does not ask for it does not pay for it.
    pub const WARM: u32 = 0;
    /// Most of `lifecycle.warm`: a gateway has one running instance of a server, so that even a server that
    /// crashes at once is replaced faster than this is used up.
    pub const WARM_MAX: u32 = 16;
    /// `landlock.minimum_abi`: without the right to truncate (ABI 3), a file that may only be read can still
    /// be emptied.
    pub const LANDLOCK_ABI: u32 = 3;
    /// Most of `landlock.minimum_abi`: the newest that this version knows the rights of.
    pub const LANDLOCK_ABI_MAX: u32 = 9;
    /// `filesystem.mounts[].access`.
    pub const ACCESS: Access = Access::ReadOnly;
    /// `syscalls.baseline`: the shortest list.
    pub const BASELINE: Baseline = Baseline::Static;
    /// `syscalls.seccomp`: a runtime that tries a call must be able to go on without it.
    pub const SECCOMP: SeccompMode = SeccompMode::Enforce;

    /// Range of `limits.memory`: below 8 MiB the reaper and an empty program do not fit; above 1 TiB it is a
    /// typing error.
    pub const MEMORY_RANGE: RangeInclusive<ByteSize> = ByteSize::mebibytes(8)..=ByteSize::gibibytes(1024);
    /// Range of `limits.swap`: none, or as much as `limits.memory` can be.
    pub const SWAP_RANGE: RangeInclusive<ByteSize> = ByteSize::from_bytes(0)..=ByteSize::gibibytes(1024);
    /// Range of `limits.io`: from one readahead window (64 KiB), below which the kernel works in jerks of seconds,
    /// to more than any disk does.
    pub const IO_RANGE: RangeInclusive<ByteSize> = ByteSize::kibibytes(64)..=ByteSize::gibibytes(1024);
    /// Least of `limits.tmp_files`: the root of the tmpfs and a handful of files.
    pub const TMP_FILES_MIN: u32 = 16;
    /// Most of `limits.tmp_files`: 16 GiB of inodes.
    pub const TMP_FILES_MAX: u32 = 16_777_216;
    /// Range of `limits.output`: from one short message a second to more than a pipe carries.
    pub const OUTPUT_RANGE: RangeInclusive<ByteSize> = ByteSize::kibibytes(1)..=ByteSize::gibibytes(1);
    /// Range of `limits.call_time`: no tool that does anything answers within 100 ms each time; a day is longer
    /// than anybody waits.
    pub const CALL_TIME_RANGE: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_hours(24);
    /// Range of `limits.cpus`: 0.1 is the least with which a server still starts in time.
    pub const CPUS_RANGE: RangeInclusive<Cpus> = Cpus::from_milli(100)..=Cpus::from_milli(64_000);
    /// Least of `limits.pids`: the three tasks that a launch has in the cgroup for a moment.
    pub const PIDS_MIN: u32 = 3;
    /// Most of `limits.pids`: the kernel's usual number of process ids (`pid_max` of a 32-bit table).
    pub const PIDS_MAX: u32 = 32_768;
    /// Least of `limits.open_files`: the three standard streams and a loader's handful.
    pub const OPEN_FILES_MIN: u32 = 16;
    /// Most of `limits.open_files`: the kernel's default ceiling, `fs.nr_open`.
    pub const OPEN_FILES_MAX: u32 = 1_048_576;
    /// Range of `limits.file_size`: from one page to 16 TiB, the longest file of ext4.
    pub const FILE_SIZE_RANGE: RangeInclusive<ByteSize> =
        ByteSize::kibibytes(4)..=ByteSize::gibibytes(16_384);
    /// Range of `limits.tmp`: from one page to as much as `limits.memory` can be.
    pub const TMP_RANGE: RangeInclusive<ByteSize> = ByteSize::kibibytes(4)..=ByteSize::gibibytes(1024);
    /// Range of `lifecycle.start_timeout`: nothing real answers within 100 ms; nobody waits longer than ten
    /// minutes.
    pub const START_TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_mins(10);
    /// Range of `lifecycle.stop_timeout`: the gateway waits for it when it ends, so one minute at most.
    pub const STOP_TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_mins(1);
}
