//! In a pid namespace of its own the agent speaks of pids as that namespace numbers them.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, command, names},
    lines::Lines,
    process::{Process, children_of},
    program::WRITER,
    source::Source,
    target::Recipe,
    time::poll,
    trace::{Trace, objects},
    writer::replace,
};

/// A namespace with a target and an agent in it, as in a container.
///
/// The first process is a shell that starts the target, whose lines are its output, and the agent,
/// whose lines are its errors.
const SCRIPT: &str = r#""$TARGET" --read "$CONFIG" & "$@""#;

promise!(pids_are_those_of_the_namespace);
fn pids_are_those_of_the_namespace(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    let stage = dir.path().join("stage");
    fs::create_dir(&stage).unwrap();
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();

    let mut command = clean(Command::new("unshare"));
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        SCRIPT,
        "sh",
        AGENT,
    ]);
    command.args(arguments(&path, recipe.name())).args(source.arguments()).stdout(Stdio::piped());
    let mut agent = Agent::spawn(command.env("TARGET", recipe.path()).env("CONFIG", &path));
    let mut target = Lines::of(recipe.name(), agent.output());
    let target_pid: i32 = target
        .until("started", |line| line.strip_prefix("started ")?.split(' ').next()?.parse().ok());
    target.until("ready", |line| line.starts_with("ready ").then_some(()));
    agent.wait_for("ready");
    let shell = poll("the shell runs", || children_of(agent.pid()).first().copied());
    let outer_pid = children_of(shell).into_iter().find(|&pid| is_called(pid, recipe.name()));
    assert_ne!(outer_pid, Some(target_pid), "the namespaces number it differently");

    // Written from outside: there is no number for the writer in there.
    replace(&path, "1");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events).last(), Some(&"reloaded"));
    let changed = events.iter().find(|event| event.name() == "changed").unwrap();
    assert_eq!(changed.field("by")["pid"], Value::Null, "{changed}");
    assert_eq!(events.last().unwrap().pid(), target_pid);
    assert_eq!(content(&mut target), "1");

    // Written from inside.
    let mut writer = Command::new("nsenter");
    writer.args(["--pid", "--mount", "--target", &shell.to_string()]).arg(WRITER.path());
    writer.arg("rename").args([&path, &stage]).arg("2");
    let output = writer.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let writer_pid: i32 = said.trim().strip_prefix("pid ").unwrap().parse().unwrap();
    let events = agent.events_until("reloaded");
    let changed = events.iter().find(|event| event.name() == "changed").unwrap();
    source.check_author(changed, writer_pid, |comm| comm == "writer");
    assert_eq!(events.last().unwrap().pid(), target_pid);
    assert_eq!(content(&mut target), "2");
}

promise!(a_trace_tells_of_the_same_pids: ebpf);
fn a_trace_tells_of_the_same_pids(source: Source) {
    /// The first process of the namespace starts the target, and then is the trace.
    const SCRIPT: &str = r#""$TARGET" --read "$CONFIG" >&2 & exec "$@""#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();
    let mut command = clean(Command::new("unshare"));
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"]);
    command.args([AGENT, "trace", "--format", "json", "--count", "1"]).args(source.arguments());
    command.args(["--process", recipe.name(), "--watch"]).arg(&path).stdin(Stdio::null());
    command.env("TARGET", recipe.path()).env("CONFIG", &path);
    let mut trace = Trace::spawn(&mut command);
    let (mut inner, mut is_ready, mut is_seen) = (0, false, false);
    trace.wait_until("all are ready", |line| {
        if let Some(rest) = line.strip_prefix("started ") {
            inner = rest.split(' ').next()?.parse().ok()?;
        }
        is_ready |= line.starts_with("ready ");
        is_seen |= line.starts_with("ready;");
        (is_ready && is_seen).then_some(())
    });
    let first = poll("the trace runs", || children_of(trace.pid()).first().copied());
    let outer = poll("the target runs", || children_of(first).first().copied());
    assert_ne!(outer, inner, "the namespaces number it differently");

    // From outside: there is no number for this process in there.
    replace(&path, "1");
    kill_process(Pid::from_raw(outer).unwrap(), Signal::HUP).unwrap();
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, _) = objects(&told);
    let pid_of = |stage: &str| {
        let stages = updates[0]["stages"].as_array().unwrap();
        let stage = stages.iter().find(|it| it["stage"] == stage);
        stage.unwrap_or_else(|| panic!("no such stage in {:#}", updates[0]))["pid"].clone()
    };
    assert_eq!(pid_of("swapped"), Value::Null);
    assert_eq!(pid_of("signalled"), Value::Null);
    assert_eq!(pid_of("delivered"), inner);
    assert_eq!(pid_of("opened"), inner);
}

