//! `doctor` says which right is missing, why it is, and how to get it.

#![cfg(test)]

mod support;

use std::{path::Path, process::Command};

use rustix::fs::{XattrFlags, setxattr};

use crate::support::{
    agent::{AGENT, clean},
    doctor::{Diagnosis, as_nobody, public, unshared},
    program::REFUSE,
};

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn root_has_what_it_needs() {
    let found = Diagnosis::by(&mut clean(Command::new(AGENT)), &[]);
    assert_eq!(found.status, 0);
    assert_eq!(found.only("user").1, "uid 0, gid 0");
    assert_eq!(found.of("capability", "CAP_BPF"), ("ok", "loads eBPF programs"));
    assert_eq!(found.only("no_new_privs").1, "not set");
    assert_eq!(found.only("seccomp"), ("ok", "no filter", ""));
    found.assert_none("ineffective_capabilities");
    found.assert_none("user_namespace");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn another_user_has_nothing_and_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let found = Diagnosis::by(&mut as_nobody(&agent, "-all", &[]), &[]);
    assert_eq!(found.only("user").1, "uid 65534, gid 65534");
    let missing = "missing: it signals processes of other users";
    assert_eq!(found.of("capability", "CAP_KILL"), ("note", missing));
    let (status, detail, remedy) = found.only("ineffective_capabilities");
    assert_eq!(status, "note");
    assert!(detail.contains("CAP_KILL"), "{detail}");
    assert!(detail.ends_with("with runAsUser: 65534, capabilities.add has no effect"), "{detail}");
    assert!(
        remedy.contains("; or setcap on the file, as the image of the agent has it"),
        "{remedy}"
    );
}

/// `allowPrivilegeEscalation: false`: the file can bring no capability.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn no_new_privileges_leaves_what_is_ambient() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let mut command = as_nobody(&agent, "+bpf,+perfmon", &["--no-new-privs"]);
    let found = Diagnosis::by(&mut command, &[]);
    assert_eq!(found.status, 0);
    assert_eq!(found.of("capability", "CAP_BPF"), ("ok", "loads eBPF programs"));
    assert_eq!(found.of("capability", "CAP_KILL").0, "note");
    assert!(found.only("no_new_privs").1.starts_with("set "));
    let (_, detail, remedy) = found.only("ineffective_capabilities");
    assert!(!detail.contains("CAP_BPF") && detail.contains("CAP_KILL"), "{detail}");
    let both = "; or setcap on the file, and allowPrivilegeEscalation: true; ";
    assert!(remedy.contains(both), "{remedy}");
}

/// As in the image: what the container is granted others than root get by way of the file, unless they
/// may not gain any privilege.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_the_file_brings_is_effective_unless_that_is_forbidden() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    // `setcap cap_kill=p`: revision 2, permitted, inheritable, and the upper halves of both.
    let words: [u32; 5] = [0x0200_0000, 1 << 5, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    setxattr(&agent, "security.capability", &value, XattrFlags::empty()).unwrap();

    let found = Diagnosis::by(&mut as_nobody(&agent, "-all", &[]), &[]);
    let effective = ("ok", "signals processes of other users");
    assert_eq!(found.of("capability", "CAP_KILL"), effective);
    let (_, detail, _) = found.only("ineffective_capabilities");
    assert!(!detail.contains("CAP_KILL"), "{detail}");
    assert!(detail.contains("and the file of the agent brings others"), "{detail}");

    // By a process that has no capability any more: to keep one is not to gain it.
    let mut command = as_nobody(Path::new("setpriv"), "-all", &[]);
    let found = Diagnosis::by(command.arg("--no-new-privs").arg(&agent), &[]);
    assert_eq!(found.of("capability", "CAP_KILL").0, "note");
    let (_, detail, remedy) = found.only("ineffective_capabilities");
    assert!(detail.contains("CAP_KILL"), "{detail}");
    assert!(detail.contains("without privilege escalation the file"), "{detail}");
    assert!(remedy.contains("; or allowPrivilegeEscalation: true, with which "), "{remedy}");
}

/// The capabilities of a user namespace are no use for eBPF, however many there are.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_user_namespace_is_told() {
    let found = Diagnosis::by(&mut unshared(&["--user", "--map-root-user"]), &[]);
    let (status, detail, remedy) = found.only("user_namespace");
    assert_eq!(status, "note");
    assert!(detail.starts_with("not the machine's own (uid 0 is 0 outside): "), "{detail}");
    assert!(remedy.contains("hostUsers: true"), "{remedy}");
    assert_eq!(found.of("capability", "CAP_BPF").0, "ok");
}

/// The agent under a filter that refuses `calls`.
fn refusing(calls: &[&str]) -> Command {
    let mut command = clean(Command::new(REFUSE.path()));
    command.args(calls).arg("--").arg(AGENT);
    command
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_filter_is_told_from_missing_rights() {
    let found = Diagnosis::by(&mut refusing(&[]), &[]);
    let open =
        "a filter that lets bpf(2), fanotify_init(2), pidfd_open(2), pidfd_send_signal(2) pass";
    assert_eq!(found.only("seccomp"), ("ok", open, ""));

    let found = Diagnosis::by(&mut refusing(&["bpf", "fanotify_init"]), &[]);
    let (status, detail, remedy) = found.only("seccomp");
    assert_eq!((status, detail), ("note", "a filter refuses bpf(2), fanotify_init(2)"));
    assert!(remedy.contains("capabilities.add [BPF, PERFMON]"), "{remedy}");
    assert!(remedy.contains("--security-opt seccomp="), "{remedy}");
    assert_eq!(found.status, 0);
    assert_eq!(found.of("source", "fanotify").0, "note");
    assert_eq!(found.of("source", "inotify"), ("ok", "it works, and `run` would take it"));

    let found = Diagnosis::by(&mut refusing(&["pidfd_send_signal"]), &[]);
    assert_eq!(found.only("seccomp").1, "a filter refuses pidfd_send_signal(2)");
}

/// Without rights, too: since Linux 6.5 the kernel answers an impossible call before it asks for any.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_filter_is_told_from_missing_rights_without_any() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = public(dir.path(), &REFUSE.path());
    let agent = public(dir.path(), Path::new(AGENT));
    let mut command = as_nobody(&refuse, "-all", &[]);
    command.args(["fanotify_init", "--"]).arg(&agent);
    let found = Diagnosis::by(&mut command, &[]);
    assert_eq!(found.only("seccomp").1, "a filter refuses fanotify_init(2)");
}
