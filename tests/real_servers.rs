//! Real MCP servers from the package registries, in images of their own, driven by the official SDKs.
//!
//! The images and the client drivers are built by `tests/fixtures/build` (the command of `tests/run`);
//! what each script asserts is in `tests/clients/scripts`.

#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::excessive_nesting,
    reason = "tests act as a person would, on paths and with other programs"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, User, need, wait_within};

/// A server, its family, and whether it works on a mounted directory.
struct Server {
    name: &'static str,
    baseline: &'static str,
    workspace: bool,
}

const SERVERS: [Server; 5] = [
    Server { name: "everything", baseline: "node", workspace: false },
    Server { name: "filesystem", baseline: "node", workspace: true },
    Server { name: "memory", baseline: "node", workspace: false },
    Server { name: "time", baseline: "python", workspace: false },
    Server { name: "git", baseline: "python", workspace: true },
];

/// What drives a server: the official SDKs of two languages; of TypeScript also the line before.
const CLIENTS: [(&str, &[&str]); 3] =
    [("python", &[]), ("typescript", &["--sdk", "v2"]), ("typescript", &["--sdk", "v1"])];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixtures() -> PathBuf {
    repository().join("target/fixtures")
}

fn have_fixtures() -> bool {
    need(
        "target/fixtures (run tests/run)",
        ["images/git", "images/browser"].iter().all(|image| fixtures().join(image).is_dir())
            && fixtures().join("clients/python").is_file(),
    )
}

/// A place with all five images in its store, and a policy for each.
struct Fleet {
    place: Place,
}

impl Fleet {
    fn new(user: User, access: &str) -> Self {
        let place = Place::new(user);
        for server in &SERVERS {
            let image = import(&place, server.name);
            let mounts = if server.workspace {
                let workspace = workspace(&place, server.name, access);
                format!(
                    "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: {access} }} ] }}\n",
                    workspace.display()
                )
            } else {
                String::new()
            };
            place.policy(
                server.name,
                &image,
                &format!("syscalls: {{ baseline: {} }}\n{mounts}", server.baseline),
            );
            place.must([
                "image",
                "prepare",
                place.root.join(format!("{}.yaml", server.name)).to_str().unwrap(),
            ]);
        }
        Self { place }
    }

    fn policy(&self, server: &str) -> PathBuf {
        self.place.root.join(format!("{server}.yaml"))
    }

    fn command_line(&self, arguments: &[&str]) -> Vec<String> {
        command_line(&self.place, arguments)
    }
}

/// Puts the image of a fixture into the store; its name there.
fn import(place: &Place, name: &str) -> String {
    let layout = fixtures().join("images").join(name);
    let image = format!("{name}:1");
    if place.user == User::Ordinary {
        // The cache may be unreadable for others; a tar is handed over instead.
        let tar = place.root.join(format!("{name}.tar"));
        let packed =
            Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&tar).arg(".").status().unwrap();
        assert!(packed.success());
        place.give(&tar);
        place.must(["image", "import", tar.to_str().unwrap(), "--as", &image]);
        std::fs::remove_file(&tar).unwrap();
    } else {
        place.must(["image", "import", layout.to_str().unwrap(), "--as", &image]);
    }
    image
}

/// The command line of palisade, as this place's user whoever runs it.
fn command_line(place: &Place, arguments: &[&str]) -> Vec<String> {
    let id = place.user.id().to_string();
    let mut line: Vec<String> = Vec::new();
    if nix::unistd::Uid::effective().is_root() && place.user == User::Ordinary {
        line.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(str::to_owned));
    }
    line.extend([
        place.root.join("palisade").display().to_string(),
        "--store".to_owned(),
        place.store().display().to_string(),
    ]);
    line.extend(arguments.iter().map(|&argument| argument.to_owned()));
    line
}

