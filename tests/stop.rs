//! The agent stops when it is asked to, at once and with success.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, io::Write as _};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, count, names},
    source::Source,
    target::Recipe,
    writer::{config, replace},
};

const REQUESTS: [(Signal, &str); 2] = [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")];

promise!(when_it_is_idle);
fn when_it_is_idle(source: Source) {
    for (signal, name) in REQUESTS {
        let (_dir, path) = config();
        let recipe = Recipe::new();
        let _target = recipe.start();
        let agent = Agent::on(source, &path, recipe.name());

        let (status, events) = agent.stop(signal);
        assert_eq!(status.code(), Some(0), "{name}: {status}");
        assert_eq!(names(&events), ["stopped"], "{name}");
        assert_eq!(events[0].text("reason"), name);
    }
}

promise!(when_it_waits_for_something);
/// A writer that does not end is no reason to stay, nor is an interval or a handler that is missing.
fn when_it_waits_for_something(source: Source) {
    for (signal, name) in REQUESTS {
        let (_dir, path) = config();
        let recipe = Recipe::new().handler("later");
        let mut agent = Agent::with(
            source,
            &path,
            recipe.name(),
            &["--settle-max", "1h", "--handler-timeout", "1h"],
        );
        let _target = recipe.start_early();
        replace(&path, "1");
        agent.wait_for("changed");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();

        let (status, events) = agent.stop(signal);
        assert_eq!(status.code(), Some(0), "{name}: {status}");
        assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
        assert_eq!(names(&events).last(), Some(&"stopped"), "{events:?}");
    }
}

promise!(when_there_is_nothing_to_do);
/// There may be no target, and nothing at the path, and still the agent runs and stops.
fn when_there_is_nothing_to_do(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::on(source, &dir.path().join("none"), "nobody-is-called-so");
    let (status, events) = agent.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(names(&events).last(), Some(&"stopped"));
}
