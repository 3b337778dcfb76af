//! What crosses from the kernel is true, not too much, and where it is lost that is told and made good.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{Agent, Event, PATIENT, arguments_beside, command, count, events_of, names},
    filesystem::{Filesystem, place_apart},
    process::Process,
    rules::Home,
    source::Source,
    target::Recipe,
    time::poll,
};

/// Nothing is found but what is announced.
const UNAIDED: [&str; 2] = ["--reconcile", "1h"];

/// A process that writes to `path` in place, over and over.
fn writer(path: &Path) -> Process {
    let endless = "i=0; while :; do i=$((i + 1)); echo \"$i\" > \"$1\"; done";
    Process::spawn(Command::new("sh").args(["-c", endless, "sh"]).arg(path))
}

promise!(writers_on_two_processors_are_not_mistaken_for_each_other: ebpf);
fn writers_on_two_processors_are_not_mistaken_for_each_other(source: Source) {
    const CHANGES: usize = 20;
    let home = Home::new(&["a", "b"]);
    let recipes = [Recipe::new(), Recipe::new()];
    let _targets = recipes.each_ref().map(Recipe::start);
    let rule = |name: &str, recipe: &Recipe| {
        format!(
            "name: {name}, watch: {}, process: {}, settle: 50ms, settleMax: 50ms",
            home.file(name).display(),
            recipe.name()
        )
    };
    let config = home.write(&[rule("a", &recipes[0]), rule("b", &recipes[1])]);
    let mut agent = Agent::with_rules(source, &config, &UNAIDED);
    let writers = ["a", "b"].map(|name| (name, writer(&home.file(name))));

    // What a second look has found nobody has announced.
    let is_announced = |event: &Event| event.name() == "changed" && !event.field("by").is_null();
    let mut events = Vec::new();
    for _ in 0..CHANGES {
        let mut missing = vec!["a", "b"];
        events.extend(agent.until("a change by each", |event| {
            missing.retain(|name| !is_announced(event) || event.text("rule") != *name);
            missing.is_empty()
        }));
    }

    for event in events.iter().filter(|event| is_announced(event)) {
        let (name, writer) = writers.iter().find(|(name, _)| event.text("rule") == *name).unwrap();
        assert_eq!(event.paths(), [home.file(name).to_str().unwrap()]);
        assert_eq!(event.field("by")["pid"], writer.pid(), "{event}");
    }
}

promise!(a_full_ring_is_told_and_made_good: ebpf);
/// More files change than there is room for, while the agent is stopped.
fn a_full_ring_is_told_and_made_good(source: Source) {
    const FILES: i64 = 6000;
    /// The ring holds no more records than that, and every other file is counted.
    const ROOM: i64 = 256 * 1024 / 48;
    let dir = tempfile::tempdir().unwrap();
    let file = |number: i64| dir.path().join(format!("{number:04}"));
    (0..FILES).for_each(|number| fs::write(file(number), "0").unwrap());
    let recipe = Recipe::new().reading(&file(FILES - 1));
    let mut target = recipe.start();
    let mut agent = Agent::with(source, dir.path(), recipe.name(), &UNAIDED);
    let pid = Pid::from_raw(agent.pid()).unwrap();

    kill_process(pid, Signal::STOP).unwrap();
    (0..FILES).for_each(|number| fs::write(file(number), "1").unwrap());
    kill_process(pid, Signal::CONT).unwrap();

    let lost = agent.wait_for("lost");
    assert_eq!((lost.text("source"), lost.text("reason")), ("ebpf", "ring_full"));
    assert!(lost.number("count") >= FILES - ROOM, "{lost}");
    target.signals_until("1");
}

promise!(a_new_file_with_the_inode_of_an_old_one_is_not_taken_for_it: ebpf);
/// The file of one rule is removed, and another rule gets one with its inode.
fn a_new_file_with_the_inode_of_an_old_one_is_not_taken_for_it(source: Source) {
    let mounted = Filesystem::Ext4.mount_in(place_apart(), &[("a", "0")]);
    let [a, b] = ["a", "b"].map(|name| mounted.dir.join(name));
    let home = Home::new(&[]);
    let recipes = [Recipe::new(), Recipe::new()];
    let targets = recipes.each_ref().map(Recipe::start);
    let rule = |path: &Path, recipe: &Recipe| {
        format!("name: {0}, watch: {1}, process: {0}", recipe.name(), path.display())
    };
    let config = home.write(&[rule(&a, &recipes[0]), rule(&b, &recipes[1])]);
    let mut agent = Agent::with_rules(source, &config, &UNAIDED);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();

    let old = inode(&a);
    fs::remove_file(&a).unwrap();
    agent.until("it is gone", |event| {
        event.name() == "waiting" && event.text("object") == a.to_str().unwrap()
    });
    fs::write(&b, "1").unwrap();
    assert_eq!(inode(&b), old, "ext4 hands out the lowest inode that is free");
    for text in ["2", "3", "4"] {
        let changed = agent.wait_for("changed");
        assert_eq!(changed.text("rule"), recipes[1].name(), "{changed}");
        assert_eq!(agent.wait_for("reloaded").pid(), targets[1].pid);
        fs::write(&b, text).unwrap();
    }
}

promise!(what_the_agent_writes_itself_is_no_event: ebpf, fanotify);
/// Its log is in the directory that it watches, and each line of it would be a change.
fn what_the_agent_writes_itself_is_no_event(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("agent.log");
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut command = command();
    let options = [&UNAIDED[..], &PATIENT].concat();
    command.args(arguments_beside(dir.path(), recipe.name(), &options)).args(source.arguments());
    command.args(options).stdin(Stdio::null()).stderr(File::create(&log).unwrap());
    let _agent = Process::spawn(&mut command);
    let told = || events_of(&fs::read_to_string(&log).unwrap());
    poll("ready", || (count(&told(), "ready") == 1).then_some(()));

    // Each change but the last is followed by another, and by what the log might have led to.
    for text in ["1", "2", "3", "4", "5"] {
        fs::write(&path, text).unwrap();
        target.signals_until(text);
    }

    let told = told();
    assert!(count(&told, "changed") <= 5, "{:?}", names(&told));
}
