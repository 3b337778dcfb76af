//! A trace tells truly what became of a change: of a process that its signal ends, one that is sent it late, and
//! a second one of the same name, and one who is not the first to read.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    kubelet::{Order, Volume, keys},
    process::Process,
    source::Source,
    target::Recipe,
    trace::{Trace, objects, os},
    writer::{config, replace},
};

/// Has a trace of the file end with its first update, and gives that.
#[track_caller]
fn only_update(trace: Trace) -> Value {
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (mut updates, _) = objects(&told);
    assert_eq!(updates.len(), 1);
    updates.remove(0)
}

fn start(source: Source, path: &std::path::Path, name: &str) -> Trace {
    let arguments = os(&["--format", "json", "--count", "1", "--process", name, "--watch"]);
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]).collect();
    Trace::start(source, &arguments)
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn is_passed(update: &Value, stage: &str) -> bool {
    update["stages"].as_array().unwrap().iter().any(|it| it["stage"] == stage)
}

fn words(update: &Value) -> Vec<&str> {
    update["steps"].as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap()).collect()
}

// Of processes the others tell nothing.
promise!(whoever_is_ended_by_the_signal_has_taken_it: ebpf);
/// The kernel delivers that as KILL.
fn whoever_is_ended_by_the_signal_has_taken_it(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).handler("none");
    let target = recipe.start();
    let trace = start(source, &path, recipe.name());
    replace(&path, "1");
    send(target.pid, Signal::HUP);
    let update = only_update(trace);
    assert!(is_passed(&update, "delivered"), "{update:#}");
    assert!(words(&update).contains(&"takes HUP by default, and ends of it"), "{update:#}");
}

promise!(whoever_reacts_late_is_told_of: ebpf);
/// Long after an update would have been over to which somebody has reacted: a reloader that polls, and a program
/// that is busy.
fn whoever_reacts_late_is_told_of(source: Source) {
    let check = |is_signalled_late: bool| {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path).reader("late");
        let mut target = recipe.start();
        let mut trace = start(source, &path, recipe.name());
        replace(&path, "1");
        if !is_signalled_late {
            send(target.pid, Signal::HUP);
        }
        let mut late = Process::spawn(Command::new("sleep").arg("2"));
        assert!(late.wait().unwrap().success());
        assert!(trace.lives());
        if is_signalled_late {
            send(target.pid, Signal::HUP);
        }
        target.go_on();
        target.signals_until("1");
        let update = only_update(trace);
        for stage in ["signalled", "delivered", "opened"] {
            assert!(is_passed(&update, stage), "{stage}: {update:#}");
        }
        assert!(update["followed_us"].as_f64().unwrap() > 2e6, "{update:#}");
    };
    check(true);
    check(false);
}

promise!(whoever_keeps_his_children_is_followed_and_they_are_named: ebpf);
/// He may replace them yet.
fn whoever_keeps_his_children_is_followed_and_they_are_named(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).workers(1);
    let mut target = recipe.start();
    let trace = start(source, &path, recipe.name());
    replace(&path, "1");
    send(target.pid, Signal::HUP);
    target.signals_until("1");
    let update = only_update(trace);
    assert!(is_passed(&update, "opened") && !is_passed(&update, "forked"), "{update:#}");
    assert_eq!(update["remaining"].as_array().unwrap().len(), 1, "{update:#}");
}

promise!(whoever_starts_the_program_once_more_reads_nothing_for_the_one_that_runs: ebpf);
/// As `nginx -t` does.
fn whoever_starts_the_program_once_more_reads_nothing_for_the_one_that_runs(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let trace = start(source, &path, recipe.name());
    replace(&path, "1");
    let second = recipe.start();
    assert_ne!(second.pid, target.pid);
    send(target.pid, Signal::HUP);
    target.signals_until("1");
    let update = only_update(trace);
    let stages = update["stages"].as_array().unwrap();
    let opened = stages.iter().find(|it| it["stage"] == "opened").unwrap();
    assert_eq!(opened["pid"], target.pid, "{update:#}");
    let other = update["steps"].as_array().unwrap().iter().find(|it| {
        it["pid"] == second.pid && it["what"].as_str().unwrap().contains("has started since")
    });
    assert_eq!(other.unwrap()["stage"], Value::Null, "{update:#}");
}

promise!(whoever_reads_first_hides_nobody_who_reads_after: ebpf);
/// The first open is heard of while nobody has looked yet where the path leads since the swap.
fn whoever_reads_first_hides_nobody_who_reads_after(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let state = |n: u32| keys(&[("app.conf", &n.to_string())]);
    let mut volume = Volume::mount(dir.path(), Order::NamesLast, state(0));
    let path = dir.path().join("app.conf");
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    for n in 1..=5 {
        let trace = start(source, &path, recipe.name());
        volume.update(state(n));
        let content = n.to_string();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        send(target.pid, Signal::HUP);
        assert_eq!(target.signal().content, content);
        let update = only_update(trace);
        assert!(is_passed(&update, "opened"), "{update:#}");
    }
}
