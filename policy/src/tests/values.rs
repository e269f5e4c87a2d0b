//! Values that have the right type and make no sense.

use super::*;
use crate::bounds;

#[test]
fn names() {
    let found = told(&SMALLEST.replace("server: time", "server: Time_1"));
    let allowed = "allowed are lower-case letters, digits and `-`, beginning with a letter or digit";
    assert_eq!(
        found,
        [format!("`server` is `Time_1`: the name may not have the character `T` there ¦ Time_1 ¦ {allowed}")]
    );
    let found = told(&SMALLEST.replace("server: time", &format!("server: {}", "a".repeat(33))));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("`server` has 33 characters, 32 are allowed ¦"), "{}", found[0]);
}

#[test]
fn images() {
    let image = |image: &str| format!("palisade: 1\nserver: time\nimage: {{ {image} }}\n");
    let told_of = |text: &str| told(&image(text));
    assert_eq!(
        told_of("reference: time"),
        [
            "`image` does not say why the image is trusted ¦ image ¦ add `signed_by: [{ key: <public key file>, tlog: optional }]`, or `unsigned: \"<reason>\"`"
        ]
    );
    assert_eq!(
        told_of("reference: time, signed_by: [{ key: k, tlog: optional }], unsigned: x"),
        ["`image` has both `signed_by` and `unsigned` ¦ unsigned ¦ keep `signed_by` if the image is signed"]
    );
    assert_eq!(
        told_of("reference: \"time@sha256:00\", unsigned: x"),
        [
            "`image.reference` is not the name of an image: `time@sha256:00` ¦ \"time@sha256:00\" ¦ leave the digest out, and write it as `image.digest`"
        ]
    );
    assert_eq!(
        told_of("reference: time, unsigned: \"\""),
        ["`image.unsigned` is empty ¦ \"\" ¦ write something, or remove the key"]
    );
    assert_eq!(
        told_of("reference: time, unsigned: \" \""),
        [
            "`image.unsigned` is not one line that gives a reason ¦ \" \" ¦ say on one line why the image may run without a signature; the audit log keeps it"
        ]
    );
    assert_eq!(
        told_of("reference: time, signed_by: []"),
        ["`image.signed_by` is empty ¦ [] ¦ write at least one item, or remove the key"]
    );
    assert_eq!(
        told_of("reference: time, signed_by: [{ tlog: optional }]"),
        ["`image.signed_by[0].key` is missing ¦ tlog ¦ add `key: <public key file>` and `tlog: optional`"]
    );
    assert_eq!(
        told_of("reference: time, signed_by: [{}]"),
        ["`image.signed_by[0].key` is missing ¦ {} ¦ add `key: <public key file>` and `tlog: optional`"]
    );
    assert_eq!(
        told_of("reference: time, signed_by: [{ key: ~/k.pub, tlog: optional }]"),
        [
            "`image.signed_by[0].key` begins with `~` ¦ ~/k.pub ¦ write the path relative to the folder of the policy file, or absolute"
        ]
    );
    let private = told_of(
        r#"reference: time, signed_by: [{ key: "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n", tlog: optional }]"#,
    );
    assert_eq!(private.len(), 1);
    assert!(private[0].starts_with("`image.signed_by[0].key` holds a private key ¦"), "{}", private[0]);
    let two = told_of(
        r#"reference: time, signed_by: [{ key: "-----BEGIN PUBLIC KEY-----\nAA\n-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", tlog: optional }]"#,
    );
    assert!(two[0].starts_with("`image.signed_by[0].key` is not one PEM public key ¦"), "{}", two[0]);
    let upper = told_of(&format!("reference: time, unsigned: x, digest: \"sha256:{}\"", "A".repeat(64)));
    assert!(
        upper[0].starts_with(
            "`image.digest` is not a digest: a digest is written with the characters 0-9 and a-f only ¦"
        ),
        "{}",
        upper[0]
    );
}

