//! Files that are accepted, and what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The file of the design without the keys that are not enforced yet.
const DESIGN: &str = r#"
palisade: 1
server: github
image:
  reference: ghcr.io/github/github-mcp-server:v0.19.1
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  signed_by:
    - { key: keys/github.pub, tlog: optional }
network:
  egress: []
filesystem:
  mounts:
    - { source: ~/work/site, target: /workspace, access: read-only }
secrets:
  - name: github.token
    env: GITHUB_PERSONAL_ACCESS_TOKEN
syscalls: { baseline: static }
limits: { memory: 256MiB, cpus: 1, pids: 64, open_files: 512, tmp: 64MiB }
tools:
  allow: ["get_*", "list_*", "search_*"]
lifecycle: { start: at-start, start_timeout: 10s }
"#;

#[test]
fn the_file_of_the_design() {
    let policy = policy(DESIGN);
    assert_eq!(policy.server.as_str(), "github");
    assert_eq!(policy.image.reference, "ghcr.io/github/github-mcp-server:v0.19.1");
    assert_eq!(policy.image.digest.as_ref().unwrap().to_string(), DIGEST);
    let signer = Signer::Key { key: KeySource::File("keys/github.pub".into()), tlog: Tlog::Optional };
    assert_eq!(policy.image.trust, ImageTrust::SignedBy(vec![signer]));
    let mount = MountGrant {
        source: PathBuf::from("~/work/site"),
        target: PathBuf::from("/workspace"),
        access: Access::ReadOnly,
    };
    assert_eq!(policy.filesystem.mounts, [mount]);
    let delivery = SecretDelivery::Env { variable: "GITHUB_PERSONAL_ACCESS_TOKEN".into() };
    assert_eq!(policy.secrets, [SecretGrant { name: "github.token".parse().unwrap(), delivery }]);
    assert_eq!(policy.limits.memory, ByteSize::mebibytes(256));
    assert_eq!(policy.tools.verdict("get_me"), ToolVerdict::Permitted);
    assert_eq!(policy.tools.verdict("delete_repository"), ToolVerdict::NotListed);
    assert_eq!(policy.lifecycle.start, Start::AtStart);
    assert_eq!(policy.lifecycle.start_timeout, Duration::from_secs(10));
}

#[test]
fn the_smallest_file_grants_nothing() {
    let expected = Policy {
        server: "time".parse().unwrap(),
        image: ImagePolicy {
            reference: "time".into(),
            digest: None,
            trust: ImageTrust::Unsigned { reason: "built here".into() },
        },
        args: None,
        environment: BTreeMap::new(),
        filesystem: Filesystem { mounts: vec![] },
        secrets: vec![],
        syscalls: Syscalls {
            baseline: Baseline::Static,
            seccomp: SeccompMode::Enforce,
            add: vec![],
            remove: vec![],
        },
        landlock: Landlock { minimum_abi: 3 },
        limits: Limits {
            memory: ByteSize::mebibytes(512),
            swap: ByteSize::from_bytes(0),
            cpus: Cpus::from_milli(1000),
            pids: 64,
            io: None,
            open_files: 512,
            file_size: ByteSize::gibibytes(1),
            tmp: ByteSize::mebibytes(64),
            tmp_files: 16_384,
            output: ByteSize::mebibytes(16),
            call_time: Duration::from_hours(1),
        },
        tools: Tools { allow: None, deny: vec![] },
        lifecycle: Lifecycle {
            start: Start::OnDemand,
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            warm: 0,
        },
        accept_degraded: BTreeSet::new(),
    };
    assert_eq!(policy(SMALLEST), expected);
}

#[test]
fn the_example_of_the_reference_is_accepted() {
    let page = reference_markdown();
    let example = page.split("```").nth(1).unwrap().strip_prefix("yaml\n").unwrap();
    assert!(matches!(policy(example).image.trust, ImageTrust::SignedBy(_)));
}

#[test]
fn equal_policies_have_equal_canonical_json() {
    let one =
        policy("palisade: 1\nserver: time\nimage: {unsigned: x, reference: time}\nlimits: {memory: 1GiB}\n");
    let same =
        "limits:\n  memory: 1024MiB\nimage:\n  reference: time\n  unsigned: x\nserver: 'time'\npalisade: 1\n";
    let json = one.to_canonical_json().unwrap();
    assert_eq!(json, policy(same).to_canonical_json().unwrap());
    let expected = concat!(
        r#"{"accept_degraded":[],"args":null,"environment":{},"filesystem":{"mounts":[]},"#,
        r#""image":{"digest":null,"reference":"time","trust":{"unsigned":{"reason":"x"}}},"#,
        r#""landlock":{"minimum_abi":3},"#,
        r#""lifecycle":{"start":"on-demand","start_timeout_ms":30000,"stop_timeout_ms":5000,"warm":0},"#,
        r#""limits":{"call_time_ms":3600000,"cpus_milli":1000,"file_size":1073741824,"io":null,"memory":1073741824,"#,
        r#""open_files":512,"output":16777216,"pids":64,"swap":0,"tmp":67108864,"tmp_files":16384},"#,
        r#""secrets":[],"server":"time","syscalls":{"add":[],"baseline":"static","remove":[],"seccomp":"enforce"},"tools":{"allow":null,"deny":[]}}"#,
    );
    assert_eq!(json, expected);
}

#[test]
fn spellings_that_mean_the_same() {
    let plain = policy(SMALLEST);
    for text in [
        SMALLEST.replace('\n', "\r\n"),
        format!("# a comment\n---\n{SMALLEST}...\n"),
        format!("{SMALLEST}# a comment with ünïcode\n"),
        SMALLEST.replace("server: time", "\"server\": 'time'"),
        SMALLEST.replace("server: time", "? server\n: time"),
        r#"{"palisade": 1, "server": "time", "image": {"reference": "time", "unsigned": "built here"}}"#
            .to_owned(),
        format!("{SMALLEST}network: {{ egress: [] }}\n"),
        format!("{SMALLEST}tools: {{}}\nlimits: {{}}\nfilesystem: {{}}\nsecrets: []\n"),
    ] {
        assert_eq!(policy(&text), plain, "{text}");
    }
}

#[test]
fn a_key_can_be_written_into_the_file() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n";
    let block = pem.replace('\n', "\n          ");
    let text = format!(
        "palisade: 1\nserver: time\nimage:\n  reference: time\n  signed_by:\n    - tlog: optional\n      key: |\n          {block}\n"
    );
    let signer = Signer::Key { key: KeySource::Pem(pem.into()), tlog: Tlog::Optional };
    assert_eq!(policy(&text).image.trust, ImageTrust::SignedBy(vec![signer]));
}

#[test]
fn bytes_are_read_like_text() {
    assert_eq!(parse_bytes("p", SMALLEST.as_bytes()).unwrap(), policy(SMALLEST));
}
