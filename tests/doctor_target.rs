//! `doctor` says which processes are seen, whether they can be signalled, and whether that would help.

#![cfg(test)]

mod support;

use std::{fs, path::Path, process::Command};

use crate::support::{
    agent::{AGENT, clean, command},
    doctor::{Diagnosis, as_nobody, public, unshared},
    program::REFUSE,
    target::{Recipe, Running},
};

/// The usual namespaces of a container.
const CONTAINER: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc"];

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_process_of_another_user_is_told_with_what_to_grant() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let recipe = Recipe::new();
    let target = recipe.start();
    let arguments = ["--process", recipe.name()];

    let mut stranger = as_nobody(&agent, "+bpf,+perfmon", &[]);
    let found = Diagnosis::by(&mut stranger, &arguments);
    assert_eq!((found.status, found.bad()), (1, vec!["process"]));
    let (_, detail, remedy) = found.only("process");
    let expected = format!(
        "pid {}, uid 0: HUP is not allowed: the agent is uid 65534, and CAP_KILL is not effective, \
         though in the bounding set: capabilities.add counts for root, and for others if the file of \
         the agent brings it too",
        target.pid
    );
    assert_eq!(detail, expected);
    assert!(remedy.starts_with("run the agent as uid 0 (runAsUser: 0)"), "{remedy}");

    let mut granted = as_nobody(&agent, "+bpf,+perfmon,+kill", &[]);
    assert_eq!(Diagnosis::by(&mut granted, &arguments).status, 0);
}

