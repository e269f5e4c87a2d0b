//! What the integration tests share: places, users, images, and a JSON-RPC conversation.
//!
//! Everything that a test starts or makes is owned by a value that ends or removes it when it is
//! dropped, also when the test fails.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::excessive_nesting,
    clippy::needless_pass_by_value,
    reason = "each test binary uses its part; tests act as a person would, on paths and with other programs"
)]

pub mod probe;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use serde_json::{Value, json};

/// The sample server: honest tools, and tools that attack.
pub const DEMO_SERVER: &[u8] = include_bytes!(env!("PALISADE_DEMO_SERVER"));

/// Longest wait for an answer that does come; a loaded machine may need seconds.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Who runs palisade in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root.
    Root,
    /// Somebody without any privilege.
    Ordinary,
}

/// The uid of [`User::Ordinary`] when the tests run as root: one that owns nothing here.
const ORDINARY_ID: u32 = 61_234;

impl User {
    /// Everybody that the test can be.
    pub fn all() -> Vec<User> {
        if nix::unistd::Uid::effective().is_root() {
            vec![User::Root, User::Ordinary]
        } else {
            vec![User::Ordinary]
        }
    }

    /// The user and group id that this user's files must have.
    pub fn id(self) -> u32 {
        match self {
            User::Root => 0,
            User::Ordinary if nix::unistd::Uid::effective().is_root() => ORDINARY_ID,
            User::Ordinary => nix::unistd::Uid::effective().as_raw(),
        }
    }
}

/// A directory of one test and one user, with a copy of the program that this user can execute.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub root: PathBuf,
    /// Who works here.
    pub user: User,
    program: PathBuf,
    _owner: tempfile::TempDir,
}

impl Place {
    /// Makes one.
    pub fn new(user: User) -> Self {
        let owner = tempfile::Builder::new().prefix("palisade-test-").tempdir().unwrap();
        let root = owner.path().to_path_buf();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        let program = root.join("palisade");
        // The build directory may be unreadable for others.
        if std::fs::hard_link(env!("CARGO_BIN_EXE_palisade"), &program).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_palisade"), &program).unwrap();
        }
        let place = Self { root, user, program, _owner: owner };
        place.give(&place.root);
        place
    }

    /// Hands a file or directory to this place's user.
    pub fn give(&self, path: &Path) {
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(path, Some(self.user.id()), Some(self.user.id())).unwrap();
        }
    }

    /// The store of this place.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The lines of the audit log.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.store().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Writes a file that this place's user owns.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.join(name);
        std::fs::write(&path, content).unwrap();
        self.give(&path);
        path
    }

    /// Makes a directory that this place's user owns.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        self.give(&path);
        path
    }

    /// `palisade --store STORE ARGS…`, as this place's user, with an environment of its own.
    pub fn palisade<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("HOME", &self.root)
            .env("PATH", "/usr/bin:/bin")
            .env("GATEWAY_CANARY", "not-for-servers")
            .current_dir(&self.root)
            .arg("--store")
            .arg(self.store())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if nix::unistd::Uid::effective().is_root() && self.user == User::Ordinary {
            command.uid(ORDINARY_ID).gid(ORDINARY_ID);
        }
        command
    }

    /// Runs palisade to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.palisade(arguments).output().unwrap()
    }

    /// Runs palisade to its end, which must be a success.
    pub fn must<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}\n{}", output.status, stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Imports an image whose only content is one static program, as `name`.
    pub fn import_program(&self, name: &str, program: &[u8], arguments: &[&str]) {
        let layout = self.root.join(format!("layout-{}", name.replace([':', '/'], "-")));
        let files = LayerFiles::new().file("bin/server", 0o755, program).unwrap();
        let runtime = Runtime {
            entrypoint: vec!["/bin/server".into()],
            cmd: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..Runtime::default()
        };
        Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
        self.give_tree(&layout);
        self.must(["image", "import", layout.to_str().unwrap(), "--as", name]);
    }

    /// Hands a whole directory to this place's user.
    pub fn give_tree(&self, path: &Path) {
        self.give(path);
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                self.give_tree(&entry.unwrap().path());
            }
        }
    }

    /// A policy for the sample server, imported already, with more lines of YAML.
    pub fn demo_policy(&self, more: &str) -> PathBuf {
        if !self.root.join("layout-demo-1").is_dir() {
            self.import_program("demo:1", DEMO_SERVER, &[]);
        }
        self.policy("demo", "demo:1", more)
    }

    /// A policy file for an unsigned image.
    pub fn policy(&self, server: &str, image: &str, more: &str) -> PathBuf {
        let text = format!(
            "palisade: 1\nserver: {server}\nimage:\n  reference: \"{image}\"\n  unsigned: \"made by this test\"\n\
             accept_degraded: [memory, cpus]\n{more}\n"
        );
        self.write(&format!("{server}.yaml"), text)
    }

    /// Starts `palisade run POLICY` and shakes hands.
    pub fn session(&self, policy: &Path) -> Session {
        let mut session = Session::start(&mut self.palisade(["run", policy.to_str().unwrap()]));
        session.initialize();
        session
    }
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A conversation with an MCP server or gateway over its standard input and output.
#[derive(Debug)]
pub struct Session {
    /// The process.
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    next_id: u64,
    /// Answers that came while another one was waited for.
    kept: Vec<Value>,
}

