//! The limits on a policy file, in one place, each with where its number comes from.
//!
//! A policy may come from somebody else's repository, so the parser is fed by a stranger: every list, string
//! and nesting level ends somewhere before it costs time or memory.

/// Longest policy file, in bytes. [`MAX_NODES`] nodes of 12 characters each, which is what the language's own
/// keys and values come to on average, are 48 KiB; rounded up to a power of two.
pub const MAX_FILE_BYTES: usize = 64 * 1024;

/// Deepest nesting of mappings and lists. The deepest key of the language is
/// `image.signed_by[0].keyless.issuer`, five collections deep; three more keep "unknown key" the answer to a
/// misplaced block, rather than "too deep".
pub const MAX_DEPTH: usize = 8;

/// Most YAML nodes (scalars, lists, mappings; a key counts as one). The fullest lists together need 64 mounts
/// × 7 + 32 secrets × 5 + 128 variables × 2 + 256 arguments + 2 × 256 tools + 16 signers × 5 + 2 × 64 calls × 5 =
/// 2,352; half as much again for the other keys, rounded up to a power of two.
pub const MAX_NODES: usize = 4096;

/// Most findings that one report lists. A screen holds about eight rendered ones; four screens are more than
/// anybody mends in one go.
pub const MAX_FINDINGS: usize = 32;

/// Longest string, in characters, wherever no shorter limit is given: `PATH_MAX` of `linux/limits.h`, since
/// paths are the longest strings that a policy needs. An RSA-4096 public key in PEM is 800.
pub const MAX_TEXT: usize = 4096;

/// Most entries of `args`: four screens of one argument a line, beyond which nobody reviews a command line.
pub const MAX_ARGS: usize = 256;

/// Most entries of `environment`: two screens of one variable a line, beyond which nobody reviews them.
pub const MAX_ENVIRONMENT: usize = 128;

/// Longest name of an environment variable, in characters: it must fit a line of this file with its value.
pub const MAX_VARIABLE_NAME: usize = 128;

/// Most mounts. Each is an open descriptor until the launch is over, and 64 leave three quarters of the
/// smallest usual descriptor limit (256) to everything else.
pub const MAX_MOUNTS: usize = 64;

/// Most secrets. Each may be an open descriptor for the life of the server: an eighth of the smallest usual
/// descriptor limit (256).
pub const MAX_SECRETS: usize = 32;

/// Most patterns in `tools.allow` and in `tools.deny`. Each call is matched against all of them: 512 patterns
/// of 128 characters against a name of 128 are 8 million steps at the very worst, some milliseconds.
pub const MAX_TOOL_PATTERNS: usize = 256;

/// Longest tool pattern, in characters: the longest tool name in MCP (revision 2025-11-25, "Tool Names").
pub const MAX_TOOL_PATTERN: usize = 128;

/// Most signers. Each is tried against each signature of the image: 16 by 16 are 256 signature checks at
/// worst.
pub const MAX_SIGNERS: usize = 16;

/// Longest image reference, in characters: a repository name of 255 (OCI distribution specification), `:`,
/// and a tag of 128.
pub const MAX_REFERENCE: usize = 384;

/// Most calls in `syscalls.add` and in `syscalls.remove`: two screens of one call with its reason a line. A server that
/// needs more than that needs another baseline.
pub const MAX_CALLS: usize = 64;

/// Longest name of a system call, in characters. The longest that Linux has, `landlock_create_ruleset`, has 23.
pub const MAX_CALL_NAME: usize = 32;

/// Longest reason for running an unsigned image or changing a list, in characters: what fits a line of the audit log.
pub const MAX_REASON: usize = 512;
