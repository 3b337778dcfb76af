//! The environment of the usual inotifywait sidecar is enough.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, path::PathBuf};

use crate::support::{
    agent::{Agent, command},
    source::Source,
    target::{Recipe, Running},
    writer::{bring, replace},
};

const SIGUSR1: i32 = 10;

/// A configuration, a target for it that handles USR1, and its name.
fn scene() -> (tempfile::TempDir, PathBuf, Recipe, Running) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().signal(SIGUSR1).reading(&path);
    let target = recipe.start();
    (dir, path, recipe, target)
}

/// Runs the agent with `variables` alone; `{dir}`, `{path}` and `{name}` stand for those of a scene.
fn check(source: Source, variables: &[(&str, &str)]) {
    let (dir, path, recipe, mut target) = scene();
    let mut command = command();
    command.arg("run").env("RELOAD_LOG_FORMAT", "json").env("RELOAD_SOURCE", source.name());
    for (variable, value) in variables {
        let value = value
            .replace("{dir}", dir.path().to_str().unwrap())
            .replace("{path}", path.to_str().unwrap())
            .replace("{name}", recipe.name());
        command.env(variable, value);
    }
    let mut agent = Agent::spawn(&mut command);
    assert_eq!(agent.wait_for("ready").text("source"), source.name());

    bring(&path, "1");
    let reloaded = agent.wait_for("reloaded");
    assert_eq!(reloaded.pid(), target.pid, "{variables:?}");
    assert_eq!(reloaded.text("signal"), "USR1", "{variables:?}");
    assert_eq!(target.signal().content, "1", "{variables:?}");
}

promise!(the_names_of_other_sidecars_are_understood);
fn the_names_of_other_sidecars_are_understood(source: Source) {
    check(source, &[("FILE", "{path}"), ("PROCESS", "{name}"), ("SIGNAL", "USR1")]);
    check(source, &[("FILE", "{path}"), ("PROCESS", "{name}"), ("SIGNAL", "SIGUSR1")]);
    check(source, &[("CONFIG_DIR", "{dir}"), ("PROCESS_NAME", "{name}"), ("RELOAD_SIGNAL", "10")]);
    check(
        source,
        &[("CONFIG_DIR", "/nonexistent,{dir}"), ("PROCESS", "{name}"), ("SIGNAL", "usr1")],
    );
}

promise!(the_agent_s_own_names_come_first);
fn the_agent_s_own_names_come_first(source: Source) {
    check(
        source,
        &[
            ("RELOAD_WATCH", "{path}"),
            ("RELOAD_PROCESS", "{name}"),
            ("RELOAD_SIGNAL", "USR1"),
            ("FILE", "/nonexistent"),
            ("PROCESS", "nobody-is-called-so"),
            ("PROCESS_NAME", "nobody-is-called-so"),
            ("SIGNAL", "USR2"),
        ],
    );
}

promise!(what_is_set_to_nothing_is_not_set);
fn what_is_set_to_nothing_is_not_set(source: Source) {
    check(
        source,
        &[
            ("RELOAD_WATCH", ""),
            ("FILE", "{path}"),
            ("RELOAD_PROCESS", "{name}"),
            ("SIGNAL", "USR1"),
            ("RELOAD_SETTLE", ""),
            ("RELOAD_CONFIG", ""),
            ("RELOAD_EXE", ""),
            ("RELOAD_FORCE", "false"),
            ("RELOAD_DRY_RUN", ""),
        ],
    );
}

promise!(a_file_with_rules_is_enough);
/// What other sidecars read is not heeded beside it.
fn a_file_with_rules_is_enough(source: Source) {
    let (dir, path, recipe, mut target) = scene();
    let rules = dir.path().join("rules.yaml");
    let (watch, process) = (path.display(), recipe.name());
    let text =
        format!("rules:\n- name: app\n  watch: {watch}\n  process: {process}\n  signal: USR1\n");
    fs::write(&rules, text).unwrap();
    let mut agent = Agent::spawn(
        command()
            .arg("run")
            .env("RELOAD_CONFIG", &rules)
            .env("RELOAD_LOG_FORMAT", "json")
            .env("RELOAD_SOURCE", source.name())
            .env("FILE", "/nonexistent")
            .env("PROCESS", "nobody-is-called-so")
            .env("SIGNAL", "USR2"),
    );
    agent.wait_for("ready");

    replace(&path, "1");
    let reloaded = agent.wait_for("reloaded");
    assert_eq!((reloaded.text("rule"), reloaded.text("signal")), ("app", "USR1"));
    assert_eq!(target.signal().content, "1");
}

promise!(an_option_comes_before_the_environment);
/// What is typed comes before what is set.
fn an_option_comes_before_the_environment(source: Source) {
    let (_dir, path, recipe, mut target) = scene();
    let mut agent = Agent::spawn(
        command()
            .args(["run", "--log-format", "json", "--signal", "USR1", "--process", recipe.name()])
            .arg("--watch")
            .arg(&path)
            .env("RELOAD_SIGNAL", "TERM")
            .env("RELOAD_PROCESS", "nobody-is-called-so")
            .env("RELOAD_SOURCE", source.name())
            .env("FILE", "/nonexistent"),
    );
    agent.wait_for("ready");

    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").text("signal"), "USR1");
    assert_eq!(target.signal().content, "1");
}
