//! The policy file as written: one structure for each mapping of the YAML, texts not yet understood.
//!
//! This is the one definition of the language. The parser's own checks (`shape`), the JSON Schema (`schema`)
//! and the reference (`reference`) are all made from these structures, so a key cannot be in one of them
//! only. The comments on the fields are the documentation that users read.
//!
//! A key that is known but not enforced yet has the type [`Pending`] and the extension `x-palisade-instead`:
//! what to write instead. Such a key is refused wherever it stands.
//!
//! Whoever takes one of these structures apart does so field by field, without `..`: a new key that the
//! resolver forgets is a compile error.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::json;

use crate::bounds::{
    MAX_ARGS, MAX_CALL_NAME, MAX_CALLS, MAX_ENVIRONMENT, MAX_MOUNTS, MAX_REASON, MAX_REFERENCE, MAX_SECRETS,
    MAX_SIGNERS, MAX_TEXT, MAX_TOOL_PATTERN, MAX_TOOL_PATTERNS, MAX_VARIABLE_NAME,
};
use crate::policy::{Access, Baseline, Degradation, SeccompMode, Start, Tlog, defaults};
use crate::size::duration_text;
use crate::{digest, image, name, size, tools};

/// What one MCP server may do. Whatever the file does not grant, the server does not have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Palisade policy")]
pub(crate) struct PolicyFile {
    /// The version of this language. There is one, `1`.
    #[schemars(extend("const" = crate::LANGUAGE_VERSION))]
    pub(crate) palisade: u64,
    /// The server's name: lower-case letters, digits and `-`. Clients see its tools as `<server>__<tool>`.
    #[schemars(regex(pattern = name::SERVER_PATTERN), length(max = name::SERVER_MAX))]
    pub(crate) server: String,
    /// Which image runs, and why it is trusted.
    pub(crate) image: Image,
    /// Arguments that replace the image's `Cmd`. Without this key the image's own are used.
    #[schemars(length(max = MAX_ARGS), inner(length(max = MAX_TEXT)))]
    pub(crate) args: Option<Vec<String>>,
    /// Variables added to the image's environment. Nothing else of the host's environment reaches the server.
    /// `LD_*`, `GLIBC_TUNABLES`, `GCONV_PATH`, `GETCONF_DIR`, `LOCPATH`, `NLSPATH` and `PALISADE_*` are
    /// refused.
    #[schemars(extend(
        "maxProperties" = MAX_ENVIRONMENT,
        "propertyNames" = json!({ "pattern": name::VARIABLE_PATTERN, "maxLength": MAX_VARIABLE_NAME }),
        "additionalProperties" = json!({ "type": "string", "maxLength": MAX_TEXT })
    ))]
    pub(crate) environment: Option<BTreeMap<String, String>>,
    /// What the server may reach over the network.
    pub(crate) network: Option<Network>,
    /// What the server sees of the host's files. Without it: nothing.
    pub(crate) filesystem: Option<Filesystem>,
    /// The secrets that reach the server. Each has exactly one of `env` and `file`.
    #[schemars(length(max = MAX_SECRETS))]
    pub(crate) secrets: Option<Vec<Secret>>,
    /// Which system calls the server may make.
    pub(crate) syscalls: Option<Syscalls>,
    /// The second wall around files, ports and signals.
    pub(crate) landlock: Option<Landlock>,
    /// How much of the host the server may use.
    pub(crate) limits: Option<Limits>,
    /// Which tools clients may see and call.
    pub(crate) tools: Option<Tools>,
    /// When the server starts, and how long starting and stopping may take.
    pub(crate) lifecycle: Option<Lifecycle>,
    /// The protections without which the server may still run, on hosts that cannot give them. A host that
    /// lacks one that is not listed is refused. `memory` (with swap), `cpus` and `io` need a cgroup that can be
    /// written, `landlock` a kernel with it; `pids` has a resource limit where there is no cgroup. Without a
    /// cgroup, memory is still watched, and a server that uses more is ended: a soft limit, which has to be
    /// accepted like an absent one. `seccomp` is for `syscalls.seccomp: log`, on any host; `unix-sockets` for
    /// the baseline `browser` together with mounts, since the server may then connect to socket files in them.
    #[schemars(extend("maxItems" = 7))]
    pub(crate) accept_degraded: Option<Vec<Degradation>>,
}

