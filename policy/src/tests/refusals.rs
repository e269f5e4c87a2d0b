//! What is not plain YAML, and what does not have the shape of a policy.

use super::*;
use crate::{Rule, parse_bytes};

/// The file of the design, with what this version does not enforce.
const DESIGN: &str = r#"palisade: 1
server: github
image:
  reference: ghcr.io/github/github-mcp-server:v0.19.1
  digest: sha256:9f0c…
  signed_by:
    - keyless:
        issuer: https://token.actions.githubusercontent.com
        identity: https://github.com/github/github-mcp-server/.github/workflows/docker-publish.yml@refs/tags/v*
  attestations: [slsa-provenance, sbom]
network:
  egress:
    - host: api.github.com
      ports: [443]
filesystem:
  mounts:
    - { source: ~/work/site, target: /workspace, access: read-only }
secrets:
  - name: github.token
    header: { host: api.github.com, name: Authorization, value: "Bearer {secret}" }
    placeholder_env: GITHUB_PERSONAL_ACCESS_TOKEN
syscalls: { baseline: static }
limits: { memory: 256MiB, cpus: 1, pids: 64, open_files: 512, tmp: 64MiB }
tools:
  allow: ["get_*", "list_*", "search_*"]
  pin: required
lifecycle: { instances: per-session, idle_timeout: 10m }
"#;

const NOT_ENFORCED: &str = "is not enforced by this version, so a policy that relies on it is refused";

#[test]
fn the_file_of_the_design_relies_on_what_is_not_enforced() {
    let expected = [
        "`image.digest` is not a digest: a SHA-256 digest has 64 hexadecimal digits, this one has 5 ¦ sha256:9f0c… ¦ \
         `palisade image ls` prints the whole digest; a shortened one is not enough",
        "`image.signed_by[0].keyless` {} ¦ keyless ¦ \
         sign the image with a key, and name it with `key: <file>` and `tlog: optional`",
        "`image.attestations` {} ¦ attestations ¦ remove it, and check attestations before the image is imported",
        "`network.egress` {} ¦ egress ¦ remove the rules; a server without any has no network, and that is enforced",
        "`secrets[0].header` {} ¦ header ¦ deliver the value itself with `env` or `file`, if the server may have it",
        "`secrets[0].placeholder_env` {} ¦ placeholder_env ¦ \
         deliver the value itself with `env` or `file`, if the server may have it",
        "`tools.pin` {} ¦ pin ¦ remove it, and name the tools that are wanted in `tools.allow`",
        "`lifecycle.instances` {} ¦ instances ¦ remove it",
        "`lifecycle.idle_timeout` {} ¦ idle_timeout ¦ remove it; a server runs until the gateway ends",
    ];
    let expected: Vec<String> = expected.iter().map(|line| line.replace("{}", NOT_ENFORCED)).collect();
    assert_eq!(told(DESIGN), expected);
    let error = error(DESIGN);
    assert_eq!(error.omitted(), 0);
    let first = "the policy `p.yaml` is refused: line 5, column 11: `image.digest` is not a digest: \
                 a SHA-256 digest has 64 hexadecimal digits, this one has 5 (and 8 more)";
    assert_eq!(error.to_string(), first);
    assert_eq!(error.hint(), error.findings()[0].hint);
}

#[test]
fn values_that_are_not_enforced() {
    let text = SMALLEST.replace("unsigned: built here", "signed_by: [{ key: a.pub, tlog: required }]");
    let expected = format!(
        "`image.signed_by[0].tlog: required` {NOT_ENFORCED} ¦ required ¦ \
         write `tlog: optional` to accept a signature that is in no log"
    );
    assert_eq!(told(&text), [expected]);
    let text = SMALLEST.replace("unsigned: built here", "signed_by: [{ key: a.pub }]");
    let expected = "`image.signed_by[0]` asks for a transparency log, and that check is not enforced by this version, \
         so a policy that relies on it is refused ¦ key ¦ \
         add `tlog: optional` to accept a signature by this key that is in no log";
    assert_eq!(told(&text), [expected]);
    let expected = format!(
        "`network.egress` {NOT_ENFORCED} ¦ egress ¦ \
         remove the rules; a server without any has no network, and that is enforced"
    );
    for more in [
        "network: { egress: all }",
        "network: { egress: }",
        "network: { egress: [a] }",
        "network: { egress: {} }",
    ] {
        refuses(more, &[&expected]);
    }
    refuses("network: {}", &["`network.egress` is missing ¦ network ¦ add `egress: …` here"]);
}

