//! `steal_ssh_keys`: what a malicious package does first.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::{Arguments, errno, list, open};
use crate::report::{Attempt, Control, Plan, Report};

const FILES: [&str; 6] = ["id_ed25519", "id_rsa", "id_ecdsa", "authorized_keys", "known_hosts", "config"];

pub(crate) fn run(_arguments: &Arguments<'_>) -> Report {
    let (homes, list_home) = homes();
    let mut attempts = vec![list_home];
    for home in homes {
        attempts.push(list_keys(&home));
        attempts.push(read_keys(&home));
    }
    Report { controls: vec![Control::new("list /", list("/"))], attempts }
}

/// Homes worth a look, and the attempt to learn them from /home.
fn homes() -> (BTreeSet<String>, Attempt) {
    let plan = Plan::new("list_home", "list /home")
        .proves("the host's users are visible")
        .unconfined("succeeds, empty where nobody has a home there");
    let mut homes = BTreeSet::from(["/root".to_owned()]);
    homes.extend(std::env::var_os("HOME").map(|home| home.to_string_lossy().into_owned()));
    let attempt = match list("/home") {
        Ok(users) => {
            homes.extend(users.iter().map(|user| format!("/home/{user}")));
            plan.succeeded(format!("{} entries", users.len()))
        }
        Err(errno) => {
            homes.extend(["/home/user", "/home/ubuntu", "/home/admin"].map(str::to_owned));
            plan.refused(errno, errno.desc())
        }
    };
    (homes, attempt)
}

fn list_keys(home: &str) -> Attempt {
    let directory = format!("{home}/.ssh");
    Plan::new("list_ssh_directory", format!("list {directory}"))
        .proves("somebody's home directory is visible")
        .unconfined("succeeds where the directory exists and is one's own (as root: anybody's)")
        .judge(list(&directory).map(|names| format!("{} entries", names.len())))
}

fn read_keys(home: &str) -> Attempt {
    let plan = Plan::new("read_ssh_files", format!("read {home}/.ssh/{{{}}}", FILES.join(",")))
        .proves("a private key can be stolen")
        .unconfined("succeeds where one of the files exists and is one's own (as root: anybody's)");
    let mut refusal = Errno::ENOENT;
    let mut read = Vec::new();
    for file in FILES {
        match first_byte(&format!("{home}/.ssh/{file}")) {
            Ok(()) => read.push(file),
            Err(Errno::ENOENT) => {}
            Err(errno) => refusal = errno,
        }
    }
    if read.is_empty() {
        plan.refused(refusal, refusal.desc())
    } else {
        plan.succeeded(format!("read {}", read.join(", ")))
    }
}

/// Enough to show that the file can be read.
fn first_byte(path: &str) -> Result<(), Errno> {
    use std::io::Read;
    open(path)?.read(&mut [0]).map(|_read| ()).map_err(|error| errno(&error))
}