impl Session {
    /// Starts a process to talk to.
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, stdin, lines, errors, next_id: 0, kept: Vec::new() }
    }

    /// The handshake of the revisions up to 2025-11-25.
    pub fn initialize(&mut self) -> Value {
        let answer = self.request(
            "initialize",
            json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } }),
        );
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        answer
    }

    /// Writes one message.
    pub fn send(&mut self, message: &Value) {
        self.send_line(&message.to_string());
    }

    /// Writes one line as it is.
    pub fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input was closed");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).unwrap();
    }

    /// Sends a request and returns its whole answer, `result` or `error`.
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.answer(id)
    }

    /// Waits for the answer to a request; notifications on the way are dropped.
    pub fn answer(&mut self, id: u64) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let message: Value =
                        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                    if message["id"] == id {
                        return message;
                    }
                    if message["id"].is_number() {
                        self.kept.push(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no answer to request {id}\n{}", self.stderr_so_far())
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the server left\n{}", self.stderr_so_far()),
            }
        }
    }

    /// Whether this answer came while another one was waited for.
    pub fn has_answer(&self, id: u64) -> bool {
        self.kept.iter().any(|message| message["id"] == id)
    }

    /// As [`Session::answer`], for one that may have come already.
    pub fn answer_kept(&mut self, id: u64) -> Value {
        match self.kept.iter().position(|message| message["id"] == id) {
            Some(index) => self.kept.swap_remove(index),
            None => self.answer(id),
        }
    }

    /// Calls a tool; its `structuredContent`, or the error.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        match answer["result"].get("structuredContent") {
            Some(content) => content.clone(),
            None => answer,
        }
    }

    /// The report of an attack tool, by attempt.
    pub fn attack(&mut self, tool: &str, arguments: Value) -> Attack {
        let report = self.call(tool, arguments);
        Attack(report)
    }

    /// Closes standard input: the end of the conversation.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Closes standard input and waits for the process.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.close();
        let status = wait_within(&mut self.child, PATIENCE).expect("it did not end at the end of its input");
        (status, self.stderr_so_far())
    }

    /// What was said on standard error until now.
    pub fn stderr_so_far(&self) -> String {
        std::thread::sleep(Duration::from_millis(50));
        self.errors.try_iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin = None;
        if wait_within(&mut self.child, Duration::from_secs(15)).is_none() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Waits for a process, not longer than `limit`.
pub fn wait_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What an attack tool of the sample server reports.
#[derive(Debug)]
pub struct Attack(pub Value);

impl Attack {
    /// One attempt of it.
    pub fn attempt(&self, id: &str) -> &Value {
        self.0["attempts"]
            .as_array()
            .and_then(|attempts| attempts.iter().find(|attempt| attempt["id"] == id))
            .unwrap_or_else(|| panic!("there is no attempt `{id}` in {:#}", self.0))
    }

    /// Asserts that the attempt was refused with one of these errno names.
    #[track_caller]
    pub fn refused(&self, id: &str, errnos: &[&str]) {
        let attempt = self.attempt(id);
        let errno = attempt["errno"].as_str().unwrap_or("none");
        assert!(
            attempt["outcome"] == "refused" && errnos.contains(&errno),
            "expected a refusal with {errnos:?}: {attempt:#}"
        );
    }

    /// Asserts that the attempt succeeded: the positive control of a denial.
    #[track_caller]
    pub fn succeeded(&self, id: &str) {
        let attempt = self.attempt(id);
        assert!(attempt["outcome"] == "succeeded", "expected a success: {attempt:#}");
    }
}

/// Runs one attack of the sample server without any sandbox, as `user`: the positive control.
pub fn unconfined(user: User, tool: &str, arguments: &Value) -> Attack {
    let place = Place::new(user);
    let program = place.write("server", DEMO_SERVER);
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command.current_dir(&place.root).env("HOME", &place.root);
    command.args(["--probe", tool, "--arguments", &arguments.to_string()]);
    if nix::unistd::Uid::effective().is_root() && user == User::Ordinary {
        command.uid(ORDINARY_ID).gid(ORDINARY_ID);
    }
    let output = command.output().unwrap();
    Attack(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output))))
}