/// Which image runs, and why it is trusted: exactly one of `signed_by` and `unsigned`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["signed_by"] }, { "required": ["unsigned"] }]))]
pub(crate) struct Image {
    /// The image's name, `name` or `name:tag`, as it was imported. Without a digest, which is the next key.
    #[schemars(regex(pattern = image::REFERENCE_PATTERN), length(max = MAX_REFERENCE))]
    pub(crate) reference: String,
    /// The digest of the image's manifest: `sha256:` and 64 digits. With it, no other image runs, whatever
    /// the name says by then.
    #[schemars(regex(pattern = digest::PATTERN), length(max = 71))]
    pub(crate) digest: Option<String>,
    /// Who may have signed the image. A signature by any one of them is enough.
    #[schemars(length(min = 1, max = MAX_SIGNERS))]
    pub(crate) signed_by: Option<Vec<Signer>>,
    /// Runs the image without any signature. The value says why that is acceptable, and goes into the audit
    /// log.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub(crate) unsigned: Option<String>,
    /// Statements about the image, such as provenance, that must be there and signed.
    #[schemars(
        extend("x-palisade-instead" = "remove it, and check attestations before the image is imported")
    )]
    pub(crate) attestations: Option<Pending>,
}

/// Somebody whose signature makes the image trusted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("allOf" = [{ "required": ["key", "tlog"] }]))]
pub(crate) struct Signer {
    /// The public key: a PEM file, relative to the folder of the policy file, or the PEM text itself.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    pub(crate) key: Option<String>,
    /// Whether the signature must be in a transparency log. `optional`: it need not be. Has to be written
    /// with every `key`, since the check that would be the default is not enforced yet.
    #[schemars(extend(
        "x-palisade-instead-of" = { "required": "write `tlog: optional` to accept a signature that is in no log" }
    ))]
    pub(crate) tlog: Option<Tlog>,
    /// A signature by an identity instead of a key, over Sigstore.
    #[schemars(
        extend("x-palisade-instead" = "sign the image with a key, and name it with `key: <file>` and `tlog: optional`")
    )]
    pub(crate) keyless: Option<Pending>,
}

/// What the server may reach over the network: nothing, in this version.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// The hosts and ports that the server may reach. Only the empty list, `[]`, is accepted: no network at
    /// all.
    #[schemars(with = "Vec<Pending>", extend(
        "maxItems" = 0,
        "x-palisade-instead" = "remove the rules; a server without any has no network, and that is enforced"
    ))]
    pub(crate) egress: [Pending; 0],
}

/// What the server sees of the host's files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filesystem {
    /// Files and directories of the host that appear in the sandbox. No target may be equal to or inside
    /// another.
    #[schemars(length(max = MAX_MOUNTS))]
    pub(crate) mounts: Option<Vec<Mount>>,
}

/// One file or directory of the host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    /// The path on the host: absolute, or beginning with `~/` for the home of the user who runs palisade.
    /// Without `..`. `/`, and anything in `/proc`, `/sys` or `/dev`, is refused.
    #[schemars(regex(pattern = "^(/|~/)"), length(max = MAX_TEXT))]
    pub(crate) source: String,
    /// The path in the sandbox: absolute, without `.`, `..` and doubled or trailing `/`. `/`, `/run`, and
    /// anything in `/proc`, `/sys`, `/dev`, `/tmp` or `/run/secrets`, is refused.
    #[schemars(regex(pattern = "^/[^/]"), length(max = MAX_TEXT))]
    pub(crate) target: String,
    /// What the server may do there.
    #[schemars(extend("default" = defaults::ACCESS))]
    pub(crate) access: Option<Access>,
}

/// One secret that reaches the server: exactly one of `env` and `file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["env"] }, { "required": ["file"] }]))]
pub(crate) struct Secret {
    /// The name under which the secret is given to palisade: lower-case letters, digits, `.`, `_`, `-`.
    #[schemars(regex(pattern = name::SECRET_PATTERN), length(max = name::SECRET_MAX))]
    pub(crate) name: String,
    /// The environment variable that holds the value. Not one of `environment`, nor another secret's.
    #[schemars(regex(pattern = name::VARIABLE_PATTERN), length(max = MAX_VARIABLE_NAME))]
    pub(crate) env: Option<String>,
    /// The read-only file that holds the value, directly in `/run/secrets/`.
    #[schemars(regex(pattern = "^/run/secrets/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"), length(max = 141))]
    pub(crate) file: Option<String>,
    /// Puts the value into the server's HTTP requests, so that the server never has it.
    #[schemars(
        extend("x-palisade-instead" = "deliver the value itself with `env` or `file`, if the server may have it")
    )]
    pub(crate) header: Option<Pending>,
    /// The environment variable that holds a placeholder for a value that goes into a header.
    #[schemars(
        extend("x-palisade-instead" = "deliver the value itself with `env` or `file`, if the server may have it")
    )]
    pub(crate) placeholder_env: Option<Pending>,
}

