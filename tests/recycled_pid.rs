//! A process that took over the pid of a target is left alone.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use crate::support::{
    agent::{Agent, command, count, unhurried_arguments},
    source::Source,
    target::Recipe,
    time::pause,
    writer::{config, replace},
};

/// Lets the tick pass by which /proc tells when a process started: whoever starts within that of a change
/// may have the old content, and is signalled.
fn let_tick() {
    pause(Duration::from_millis(40));
}

promise!(while_a_handler_is_waited_for);
/// The agent knows the target and waits for its handler: what then has that pid does handle the
/// signal, so only the identity of the process can tell the two apart.
fn while_a_handler_is_waited_for(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("later").reading(&path);
    let stranger = Recipe::new();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "1m"]);
    let target = recipe.start_early();
    replace(&path, "1");
    agent.events_until_each(&["changed", "found"]);

    let mut stranger = stranger.start_in_place_of(&target.kill());

    // The fence: the next target of the right name is signalled for the next change.
    let_tick();
    let mut next = recipe.start_early();
    next.install_handler();
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(events.last().unwrap().pid(), next.pid, "{events:?}");
    assert_eq!(next.signal().content, "2");
    assert_eq!(stranger.signals_at_hand(), [], "{events:?}");
    assert!(stranger.lives());
}

promise!(while_the_interval_passes);
/// The agent has a change to deliver and waits for the interval to pass: what then has that pid would
/// die of the signal.
fn while_the_interval_passes(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let stranger = Recipe::new().handler("none");
    let mut target = recipe.start();
    let mut command = command();
    command.args(unhurried_arguments(&path, recipe.name())).args(source.arguments());
    let mut agent = Agent::spawn(command.args(["--min-interval", "5s"]));
    agent.wait_for("ready");
    replace(&path, "1");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");

    replace(&path, "2");
    let mut stranger = stranger.start_in_place_of(&target.kill());

    let events = agent.events_until_each(&["changed", "waiting"]);
    let waiting = events.iter().find(|event| event.name() == "waiting").unwrap();
    assert_eq!(waiting.text("for"), "target");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    let_tick();
    let mut next = recipe.start();
    assert_eq!(next.content, "2");
    replace(&path, "3");
    assert_eq!(agent.wait_for("reloaded").pid(), next.pid);
    assert_eq!(next.signal().content, "3");
    assert!(stranger.lives());
}

promise!(by_a_process_of_the_same_name_that_has_no_handler_yet);
/// The new process bears the name as well, as where a supervisor restarts its only child.
fn by_a_process_of_the_same_name_that_has_no_handler_yet(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let careless = Recipe::named(recipe.name()).handler("none");
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "300ms"]);
    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    assert_eq!(target.signal().content, "1");

    let mut careless = careless.start_in_place_of(&target.kill());
    replace(&path, "2");

    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().pid(), careless.pid);
    assert_eq!(events.last().unwrap().text("reason"), "not_caught");
    assert!(careless.lives());
}

promise!(by_a_process_of_the_same_name_that_is_reloaded_in_its_turn);
/// The old process is owed a reload when the new one takes its pid, often within the tick of the clock
/// by which /proc tells when a process started: what was owed must not get in the way of the next.
fn by_a_process_of_the_same_name_that_is_reloaded_in_its_turn(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("later").reading(&path);
    let successor = Recipe::named(recipe.name()).reading(&path);
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "1m"]);
    let target = recipe.start_early();
    replace(&path, "1");
    agent.events_until_each(&["changed", "found"]);

    let mut successor = successor.start_in_place_of(&target.kill());
    assert_eq!(successor.content, "1");

    replace(&path, "2");
    agent.wait_for("changed");
    assert_eq!(agent.wait_for("reloaded").pid(), successor.pid);
    successor.signals_until("2");
}

promise!(that_a_pid_file_still_names);
/// The program has ended and left its file behind; the number is another's since.
fn that_a_pid_file_still_names(source: Source) {
    let (dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let stranger = Recipe::new();
    let file = dir.path().join("x.pid");
    let target = recipe.start();
    fs::write(&file, format!("{}\n", target.pid)).unwrap();
    let mut command = command();
    command.args(["run", "--log-format", "json", "--min-interval", "0", "--watch"]).arg(&path);
    command.arg("--pid-file").arg(&file);
    let mut agent = Agent::spawn(command.args(source.arguments()));
    agent.wait_for("ready");

    let mut stranger = stranger.start_in_place_of(&target.kill());
    let hour_ago = SystemTime::now() - Duration::from_hours(1);
    fs::File::open(&file).unwrap().set_modified(hour_ago).unwrap();
    replace(&path, "1");
    agent.wait_for("changed");

    // The fence: the next target writes the file anew, and is signalled.
    let mut next = recipe.start();
    fs::write(&file, format!("{}\n", next.pid)).unwrap();
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(events.last().unwrap().pid(), next.pid, "{events:?}");
    assert_eq!(next.signal().content, "2");
    assert_eq!(stranger.signals_at_hand(), [], "{events:?}");
    assert!(stranger.lives());
}