#[test]
fn unknown_keys() {
    refuses("limit: { pids: 5 }", &["the key `limit` is not known ¦ limit ¦ did you mean `limits`?"]);
    refuses(
        "limits: { memroy: 1GiB, openFiles: 3, zzz: 1 }",
        &[
            "the key `memroy` is not known under `limits` ¦ memroy ¦ did you mean `memory`?",
            "the key `openFiles` is not known under `limits` ¦ openFiles ¦ did you mean `open_files`?",
            "the key `zzz` is not known under `limits` ¦ zzz ¦ known here: `memory`, `swap`, `cpus`, `pids`, `io`, \
             `open_files`, `file_size`, `tmp`, `tmp_files`, `output`, `call_time`",
        ],
    );
    refuses("memory: 1GiB", &["the key `memory` is not known ¦ memory ¦ `memory` belongs under `limits`"]);
    refuses(
        "target: /x",
        &["the key `target` is not known ¦ target ¦ `target` belongs under `filesystem.mounts[]`"],
    );
    refuses(
        "tools: { secrets: [] }",
        &["the key `secrets` is not known under `tools` ¦ secrets ¦ `secrets` belongs under the file itself"],
    );
    refuses(
        "filesystem: { mounts: [{ source: /a, target: /b, acess: read-write }] }",
        &["the key `acess` is not known under `filesystem.mounts[0]` ¦ acess ¦ did you mean `access`?"],
    );
    // A key that would break the line or the terminal is shown escaped.
    let found = told(&with("\"a\\nb\\e[31m`\": 1"));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(r"the key `a\nb\u{1b}[31m\u{60}` is not known ¦"), "{}", found[0]);
}

#[test]
fn duplicate_keys() {
    refuses("server: other", &["the key `server` is written twice ¦ server ¦ keep one of them"]);
    let text = with("\"server\": other");
    let error = error(&text);
    let finding = &error.findings()[0];
    assert_eq!(finding.rule, Rule::DuplicateKey);
    assert_eq!(finding.span, text.rfind("\"server\"").map(|at| at..at + 8).unwrap());
    let related = finding.related.as_ref().unwrap();
    assert_eq!(related.span, text.find("server").map(|at| at..at + 6).unwrap());
    refuses("environment: { A: a, A: b }", &["the key `A` is written twice ¦ A ¦ keep one of them"]);
    refuses(
        "limits: { pids: 5 }\nlimits: { pids: 6 }",
        &["the key `limits` is written twice ¦ limits ¦ keep one of them"],
    );
}

#[test]
fn what_only_yaml_has() {
    let anchor = "the anchor `a` is not allowed ¦ &a ¦ remove it, and write values out where they are needed";
    let alias = "the alias `*a` is not allowed ¦ *a ¦ write the value out here; a value that begins with `*` needs quotes";
    refuses("args: &a [x]", &[anchor]);
    refuses("args: [&a x, *a]", &[anchor, alias]);
    refuses("args: *a", &[alias]);
    refuses("limits: &a\n  pids: 5", &[anchor]);
    refuses("&a limits:\n  pids: 5", &[anchor]);
    let tag = |tag: &str| {
        format!(
            "the tag `{tag}` is not allowed ¦ {tag} ¦ remove it: every key has one type; a value that begins with `!` needs quotes"
        )
    };
    refuses(
        "args: [!!str 5]",
        &[
            &tag("!!str"),
            "`args[0]` must be a string, and `5` is an integer ¦ 5 ¦ if it is meant, put it in quotes: \"5\"",
        ],
    );
    refuses("args: !local\n  - x", &[&tag("!local")]);
    refuses("limits: !<tag:yaml.org,2002:map> { pids: 5 }", &[&tag("!<tag:yaml.org,2002:map>")]);
    refuses("? !x limits\n: { pids: 5 }", &[&tag("!x")]);
    refuses("limits: { <<: { pids: 5 } }", &["merge keys are not allowed ¦ << ¦ write the keys out here"]);
    refuses(
        "limits: { '<<': { pids: 5 } }",
        &["merge keys are not allowed ¦ '<<' ¦ write the keys out here"],
    );
    refuses("? [a]\n: b", &["a list or mapping is used as a key ¦ [a] ¦ keys are words"]);
    refuses("1: b", &["the key `1` is not a string ¦ 1 ¦ if it is meant, put it in quotes: \"1\""]);
    refuses(
        "environment: { on: x }",
        &["the key `on` is not a string ¦ on ¦ if it is meant, put it in quotes: \"on\""],
    );
    let second = "the file has a second YAML document ¦ --- ¦ a file holds one policy; put the other one into a file of its own";
    assert_eq!(told(&format!("{SMALLEST}---\n{SMALLEST}")), [second]);
    assert_eq!(told(&format!("{SMALLEST}---\n")), [second]);
    let directive = "a YAML directive is not allowed ¦ % ¦ remove the line";
    assert_eq!(told(&format!("%YAML 1.1\n---\n{SMALLEST}")), [directive]);
    assert_eq!(told(&format!("%TAG ! !x\n---\n{SMALLEST}")), [directive]);
}