/// A profile that lets pidfds be opened and not be used, and `kill(2)` neither: `run` would be refused
/// each signal.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_filter_that_forbids_the_signal_is_told() {
    let recipe = Recipe::new();
    let _target = recipe.start();
    let refusing = |calls: &[&str]| {
        let mut command = clean(Command::new(REFUSE.path()));
        command.args(calls).arg("--").arg(AGENT);
        Diagnosis::by(&mut command, &["--process", recipe.name()])
    };
    let found = refusing(&["pidfd_send_signal", "kill"]);
    assert_eq!((found.status, found.bad()), (1, vec!["process"]));
    assert!(found.only("process").1.contains("the uids are the same, and yet a seccomp filter"));
    // Without pidfds there is another way.
    assert_eq!(refusing(&["pidfd_send_signal"]).status, 0);
    assert_eq!(refusing(&["pidfd_open", "pidfd_send_signal"]).status, 0);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_process_of_the_same_user_needs_no_capability() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let recipe = Recipe::new();
    let program = public(dir.path(), &recipe.path());
    let mut target = Running::of(recipe.name(), &mut as_nobody(&program, "-all", &[]));
    target.wait_until_ready();

    let mut command = as_nobody(&agent, "+bpf,+perfmon", &["--bounding-set", "+bpf,+perfmon"]);
    let found = Diagnosis::by(&mut command, &["--process", recipe.name()]);
    assert_eq!(found.status, 0);
    let can = format!("pid {}, uid 65534: HUP is allowed and caught", target.pid);
    assert_eq!(found.only("process").1, can);
    assert_eq!(target.signals_at_hand(), [], "nothing was sent");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_container_that_sees_only_itself_is_told() {
    let found = Diagnosis::by(&mut unshared(CONTAINER), &["--process", "nobody-is-called-so"]);
    // Another container may yet join.
    assert_eq!(found.status, 0);
    let (status, detail, remedy) = found.only("pid_namespace");
    assert_eq!((status, detail), ("note", "this container sees only its own processes"));
    assert!(remedy.contains("shareProcessNamespace: true"), "{remedy}");
    assert!(remedy.contains("--pid container:NAME"), "{remedy}");

    // Also where something has started the agent and another is there, as after `kubectl exec`.
    let script = "\"$0\" doctor > /dev/null; \"$@\"";
    let mut command = clean(Command::new("unshare"));
    command.args(CONTAINER).args(["sh", "-c", script, AGENT, AGENT]);
    let found = Diagnosis::by(&mut command, &["--process", "nobody-is-called-so"]);
    assert_eq!(found.only("pid_namespace").1, detail);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_container_that_sees_others_says_whom() {
    let recipe = Recipe::new();
    let target = recipe.path();
    let within = |script: &str, name: &str| {
        let mut command = clean(Command::new("unshare"));
        command.args(CONTAINER).args(["sh", "-c", script, "sh", AGENT]);
        Diagnosis::by(command.env("TARGET", &target), &["--process", name])
    };
    // The shell waits for the handler, by the line that says so, and ends everybody at the end.
    let script = "\"$TARGET\" | { while read -r word _ && test \"$word\" != ready; do :; done
                  \"$@\"; status=$?; kill -9 -1; exit $status; }";
    let found = within(script, recipe.name());
    assert_eq!(found.status, 0);
    assert!(found.only("pid_namespace").1.starts_with("one of several on this machine: "));
    assert!(found.only("process").1.ends_with("HUP is allowed and caught"));

    let found = within(script, "nobody-is-called-so");
    assert_eq!(found.only("pid_namespace").0, "ok");
    let (_, detail, _) = found.only("process");
    assert!(detail.contains("there are ") && detail.contains(recipe.name()), "{detail}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_foreign_proc_is_refused() {
    let mut command = unshared(&["--pid", "--fork", "--kill-child"]);
    let found = Diagnosis::by(&mut command, &["--process", "nobody-is-called-so"]);
    assert_eq!((found.status, found.bad()), (1, vec!["procfs"]));
    assert!(found.only("procfs").2.contains("mount -t proc proc /proc"));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn hidden_processes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let script = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let hiding = |user: &Command| {
        let mut command = clean(Command::new("unshare"));
        command.args(CONTAINER).args(["sh", "-c", script, "sh"]);
        command.arg(user.get_program()).args(user.get_args());
        Diagnosis::by(&mut command, &["--process", "nobody-is-called-so"])
    };
    let found = hiding(&as_nobody(&agent, "+bpf,+perfmon", &[]));
    let (status, detail, remedy) = found.only("hidden_processes");
    assert_eq!(status, "note");
    assert!(detail.starts_with("/proc hides the processes of other users (hidepid="), "{detail}");
    assert!(remedy.contains("CAP_SYS_PTRACE"), "{remedy}");
    hiding(&as_nobody(&agent, "+bpf,+perfmon,+sys_ptrace", &[])).assert_none("hidden_processes");
}

#[test]
fn what_is_the_matter_with_a_pid_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let detail = || {
        let found = Diagnosis::by(&mut command(), &["--pid-file", file.to_str().unwrap()]);
        found.only("process").1.to_owned()
    };
    let missing = detail();
    assert!(missing.contains("it is waited for; there is no such file"), "{missing}");
    fs::write(&file, "").unwrap();
    let empty = detail();
    assert!(empty.contains("it is waited for; the file is empty"), "{empty}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_came_by_the_environment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("LOG_LEVEL", "debug"), ("app.yaml", "mode: fast\nport: 80\n"), ("x", "1")]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let recipe = Recipe::new();
    let watch = dir.path().to_str().unwrap();
    let arguments = ["--watch", watch, "--process", recipe.name()];
    let with = |variables: &[(&str, &str)]| {
        let mut target = Running::of(recipe.name(), recipe.command().envs(variables.to_vec()));
        target.wait_until_ready();
        (Diagnosis::by(&mut command(), &arguments), target.pid)
    };

    let (found, _) = with(&[("LEVEL", "debug"), ("X", "1")]);
    found.assert_none("environment");

    // `envFrom`, and the ConfigMap has been changed since.
    let (found, pid) = with(&[("LOG_LEVEL", "info")]);
    assert_eq!(found.status, 0);
    let (status, detail, remedy) = found.only("environment");
    assert_eq!(status, "note");
    let expected = format!(
        "pid {pid} seems to know {watch}/LOG_LEVEL by its environment, as LOG_LEVEL: that is fixed \
         when a process starts, and no signal changes it"
    );
    assert_eq!(detail, expected);
    assert!(remedy.starts_with("restart the process"), "{remedy}");

    // `valueFrom`, under another name. The value is not written.
    let (found, _) = with(&[("SETTINGS", "mode: fast\nport: 80\n"), ("LOG_LEVEL", "debug")]);
    let (_, detail, _) = found.only("environment");
    assert!(detail.contains(", as LOG_LEVEL (and 1 more such file): "), "{detail}");
    assert!(!detail.contains("debug") && !detail.contains("mode: fast"), "{detail}");
}
