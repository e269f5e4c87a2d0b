//! What the unpacking process can no longer do, each tried before and after.
#![expect(clippy::disallowed_methods, reason = "the probe is a process of its own")]

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::stat::{Mode, SFlag};
use palisade_image::unpack::confine_this_process;
use palisade_sys::dir::Dir;

use crate::support::trials;

trials![the_unpacking_process_can_write_to_its_tree_and_nothing_else];

/// One thing that a taken-over process might try.
type Attempt<'a> = (&'static str, Box<dyn Fn(&str) -> io::Result<()> + 'a>);

/// The role `__probe`: tries everything, confines itself, tries it again, and prints both results.
pub(crate) fn probe(tree: &str, outside: &str) -> ExitCode {
    let open = |path: &str| Dir::open_ambient(path.as_ref()).unwrap();
    let (tree, outside, root) = (open(tree), open(outside), open("/"));
    let attempts: Vec<Attempt<'_>> = vec![
        // Allowed: what unpacking does.
        ("make a file in the tree", Box::new(|when| tree.create_file(Path::new(when), 0o600).map(drop))),
        (
            "make a directory in the tree",
            Box::new(|when| tree.create_dir(&Path::new("d").join(when), 0o700).map(drop)),
        ),
        (
            "link in the tree",
            Box::new(|when| tree.hardlink(Path::new(when), &Path::new("d").join(when).join("h"))),
        ),
        (
            "symlink in the tree",
            Box::new(|when| tree.symlink("/".as_ref(), &Path::new("d").join(when).join("s"))),
        ),
        // Refused by Landlock (EACCES): the call is allowed, the place is not.
        ("read a file elsewhere", Box::new(|_| root.open_file("etc/passwd".as_ref()).map(drop))),
        ("make a file elsewhere", Box::new(|when| outside.create_file(Path::new(when), 0o600).map(drop))),
        (
            "make a directory elsewhere",
            Box::new(|when| outside.create_dir(&Path::new("d").join(when), 0o700).map(drop)),
        ),
        ("remove a file elsewhere", Box::new(|when| outside.remove_file(&Path::new("remove").join(when)))),
        // Refused by seccomp (EPERM): the call itself is not allowed.
        ("open a file by name", Box::new(|_| std::fs::File::open("/etc/passwd").map(drop))),
        ("rename", Box::new(|when| tree.rename(Path::new(when), &tree, &Path::new("renamed").join(when)))),
        ("open a socket", Box::new(|_| std::net::UdpSocket::bind("127.0.0.1:0").map(drop))),
        ("start a process", Box::new(|_| Command::new("true").status().map(drop))),
        ("signal the parent", Box::new(|_| Ok(nix::sys::signal::kill(nix::unistd::getppid(), None)?))),
        (
            "make a FIFO",
            Box::new(|when| {
                Ok(nix::sys::stat::mknodat(&tree, &*format!("f-{when}"), SFlag::S_IFIFO, Mode::S_IRWXU, 0)?)
            }),
        ),
        ("ask for a process group", Box::new(|_| Ok(nix::unistd::getpgid(None).map(drop)?))),
    ];
    let run = |when: &str| -> Vec<String> {
        let code =
            |result: io::Result<()>| result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
        attempts.iter().map(|(_, attempt)| code(attempt(when)).to_string()).collect()
    };
    let before = run("before");
    let abi = confine_this_process(&tree).unwrap();
    let after = run("after");
    println!("landlock {abi:?}");
    for ((name, _), (before, after)) in attempts.iter().zip(before.iter().zip(&after)) {
        println!("{before} {after} {name}");
    }
    ExitCode::SUCCESS
}

fn the_unpacking_process_can_write_to_its_tree_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for place in ["tree/d", "tree/renamed", "outside/d", "outside/remove"] {
        std::fs::create_dir_all(dir.path().join(place)).unwrap();
    }
    for when in ["before", "after"] {
        std::fs::write(dir.path().join("outside/remove").join(when), "").unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("__probe")
        .args([dir.path().join("tree"), dir.path().join("outside")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let (eperm, eacces) = (libc::EPERM, libc::EACCES);
    let expected = [
        "0 0 make a file in the tree".to_owned(),
        "0 0 make a directory in the tree".into(),
        "0 0 link in the tree".into(),
        "0 0 symlink in the tree".into(),
        format!("0 {eacces} read a file elsewhere"),
        format!("0 {eacces} make a file elsewhere"),
        format!("0 {eacces} make a directory elsewhere"),
        format!("0 {eacces} remove a file elsewhere"),
        format!("0 {eperm} open a file by name"),
        format!("0 {eperm} rename"),
        format!("0 {eperm} open a socket"),
        format!("0 {eperm} start a process"),
        format!("0 {eperm} signal the parent"),
        format!("0 {eperm} make a FIFO"),
        format!("0 {eperm} ask for a process group"),
    ];
    assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), expected);
}