#[test]
fn words_and_numbers_that_parsers_disagree_about() {
    for word in ["yes", "No", "on", "OFF", "y", "True", "NULL", "0x10", "010", "1e3", "12:30", "1_000", "+1"]
    {
        let expected = format!(
            "`environment.A` must be a string, and `{word}` is a word that parsers disagree about ¦ {word} ¦ \
             if it is meant, put it in quotes: \"{word}\""
        );
        refuses(&format!("environment: {{ A: {word} }}"), &[&expected]);
        policy(&with(&format!("environment: {{ A: \"{word}\" }}")));
        policy(&with(&format!("environment: {{ A: '{word}' }}")));
        let found = told(&with(&format!("limits: {{ pids: {word} }}")));
        assert!(found[0].starts_with("`limits.pids` must be an integer, and is a"), "{}", found[0]);
    }
    refuses(
        "environment: { A: true, B: 5, C: 0.5 }",
        &[
            "`environment.A` must be a string, and `true` is a boolean ¦ true ¦ if it is meant, put it in quotes: \"true\"",
            "`environment.B` must be a string, and `5` is an integer ¦ 5 ¦ if it is meant, put it in quotes: \"5\"",
            "`environment.C` must be a string, and `0.5` is a decimal number ¦ 0.5 ¦ if it is meant, put it in quotes: \"0.5\"",
        ],
    );
}

#[test]
fn wrong_types() {
    let none = "write a value, or remove the key; an empty one is not the same as none";
    refuses("args:", &[&format!("`args` must be a list, and is nothing ¦ args ¦ {none}")]);
    refuses("args: ~", &[&format!("`args` must be a list, and is nothing ¦ ~ ¦ {none}")]);
    refuses("limits: null", &[&format!("`limits` must be a mapping, and is nothing ¦ null ¦ {none}")]);
    refuses(
        "environment: { A: }",
        &[&format!("`environment.A` must be a string, and is nothing ¦ A ¦ {none}")],
    );
    refuses(
        "limits: { pids: \"64\" }",
        &["`limits.pids` must be an integer, and is a string ¦ \"64\" ¦ remove the quotes"],
    );
    refuses(
        "limits: { cpus: \"1.5\" }",
        &["`limits.cpus` must be a number, and is a string ¦ \"1.5\" ¦ remove the quotes"],
    );
    refuses(
        "args: x",
        &["`args` must be a list, and is a string ¦ x ¦ put it in brackets, even if it is only one: `[…]`"],
    );
    let found = told(&with("limits: [pids]\nargs: { a: b }\nserver_x: [a]"));
    assert_eq!(found.len(), 3);
    assert!(found[0].starts_with("`limits` must be a mapping, and is a list ¦ limits ¦"), "{}", found[0]);
    assert!(found[1].starts_with("`args` must be a list, and is a mapping ¦ args ¦"), "{}", found[1]);
    let found = told("just text");
    assert!(
        found[0].starts_with("the file must be a mapping, and is a string ¦ just text ¦"),
        "{}",
        found[0]
    );
}

