//! The lines of the log have the fields that dashboards and scripts rely on.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    agent::{AGENT, Agent, Event, arguments, command, count},
    doctor::{as_nobody, public},
    source::Source,
    target::Recipe,
    writer::replace,
};

/// The fields of each event, sorted, beside `event`, `level` and `time`.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "ready",
        &["after_ms", "listen", "missing", "rules", "source", "strategy", "targets", "watches"],
    ),
    ("changed", &["by", "others", "paths", "rule", "when"]),
    ("unchanged", &["by", "rule"]),
    ("reloaded", &["action", "change_to_signal_us", "dry_run", "object", "pid", "rule", "signal"]),
    ("refused", &["detail", "pid", "reason", "remedy", "rule", "signal"]),
    ("waiting", &["detail", "for", "object", "rule"]),
    ("found", &["for", "object", "pids", "rule"]),
    ("failed", &["pid", "reason", "retry_ms", "rule", "what"]),
    ("warning", &["reason", "rule"]),
    ("stopped", &["reason"]),
];

#[track_caller]
fn check_fields(event: &Event) {
    let (_, fields) = FIELDS.iter().find(|(name, _)| *name == event.name()).unwrap();
    let mut expected = ["event", "level", "time"].to_vec();
    expected.extend_from_slice(fields);
    expected.sort_unstable();
    assert_eq!(event.fields(), expected, "{event}");
    let time = event.text("time");
    assert_eq!(time.len(), "2026-11-23T11:50:00.123456Z".len(), "{event}");
    assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{event}");
}

promise!(every_decision_has_its_fields);
fn every_decision_has_its_fields(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();
    let careless = Recipe::named(recipe.name()).handler("none");
    let mut target = recipe.start();
    let absent = dir.path().join("absent");
    let options = ["--handler-timeout", "0s", "--watch", absent.to_str().unwrap()];
    let mut command = command();
    command.args(arguments(&path, recipe.name())).args(source.arguments()).args(options);
    let mut agent = Agent::spawn(command.env("RELOAD_TYPO", "1"));

    let warning = agent.wait_for("warning");
    check_fields(&warning);
    assert_eq!((warning.text("level"), warning.field("rule")), ("warn", &Value::Null));
    let reason = "no option is called RELOAD_TYPO: see `reload-agent run --help`";
    assert_eq!(warning.text("reason"), reason);
    let ready = agent.wait_for("ready");
    check_fields(&ready);
    assert_eq!(ready.text("source"), source.name());
    let strategy = match source {
        // The best that this kernel allows.
        Source::Ebpf if ready.text("strategy") == "trampoline" => "trampoline".into(),
        Source::Ebpf => "tracepoint".into(),
        Source::Fanotify => "privileged".into(),
        Source::Inotify | Source::Poll => Value::Null,
    };
    assert_eq!(*ready.field("strategy"), strategy);
    assert_eq!((ready.number("watches"), ready.number("missing")), (2, 1));
    assert_eq!(ready.number("targets"), 1);
    assert_eq!(ready.field("rules")[0], recipe.name());

    replace(&path, "1");
    let changed = agent.wait_for("changed");
    check_fields(&changed);
    assert_eq!(changed.text("when"), "now");
    let reloaded = agent.wait_for("reloaded");
    check_fields(&reloaded);
    assert_eq!(reloaded.field("dry_run"), false);
    assert!(reloaded.number("change_to_signal_us") >= 0);
    target.signal();

    replace(&path, "1");
    check_fields(&agent.wait_for("unchanged"));

    target.kill();
    replace(&path, "2");
    check_fields(&agent.wait_for("waiting"));

    let careless = careless.start();
    replace(&path, "3");
    // Who tells of processes, tells before that it is there.
    let mut events = agent.events_until("refused");
    check_fields(events.last().unwrap());
    if count(&events, "found") == 0 {
        events = agent.events_until("found");
    }
    let found = events.iter().find(|event| event.name() == "found").unwrap();
    check_fields(found);
    assert_eq!((found.text("for"), found.text("object")), ("target", recipe.name()));
    assert_eq!(found.field("pids"), &Value::from([careless.pid].as_slice()));

    let (_status, events) = agent.stop(Signal::TERM);
    check_fields(events.last().unwrap());
}

promise!(a_process_that_is_there_again_is_told_of_once);
fn a_process_that_is_there_again_is_told_of_once(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut agent = Agent::on(source, &path, recipe.name());
    agent.wait_for("waiting");
    let mut target = recipe.start();
    let mut found = 0;
    for content in ["1", "2"] {
        replace(&path, content);
        found += count(&agent.events_until("reloaded"), "found");
        target.signal();
    }
    assert_eq!(found, 1);
    target.kill();
    replace(&path, "3");
    let events = agent.events_until("waiting");
    assert_eq!(count(&events, "found"), 0, "{events:?}");
}

#[test]
#[ignore = "needs root; it is another user"]
fn a_file_that_may_not_be_read_is_told_with_the_user_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let path = dir.path().join("secret.conf");
    fs::write(&path, "0").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = as_nobody(&agent, "-all", &[]);
    command.args(arguments(&path, "nobody-is-called-so")).args(Source::Poll.arguments());
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");
    let expected = format!(
        "{} cannot be read by uid 65534 (Permission denied (os error 13)): its inode, size and time \
         stand for its content; run the agent as a user or group that may read it, or give it \
         CAP_DAC_READ_SEARCH as an effective capability",
        path.display()
    );
    let is_it = |event: &Event| event.name() == "degraded" && event.text("reason") == expected;
    agent.until(&expected, is_it);

    // One that may be read, and one that may not again.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    agent.wait_for("changed");
    let draft = dir.path().join("draft");
    fs::write(&draft, "1").unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&draft, &path).unwrap();
    agent.until(&expected, is_it);
}

promise!(a_dry_run_tells_what_it_would_do);
/// Every decision is the same, and nobody is signalled.
fn a_dry_run_tells_what_it_would_do(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut dry = Agent::with(source, &path, recipe.name(), &["--dry-run"]);

    replace(&path, "1");
    let reloaded = dry.wait_for("reloaded");
    assert_eq!(reloaded.field("dry_run"), true);
    assert_eq!(reloaded.pid(), target.pid);

    // The fence: the first signal that the target gets is another agent's.
    let mut agent = Agent::on(source, &path, recipe.name());
    replace(&path, "2");
    agent.wait_for("reloaded");
    dry.wait_for("reloaded");
    assert_eq!(target.signal().content, "2");
}

promise!(text_is_for_people_and_one_line_for_each_decision);
/// The log goes to the standard error, and nothing to the standard output.
fn text_is_for_people_and_one_line_for_each_decision(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();
    let mut target = recipe.start();
    let mut process = support::process::Process::spawn(
        command()
            .arg("run")
            .args(source.arguments())
            .args(["--process", recipe.name(), "--watch"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let mut lines = support::lines::Lines::of("agent", process.stderr.take().unwrap());
    let output = support::lines::Lines::of("output", process.stdout.take().unwrap());

    lines.until("ready", |line| line.contains(" ready after ").then_some(()));
    replace(&path, "1");
    let changed = format!("{}: changed {}", recipe.name(), path.display());
    lines.until(&changed, |line| line.contains(&changed).then_some(()));
    let sent = format!("{}: sent HUP to pid {}", recipe.name(), target.pid);
    lines.until(&sent, |line| line.contains(&sent).then_some(()));
    target.signal();
    drop(process);
    assert_eq!(output.rest(), [] as [String; 0]);
}
