//! An agent that has had nothing to do for long does what it did on the first day.
//!
//! Nobody waits eight hours here. What can go stale meanwhile are the clocks of an agent that was not
//! allowed to run (a frozen container, a machine that slept), what is armed anew at each reconcile, and
//! what is known of processes that came and went.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{Agent, count},
    source::Source,
    target::Recipe,
    time::{pause, poll},
    writer::{config, replace},
};

/// Longer than a reconcile and an interval, so that everything that has a time is overdue.
const AWAY: Duration = Duration::from_millis(2500);

promise!(after_it_was_not_allowed_to_run);
/// A change before it sleeps, some while it sleeps, a target that is another by then, and a change when
/// it has woken up.
fn after_it_was_not_allowed_to_run(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let first = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--reconcile", "1s"]);
    let freeze = |signal| kill_process(Pid::from_raw(agent.pid()).unwrap(), signal).unwrap();

    freeze(Signal::STOP);
    let state = format!("/proc/{}/stat", agent.pid());
    poll("it is stopped", || fs::read_to_string(&state).unwrap().contains(") T ").then_some(()));
    first.kill();
    let mut second = recipe.start();
    for n in 1..=3 {
        replace(&path, &n.to_string());
    }
    pause(AWAY);
    freeze(Signal::CONT);
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "reloaded"), 1, "one reload for all of it: {events:?}");
    assert_eq!(events.last().unwrap().pid(), second.pid);
    assert_eq!(second.signal().content, "3");

    replace(&path, "awake");
    assert_eq!(agent.wait_for("reloaded").pid(), second.pid);
    assert_eq!(second.signal().content, "awake");
    let (_, events) = agent.stop(Signal::TERM);
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
}

promise!(after_many_a_reconcile);
/// Each arms everything anew, compares all content and asks for all processes, and none of it is left
/// over: neither descriptors nor signals.
fn after_many_a_reconcile(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--reconcile", "1s"]);
    replace(&path, "1");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();

    pause(AWAY);
    let before = descriptors();
    pause(AWAY);
    // While it looks it has some more.
    poll("none is left over", || (descriptors() <= before).then_some(()));
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "reloaded"), 1, "{events:?}");
    assert_eq!(count(&events, "lost") + count(&events, "degraded"), 0, "{events:?}");
    assert_eq!(target.signal().content, "2");
}