#[test]
fn missing_keys() {
    for nothing in ["", "\n", "# nothing\n", "---\n", "---\n...\n"] {
        let expected =
            "the file is empty ¦  ¦ a policy begins with `palisade: 1`, and needs `server` and `image`";
        assert_eq!(told(nothing), [expected], "{nothing:?}");
    }
    assert_eq!(
        told("image: {}\n"),
        [
            "`palisade` is missing ¦ image ¦ write `palisade: 1`, the version of the policy language",
            "`server` is missing ¦ image ¦ add `server: …`",
            "`image.reference` is missing ¦ image ¦ add `reference: …` here",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    refuses(
        "filesystem:\n  mounts:\n    - source: /a",
        &["`filesystem.mounts[0].target` is missing ¦ source ¦ add `target: …` here"],
    );
}

#[test]
fn versions() {
    let known = "this palisade knows version 1; for a newer one, update palisade";
    for (version, shown) in
        [("2", "2"), ("0", "0"), ("-1", "-1"), ("99999999999999999999", "99999999999999999999")]
    {
        // One finding: what another version's other keys mean is not known here.
        let text = format!("palisade: {version}\nserver: time\nnew_key: 1\n");
        assert_eq!(
            told(&text),
            [format!("version `{shown}` of the policy language is not known ¦ {version} ¦ {known}")]
        );
    }
    let found = told(&SMALLEST.replace("palisade: 1", "palisade: \"1\""));
    assert_eq!(found, ["`palisade` must be an integer, and is a string ¦ \"1\" ¦ remove the quotes"]);
    let found = told(&SMALLEST.replace("palisade: 1", "palisade: 1.0"));
    assert!(
        found[0].starts_with("`palisade` must be an integer, and is a decimal number ¦ 1.0 ¦"),
        "{}",
        found[0]
    );
}

#[test]
fn text_that_is_not_what_it_looks_like() {
    let cases = [
        ('\0', 0x00),
        ('\u{1b}', 0x1b),
        ('\u{7f}', 0x7f),
        ('\u{85}', 0x85),
        ('\u{2028}', 0x2028),
        ('\u{202e}', 0x202e),
        ('\u{2066}', 0x2066),
        ('\u{200b}', 0x200b),
        ('\u{feff}', 0xfeff),
        ('\u{e0041}', 0xe0041),
        ('\r', 0x0d),
    ];
    for (c, number) in cases {
        let text = with(&format!("# a{c}b"));
        let error = error(&text);
        assert_eq!(error.findings().len(), 1, "{c:?}");
        let finding = &error.findings()[0];
        assert_eq!(finding.rule, Rule::Text);
        assert_eq!(
            finding.message,
            format!("the file has the character U+{number:04X}, which a reader cannot see")
        );
        assert_eq!(text.get(finding.span.clone()), Some(c.to_string().as_str()));
        assert!(finding.hint.is_some());
    }
    let found = told(&format!("\u{feff}{SMALLEST}"));
    assert_eq!(
        found,
        [
            "the file begins with a byte-order mark ¦ \u{feff} ¦ save the file as UTF-8 without a byte-order mark"
        ]
    );
    // Through an escape the character is visible; NUL alone fits nowhere.
    policy(&with(r#"environment: { A: "\u202e\t\n" }"#));
    refuses(
        r#"environment: { A: "a\0" }"#,
        &[r#"the value has a NUL character ¦ "a\0" ¦ remove it: no path, argument or variable can have one"#],
    );
}

#[test]
fn bytes_that_are_not_text() {
    for (bytes, at) in
        [(&b"palisade: 1\n\xff\n"[..], 12), (b"\xff\xfep\0", 0), (b"a: \xc3", 3), (b"a: \xed\xa0\x80", 3)]
    {
        let error = parse_bytes("p", bytes).unwrap_err();
        let finding = &error.findings()[0];
        assert_eq!((finding.rule, finding.message.as_str()), (Rule::Text, "the file is not UTF-8 text"));
        assert_eq!(finding.span.start, at);
        assert_eq!(error.source_text().get(finding.span.clone()), Some("\u{fffd}"));
    }
}

#[test]
fn syntax_errors_have_a_place() {
    for (more, slice) in
        [("limits: { pids: 5", "{"), ("args: [a", "["), ("a: b: c", ":"), ("\tx: 1", "x"), ("args: \"x", "")]
    {
        let text = with(more);
        let error = error(&text);
        let finding = error.findings().last().unwrap();
        assert_eq!(finding.rule, Rule::Syntax, "{more:?}: {finding:?}");
        assert!(finding.message.starts_with("the file is not well-formed YAML: "), "{}", finding.message);
        assert!(finding.span.start >= SMALLEST.len(), "{more:?}: {finding:?}");
        assert_eq!(text.get(finding.span.clone()), Some(slice), "{more:?}: {finding:?}");
    }
}

#[test]
fn places_are_counted_in_bytes() {
    let found = told(&with("# ünï €\nargs: ['é', x, *é]"));
    assert!(found[0].starts_with("the alias `*é` is not allowed ¦ *é ¦"), "{}", found[0]);
    let text = with("ünï: 1");
    let error = error(&text);
    assert_eq!(error.line_column(error.findings()[0].span.start), (4, 1));
    assert_eq!(error.line_column(error.findings()[0].span.end), (4, 4));
    assert_eq!(error.line_column(usize::MAX), (5, 1));
}

#[test]
fn many_findings_are_counted_not_kept() {
    let keys = numbered(0..100, |n| format!("unknown{n}: 1\n"));
    let error = error(&with(&keys));
    assert_eq!(error.findings().len(), crate::bounds::MAX_FINDINGS);
    assert_eq!(error.omitted(), 100 - crate::bounds::MAX_FINDINGS);
    assert!(error.to_string().ends_with("(and 99 more)"), "{error}");
}

#[test]
fn changes_of_the_system_call_list() {
    refuses(
        "syscalls: { seccomp: log }",
        &["`syscalls.seccomp` is `log`, and `accept_degraded` does not name `seccomp` ¦ log ¦ \
           write `accept_degraded: [seccomp]` while the calls of a server are being found out, or remove the key"],
    );
    refuses(
        "syscalls: { seccomp: audit }",
        &["`syscalls.seccomp` cannot be `audit` ¦ audit ¦ known here: `enforce`, `kill`, `log`"],
    );
    refuses(
        "syscalls: { add: [ { call: a, reason: x }, { call: b, reason: x } ], remove: [ { call: a, reason: z } ] }",
        &["`syscalls.remove[0].call` names `a` again ¦ a ¦ keep one of them"],
    );
    refuses(
        "syscalls: { add: [ { call: a } ] }",
        &["`syscalls.add[0].reason` is missing ¦ call ¦ add `reason: …` here"],
    );
    let named = "a call has the name that the manual and `strace` give it: lower-case letters, digits, `_`";
    refuses(
        "syscalls: { add: [ { call: \"Mount(2)\", reason: \"a\\nb\" } ] }",
        &[
            &format!("`syscalls.add[0].call` is not the name of a system call ¦ \"Mount(2)\" ¦ {named}"),
            "`syscalls.add[0].reason` is not one line that gives a reason ¦ \"a\\nb\" ¦ \
             say on one line why the server needs it, or can do without it",
        ],
    );
}

/// Who knows the calls says what is wrong with one, and the author is shown where.
#[test]
fn an_objection_of_somebody_else_has_its_place() {
    let text = with("syscalls: { add: [ { call: a, reason: x }, { call: b, reason: x } ] }");
    for (path, expected) in [
        ("syscalls.add[1].call", "b"),
        ("syscalls.add[0].reason", "x"),
        ("syscalls.add[7].call", "{ call: a, reason: x }, { call: b, reason: x }"),
        ("nothing", ""),
    ] {
        let objection = crate::Objection { path: path.into(), message: "no".into(), hint: None };
        let error = PolicyError::about("p.yaml", &text, vec![objection]);
        let [finding] = error.findings() else { panic!("{error}") };
        assert!(text.get(finding.span.clone()).unwrap().contains(expected), "{path}: {:?}", finding.span);
        assert_eq!(finding.rule, Rule::Value);
    }
}
