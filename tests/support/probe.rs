//! The probe program in tests: in an image, without a sandbox, and as the shim that makes system calls fail.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use palisade_image::layout::{Builder, LayerFiles, PackedLayer, Runtime};
use palisade_probe_binary::PROBE;
use serde_json::{Value, json};

use super::{PATIENCE, Place, Session, User, Watched, remember, stderr};

/// The three directories that a policy of the probe mounts: two read-write, one read-only.
pub const DIRECTORIES: [&str; 3] = ["first", "second", "third"];

/// Attempts by their id.
pub type Attempts = BTreeMap<String, Value>;

fn by_id(attempts: impl IntoIterator<Item = Value>) -> Attempts {
    let mut found = Attempts::new();
    for attempt in attempts {
        let id = attempt["id"].as_str().unwrap_or_default().to_owned();
        assert!(found.insert(id.clone(), attempt).is_none(), "two attempts are called `{id}`");
    }
    found
}

impl Place {
    /// Imports the probe as `probe:1`; an image that has it once more, as a set-id program.
    pub fn import_probe(&self, arguments: &[&str]) {
        let runtime = Runtime {
            entrypoint: ["/bin/server"].iter().chain(arguments).map(|&word| word.to_owned()).collect(),
            ..Runtime::default()
        };
        let files = LayerFiles::new()
            .file("bin/server", 0o755, PROBE)
            .and_then(|files| files.file("bin/setid", 0o6755, PROBE))
            .unwrap();
        self.import_image(files, runtime, "probe:1");
    }

    /// Imports the probe on top of the layers of another image's layout.
    pub fn import_probe_with(&self, base: &Path, name: &str) {
        let document =
            |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let blob = |descriptor: &Value| {
            base.join("blobs/sha256").join(descriptor["digest"].as_str().unwrap().replace("sha256:", ""))
        };
        let manifest = document(&blob(&document(&base.join("index.json"))["manifests"][0]));
        let config = document(&blob(&manifest["config"]));
        let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
        let mut image = Builder::new(runtime);
        let layers = manifest["layers"].as_array().unwrap();
        for (layer, diff_id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap()) {
            image = image.packed_layer(PackedLayer {
                media_type: layer["mediaType"].as_str().unwrap().to_owned(),
                blob: std::fs::read(blob(layer)).unwrap(),
                diff_id: diff_id.as_str().unwrap().parse().unwrap(),
            });
        }
        let layout = self.root.join(format!("layout-{}", name.replace([':', '/'], "-")));
        let files = LayerFiles::new().file("bin/server", 0o755, PROBE).unwrap();
        image.layer(files).unwrap().write(&layout).unwrap();
        self.give_tree(&layout);
        self.must(["image", "import", layout.to_str().unwrap(), "--as", name]);
    }

    /// Imports an image of one layer.
    pub fn import_image(&self, files: LayerFiles, runtime: Runtime, name: &str) {
        let layout = self.root.join(format!("layout-{}", name.replace([':', '/'], "-")));
        if layout.exists() {
            std::fs::remove_dir_all(&layout).unwrap();
        }
        Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
        self.give_tree(&layout);
        self.must(["image", "import", layout.to_str().unwrap(), "--as", name]);
    }

    /// A policy for the probe that mounts this place's three directories, made here with a `file` in each.
    pub fn probe_policy(&self, server: &str, more: &str) -> PathBuf {
        let mut mounts = Vec::new();
        for (name, access) in DIRECTORIES.into_iter().zip(["read-write", "read-write", "read-only"]) {
            let directory = self.dir(name);
            self.write(&format!("{name}/file"), "something");
            mounts.push(format!(
                "{{ source: \"{}\", target: /{name}, access: {access} }}",
                directory.display()
            ));
        }
        let mounts = format!("filesystem: {{ mounts: [ {} ] }}\n{more}", mounts.join(", "));
        self.policy(server, "probe:1", &mounts)
    }