/// A directory with a file, and for git a repository with one commit and one change.
fn workspace(place: &Place, server: &str, access: &str) -> PathBuf {
    // git wants to own what it works on, so the directory is handed over at the end.
    let dir = place.root.join(format!("workspace-{server}-{access}"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("hello.txt"), "hello\n").unwrap();
    if server == "git" {
        let git = |arguments: &[&str]| {
            let status = Command::new("git")
                .args([
                    "-c",
                    "user.name=tester",
                    "-c",
                    "user.email=tester@example.org",
                    "-c",
                    "init.defaultBranch=main",
                ])
                .args(arguments)
                .current_dir(&dir)
                .env("HOME", &place.root)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "git {arguments:?}");
        };
        git(&["init", "--quiet"]);
        git(&["config", "user.name", "tester"]);
        git(&["config", "user.email", "tester@example.org"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "first"]);
        std::fs::write(dir.join("hello.txt"), "hello\nworld\n").unwrap();
    }
    place.give_tree(&dir);
    dir
}

/// The scripts of a server for this kind of mount.
fn scripts(server: &Server, access: &str) -> Vec<PathBuf> {
    let name = if server.workspace { format!("{}-{access}", server.name) } else { server.name.to_owned() };
    vec![repository().join("tests/clients/scripts").join(format!("{name}.json"))]
}

/// Runs a client driver over a script; its standard output is one JSON object a step.
#[track_caller]
fn drive(client: (&str, &[&str]), transport: &[&str], script: &Path, command: &[String]) -> String {
    let mut driver = Command::new(fixtures().join("clients").join(client.0));
    driver.args(transport).args(client.1).args(["--set", "WORKSPACE=/workspace", "--script"]).arg(script);
    if !command.is_empty() {
        driver.arg("--").args(command);
    }
    let output = driver.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{client:?} {script:?}: {}\n{}\n{}",
        output.status,
        tail(&output.stdout),
        tail(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
}

/// The same script for a server that is one of several behind a gateway: names get its prefix.
fn prefixed(place: &Place, server: &str, script: &Path) -> PathBuf {
    let mut steps: Value = serde_json::from_slice(&std::fs::read(script).unwrap()).unwrap();
    for step in steps.as_array_mut().unwrap() {
        let kind = step["step"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "call_tool" | "get_prompt" => prefix(&mut step["name"], server),
            "complete" if step["ref"]["type"] == "ref/prompt" => prefix(&mut step["ref"]["name"], server),
            "list_tools" => {
                for wanted in step["contains"].as_array_mut().unwrap() {
                    let tool = wanted.as_str().unwrap().trim_matches('"').to_owned();
                    *wanted = Value::String(format!("\"{server}__{tool}\""));
                }
            }
            _ => {}
        }
    }
    let file = script.file_name().unwrap().to_str().unwrap();
    place.write(&format!("prefixed-{file}"), steps.to_string())
}

fn prefix(name: &mut Value, server: &str) {
    *name = Value::String(format!("{server}__{}", name.as_str().unwrap()));
}

fn over_stdio(user: User) {
    if !have_fixtures() {
        return;
    }
    let fleet = Fleet::new(user, "read-only");
    for server in &SERVERS {
        for script in scripts(server, "read-only") {
            for client in CLIENTS {
                let policy = fleet.policy(server.name);
                drive(client, &["stdio"], &script, &fleet.command_line(&["run", policy.to_str().unwrap()]));
            }
        }
    }
}

#[test]
fn stdio_as_root() {
    if User::all().contains(&User::Root) {
        over_stdio(User::Root);
    }
}

#[test]
fn stdio_as_an_ordinary_user() {
    over_stdio(User::Ordinary);
}

/// What a server writes through a read-write mount is there for its owner, whoever that is.
#[test]
fn a_read_write_mount_is_written_as_its_owner() {
    if !have_fixtures() {
        return;
    }
    for user in User::all() {
        let fleet = Fleet::new(user, "read-write");
        for server in SERVERS.iter().filter(|server| server.workspace) {
            for script in scripts(server, "read-write") {
                let policy = fleet.policy(server.name);
                drive(
                    CLIENTS[0],
                    &["stdio"],
                    &script,
                    &fleet.command_line(&["run", policy.to_str().unwrap()]),
                );
            }
        }
        let made = fleet.place.root.join("workspace-filesystem-read-write/made/moved.txt");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(made).unwrap());
        assert_eq!(owner, user.id());
    }
}

