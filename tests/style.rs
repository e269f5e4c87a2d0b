//! The documents and the code agree, and the code keeps the rules that no compiler checks.
//!
//! Each check is a function from what it looks at to a list of complaints. It is called twice: with the repository, which must
//! give none, and with something wrong, which must give one. A check that cannot fail would be worse than none.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "a test that reads its own repository, which nobody attacks"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// A file of the repository: its path from the root, and its text.
type File = (PathBuf, String);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text that is ours: what is built or belongs to version control is left out.
fn files() -> Vec<File> {
    let mut found = Vec::new();
    collect(root(), &mut found);
    assert!(found.len() > 100, "only {} files were found", found.len());
    found
}

fn collect(dir: &Path, found: &mut Vec<File>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name();
        if kind.is_dir()
            && !["target", ".git", "node_modules", "__pycache__"].iter().any(|skip| name == *skip)
        {
            collect(&path, found);
        } else if kind.is_file()
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
}

fn with_extension<'a>(files: &'a [File], extension: &str) -> impl Iterator<Item = &'a File> {
    files.iter().filter(move |(path, _)| path.extension().is_some_and(|found| found == extension))
}

fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    let found = files.iter().find(|(found, _)| found == Path::new(path));
    &found.unwrap_or_else(|| panic!("{path} is missing")).1
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The names of all tests, with the files that they are in: functions marked as tests, and what `trials!` lists.
fn tests(files: &[File]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (path, text) in with_extension(files, "rs") {
        for name in marked_tests(text).into_iter().chain(listed_trials(text)) {
            found.entry(name).or_default().push(path.clone());
        }
    }
    found
}

fn marked_tests(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") && (line.contains("test]") || line.contains("::test(")) {
            marked = true;
        } else if let Some(name) = function_name(line) {
            if marked {
                names.push(name.to_owned());
            }
            marked = false;
        }
    }
    names
}

fn function_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

fn listed_trials(text: &str) -> Vec<String> {
    let Some((_, list)) = text.split_once("trials![") else { return Vec::new() };
    let Some((list, _)) = list.split_once(']') else { return Vec::new() };
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| is_identifier(name)).collect()
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The rows of a Markdown table whose first cell begins with `prefix`, as cells.
fn rows<'a>(text: &'a str, prefix: &str) -> Vec<Vec<&'a str>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells[0].starts_with(prefix))
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A row names tests that exist, or says that there is none yet.
fn check_row(name: &str, cell: &str, tests: &BTreeMap<String, Vec<PathBuf>>) -> Vec<String> {
    let named: Vec<&str> = quoted(cell).into_iter().filter(|name| is_identifier(name)).collect();
    let mut complaints: Vec<String> = named
        .iter()
        .filter(|test| !tests.contains_key(**test))
        .map(|test| format!("{name}: there is no test `{test}`"))
        .collect();
    if named.is_empty() && !cell.contains("*pending*") {
        complaints.push(format!("{name}: names no test and does not say *pending*"));
    }
    complaints
}

fn check_claims(model: &str, tests: &BTreeMap<String, Vec<PathBuf>>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut named: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for row in rows(model, "C") {
        let Some(number) = row[0].strip_prefix('C').and_then(|number| number.parse::<usize>().ok()) else {
            continue;
        };
        let cell = row.last().copied().unwrap_or_default();
        complaints.extend(check_row(row[0], cell, tests));
        if named.insert(number, quoted(cell).into_iter().collect()).is_some() {
            complaints.push(format!("{}: is there twice", row[0]));
        }
    }
    let expected: Vec<usize> = (1..=named.len()).collect();
    if named.is_empty() || named.keys().copied().collect::<Vec<_>>() != expected {
        complaints.push(format!("the claims are numbered {:?}", named.keys()));
    }
    for (test, paths) in tests {
        let integration = paths.iter().any(|path| path.starts_with("tests"));
        let Some(number) = claim_number(test).filter(|_| integration) else { continue };
        if !named.get(&number).is_some_and(|tests| tests.contains(test.as_str())) {
            complaints.push(format!("`{test}` is not in the row of C{number}"));
        }
    }
    complaints
}

/// 12 for `c12_only_…`.
fn claim_number(test: &str) -> Option<usize> {
    test.strip_prefix('c')?.split_once('_')?.0.parse().ok()
}