#[test]
fn environment_and_secrets() {
    let loader =
        "the loader and the C library act on it before any program does; set it inside the image instead";
    refuses(
        "environment: { LD_PRELOAD: /x.so, NODE_OPTIONS: --x, A-B: c }",
        &[
            &format!(
                "`environment.LD_PRELOAD` sets `LD_PRELOAD`, which no policy may set ¦ LD_PRELOAD ¦ {loader}"
            ),
            "`environment.A-B` is not a variable: the name may not have the character `-` there ¦ A-B ¦ allowed are letters, digits and `_`, not beginning with a digit",
        ],
    );
    refuses(
        "environment: { \"A=B\": c }",
        &[
            "`environment.\"A=B\"` is not a variable: the name may not have the character `=` there ¦ \"A=B\" ¦ allowed are letters, digits and `_`, not beginning with a digit",
        ],
    );
    refuses(
        "secrets: [{ name: t, env: LD_PRELOAD }]",
        &[&format!("`secrets[0].env` sets `LD_PRELOAD`, which no policy may set ¦ LD_PRELOAD ¦ {loader}")],
    );
    let other = "choose another name for one of them";
    refuses(
        "environment: { T: x }\nsecrets: [{ name: t, env: T }]",
        &[&format!("`secrets[0].env` is `T`, which `environment.T` has already ¦ T ¦ {other}")],
    );
    refuses(
        "secrets: [{ name: t, env: T }, { name: u, env: T }]",
        &[&format!("`secrets[1].env` is `T`, which `secrets[0].env` has already ¦ T ¦ {other}")],
    );
    refuses(
        "secrets: [{ name: t, file: /run/secrets/t }, { name: u, file: /run/secrets/t }]",
        &[&format!(
            "`secrets[1].file` is `/run/secrets/t`, which `secrets[0].file` has already ¦ /run/secrets/t ¦ {other}"
        )],
    );
    policy(&with("secrets: [{ name: t, env: T }, { name: t, file: /run/secrets/t }]"));
    refuses(
        "secrets: [{ name: t }]",
        &[
            "`secrets[0]` does not say how the secret reaches the server ¦ name ¦ add `env: NAME`, or `file: /run/secrets/name`",
        ],
    );
    refuses(
        "secrets: [{ name: t, env: T, file: /run/secrets/t }]",
        &[
            "`secrets[0]` has both `env` and `file` ¦ file ¦ keep one; to deliver it both ways, list the secret twice",
        ],
    );
    for path in [
        "/run/secrets/",
        "/run/secrets/.x",
        "/run/secrets/a/b",
        "/run/secrets/../x",
        "/run/secretsx",
        "t",
        "/run/secrets",
    ] {
        let found = told(&with(&format!("secrets: [{{ name: t, file: {path} }}]")));
        assert!(
            found[0].starts_with(&format!(
                "`secrets[0].file` is `{path}`: a secret's file is directly in /run/secrets/ ¦ {path} ¦"
            )),
            "{}",
            found[0]
        );
    }
}

#[test]
fn mounts() {
    let apart = "give each mount a place of its own, such as `/data/a` and `/data/b`";
    for (first, second) in [("/data", "/data"), ("/data", "/data/x"), ("/data/x", "/data")] {
        refuses(
            &format!(
                "filesystem: {{ mounts: [{{ source: /a, target: {first} }}, {{ source: /b, target: {second} }}] }}"
            ),
            &[&format!(
                "`filesystem.mounts[1].target` overlaps with `filesystem.mounts[0].target` ¦ {second} ¦ {apart}"
            )],
        );
    }
    policy(&with("filesystem: { mounts: [{ source: /a, target: /data }, { source: /a, target: /data2 }] }"));
    refuses(
        "filesystem: { mounts: [{ source: /x, target: /x, access: rw }] }",
        &["`filesystem.mounts[0].access` cannot be `rw` ¦ rw ¦ known here: `read-only`, `read-write`"],
    );
    refuses(
        "filesystem: { mounts: [{ source: /x, target: /x, access: read_write }] }",
        &["`filesystem.mounts[0].access` cannot be `read_write` ¦ read_write ¦ did you mean `read-write`?"],
    );
    refuses(
        "filesystem: { mounts: [{ source: ../x, target: /tmp/x }] }",
        &[
            "`filesystem.mounts[0].source` is `../x`: it is not absolute ¦ ../x ¦ begin it with `/`, or with `~/` for the home directory",
            "`filesystem.mounts[0].target` is `/tmp/x`: /tmp belongs to the sandbox ¦ /tmp/x ¦ choose another place, such as `/data` or `/workspace`",
        ],
    );
}

#[test]
fn amounts_that_are_out_of_range() {
    refuses(
        "limits: { swap: 2TiB }",
        &["`limits.swap` is `2TiB`: it is out of range ¦ 2TiB ¦ give a value from 0B to 1TiB"],
    );
    refuses(
        "limits: { io: 1KiB }",
        &["`limits.io` is `1KiB`: it is out of range ¦ 1KiB ¦ give a value from 64KiB to 1TiB"],
    );
    refuses(
        "limits: { output: 1B }",
        &["`limits.output` is `1B`: it is out of range ¦ 1B ¦ give a value from 1KiB to 1GiB"],
    );
    refuses(
        "limits: { call_time: 48h }",
        &["`limits.call_time` is `48h`: it is out of range ¦ 48h ¦ give a value from 100ms to 24h"],
    );
    refuses(
        "limits: { tmp_files: 4 }",
        &["`limits.tmp_files` is `4`, out of range ¦ 4 ¦ give a number from 16 to 16777216"],
    );
}