/// What a test needs of the machine. In CI everything must be there: a missing need fails the test;
/// elsewhere it is a printed skip.
pub fn need(what: &str, there: bool) -> bool {
    if there {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "this machine lacks `{what}`, and CI must have it");
    eprintln!("SKIPPED: this machine lacks `{what}`");
    false
}

/// Processes whose parent chain leads to `ancestor`, by what /proc says now.
pub fn descendants(ancestor: u32) -> Vec<u32> {
    let mut found = vec![ancestor];
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(
            processes().into_iter().filter(|process| process.parent == parent).map(|process| process.pid),
        );
        index += 1;
    }
    found.remove(0);
    found
}

/// One line of the process table.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its state letter; `Z` is a process that has ended.
    pub state: char,
    /// When it started, in clock ticks since boot: with the id, a name that is never used again.
    pub started: u64,
}

/// The process table.
pub fn processes() -> Vec<Process> {
    let mut table = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        table.push(Process {
            pid,
            parent: fields[1].parse().unwrap(),
            state: fields[0].chars().next().unwrap(),
            started: fields[19].parse().unwrap(),
        });
    }
    table
}

/// Those of `before` that still run.
pub fn still_alive(before: &[Process]) -> Vec<Process> {
    let now = processes();
    before
        .iter()
        .filter(|old| {
            now.iter().any(|new| new.pid == old.pid && new.started == old.started && new.state != 'Z')
        })
        .cloned()
        .collect()
}

/// Our cgroup directories that exist now.
pub fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in ["", "memory", "cpu", "pids", "blkio"] {
        let parent = Path::new("/sys/fs/cgroup").join(hierarchy).join("palisade");
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// What a command did, and the processes that it had below it at any time.
#[derive(Debug)]
pub struct Watched {
    /// Its status, standard output and standard error.
    pub output: Output,
    /// Every process that was seen below it.
    pub family: Vec<Process>,
    /// Its own peak memory in KiB, as the kernel counts it (`VmHWM`).
    pub peak_kib: u64,
}

/// Runs a command to its end with `input` on its standard input, which stays open, and watches what it starts.
///
/// Panics when it does not end within [`PATIENCE`].
pub fn watch(command: &mut Command, input: &str) -> Watched {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that fails early may not read it.
    let _unread = stdin.write_all(input.as_bytes());
    let [stdout, stderr] = [bytes_of(child.stdout.take().unwrap()), bytes_of(child.stderr.take().unwrap())];
    let (mut family, mut peak_kib) = (Vec::new(), 0);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak_kib = peak_kib.max(peak_memory_kib(child.id()).unwrap_or(0));
        remember(&mut family, child.id());
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end: {}", String::from_utf8_lossy(&stderr.join().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    drop(stdin);
    let output = Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    Watched { output, family, peak_kib }
}

/// Adds the processes that are below `ancestor` now.
pub fn remember(family: &mut Vec<Process>, ancestor: u32) {
    let below = descendants(ancestor);
    let new = |process: &Process| {
        below.contains(&process.pid)
            && !family.iter().any(|known| (known.pid, known.started) == (process.pid, process.started))
    };
    let fresh: Vec<Process> = processes().into_iter().filter(new).collect();
    family.extend(fresh);
}

fn bytes_of(mut stream: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ended = std::io::copy(&mut stream, &mut bytes);
        bytes
    })
}

