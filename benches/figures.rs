//! The figures of benches/README.md, each against a baseline in the same run.
//!
//! `cargo bench --bench figures` prints them as a table: minimum, median, and the ratio of the medians.
//! The machine is noisy, so each round measures every variant once, in turn.
//!
//! Needs: root for the chroot baseline of the real servers; `bwrap` and `crun` where installed; the
//! images of `tests/fixtures/build target/fixtures`. What is missing is said and left out.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends the program; its table is its output"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const DEMO_SERVER: &[u8] = include_bytes!(env!("PALISADE_DEMO_SERVER"));

/// Rounds of a launch: the median of 100 is stable to some 3 % here.
const LAUNCH_ROUNDS: usize = 100;
/// Rounds of a server's start, which takes up to a second.
const START_ROUNDS: usize = 15;
/// Calls of a tool; the first tenth warms up and is left out.
const CALLS: usize = 5000;

fn main() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench { root: place.path().to_path_buf() };
    bench.prepare();
    println!("{}", machine());
    bench.launches();
    bench.calls();
    bench.real_servers();
}

struct Bench {
    root: PathBuf,
}

/// One way of doing something, and how long each round took.
struct Variant<'a> {
    name: String,
    run: Box<dyn FnMut() -> Duration + 'a>,
    times: Vec<Duration>,
}

impl<'a> Variant<'a> {
    fn new(name: &str, run: impl FnMut() -> Duration + 'a) -> Self {
        Self { name: name.to_owned(), run: Box::new(run), times: Vec::new() }
    }
}