/// What a script expects and an answer does not have, by step.
fn missing(script: &Path, said: &str) -> Vec<String> {
    let steps: Value = serde_json::from_slice(&std::fs::read(script).unwrap()).unwrap();
    // The first line is the handshake's.
    let answers = said.lines().skip(1);
    let steps = steps.as_array().unwrap().iter().zip(answers);
    steps
        .flat_map(|(step, answer)| {
            let wanted = step["contains"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
            wanted
                .filter(|text| !answer.contains(*text))
                .map(|text| format!("{}: no {text} in {answer:.600}", step["name"]))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Chromium renders a page and takes a picture of it, without a sandbox of its own inside of ours.
#[test]
fn a_browser_renders_a_page_with_its_baseline_and_not_with_another() {
    if !have_fixtures() {
        return;
    }
    let script = repository().join("tests/clients/scripts/browser.json");
    for user in User::all() {
        let place = Place::new(user);
        let image = import(&place, "browser");
        for baseline in ["browser", "node"] {
            let more = format!(
                "syscalls: {{ baseline: {baseline} }}\n\
                 limits: {{ memory: 2GiB, pids: 512, open_files: 4096, tmp: 512MiB }}\n"
            );
            let policy = place.policy(baseline, &image, &more);
            let command = command_line(&place, &["run", policy.to_str().unwrap()]);
            let said = drive(CLIENTS[0], &["stdio", "--timeout", "120"], &script, &command);
            let missing = missing(&script, &said);
            if baseline == "browser" {
                assert!(missing.is_empty(), "{missing:#?}");
            } else {
                assert!(!missing.is_empty() && said.contains("has been closed"), "{said}");
            }
        }
    }
}

/// A gateway over HTTP that ends with the test.
struct HttpGateway {
    child: Child,
    url: String,
}

impl HttpGateway {
    fn start(fleet: &Fleet, token: &Path) -> Self {
        let mut arguments = vec!["gateway".to_owned(), "run".to_owned()];
        for server in &SERVERS {
            arguments.extend(["--policy".to_owned(), fleet.policy(server.name).display().to_string()]);
        }
        arguments
            .extend(["--transport", "http", "--listen", "127.0.0.1:0", "--token-file"].map(str::to_owned));
        arguments.push(token.display().to_string());
        let mut child = fleet.place.palisade(arguments).stdout(Stdio::null()).spawn().unwrap();
        let url = wait_for_url(&mut child);
        Self { child, url }
    }
}

/// The gateway says where it listens on standard error.
fn wait_for_url(child: &mut Child) -> String {
    use std::io::BufRead;
    let stderr = child.stderr.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                // Keep reading: a full pipe would stop the gateway.
            }
        }
    });
    let deadline = Instant::now() + support::PATIENCE;
    let mut said = Vec::new();
    while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
            return url.to_owned();
        }
        said.push(line);
    }
    panic!("the gateway did not say where it listens: {said:?}");
}

impl Drop for HttpGateway {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        if wait_within(&mut self.child, Duration::from_secs(20)).is_none() {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Five servers behind one endpoint, and every client against it.
#[test]
fn five_servers_over_http() {
    if !have_fixtures() {
        return;
    }
    for user in User::all() {
        let fleet = Fleet::new(user, "read-only");
        let token = fleet.place.write("token", "0123456789abcdef0123456789abcdef");
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let gateway = HttpGateway::start(&fleet, &token);
        for server in &SERVERS {
            for script in scripts(server, "read-only") {
                let script = prefixed(&fleet.place, server.name, &script);
                for client in CLIENTS {
                    let transport =
                        ["http", "--url", &gateway.url, "--token", "0123456789abcdef0123456789abcdef"];
                    drive(client, &transport, &script, &[]);
                }
            }
        }
    }
}

/// Five servers behind one gateway on stdio.
#[test]
fn five_servers_over_stdio() {
    if !have_fixtures() {
        return;
    }
    let fleet = Fleet::new(User::all()[0], "read-only");
    let mut arguments = vec!["gateway".to_owned(), "run".to_owned()];
    for server in &SERVERS {
        arguments.extend(["--policy".to_owned(), fleet.policy(server.name).display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for server in &SERVERS {
        for script in scripts(server, "read-only") {
            let script = prefixed(&fleet.place, server.name, &script);
            drive(CLIENTS[0], &["stdio"], &script, &fleet.command_line(&arguments));
        }
    }
}
