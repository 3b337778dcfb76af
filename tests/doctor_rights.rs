//! `doctor` says which right is missing, why it is, and how to get it.

#![cfg(test)]

mod support;

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    agent::{AGENT, clean},
    doctor::{Diagnosis, as_nobody, public, unshared},
    program::REFUSE,
};

/// The capability of this name, as it was found.
#[track_caller]
fn capability<'a>(found: &'a Diagnosis, name: &str) -> (&'a str, &'a str) {
    let all = found.all("capability");
    let one = all.iter().find(|finding| finding["object"] == name).unwrap();
    let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap();
    (text("status"), text("detail"))
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn root_has_what_it_needs() {
    let found = Diagnosis::by(&mut clean(Command::new(AGENT)), &[]);
    assert_eq!(found.status, 0);
    assert_eq!(found.only("user").1, "uid 0, gid 0");
    assert_eq!(capability(&found, "CAP_BPF"), ("ok", "loads eBPF programs"));
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
    assert_eq!(capability(&found, "CAP_KILL"), ("note", missing));
    let (status, detail, remedy) = found.only("ineffective_capabilities");
    assert_eq!(status, "note");
    assert!(detail.contains("CAP_KILL"), "{detail}");
    assert!(detail.ends_with("with runAsUser: 65534, capabilities.add has no effect"), "{detail}");
    assert!(remedy.ends_with("; or setcap on the binary"), "{remedy}");
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
    assert_eq!(capability(&found, "CAP_BPF"), ("ok", "loads eBPF programs"));
    assert_eq!(capability(&found, "CAP_KILL").0, "note");
    assert!(found.only("no_new_privs").1.starts_with("set "));
    let (_, detail, remedy) = found.only("ineffective_capabilities");
    assert!(!detail.contains("CAP_BPF") && detail.contains("CAP_KILL"), "{detail}");
    assert!(remedy.ends_with("AmbientCapabilities="), "{remedy}");
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
    assert_eq!(capability(&found, "CAP_BPF").0, "ok");
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
    let ebpf = found.all("source").into_iter().find(|finding| finding["object"] == "ebpf").unwrap();
    assert_ne!(ebpf["status"], "ok");

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

/// In a user namespace that may have none, for on the machine others would go without.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn inotify_instances_that_are_used_up_are_told() {
    const SCRIPT: &str = "echo 0 > /proc/sys/user/max_inotify_instances
                          echo 1 > /proc/sys/user/max_inotify_watches
                          exec \"$@\"";
    let mut command = clean(Command::new("unshare"));
    command.args(["--user", "--map-root-user", "sh", "-c", SCRIPT, "sh", AGENT]);
    let found = Diagnosis::by(&mut command, &["--watch", "/etc"]);
    let (status, detail, remedy) = found.only("inotify_instances");
    assert_eq!(status, "note");
    assert!(detail.contains("this uid may have 0, counted across all containers"), "{detail}");
    assert!(remedy.contains("sysctl fs.inotify.max_user_instances="), "{remedy}");
    let (status, detail, _) = found.only("inotify_watches");
    assert_eq!(status, "note");
    assert!(detail.starts_with("1 watches are allowed"), "{detail}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_low_limit_of_open_files_is_told() {
    let mut command = clean(Command::new("sh"));
    command.args(["-c", "ulimit -n 63; exec \"$@\"", "sh", AGENT]);
    let found = Diagnosis::by(&mut command, &[]);
    let (status, detail, _) = found.only("open_files");
    assert_eq!(status, "note");
    assert!(detail.starts_with("63 are allowed"), "{detail}");
}
