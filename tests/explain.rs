//! A dry run first explains its rules on the standard output.

#![cfg(test)]

mod support;

use std::{fs, os::unix::fs::symlink, process::Stdio};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, command},
    lines::Lines,
    target::Recipe,
};

#[test]
fn a_dry_run_explains_what_it_would_do_and_to_whom() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(dir.path().join("real.conf"), "0").unwrap();
    symlink("real.conf", &path).unwrap();
    let recipe = Recipe::new();
    let mut target = recipe.start();
    let rules = dir.path().join("rules.yaml");
    let (watch, process) = (path.display(), recipe.name());
    fs::write(&rules, format!("rules:\n- name: app\n  watch: {watch}\n  process: {process}\n"))
        .unwrap();

    let mut dry = Agent::spawn(
        command()
            .args(["run", "--dry-run", "--log-format", "json", "--source", "inotify", "--config"])
            .arg(&rules)
            .stdout(Stdio::piped()),
    );
    let explanation = Lines::of("explanation", dry.output());
    dry.wait_for("ready");
    dry.stop(Signal::TERM);

    let lines = explanation.rest();
    let root = dir.path().display();
    for line in [
        "rule app".to_owned(),
        format!("  watches {root}/app.conf"),
        format!("    symlink {root}/app.conf -> real.conf"),
        format!("  reloads the topmost process of each tree by the name {process}"),
        format!(
            "    pid {}, uid {}: HUP is allowed and caught",
            target.pid,
            rustix::process::getuid()
        ),
        "  does signal HUP".to_owned(),
    ] {
        assert!(lines.contains(&line), "no line {line:?} in {lines:#?}");
    }
    assert_eq!(target.signals_at_hand(), [], "nothing was sent");
}
