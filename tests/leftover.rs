//! Nothing of an agent is left in the kernel when it has ended, however it ended.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use rustix::process::Signal;

use crate::support::{
    agent::Agent,
    kernel::Objects,
    source::Source,
    target::Recipe,
    time::poll,
    writer::{config, replace},
};

// The others have descriptors, and nothing that has a number of its own.
promise!(when_it_is_stopped: ebpf);
fn when_it_is_stopped(source: Source) {
    nothing_is_left_after(source, Signal::TERM, Some(0));
}

promise!(when_it_is_killed: ebpf);
fn when_it_is_killed(source: Source) {
    nothing_is_left_after(source, Signal::KILL, None);
}

fn nothing_is_left_after(source: Source, signal: Signal, code: Option<i32>) {
    let (_dir, path) = config();
    let recipe = Recipe::new();
    let _target = recipe.start();
    // With a confirmation, for which opens are looked at as well.
    let options = ["--confirm-timeout", "1h"];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    replace(&path, "1");
    agent.wait_for("reloaded");

    let objects = Objects::of(agent.pid());
    for (kind, numbers) in
        [("programs", &objects.programs), ("links", &objects.links), ("maps", &objects.maps)]
    {
        assert!(!numbers.is_empty(), "an agent that runs has no {kind}");
    }
    assert_eq!(objects.that_are_left(), objects);

    let (status, _) = agent.stop(signal);
    assert_eq!(status.code(), code, "{status}");
    // The kernel frees them when nobody can be running them any more.
    poll("the kernel is as it was", || {
        (objects.that_are_left() == Objects::default()).then_some(())
    });
}