/// Which system calls the server may make.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Syscalls {
    /// The list for the server's kind of program: `static` for compiled ones (Go, Rust, C), `node`, `python`,
    /// `browser` for servers on node that start Chromium without its own sandbox (`--no-sandbox`).
    #[schemars(extend("default" = defaults::BASELINE))]
    pub(crate) baseline: Option<Baseline>,
    /// What happens to a call that is not on the list. `enforce`: it gets `EPERM`. `kill`: the process ends, but for
    /// the few calls that runtimes only try. `log`: it is carried out and the kernel logs it; only together with
    /// `accept_degraded: [seccomp]`. Calls that can never be added stay refused with `log` as well.
    #[schemars(extend("default" = defaults::SECCOMP))]
    pub(crate) seccomp: Option<SeccompMode>,
    /// Calls that are added to the list. Not those that reach out of a sandbox, such as `mount` or `ptrace`.
    #[schemars(length(max = MAX_CALLS))]
    pub(crate) add: Option<Vec<CallChange>>,
    /// Calls that are removed from the list. Not those that palisade itself makes in the sandbox, such as `read`.
    #[schemars(length(max = MAX_CALLS))]
    pub(crate) remove: Option<Vec<CallChange>>,
}

/// One call that is added or removed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallChange {
    /// The call's name, as the manual and `strace` have it.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"), length(min = 1, max = MAX_CALL_NAME))]
    pub(crate) call: String,
    /// Why the server needs it, or can do without it. Goes into the audit log.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub(crate) reason: String,
}

/// The second wall around files, ports and signals, inside the mount namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Landlock {
    /// The oldest ABI of Landlock that is good enough. 3 (Linux 6.2) makes read-only mean it, 4 (6.7) adds TCP
    /// ports, 5 (6.10) ioctl on devices, 6 (6.12) signals and abstract sockets. Newer rights are used wherever
    /// the kernel has them. A host below it is refused, unless `accept_degraded` names `landlock`.
    #[schemars(
        extend("default" = defaults::LANDLOCK_ABI),
        range(min = defaults::LANDLOCK_ABI, max = defaults::LANDLOCK_ABI_MAX)
    )]
    pub(crate) minimum_abi: Option<u32>,
}

/// How much of the host the server, with everything that it starts, may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Memory: a number and a unit (`B`, `KB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB`, `TiB`), from 8MiB to
    /// 1TiB.
    #[schemars(
        extend("default" = defaults::MEMORY.to_string()),
        regex(pattern = size::SIZE_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) memory: Option<String>,
    /// Swap, beside `memory`: a number and a unit, from 0B to 1TiB.
    #[schemars(
        extend("default" = defaults::SWAP.to_string()),
        regex(pattern = size::SIZE_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) swap: Option<String>,
    /// Processors, from 0.1 to 64, with at most three decimals.
    #[schemars(extend("default" = 1, "minimum" = 0.1, "maximum" = 64))]
    pub(crate) cpus: Option<Decimal>,
    /// Processes and threads together.
    #[schemars(extend("default" = defaults::PIDS), range(min = defaults::PIDS_MIN, max = defaults::PIDS_MAX))]
    pub(crate) pids: Option<u32>,
    /// Bytes a second that are read, and as many that are written, on each of the disks that hold the image and
    /// the mounts: a number and a unit, from 64KiB to 1TiB. Without this key, disks are not limited. What is read
    /// from memory does not count. On cgroup v1 only reads, and writes that wait for the disk, are slowed down.
    #[schemars(regex(pattern = size::SIZE_PATTERN), length(max = size::AMOUNT_MAX))]
    pub(crate) io: Option<String>,
    /// Open descriptors of one process.
    #[schemars(
        extend("default" = defaults::OPEN_FILES),
        range(min = defaults::OPEN_FILES_MIN, max = defaults::OPEN_FILES_MAX)
    )]
    pub(crate) open_files: Option<u32>,
    /// The longest file that the server may write: a number and a unit, from 4KiB to 16TiB.
    #[schemars(
        extend("default" = defaults::FILE_SIZE.to_string()),
        regex(pattern = size::SIZE_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) file_size: Option<String>,
    /// The size of `/tmp`: a number and a unit, from 4KiB to 1TiB. What lies there counts as memory, where a
    /// cgroup does the counting; where memory is only watched, it comes on top.
    #[schemars(
        extend("default" = defaults::TMP.to_string()),
        regex(pattern = size::SIZE_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) tmp: Option<String>,
    /// How many files, directories and links fit into `/tmp`. Without this key: one for each 4 KiB of `tmp`, at
    /// least 64 and at most 65536.
    #[schemars(range(min = defaults::TMP_FILES_MIN, max = defaults::TMP_FILES_MAX))]
    pub(crate) tmp_files: Option<u32>,
    /// Bytes a second that are taken from the server's standard output, and from its standard error: a number and
    /// a unit, from 1KiB to 1GiB. As much may come at once after a pause. A server that writes more to its
    /// standard output has to wait; what is too much on its standard error is left out of the log.
    #[schemars(
        extend("default" = defaults::OUTPUT.to_string()),
        regex(pattern = size::SIZE_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) output: Option<String>,
    /// How long one call of a tool may take: a number and a unit (`ms`, `s`, `m`, `h`), from 100ms to 24h. After
    /// that the client gets an error and the server is told to stop working on it; a server that lets three calls
    /// run out and says nothing meanwhile is ended.
    #[schemars(
        extend("default" = duration_text(defaults::CALL_TIME)),
        regex(pattern = size::DURATION_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) call_time: Option<String>,
}

