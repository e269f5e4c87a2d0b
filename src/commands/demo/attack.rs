//! The attacks: what is put in place for them outside the sandbox, the calls, and their reports.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::place::Place;
use super::policies::MOUNT;
use super::random_hex;
use super::render::ROOT;
use crate::environment::Environment;
use crate::failure::{Failure, Status};

/// Where the mounted directory is, in the demonstration's directory. The canary lies beside it.
pub(super) const MOUNTED: &str = "workspace";
const CANARY_FILE: &str = "canary.txt";

/// The variable that the sample server looks for in every environment that it can see.
const CANARY_VARIABLE: &str = "PALISADE_DEMO_CANARY";

/// What is there to be stolen, each with the proof that somebody outside the sandbox can have it.
pub(super) struct Bait {
    file: PathBuf,
    socket_name: String,
    socket: UnixListener,
    mounted: Vec<OsString>,
}

/// Whether something is there to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Yes,
    No,
}

/// One call of an attack tool.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) tool: &'static str,
    /// What the attack is aimed at, for people.
    pub(super) aim: String,
    pub(super) arguments: Map<String, Value>,
}

/// What an attack tool reports. The text is the hostile server's: see [`super::render`].
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub(super) controls: Vec<Control>,
    pub(super) attempts: Vec<Attempt>,
}

/// Something that must work in the sandbox, or the refusals mean nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Control {
    #[serde(rename = "control")]
    pub(super) what: String,
    pub(super) works: bool,
}

/// One thing that was tried.
#[derive(Debug, Deserialize)]
pub(super) struct Attempt {
    pub(super) id: String,
    #[serde(rename = "attempt")]
    pub(super) what: String,
    pub(super) outcome: Outcome,
    pub(super) errno: Option<String>,
    pub(super) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Refused,
    Succeeded,
    NotTried,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Succeeded => "succeeded",
            Self::NotTried => "not tried",
        }
    }
}

impl Report {
    pub(super) fn read(value: Value) -> Result<Self, Failure> {
        serde_json::from_value(value).map_err(|error| {
            Failure::new(Status::Failed, &error, None).because("the sample server's report cannot be read")
        })
    }
}

/// Whether what an attempt looks for is there, seen from here.
pub(super) fn planted(attempt: &Attempt) -> Planted {
    let there = match attempt.id.as_str() {
        "own_canary" | "other_canary" => Environment::has(CANARY_VARIABLE),
        // "list PATH" and "read PATH/{FILE,…}"; one that we may not look at counts as there.
        "list_home" | "list_ssh_directory" | "read_ssh_files" => {
            let path = attempt.what.split_once(' ').map_or("", |(_verb, path)| path);
            let path = path.split_once("/{").map_or(path, |(directory, _files)| directory);
            let opened = palisade_sys::dir::open_ambient_path(Path::new(path));
            !opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        }
        _ => true,
    };
    if there { Planted::Yes } else { Planted::No }
}

impl Bait {
    /// Puts everything in place, and tries from here what the attacks will try from inside.
    pub(super) fn lay(place: &Place) -> Result<Self, Failure> {
        let file = place.path(CANARY_FILE);
        let readable = palisade_sys::dir::read_ambient_bounded(&file, 1024);
        readable.map_err(|error| not_laid("the canary file cannot be read", &error))?;
        let (socket_name, socket) =
            listen().map_err(|error| not_laid("the canary socket cannot be reached", &error))?;
        Ok(Self { file, socket_name, socket, mounted: place.entries(MOUNTED)? })
    }

    /// What the attacks left, seen from outside; nothing is what it should be.
    pub(super) fn traces(&self, place: &Place) -> Result<Vec<&'static str>, Failure> {
        let mut traces = Vec::new();
        match self.socket.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => traces.push("somebody connected to the canary socket"),
        }
        if place.entries(MOUNTED)? != self.mounted {
            traces.push("the mounted directory has changed");
        }
        Ok(traces)
    }

    /// All attacks, in the order of the issue that asked for them.
    pub(super) fn calls(&self) -> Vec<Call> {
        let own = std::process::id();
        let file = self.file.to_string_lossy().into_owned();
        let gateway = json!({ "pid": own.to_string() });
        vec![
            call("steal_ssh_keys", String::new(), &json!({})),
            call("read_environment", format!("and the gateway's, process {own}"), &gateway),
            call("list_host_processes", format!("against the gateway, process {own}"), &gateway),
            call(
                "list_host_processes",
                "against process 1 of its own sandbox".into(),
                &json!({ "pid": "1" }),
            ),
            call("dial_metadata", String::new(), &json!({})),
            call("dial_public", String::new(), &json!({ "abstract_socket": self.socket_name })),
            call("fork_bomb", String::new(), &json!({})),
            call(
                "symlink_escape",
                format!("after {ROOT}/{CANARY_FILE}, beside the directory mounted on {MOUNT}"),
                &json!({ "directory": MOUNT, "host_file": file }),
            ),
            call("write_outside", String::new(), &json!({})),
            call("become_root", String::new(), &json!({})),
        ]
    }
}

/// What the attacker's policy names of the bait.
#[derive(Debug)]
pub(super) struct BaitFiles {
    /// The directory that it mounts.
    pub(super) mounted: PathBuf,
    /// A home directory with a key in it, which it does not mount.
    pub(super) home: PathBuf,
}

/// Makes the files that [`Bait::lay`] counts on; the directory must be there when the sandbox is prepared.
pub(super) fn make_files(place: &Place) -> Result<BaitFiles, Failure> {
    let mounted = place.make_dir(MOUNTED, 0o755)?;
    place.write(&format!("{MOUNTED}/notes.txt"), 0o644, b"what the server may read\n")?;
    place.write(CANARY_FILE, 0o644, b"what the server must not read\n")?;
    // As open as can be: it is not file modes that are to refuse it.
    let home = place.make_dir("home", 0o755)?;
    place.make_dir("home/.ssh", 0o755)?;
    place.write("home/.ssh/id_ed25519", 0o644, b"no key, but it could be one\n")?;
    Ok(BaitFiles { mounted, home })
}

fn call(tool: &'static str, aim: String, arguments: &Value) -> Call {
    Call { tool, aim, arguments: arguments.as_object().cloned().unwrap_or_default() }
}

/// Listens on an abstract socket under a name of our own, and shows that it can be connected to.
fn listen() -> io::Result<(String, UnixListener)> {
    let name = format!("palisade-demo-canary-{}", random_hex(8).map_err(io::Error::other)?);
    let address = SocketAddr::from_abstract_name(&name)?;
    let socket = UnixListener::bind_addr(&address)?;
    let reached = UnixStream::connect_addr(&address)?;
    drop(socket.accept()?);
    drop(reached);
    socket.set_nonblocking(true)?;
    Ok((name, socket))
}

fn not_laid(what: &'static str, error: &io::Error) -> Failure {
    Failure::new(Status::Failed, error, Some("without it the attacks would show nothing".into()))
        .because(what)
}