#[test]
fn every_claim_has_its_tests_and_every_test_its_claim() {
    let files = files();
    let tests = tests(&files);
    let model = text_of(&files, "THREAT_MODEL.md");
    none(&check_claims(model, &tests));

    let broken = model.replacen("`c1_", "`c1_not_", 1);
    assert_eq!(check_claims(&broken, &tests).len(), 2, "a name that is wrong is missed from both sides");
    let silent = "| C1 | a claim | a layer | |\n";
    assert!(check_claims(silent, &BTreeMap::new())[0].contains("names no test"));
}

fn check_prior(table: &str, tests: &BTreeMap<String, Vec<PathBuf>>) -> Vec<String> {
    let rows = rows(table, "CVE-");
    let mut complaints: Vec<String> = rows
        .iter()
        .flat_map(|row| check_row(row[0], row.last().copied().unwrap_or_default(), tests))
        .collect();
    if rows.len() < 10 {
        complaints.push(format!("only {} rows were found", rows.len()));
    }
    complaints
}

#[test]
fn every_prior_vulnerability_names_a_test_or_is_pending() {
    let files = files();
    let tests = tests(&files);
    let table = text_of(&files, "docs/prior-cves.md");
    none(&check_prior(table, &tests));
    assert!(!check_prior(&table.replace("`c11_", "`c11_no_such_"), &tests).is_empty());
}

/// Targets of links, outside fenced blocks.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            found.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        }
    }
    found
}

fn check_links(documents: &[&File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in documents {
        for link in links(text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !root().join(path.parent().unwrap_or(Path::new(""))).join(target).exists() {
                complaints.push(format!("{}: the link to `{link}` leads nowhere", path.display()));
            }
        }
    }
    complaints
}

#[test]
fn every_relative_link_leads_somewhere() {
    let files = files();
    let documents: Vec<&File> = with_extension(&files, "md").collect();
    assert!(documents.len() > 10);
    none(&check_links(&documents));
    let broken = (PathBuf::from("docs/x.md"), "see [it](../no/such/file.md#part)".to_owned());
    assert_eq!(check_links(&[&broken]).len(), 1);
}

/// What is named as a path: it has a slash or ends like a source file, and nothing that a path of ours never has.
fn is_path(text: &str) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let relative = !text.starts_with(['/', '.', '~']) || text.starts_with(".ci/");
    let source =
        Path::new(text).extension().is_some_and(|extension| extension == "rs" || extension == "json");
    plain && relative && (source || text.ends_with('/'))
}

fn check_paths(text: &str) -> Vec<String> {
    let named: Vec<&str> = text.lines().flat_map(quoted).filter(|name| is_path(name)).collect();
    let mut complaints: Vec<String> = named
        .iter()
        .filter(|name| !root().join(name).exists())
        .map(|name| format!("ARCHITECTURE.md: `{name}` is not there"))
        .collect();
    if named.len() < 30 {
        complaints.push(format!("ARCHITECTURE.md: only {} paths were found", named.len()));
    }
    complaints
}

#[test]
fn the_map_shows_what_is_there() {
    let files = files();
    let map = text_of(&files, "ARCHITECTURE.md");
    none(&check_paths(map));
    assert_eq!(check_paths(&format!("{map}\nin `runtime/no/such.rs`")).len(), 1);
}

/// Absolute paths that only this machine has: where the repository is, and the home of whoever works on it. A path of one
/// component (`/root`, `/src`) is no evidence: it is the same on many machines and may be meant.
fn machine_paths() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    [Some(root().to_owned()), home, cargo]
        .into_iter()
        .flatten()
        .filter(|path| path.components().filter(|part| matches!(part, Component::Normal(_))).count() >= 2)
        .collect()
}

/// Whether `text` has `path` as a path, and not as a part of a longer word.
fn mentions(text: &str, path: &str) -> bool {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        !before.is_some_and(|c| in_word(c) || c == '/') && !after.is_some_and(in_word)
    })
}

fn check_machine_paths(files: &[File], paths: &[PathBuf]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, text) in files {
        for path in paths.iter().filter_map(|path| path.to_str()) {
            if mentions(text, path) {
                complaints.push(format!("{}: names `{path}`, which only this machine has", file.display()));
            }
        }
    }
    complaints
}

#[test]
fn no_file_names_a_path_of_this_machine() {
    none(&check_machine_paths(&files(), &machine_paths()));
    let paths = [PathBuf::from("/a/b")];
    let file = |text: &str| vec![(PathBuf::from("x"), text.to_owned())];
    assert_eq!(check_machine_paths(&file("in `/a/b/c`"), &paths).len(), 1);
    for innocent in ["in x/a/b", "in /a/bc", "in /a/b.d", "in /a"] {
        none(&check_machine_paths(&file(innocent), &paths));
    }
}