/// Which tools clients may see and call. In a pattern, `*` stands for any number of characters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tools {
    /// Only tools that match one of these. An empty list is none; without this key, all.
    #[schemars(
        length(max = MAX_TOOL_PATTERNS),
        inner(regex(pattern = tools::PATTERN), length(max = MAX_TOOL_PATTERN))
    )]
    pub(crate) allow: Option<Vec<String>>,
    /// Not the tools that match one of these, whatever `allow` says.
    #[schemars(
        length(max = MAX_TOOL_PATTERNS),
        inner(regex(pattern = tools::PATTERN), length(max = MAX_TOOL_PATTERN))
    )]
    pub(crate) deny: Option<Vec<String>>,
    /// Whether a tool whose definition has changed since it was approved may be called.
    #[schemars(
        extend("x-palisade-instead" = "remove it, and name the tools that are wanted in `tools.allow`")
    )]
    pub(crate) pin: Option<Pending>,
}

/// When the server starts, and how long starting and stopping may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lifecycle {
    /// `on-demand`: when a client first needs the server. `at-start`: together with the gateway.
    #[schemars(extend("default" = defaults::START))]
    pub(crate) start: Option<Start>,
    /// How long the server may take to answer `initialize`: a number and a unit (`ms`, `s`, `m`, `h`), from
    /// 100ms to 10m.
    #[schemars(
        extend("default" = duration_text(defaults::START_TIMEOUT)),
        regex(pattern = size::DURATION_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) start_timeout: Option<String>,
    /// How long the server may take to end after its input has ended, before SIGTERM, and again before
    /// SIGKILL: a number and a unit, from 100ms to 1m.
    #[schemars(
        extend("default" = duration_text(defaults::STOP_TIMEOUT)),
        regex(pattern = size::DURATION_PATTERN),
        length(max = size::AMOUNT_MAX)
    )]
    pub(crate) stop_timeout: Option<String>,
    /// How many sandboxes are kept ready behind `gateway run`, built and locked down, without secrets, so that
    /// a start takes a millisecond. Each costs some megabytes of memory. `palisade run` keeps none: it starts
    /// its server at once, and once.
    #[schemars(extend("default" = defaults::WARM), range(max = defaults::WARM_MAX))]
    pub(crate) warm: Option<u32>,
    /// Whether clients share one running server.
    #[schemars(extend("x-palisade-instead" = "remove it"))]
    pub(crate) instances: Option<Pending>,
    /// How long an unused server keeps running.
    #[schemars(extend("x-palisade-instead" = "remove it; a server runs until the gateway ends"))]
    pub(crate) idle_timeout: Option<Pending>,
}

/// The value of a key that is known and not enforced yet: there is none. A file that has such a key is
/// refused before it gets as far as this type; would it get here, it would be refused here, and no
/// `Some(Pending)` can be forgotten by the resolver, since there is no such thing.
#[derive(Debug)]
pub(crate) enum Pending {}

impl<'de> Deserialize<'de> for Pending {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("a key that is not enforced"))
    }
}

impl JsonSchema for Pending {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Pending".into()
    }

    /// Nothing fits, so an editor marks the key as the parser does.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "not": {} })
    }
}

/// A number with a fraction, kept as its digits: a binary fraction would already be another number.
#[derive(Debug)]
pub(crate) struct Decimal(pub(crate) String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Decimal;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }

            fn visit_str<E: de::Error>(self, digits: &str) -> Result<Decimal, E> {
                Ok(Decimal(digits.to_owned()))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}