fn measure(title: &str, rounds: usize, mut variants: Vec<Variant<'_>>) {
    for variant in &mut variants {
        (variant.run)();
    }
    for _ in 0..rounds {
        for variant in &mut variants {
            let time = (variant.run)();
            variant.times.push(time);
        }
    }
    println!("\n{title} ({rounds} rounds)\n");
    println!("| variant | min ms | median ms | ratio to the first | median added ms |");
    println!("|---|---|---|---|---|");
    let baseline = median(&mut variants[0].times);
    for variant in &mut variants {
        let middle = median(&mut variant.times);
        println!(
            "| {} | {:.3} | {:.3} | {:.2} | {:.3} |",
            variant.name,
            ms(variant.times[0]),
            ms(middle),
            ms(middle) / ms(baseline),
            ms(middle) - ms(baseline)
        );
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "Linux {}, {cores} cores, {}",
        read("/proc/sys/kernel/osrelease").trim(),
        model.trim_start_matches([':', ' ', '\t'])
    )
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Runs to the end with no input.
fn to_exit(mut command: Command) -> Duration {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let took = started.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

impl Bench {
    fn palisade(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
        command.arg("--store").arg(self.root.join("store")).args(arguments);
        command
    }

    fn must(&self, arguments: &[&str]) {
        let output = self.palisade(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn policy(&self, server: &str, more: &str) -> String {
        let file = self.root.join(format!("{server}.yaml"));
        let text = format!(
            "palisade: 1\nserver: {server}\nimage: {{ reference: \"{server}:1\", unsigned: \"a benchmark\" }}\naccept_degraded: [memory, cpus]\n{more}\n"
        );
        fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    /// The sample server: at the end of its input it exits, so with none it is `true`.
    fn prepare(&self) {
        use palisade_image::layout::{Builder, LayerFiles, Runtime};
        let files = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
        let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
        let layout = self.root.join("layout");
        Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
        self.must(&["image", "import", layout.to_str().unwrap(), "--as", "sample:1"]);
        self.must(&["image", "prepare", &self.policy("sample", "")]);
        let bin = self.rootfs().join("bin");
        fs::create_dir_all(&bin).unwrap();
        for dir in ["proc", "dev", "tmp"] {
            fs::create_dir_all(self.rootfs().join(dir)).unwrap();
        }
        fs::write(bin.join("server"), DEMO_SERVER).unwrap();
        fs::set_permissions(bin.join("server"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn launches(&self) {
        let server = self.rootfs().join("bin/server");
        let mut variants = vec![Variant::new("fork and exec", move || to_exit(Command::new(&server)))];
        if installed("bwrap") {
            let rootfs = self.rootfs();
            variants.push(Variant::new("bwrap --unshare-all", move || {
                let mut command = Command::new("bwrap");
                command.args(["--unshare-all", "--die-with-parent", "--ro-bind"]).arg(&rootfs);
                command.args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/server"]);
                to_exit(command)
            }));
        } else {
            println!("bwrap is not installed and left out");
        }
        for runtime in ["crun", "runc"] {
            match self.container_runtime(runtime) {
                Ok(variant) => variants.push(variant),
                Err(reason) => println!("{runtime} is left out: {reason}"),
            }
        }
        let policy = self.policy("sample", "");
        variants
            .push(Variant::new("palisade run (whole program: verify, resolve, launch, exit)", move || {
                to_exit(self.palisade(&["run", &policy]))
            }));
        measure("Launch of a static program to its exit", LAUNCH_ROUNDS, variants);
    }

    /// `crun` or `runc` with their own default specification; `Err` says why it cannot be measured here.
    fn container_runtime(&self, runtime: &'static str) -> Result<Variant<'_>, String> {
        let bundle = self.root.join(format!("bundle-{runtime}"));
        fs::create_dir_all(&bundle).unwrap();
        let made = Command::new(runtime).arg("spec").current_dir(&bundle).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("it is not installed".into());
        }
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/server"]);
        config["root"] = json!({ "path": self.rootfs(), "readonly": true });
        fs::write(&file, config.to_string()).unwrap();
        let mut number = 0;
        let mut next = move || {
            number += 1;
            let mut command = Command::new(runtime);
            command.arg("--root").arg(self.root.join(runtime)).args(["run", "--bundle"]).arg(&bundle);
            command.arg(format!("bench-{}-{number}", std::process::id()));
            command
        };
        let tried = next().stdin(Stdio::null()).output().unwrap();
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
        }
        Ok(Variant::new(&format!("{runtime} run"), move || to_exit(next())))
    }

    /// The same call on the server's own pipe and through the gateway, in turn.
    fn calls(&self) {
        let mut direct = Conversation::start(Command::new(self.rootfs().join("bin/server")));
        let mut through = Conversation::start(self.palisade(&["run", &self.policy("sample", "")]));
        for conversation in [&mut direct, &mut through] {
            conversation.initialize();
            for _ in 0..CALLS / 10 {
                conversation.call();
            }
        }
        measure(
            "tools/call of the sample server",
            CALLS,
            vec![
                Variant::new("the server's own pipe", || direct.call()),
                Variant::new("through `palisade run`", || through.call()),
            ],
        );
    }

    fn real_servers(&self) {
        // Two processors, as the variants without a limit have.
        for (name, baseline) in [("everything", "node"), ("memory", "node"), ("time", "python")] {
            let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/images").join(name);
            if !layout.is_dir() {
                println!("\n{name}: no image below target/fixtures, left out");
                continue;
            }
            self.must(&["image", "import", layout.to_str().unwrap(), "--as", &format!("{name}:1")]);
            let policy =
                self.policy(name, &format!("syscalls: {{ baseline: {baseline} }}\nlimits: {{ cpus: 2 }}"));
            self.must(&["image", "prepare", &policy]);
            let merged = self.merge(&layout, name);
            let config = config_of(&layout);
            let mut variants =
                vec![Variant::new("chroot, no sandbox", || first_answer(chroot(&merged, &config)))];
            if installed("bwrap") {
                variants.push(Variant::new("bwrap --unshare-all", || first_answer(bwrap(&merged, &config))));
            }
            variants.push(Variant::new("palisade run", || first_answer(self.palisade(&["run", &policy]))));
            measure(&format!("{name}: process start to the answer to initialize"), START_ROUNDS, variants);
        }
    }

    /// All layers of an image in one directory, for the variants without a sandbox of ours.
    fn merge(&self, layout: &Path, name: &str) -> PathBuf {
        let merged = self.root.join(format!("merged-{name}"));
        fs::create_dir_all(&merged).unwrap();
        for layer in manifest_of(layout)["layers"].as_array().unwrap() {
            let blob = blob(layout, layer["digest"].as_str().unwrap());
            let status = Command::new("tar").arg("-C").arg(&merged).arg("-xf").arg(&blob).status().unwrap();
            assert!(status.success());
        }
        for dir in ["proc", "dev", "tmp"] {
            fs::create_dir_all(merged.join(dir)).unwrap();
        }
        merged
    }
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn manifest_of(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    serde_json::from_slice(&fs::read(blob(layout, digest)).unwrap()).unwrap()
}

fn config_of(layout: &Path) -> Value {
    let manifest = manifest_of(layout);
    let digest = manifest["config"]["digest"].as_str().unwrap();
    let config: Value = serde_json::from_slice(&fs::read(blob(layout, digest)).unwrap()).unwrap();
    config["config"].clone()
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn with_config(command: &mut Command, config: &Value) {
    command.args(words(&config["Entrypoint"])).args(words(&config["Cmd"]));
    command.env_clear();
    for variable in words(&config["Env"]) {
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value);
    }
}

fn chroot(root: &Path, config: &Value) -> Command {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(root);
    with_config(&mut command, config);
    command
}

fn bwrap(root: &Path, config: &Value) -> Command {
    let mut command = Command::new("/usr/bin/bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--ro-bind"]).arg(root);
    command.args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    with_config(&mut command, config);
    command
}

/// From the start of the process to the answer to `initialize`.
fn first_answer(command: Command) -> Duration {
    let started = Instant::now();
    let mut conversation = Conversation::start(command);
    conversation.initialize();
    started.elapsed()
}

struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    line: String,
}

impl Conversation {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output, line: String::new() }
    }

    fn ask(&mut self, request: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(request.as_bytes()).unwrap();
        loop {
            self.line.clear();
            assert!(self.output.read_line(&mut self.line).unwrap() > 0, "the server left");
            if self.line.contains("\"id\"") {
                return;
            }
        }
    }

    fn initialize(&mut self) {
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" } });
        self.ask(&format!(
            "{}\n",
            json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })
        ));
    }

    fn call(&mut self) -> Duration {
        let started = Instant::now();
        self.ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":2}}}\n");
        started.elapsed()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.input = None;
        let _ended = self.child.wait();
    }
}
