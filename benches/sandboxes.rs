//! What a sandbox costs: to launch, to activate from a warm pool, in memory, and a hundred at once.
//!
//! `cargo bench --bench sandboxes` prints tables: minimum, median and the ratio of the medians to the first variant, all
//! variants in turn in one run. Needs root; `bwrap`, `crun` and `runc` where installed.
//!
//! The library is measured and not the program, so this program plays our other roles as well: `__supervise` and
//! `__unpack` start it again.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends the program; its table is its output"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use palisade_image::{ImageName, Store, Trust, UnpackOptions, VerifyRequest};
use palisade_sandbox::host::Cgroups;
use palisade_sandbox::launch::SandboxProcess;
use palisade_sandbox::spec::{ImageFacts, ResolveInput};
use palisade_sandbox::{HostSupport, PreparedSandbox, RunningSandbox, SandboxSpec, Secrets};
use serde_json::{Value, json};

const DEMO_SERVER: &[u8] = include_bytes!(env!("PALISADE_DEMO_SERVER"));

/// The median of 100 is stable to some 3 %.
const ROUNDS: usize = 100;
/// Sandboxes at once.
const MANY: usize = 100;

fn main() -> ExitCode {
    let role = std::env::args().nth(1);
    if role.as_deref() == Some(palisade_sandbox::supervisor::ROLE) {
        let control = palisade_sys::dir::take_inherited(0).unwrap();
        return ExitCode::from(palisade_sandbox::supervisor::main(&control));
    }
    if role.as_deref() == Some(palisade_image::unpack::UNPACK_ROLE) {
        return palisade_image::unpack_child_main();
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench::new(place.path());
    launches(&bench);
    activations(&bench);
    memory(&bench);
    many(&bench);
    ExitCode::SUCCESS
}

struct Bench {
    root: PathBuf,
    server: PathBuf,
    sandbox: PreparedSandbox,
    /// The same, where no cgroup can be had: what moving into one costs is the difference.
    without_cgroup: PreparedSandbox,
}

impl Bench {
    fn new(root: &Path) -> Self {
        let rootfs = root.join("rootfs");
        for dir in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        let server = rootfs.join("bin/server");
        fs::write(&server, DEMO_SERVER).unwrap();
        fs::set_permissions(&server, PermissionsExt::from_mode(0o755)).unwrap();
        let host = HostSupport::probe();
        let unusable = Cgroups::Unusable { reason: "left out".into(), remedy: "none".into() };
        let without = HostSupport { cgroups: unusable, ..host.clone() };
        let (sandbox, without_cgroup) = (prepare(root, "a", &host), prepare(root, "b", &without));
        Self { root: root.to_path_buf(), server, sandbox, without_cgroup }
    }
}

/// The sample server's image, verified, unpacked and resolved.
fn prepare(root: &Path, store: &str, host: &HostSupport) -> PreparedSandbox {
    let files = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
    let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
    let layout = root.join(format!("layout-{store}"));
    Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
    let store = Store::open(&root.join(store)).unwrap();
    let name: ImageName = "sample:1".parse().unwrap();
    store.import(&layout, &name).unwrap();
    let text = "palisade: 1\nserver: sample\nimage: { reference: \"sample:1\", unsigned: \"a benchmark\" }\naccept_degraded: [memory, cpus]\n";
    let policy = palisade_policy::parse("sample.yaml", text).unwrap();
    let trust = Trust::of_policy(&policy.image.trust, Path::new("/")).unwrap();
    let verified =
        palisade_image::verify(&store, &VerifyRequest { name: &name, expected_digest: None, trust }).unwrap();
    let landlock = palisade_image::LandlockNeed::Required;
    let rootfs = palisade_image::unpack_with(&store, verified, UnpackOptions { landlock }).unwrap();
    let facts = ImageFacts::of(&rootfs).unwrap();
    let input = ResolveInput { policy: &policy, image: Some(&facts), host, home: None };
    SandboxSpec::resolve(input).unwrap().prepare(&policy.syscalls, &rootfs).unwrap()
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

fn measure(title: &str, mut variants: Vec<Variant<'_>>) {
    for round in 0..=ROUNDS {
        for variant in &mut variants {
            let time = (variant.run)();
            if round > 0 {
                variant.times.push(time);
            }
        }
    }
    println!("\n{title} ({ROUNDS} rounds)\n");
    println!("| variant | min ms | median ms | ratio to the first | median added ms |");
    println!("|---|---|---|---|---|");
    let baseline = median(&mut variants[0].times);
    for variant in &mut variants {
        let middle = median(&mut variant.times);
        let (ratio, added) = (ms(middle) / ms(baseline), ms(middle) - ms(baseline));
        println!(
            "| {} | {:.3} | {:.3} | {ratio:.2} | {added:.3} |",
            variant.name,
            ms(variant.times[0]),
            ms(middle)
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

fn to_exit(mut command: Command) -> Duration {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let took = started.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// A static program from start to exit. The sample server ends at the end of its input.
fn launches(bench: &Bench) {
    let (server, rootfs) = (&bench.server, bench.root.join("rootfs"));
    let mut variants = vec![Variant::new("fork and exec", || to_exit(Command::new(server)))];
    variants.push(Variant::new("bwrap --unshare-all", || {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--die-with-parent", "--ro-bind"]).arg(&rootfs);
        command.args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/server"]);
        to_exit(command)
    }));
    for runtime in ["crun --cgroup-manager=disabled", "runc"] {
        match container_runtime(bench, runtime) {
            Ok(variant) => variants.push(variant),
            Err(reason) => println!("{runtime} is left out: {reason}"),
        }
    }
    variants.push(Variant::new("palisade, create and start to exit", || sandbox_to_exit(&bench.sandbox)));
    variants.push(Variant::new("the same without a cgroup", || sandbox_to_exit(&bench.without_cgroup)));
    measure("Launch of a static program to its exit", variants);
}

fn sandbox_to_exit(sandbox: &PreparedSandbox) -> Duration {
    let started = Instant::now();
    let (stdin, _stdout, _stderr, mut process) = sandbox.spawn(&Secrets::none()).unwrap().into_parts();
    drop(stdin);
    exited(&process);
    let took = started.elapsed();
    process.wait();
    took
}

/// Waits until the exit is reported; what follows is the removal of the cgroup, which `runc` does not wait for either.
fn exited(process: &SandboxProcess) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(process.exit_notice(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap(), 1);
}

/// A shell in a mount namespace whose `/sys/fs/cgroup` is cgroup v2 alone, since `crun` refuses hybrid hosts. It starts
/// a command a line and answers when that has ended, so that entering the namespace is not measured.
fn container_runtime<'a>(bench: &Bench, runtime: &str) -> Result<Variant<'a>, String> {
    let program = runtime.split(' ').next().unwrap();
    let bundle = bench.root.join(format!("bundle-{program}"));
    fs::create_dir_all(&bundle).unwrap();
    if !Command::new(program).arg("spec").current_dir(&bundle).status().is_ok_and(|status| status.success()) {
        return Err("it is not installed".into());
    }
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/server"]);
    config["root"] = json!({ "path": bench.root.join("rootfs"), "readonly": true });
    fs::write(&file, config.to_string()).unwrap();
    let cgroup2 = if program == "crun" {
        "mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup 2>/dev/null;"
    } else {
        ""
    };
    let script =
        format!("{cgroup2} while read -r line; do eval \"$line\" </dev/null >/dev/null 2>&1; echo $?; done");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let mut shell = Shell(shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let (mut input, mut output) =
        (shell.0.stdin.take().unwrap(), BufReader::new(shell.0.stdout.take().unwrap()));
    let line =
        format!("{runtime} --root {} run --bundle {}", bench.root.join(program).display(), bundle.display());
    let mut number = 0;
    let mut once = move || {
        number += 1;
        let started = Instant::now();
        writeln!(input, "{line} bench-{}-{number}", std::process::id()).unwrap();
        let mut status = String::new();
        output.read_line(&mut status).unwrap();
        (started.elapsed(), status.trim() == "0")
    };
    if !once().1 {
        return Err("it fails here".into());
    }
    Ok(Variant::new(&format!("{runtime} run"), move || {
        let _still_there = shell.0.try_wait();
        let (took, worked) = once();
        assert!(worked);
        took
    }))
}

/// Ends with its input.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

const PING: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";

fn ask(input: &mut impl Write, output: &mut impl BufRead) {
    input.write_all(PING.as_bytes()).unwrap();
    let mut line = String::new();
    assert!(output.read_line(&mut line).unwrap() > 0, "the server left");
}

/// From the decision to start a server to its first answer.
fn activations(bench: &Bench) {
    let plain = Variant::new("fork and exec", || {
        let started = Instant::now();
        let mut child =
            Command::new(&bench.server).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, output): (ChildStdin, ChildStdout) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        ask(&mut input, &mut BufReader::new(output));
        let took = started.elapsed();
        drop(input);
        child.wait().unwrap();
        took
    });
    let warm = Variant::new("palisade, from the warm pool", || {
        let ready = bench.sandbox.create().unwrap();
        let started = Instant::now();
        let mut server = Server::new(ready.start(&Secrets::none()).unwrap());
        server.ask();
        let took = started.elapsed();
        server.end();
        took
    });
    let cold = Variant::new("palisade, built when needed", || {
        let started = Instant::now();
        let mut server = Server::new(bench.sandbox.spawn(&Secrets::none()).unwrap());
        server.ask();
        let took = started.elapsed();
        server.end();
        took
    });
    measure("Start of a server to its first answer", vec![plain, warm, cold]);
}

struct Server {
    input: File,
    output: BufReader<File>,
    _errors: File,
    process: SandboxProcess,
}

impl Server {
    fn new(running: RunningSandbox) -> Self {
        let (stdin, stdout, stderr, process) = running.into_parts();
        Self { input: stdin.into(), output: BufReader::new(stdout.into()), _errors: stderr.into(), process }
    }

    fn ask(&mut self) {
        ask(&mut self.input, &mut self.output);
    }

    fn end(self) {
        let Self { input, mut process, .. } = self;
        drop(input);
        process.wait();
    }
}

/// Our processes of all running sandboxes, with the proportional set size of each in KiB, and the private part.
fn ours() -> Vec<(String, u64, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if !comm.starts_with("palisade-") || Some(exe) != std::env::current_exe().ok() {
            continue;
        }
        let rollup = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let field = |names: &[&str]| {
            let lines = rollup.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
            lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        };
        found.push((comm, field(&["Pss:"]), field(&["Private_"])));
    }
    found
}

fn memory(bench: &Bench) {
    let mut server = Server::new(bench.sandbox.spawn(&Secrets::none()).unwrap());
    server.ask();
    println!("\nMemory of our processes beside one server\n");
    println!("| process | PSS KiB | private KiB |");
    println!("|---|---|---|");
    let mut processes = ours();
    processes.sort();
    for (name, pss, private) in &processes {
        println!("| {name} | {pss} | {private} |");
    }
    let sum = |of: fn(&(String, u64, u64)) -> u64| processes.iter().map(of).sum::<u64>();
    println!("| together | {} | {} |", sum(|process| process.1), sum(|process| process.2));
    server.end();
}

fn many(bench: &Bench) {
    let started = Instant::now();
    let mut servers: Vec<Server> = Vec::new();
    for _ in 0..MANY {
        servers.push(Server::new(bench.sandbox.spawn(&Secrets::none()).unwrap()));
    }
    let launched = started.elapsed();
    let mut answers: Vec<Duration> = Vec::new();
    for server in &mut servers {
        let asked = Instant::now();
        server.ask();
        answers.push(asked.elapsed());
    }
    let pss: u64 = ours().iter().map(|process| process.1).sum();
    let ending = Instant::now();
    servers.into_iter().for_each(Server::end);
    println!("\n{MANY} sandboxes at once\n");
    println!("| what | value |\n|---|---|");
    println!(
        "| started one after the other | {:.0} ms, {:.1} ms each |",
        ms(launched),
        ms(launched) / MANY as f64
    );
    println!("| median answer of each, with all alive | {:.3} ms |", ms(median(&mut answers)));
    println!("| PSS of our processes | {} KiB, {} KiB a server |", pss, pss / MANY as u64);
    println!("| ended one after the other | {:.0} ms |", ms(ending.elapsed()));
}
