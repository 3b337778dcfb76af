//! Exactly the right process is signalled.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::Command,
};

use crate::support::{
    agent::{Agent, command, count},
    source::Source,
    target::{Recipe, Running, unique_name},
    time::poll,
    writer::{config, replace},
};

promise!(a_master_is_signalled_and_its_workers_are_not);
/// The workers have handlers as well, and say so where they are signalled.
fn a_master_is_signalled_and_its_workers_are_not(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().workers(3).reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::on(source, &path, recipe.name());

    for n in 1..=3 {
        let text = n.to_string();
        replace(&path, &text);
        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "reloaded"), 1);
        assert_eq!(events.last().unwrap().pid(), target.pid);
        // Panics at a line of a worker that was signalled.
        assert_eq!(target.signal().content, text);
    }
}

promise!(a_long_name_is_compared_to_its_end);
/// The kernel cuts names to 15 bytes; two that begin alike are still two.
fn a_long_name_is_compared_to_its_end(source: Source) {
    let (_dir, path) = config();
    let common = format!("{}-and-something", unique_name());
    let recipe = Recipe::named(&format!("{common}-that-is-meant")).reading(&path);
    let other = Recipe::named(&format!("{common}-else")).reading(&path);
    let cut = Recipe::named(&common[..15]).reading(&path);
    let mut target = recipe.start();
    let mut others = [other.start(), cut.start()];
    let mut agent = Agent::on(source, &path, recipe.name());

    for n in 1..=3 {
        let text = n.to_string();
        replace(&path, &text);
        let reloaded = agent.wait_for("reloaded");
        assert_eq!(reloaded.pid(), target.pid);
        assert_eq!(reloaded.text("rule"), recipe.name());
        assert_eq!(target.signal().content, text);
    }
    for other in &mut others {
        assert_eq!(other.signals_at_hand(), []);
    }
}

promise!(a_process_is_found_by_the_name_it_was_called_by);
/// As of a login shell, or a program that many names lead to.
fn a_process_is_found_by_the_name_it_was_called_by(source: Source) {
    check_called(source, |name| format!("/some/where/{name}"));
}

promise!(a_process_is_found_by_the_title_that_it_gives_itself);
/// As gunicorn, nginx and postgres do: the name is what is before the colon.
fn a_process_is_found_by_the_title_that_it_gives_itself(source: Source) {
    check_called(source, |name| format!("{name}: master [some/app]"));
}

/// A target whose first argument is made of a name of its own is found by that.
fn check_called(source: Source, first: impl Fn(&str) -> String) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let name = format!("{}-called", unique_name());
    let mut command = recipe.command();
    command.arg0(first(&name));
    let mut target = Running::of(&name, &mut command);
    target.wait_until_ready();
    let mut agent = Agent::on(source, &path, &name);

    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    assert_eq!(target.signal().content, "1");
}

promise!(a_process_is_found_although_its_executable_was_replaced);
/// A replaced package leaves its old executable running, which /proc calls "deleted".
fn a_process_is_found_although_its_executable_was_replaced(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::named(&format!("{}-with-a-long-name", unique_name())).reading(&path);
    let mut target = recipe.start();
    fs::remove_file(recipe.path()).unwrap();
    let mut agent = Agent::on(source, &path, recipe.name());

    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    assert_eq!(target.signal().content, "1");
}

promise!(a_process_that_becomes_the_target_is_found);
/// It runs a program with its own name, and becomes the target with an exec.
fn a_process_that_becomes_the_target_is_found(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut agent = Agent::on(source, &path, recipe.name());
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$@""#, "sh"]).arg(recipe.path()).arg("--read").arg(&path);
    let mut target = Running::of(recipe.name(), &mut shell);
    target.wait_until_ready();

    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    assert_eq!(target.signal().content, "1");
}

promise!(a_process_is_found_although_its_first_thread_has_ended);
/// It looks like a zombie, and is none: its other threads live, and take signals.
fn a_process_is_found_although_its_first_thread_has_ended(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::named(&format!("{}-with-a-long-name", unique_name()));
    let recipe = recipe.handler("headless").reading(&path);
    let mut target = recipe.start();
    let stat = format!("/proc/{}/stat", target.pid);
    poll("its first thread ends", || {
        fs::read_to_string(&stat).unwrap().contains(") Z ").then_some(())
    });
    let mut agent = Agent::on(source, &path, recipe.name());

    for text in ["1", "2"] {
        replace(&path, text);
        assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
        assert_eq!(target.signal().content, text);
    }
}

promise!(an_executable_is_meant_by_its_path);
/// Another program of the same name is another one; a symlink to it is followed.
fn an_executable_is_meant_by_its_path(source: Source) {
    let (dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut other = Recipe::named(recipe.name()).reading(&path).start();
    let mut target = recipe.start();
    let link = dir.path().join("link");
    symlink(recipe.path(), &link).unwrap();

    for exe in [recipe.path(), link] {
        let mut agent = agent_for(source, &path, &[Path::new("--exe"), &exe]);
        let text = exe.file_name().unwrap().to_str().unwrap();
        replace(&path, text);
        let events = agent.events_until("reloaded");
        assert_eq!(events.last().unwrap().pid(), target.pid, "{events:?}");
        assert_eq!(target.signal().content, text);
    }
    assert_eq!(other.signals_at_hand(), []);
}

promise!(a_pid_file_is_read_whenever_somebody_is_looked_for);
/// The program restarts, and writes the file anew; another of its name is not meant.
fn a_pid_file_is_read_whenever_somebody_is_looked_for(source: Source) {
    let (dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut other = recipe.start();
    let file = dir.path().join("x.pid");
    let mut agent = agent_for(source, &path, &[Path::new("--pid-file"), &file]);
    assert_eq!(agent.wait_for("waiting").text("detail"), "there is no such file");

    for text in ["1", "2"] {
        let mut target = recipe.start();
        fs::write(&file, format!("{}\n", target.pid)).unwrap();
        replace(&path, text);
        let events = agent.events_until("reloaded");
        assert_eq!(events.last().unwrap().pid(), target.pid, "{events:?}");
        assert_eq!(target.signal().content, text);
        target.kill();
    }
    assert_eq!(other.signals_at_hand(), []);
}

promise!(every_process_is_signalled_where_all_are_asked_for);
/// The workers as well, and not only the master.
fn every_process_is_signalled_where_all_are_asked_for(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().workers(2).reading(&path);
    let target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--all"]);

    replace(&path, "1");
    let mut pids = BTreeSet::new();
    while pids.len() < 3 {
        assert!(pids.insert(agent.wait_for("reloaded").pid()), "one twice");
    }
    assert!(pids.contains(&target.pid), "{pids:?}");
}

/// An agent that finds its target by these options.
#[track_caller]
fn agent_for(source: Source, watch: &Path, selector: &[&Path]) -> Agent {
    let mut command = command();
    command.args(["run", "--log-format", "json", "--min-interval", "0", "--watch"]).arg(watch);
    let mut agent = Agent::spawn(command.args(selector).args(source.arguments()));
    agent.wait_for("ready");
    agent
}