/// Names of the crates that a manifest's dependency tables name, our own left out.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut in_table = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            in_table = table.trim_end_matches(']').ends_with("dependencies");
        } else if in_table && !line.starts_with('#') && line.contains('=') {
            let name = line.split(['=', '.']).next().unwrap_or_default().trim();
            if !name.starts_with("palisade-") {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

fn check_dependencies(manifests: &[&str], table: &str) -> Vec<String> {
    let wanted: BTreeSet<String> = manifests.iter().flat_map(|manifest| dependencies(manifest)).collect();
    let listed: BTreeSet<String> = rows(table, "")
        .into_iter()
        .map(|row| row[0].to_owned())
        .filter(|name| name != "crate" && !name.starts_with("--"))
        .collect();
    let missing = wanted.difference(&listed).map(|name| format!("docs/dependencies.md: `{name}` is missing"));
    let gone =
        listed.difference(&wanted).map(|name| format!("docs/dependencies.md: `{name}` is no dependency"));
    missing.chain(gone).collect()
}

#[test]
fn every_direct_dependency_is_explained() {
    let files = files();
    let manifests: Vec<&str> = files
        .iter()
        .filter(|(path, _)| path.ends_with("Cargo.toml"))
        .map(|(_, text)| text.as_str())
        .collect();
    assert!(manifests.len() > 8);
    let table = text_of(&files, "docs/dependencies.md");
    none(&check_dependencies(&manifests, table));
    let one_more = [manifests, vec!["[dev-dependencies]\nleft-pad = \"1\"\n"]].concat();
    assert_eq!(check_dependencies(&one_more, table).len(), 1);
    assert_eq!(
        check_dependencies(&one_more[..1], "| nobody | MIT |\n").last().unwrap().split('`').nth(1),
        Some("nobody")
    );
}

/// The two places that may hold `unsafe`.
fn may_be_unsafe(path: &Path) -> bool {
    path.starts_with("runtime/sys/src") || path == Path::new("demo/server/src/raw.rs")
}

/// Built from two halves, so that this file does not hold them itself.
const UNSAFE: [&str; 5] = [
    concat!("unsafe", " {"),
    concat!("unsafe", " fn"),
    concat!("unsafe", " impl"),
    concat!("unsafe", " extern"),
    concat!("#[", "unsafe("),
];
const UNFINISHED: [&str; 4] = [
    concat!("#[", "ignore"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("should_", "panic"),
];

fn check_code(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in with_extension(files, "rs") {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let forbidden = UNFINISHED.iter().chain(if may_be_unsafe(path) { &[][..] } else { &UNSAFE });
            for word in forbidden.filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{number}: `{word}`", path.display()));
            }
        }
    }
    complaints
}

#[test]
fn nothing_is_unsafe_or_unfinished() {
    none(&check_code(&files()));
    for word in UNSAFE.iter().chain(&UNFINISHED) {
        let file = |path: &str| vec![(PathBuf::from(path), format!("fn f() {{ {word} }}"))];
        assert_eq!(check_code(&file("gateway/src/x.rs")).len(), 1, "{word}");
        assert_eq!(check_code(&file("runtime/sys/src/x.rs")).is_empty(), UNSAFE.contains(word), "{word}");
    }
}

fn check_forbids(files: &[File]) -> Vec<String> {
    with_extension(files, "rs")
        .filter(|(path, _)| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
        .filter(|(path, _)| !path.starts_with("runtime/sys") && !path.starts_with("demo/server"))
        .filter(|(_, text)| !text.lines().any(|line| line == "#![forbid(unsafe_code)]"))
        .map(|(path, _)| format!("{}: does not forbid unsafe code", path.display()))
        .collect()
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    none(&check_forbids(&files()));
    assert_eq!(check_forbids(&[(PathBuf::from("new/src/lib.rs"), "//! New.\n".to_owned())]).len(), 1);
}

/// The commands and statuses that the README promises.
#[test]
fn the_readme_keeps_its_promises() {
    use std::os::unix::fs::PermissionsExt;
    let files = files();
    let readme = text_of(&files, "README.md");
    for command in ["cargo run --release -- demo", "tests/run"] {
        assert!(readme.contains(command), "{command}");
    }
    let mode = std::fs::metadata(root().join("tests/run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "tests/run can be executed");
    let statuses = text_of(&files, "src/failure.rs");
    for status in ["2", "3", "125", "126", "127"] {
        assert!(statuses.contains(&format!("=> {status},")), "no failure has status {status} any more");
        assert!(rows(readme, status).iter().any(|row| row[0] == status), "status {status} is not explained");
    }
}