/// The most memory that a process has had resident, while it runs.
pub fn peak_memory_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Place {
    /// The program of this place.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asserts that nothing of what ran here is left: no process of `family` or of this place's program, no
    /// cgroup, no mount, nothing half-made in the store.
    #[track_caller]
    pub fn nothing_left(&self, family: &[Process]) {
        // A killed process needs a moment until the kernel has taken it apart.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !still_alive(family).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(still_alive(family).is_empty(), "still alive: {:?}", still_alive(family));
        let running: Vec<Process> = processes()
            .into_iter()
            .filter(|process| {
                let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid));
                exe.is_ok_and(|exe| exe == self.program)
            })
            .collect();
        assert!(running.is_empty(), "still running: {running:?}");
        let made: Vec<PathBuf> = cgroups()
            .into_iter()
            .filter(|dir| {
                family.iter().any(|process| dir.ends_with(format!("{}-{}", process.pid, process.started)))
            })
            .collect();
        assert!(made.is_empty(), "cgroups left: {made:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.to_str().unwrap();
        assert!(!mounts.contains(root), "a mount is left: {mounts}");
        self.store_is_whole();
    }

    /// Asserts that the store holds nothing but what belongs there.
    #[track_caller]
    fn store_is_whole(&self) {
        let known = ["audit.jsonl", "blobs", "format", "locks", "names", "rootfs", "signatures", "tmp"];
        for name in names_in(&self.store()) {
            assert!(known.contains(&name.as_str()), "`{name}` is left in the store");
        }
        let half_made = names_in(&self.store().join("tmp"));
        assert!(half_made.is_empty(), "half-made in the store: {half_made:?}");
    }

    /// The names of the unpacked layers.
    pub fn unpacked(&self) -> Vec<String> {
        names_in(&self.store().join("rootfs"))
    }
}

/// The names in a directory, sorted; none when it is not there.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// An error as the program shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What follows `error:`.
    pub message: String,
    /// What follows each `caused by:`.
    pub causes: Vec<String>,
    /// What follows `hint:`.
    pub hint: String,
}

/// Reads the one error that `text` is, and asserts that it keeps the rules: one message, causes, a hint;
/// nothing of how the program is built or where, no colour, no full stop.
#[track_caller]
pub fn one_error(text: &str) -> Shown {
    assert_plain(text);
    let after = |prefix: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let (messages, hints) = (after("error: "), after("hint: "));
    assert_eq!(messages.len(), 1, "not one error: {text}");
    assert_eq!(hints.len(), 1, "not one hint: {text}");
    let shown =
        Shown { message: messages[0].clone(), causes: after("  caused by: "), hint: hints[0].clone() };
    let said: Vec<&String> = [&shown.message].into_iter().chain(&shown.causes).collect();
    assert!(said.windows(2).all(|pair| pair[0] != pair[1]), "the same is said twice: {text}");
    for sentence in shown.causes.iter().chain([&shown.message, &shown.hint]) {
        assert!(!sentence.trim().is_empty(), "an empty sentence: {text}");
        assert!(!sentence.ends_with('.'), "ends with a full stop: {sentence}");
    }
    shown
}

/// Asserts that a text for people has nothing in it that is only for those who write the program.
#[track_caller]
pub fn assert_plain(text: &str) {
    assert!(!text.contains('\u{1b}'), "an escape sequence: {text:?}");
    let ours = [
        env!("CARGO_MANIFEST_DIR"),
        "/.cargo/",
        "src/",
        ".rs:",
        "::",
        "panicked",
        "RUST_BACKTRACE",
        "Some(",
        "Err(",
    ];
    for word in ours {
        assert!(!text.contains(word), "`{word}` is for those who write the program: {text}");
    }
}

impl Place {
    /// `palisade ARGUMENTS`, where these name the store.
    pub fn elsewhere(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", &self.root).current_dir(&self.root);
        if nix::unistd::Uid::effective().is_root() && self.user == User::Ordinary {
            command.uid(ORDINARY_ID).gid(ORDINARY_ID);
        }
        command.output().unwrap()
    }
}