#[test]
fn amounts() {
    let size = "write a whole number and a unit, such as `256MiB`";
    refuses(
        "limits: { memory: 512 }",
        &[
            "`limits.memory` must be a string, and `512` is an integer ¦ 512 ¦ write it with a unit, such as `512MiB`",
        ],
    );
    refuses(
        "limits: { memory: \"512\" }",
        &[&format!("`limits.memory` is `512`: it has no unit ¦ \"512\" ¦ {size}")],
    );
    refuses(
        "limits: { tmp: 1.5GiB }",
        &[&format!("`limits.tmp` is `1.5GiB`: it has a fraction ¦ 1.5GiB ¦ {size}")],
    );
    refuses(
        "limits: { tmp: 64mb }",
        &[&format!("`limits.tmp` is `64mb`: its unit is not known ¦ 64mb ¦ {size}")],
    );
    refuses(
        "limits: { memory: 1MiB }",
        &["`limits.memory` is `1MiB`: it is out of range ¦ 1MiB ¦ give a value from 8MiB to 1TiB"],
    );
    refuses(
        "limits: { file_size: 1B }",
        &["`limits.file_size` is `1B`: it is out of range ¦ 1B ¦ give a value from 4KiB to 16TiB"],
    );
    refuses(
        "limits: { cpus: 0 }",
        &["`limits.cpus` is `0`: it is out of range ¦ 0 ¦ give a value from 0.1 to 64"],
    );
    refuses(
        "limits: { cpus: 64.001 }",
        &["`limits.cpus` is `64.001`: it is out of range ¦ 64.001 ¦ give a value from 0.1 to 64"],
    );
    refuses(
        "limits: { cpus: 0.1234 }",
        &[
            "`limits.cpus` is `0.1234`: it has more than three decimals ¦ 0.1234 ¦ write a number with at most three decimals, such as `0.5`",
        ],
    );
    refuses(
        "limits: { pids: 1 }",
        &["`limits.pids` is `1`, out of range ¦ 1 ¦ give a number from 3 to 32768"],
    );
    refuses(
        "limits: { pids: -1 }",
        &["`limits.pids` is `-1`, out of range ¦ -1 ¦ give a number from 3 to 32768"],
    );
    refuses(
        "limits: { open_files: 9999999999 }",
        &[
            "`limits.open_files` is `9999999999`, out of range ¦ 9999999999 ¦ give a number from 16 to 1048576",
        ],
    );
    refuses(
        "lifecycle: { start_timeout: 11m }",
        &["`lifecycle.start_timeout` is `11m`: it is out of range ¦ 11m ¦ give a value from 100ms to 10m"],
    );
    refuses(
        "lifecycle: { stop_timeout: 0s }",
        &["`lifecycle.stop_timeout` is `0s`: it is out of range ¦ 0s ¦ give a value from 100ms to 1m"],
    );
    refuses(
        "lifecycle: { stop_timeout: 5 }",
        &[
            "`lifecycle.stop_timeout` must be a string, and `5` is an integer ¦ 5 ¦ write it with a unit, such as `5s`",
        ],
    );
}

#[test]
fn tools_and_degradations() {
    let hint = "write letters, digits, `_`, `-`, `.`, `/`, and `*` for any number of characters";
    refuses(
        "tools: { allow: [\"a?\"], deny: [\"\"] }",
        &[
            &format!(
                "`tools.allow[0]` is `a?`: a tool pattern may not have the character `?` ¦ \"a?\" ¦ {hint}"
            ),
            &format!("`tools.deny[0]` is ``: a tool pattern has at least one character ¦ \"\" ¦ {hint}"),
        ],
    );
    refuses(
        "accept_degraded: [memory, memory]",
        &["`accept_degraded[1]` is in the list already ¦ memory ¦ keep one of them"],
    );
    refuses(
        "accept_degraded: [namespaces]",
        &["`accept_degraded[0]` cannot be `namespaces` ¦ namespaces ¦ \
             known here: `memory`, `cpus`, `pids`, `landlock`, `io`, `seccomp`, `unix-sockets`"],
    );
}

#[test]
fn lists_and_strings_end_somewhere() {
    let full = |count: usize| format!("args: [{}]", vec!["a"; count].join(", "));
    policy(&with(&full(bounds::MAX_ARGS)));
    refuses(&full(bounds::MAX_ARGS + 1), &["`args` has 257 entries, 256 are allowed ¦ args ¦ shorten it"]);
    policy(&with(&format!("args: [{}]", "é".repeat(bounds::MAX_TEXT))));
    let found = told(&with(&format!("args: [{}]", "a".repeat(bounds::MAX_TEXT + 1))));
    assert!(found[0].starts_with("the value has 4097 characters, 4096 are allowed ¦ aaaa"));
    let variables = numbered(0..bounds::MAX_ENVIRONMENT + 1, |n| format!("  V{n}: x\n"));
    refuses(
        &format!("environment:\n{variables}"),
        &["`environment` has 129 entries, 128 are allowed ¦ environment ¦ shorten it"],
    );
    let mounts = numbered(0..bounds::MAX_MOUNTS + 1, |n| format!("    - {{ source: /a, target: /m{n} }}\n"));
    refuses(
        &format!("filesystem:\n  mounts:\n{mounts}"),
        &["`filesystem.mounts` has 65 entries, 64 are allowed ¦ mounts ¦ shorten it"],
    );
}