    /// The probe as a file that this place's user can execute.
    pub fn probe_program(&self) -> PathBuf {
        let program = self.root.join("palisade-probe");
        if !program.exists() {
            self.write("palisade-probe", PROBE);
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        program
    }

    /// A command that runs the probe as this place's user, without a sandbox.
    pub fn probe_command(&self) -> Command {
        let mut command = Command::new(self.probe_program());
        command.current_dir(&self.root).env_clear().stdin(Stdio::null());
        if nix::unistd::Uid::effective().is_root() && self.user == User::Ordinary {
            command.uid(self.user.id()).gid(self.user.id());
        }
        command
    }

    /// What the probe can do without a sandbox; with `--private`, in namespaces of its own.
    pub fn unconfined_probe(&self, given: &Value, flags: &[&str]) -> Attempts {
        let output = self.probe_command().args(["--probe", &given.to_string()]).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        by_id(text.lines().map(|line| serde_json::from_str(line).unwrap()))
    }

    /// `palisade run POLICY` below the shim, with the rules given; what the shim counted is in `report`.
    pub fn shimmed(&self, rules: &[String], policy: &Path) -> Command {
        let palisade = self.palisade(["run", policy.to_str().unwrap()]);
        // The shim changes the ids itself, so that it can install its filter before `no_new_privs` is set.
        let mut command = Command::new(self.probe_program());
        command.arg("--deny").args(rules).arg("--report").arg(self.root.join("hits.json"));
        // Whoever is lied to about a namespace would mount over this machine's directories.
        if rules.iter().any(|rule| rule.ends_with(":0")) {
            command.arg("--private");
        }
        if nix::unistd::Uid::effective().is_root() && self.user == User::Ordinary {
            command.args(["--user", &self.user.id().to_string()]);
        }
        command.arg("--").arg(palisade.get_program()).args(palisade.get_args());
        command.current_dir(&self.root).env_clear();
        command.envs(palisade.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// What the shim of [`Place::shimmed`] counted, rule by rule.
    pub fn hits(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.root.join("hits.json")).unwrap();
        let hits: Vec<Value> = serde_json::from_str(&text).unwrap();
        hits.iter().map(|rule| rule["hits"].as_u64().unwrap()).collect()
    }
}

impl Session {
    /// Calls the probe's tool; by id. Through a gateway the tool has its server's name in front.
    pub fn probe(&mut self, given: &Value) -> Attempts {
        by_id(self.probe_list("probe", given))
    }

    /// The attempts of one call, in order.
    pub fn probe_list(&mut self, tool: &str, given: &Value) -> Vec<Value> {
        let answer = self.call(tool, given.clone());
        answer["attempts"].as_array().unwrap_or_else(|| panic!("no attempts: {answer}")).clone()
    }

    /// What the probe says that it is.
    pub fn facts(&mut self) -> Value {
        self.probe_list("probe", &json!({ "group": "facts" })).remove(0)
    }
}

/// What there is outside for a probe to reach, all of it this test's own.
#[derive(Debug)]
pub struct Targets {
    /// A process of the same user.
    pub victim: Child,
    listener: TcpListener,
    name: String,
    _abstract_socket: UnixListener,
    _path_socket: UnixListener,
    beside: PathBuf,
}

/// Tests run side by side, and abstract names are the machine's.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Targets {
    /// Makes them; [`Place::probe_policy`] has made the directories.
    pub fn new(place: &Place) -> Self {
        let victim = place.probe_command().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("palisade-escape-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let path = place.root.join("first/socket");
        let path_socket = UnixListener::bind(&path).unwrap();
        place.give(&path);
        Self {
            victim,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            name,
            _abstract_socket: UnixListener::bind_addr(&address).unwrap(),
            _path_socket: path_socket,
            beside: place.write("beside.txt", "beside"),
        }
    }

    /// The arguments of the probe inside.
    pub fn inside(&self) -> Value {
        self.given("", "/bin/server")
    }

    /// The arguments of the probe outside.
    pub fn outside(&self, place: &Place) -> Value {
        self.given(place.root.to_str().unwrap(), place.probe_program().to_str().unwrap())
    }

    fn given(&self, root: &str, program: &str) -> Value {
        json!({
            "pid": self.victim.id(),
            "first": format!("{root}/first"),
            "second": format!("{root}/second"),
            "third": format!("{root}/third"),
            "socket_path": format!("{root}/first/socket"),
            "host_file": self.beside,
            "program": program,
            "port": self.listener.local_addr().unwrap().port(),
            "abstract_socket": self.name,
        })
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _gone = self.victim.kill();
        let _reaped = self.victim.wait();
    }
}

/// Runs a command to its end with `input` on its standard input, which ends there, and watches what it starts.
pub fn watch_to_end(command: &mut Command, input: &str) -> Watched {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that fails early may not read it.
    let _unread = stdin.write_all(input.as_bytes());
    drop(stdin);
    let pipes =
        [super::bytes_of(child.stdout.take().unwrap()), super::bytes_of(child.stderr.take().unwrap())];
    let mut family = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        remember(&mut family, child.id());
        if Instant::now() >= deadline {
            // The shim and what runs below it are this test's own.
            for process in &family {
                let _gone = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(process.pid.cast_signed()),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let [_, stderr] = pipes.map(|pipe| String::from_utf8_lossy(&pipe.join().unwrap()).into_owned());
            panic!("it did not end: {stderr}");
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let [stdout, stderr] = pipes.map(|pipe| pipe.join().unwrap());
    Watched { output: std::process::Output { status, stdout, stderr }, family, peak_kib: 0 }
}

/// The conversation of a session that asks the probe for its facts, and whether it can listen (Landlock's answer).
pub fn questions() -> String {
    let call = |id: u32, group: &str| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": "probe", "arguments": { "group": group } } })
    };
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    format!("{initialize}\n{initialized}\n{}\n{}\n", call(2, "facts"), call(3, "sockets"))
}

/// What confines a server, in a form that is the same at every start: none where it did not answer.
pub fn posture(stdout: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(stdout);
    let answers: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let content = |id: u32| {
        let answer = answers.iter().find(|answer| answer["id"] == id)?;
        answer["result"]["structuredContent"]["attempts"].as_array().cloned()
    };
    let facts = content(2)?.into_iter().next()?;
    let sockets = by_id(content(3)?);
    let fields = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Threads",
        "SigIgn",
    ];
    let status: BTreeMap<&str, &Value> = fields.iter().map(|&name| (name, &facts["status"][name])).collect();
    let mounts: Vec<String> = facts["mounts"]
        .as_str()?
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", fields[4], fields[5])
        })
        .collect();
    let host = |kind: &str| {
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        facts["namespaces"][kind].as_str() == ours.to_str()
    };
    let shared: Vec<&str> =
        ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"].into_iter().filter(|kind| host(kind)).collect();
    Some(json!({
        "status": status,
        "mounts": mounts,
        "shared_namespaces": shared,
        "securebits": facts["securebits"],
        "maps": [facts["uid_map"], facts["gid_map"], facts["setgroups"]],
        "limits": facts["limits"],
        "descriptors": facts["descriptors"].as_object()?.keys().collect::<Vec<_>>(),
        "environment": facts["environment"],
        "directory": facts["directory"],
        "processes": facts["processes"].as_array()?.len(),
        "listen": sockets["listen_tcp"]["errno"],
        "root": facts["root"],
        "dev": facts["dev"],
    }))
}