promise!(a_process_outside_is_not_a_target);
/// The namespace's own processes only, although the kernel shows the agent all of them.
fn a_process_outside_is_not_a_target(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut outside = recipe.start();

    let mut command = clean(Command::new("unshare"));
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", AGENT]);
    let mut agent =
        Agent::spawn(command.args(arguments(&path, recipe.name())).args(source.arguments()));
    let events = agent.events_until("ready");
    assert_eq!(events.last().unwrap().number("targets"), 0);

    replace(&path, "1");
    agent.wait_for("changed");
    // The fence: an agent that has the outer namespace signals the same target for the next change.
    let mut outer_agent = Agent::on(source, &path, recipe.name());
    replace(&path, "2");
    agent.wait_for("changed");
    outer_agent.wait_for("reloaded");
    assert_eq!(outside.signal().content, "2");
    assert!(outside.lives());
}

promise!(a_target_inside_is_found_by_its_path_and_by_its_pid_file);
/// The pid file has the number that the namespace gives; to an agent outside only the path means
/// anything.
fn a_target_inside_is_found_by_its_path_and_by_its_pid_file(source: Source) {
    const SCRIPT: &str = r#""$TARGET" --read "$CONFIG" & echo $! > "$PID_FILE"; "$@""#;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (path, pid_file) = (at("app.conf"), at("x.pid"));
    for selector in ["--pid-file", "--exe"] {
        println!("--- {selector}");
        fs::write(&path, "0").unwrap();
        let recipe = Recipe::new();
        let value = if selector == "--exe" { recipe.path() } else { pid_file.clone() };
        let run = |command: &mut Command| {
            command.args(["run", "--log-format", "json", "--min-interval", "0"]);
            command.args(["--confirm-timeout", "0", "--watch"]).arg(&path).arg(selector);
            let mut agent = Agent::spawn(command.arg(&value).args(source.arguments()));
            (agent.events_until("ready"), agent)
        };
        let mut inner = clean(Command::new("unshare"));
        inner.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"]);
        inner.arg(AGENT).env("TARGET", recipe.path()).env("CONFIG", &path);
        let (_, mut inner) = run(inner.env("PID_FILE", &pid_file).stdout(Stdio::piped()));
        let mut target = Lines::of(recipe.name(), inner.output());
        let pid: i32 = target.until("started", |line| {
            line.strip_prefix("started ")?.split(' ').next()?.parse().ok()
        });
        target.until("ready", |line| line.starts_with("ready ").then_some(()));

        replace(&path, "1");
        assert_eq!(inner.wait_for("reloaded").pid(), pid);
        assert_eq!(content(&mut target), "1");

        if selector == "--exe" {
            let (_, mut outer) = run(&mut command());
            replace(&path, "2");
            let reloaded = outer.wait_for("reloaded");
            assert!(is_called(reloaded.pid(), recipe.name()), "{reloaded}");
            assert_ne!(reloaded.pid(), pid, "the namespaces number it differently");
            assert_eq!(content(&mut target), "2");
        }
    }
}

promise!(the_first_process_of_a_namespace_can_be_stopped);
/// The agent may be the first process of its namespace, for which signals have no default action.
fn the_first_process_of_a_namespace_can_be_stopped(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", AGENT]);
    let mut agent = Agent::spawn(
        command.args(arguments(&path, "nobody-is-called-so")).args(source.arguments()),
    );
    agent.wait_for("ready");
    let first = children_of(agent.pid())[0];
    let mut kill = Process::spawn(Command::new("kill").args(["-TERM", &first.to_string()]));
    assert!(kill.wait().unwrap().success());
    assert_eq!(agent.wait_for("stopped").text("reason"), "SIGTERM");
    poll("it ends", || (!agent.lives()).then_some(()));
}

fn content(target: &mut Lines) -> String {
    target.until("signal", |line| Some(line.strip_prefix("signal ")?.split_once(' ')?.1.to_owned()))
}

fn is_called(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

// The others tell nothing of processes.
promise!(whoever_is_not_visible_is_nobody: ebpf);
/// Whatever he is called: what happens to him is told to no trace in there.
fn whoever_is_not_visible_is_nobody(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut outside = recipe.start();
    let mut command = clean(Command::new("unshare"));
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(AGENT).arg("trace");
    command.args(source.arguments()).args(["--format", "json", "--count", "1"]);
    command.args(["--process", recipe.name(), "--watch"]).arg(&path);
    let mut trace = Trace::spawn(&mut command);
    trace.wait_until("ready", |line| line.starts_with("ready;").then_some(()));
    replace(&path, "1");
    kill_process(Pid::from_raw(outside.pid).unwrap(), Signal::HUP).unwrap();
    outside.signals_until("1");
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, _) = objects(&told);
    let steps = updates[0]["steps"].as_array().unwrap();
    let is_of_signal = |it: &Value| it["what"].as_str().unwrap().contains("HUP");
    assert!(!steps.iter().any(is_of_signal), "{:#}", updates[0]);
}
