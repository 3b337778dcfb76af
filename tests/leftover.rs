//! Nothing of an agent is left in the kernel when it has ended, however it ended.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, run_to_end},
    kernel::Objects,
    process::children_of,
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

/// Whether the kernel's tasks RCU waited for whoever has nearly ended, as it did until Linux 6.8: then who is
/// the last to leave a trampoline must not be waited for by the first process of his namespace.
fn may_hang() -> bool {
    let types = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let mended = b"rcu_tasks_exit_list";
    !types.windows(mended.len()).any(|part| part == mended)
}

promise!(when_it_is_killed_with_the_first_process_of_its_namespace: ebpf);
/// Its own end waits for the kernel then, and the first process for that.
fn when_it_is_killed_with_the_first_process_of_its_namespace(source: Source) {
    let (_dir, path) = config();
    let mut command = clean(Command::new("unshare"));
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "\"$0\" \"$@\"; exit \"$?\"",
        AGENT,
    ]);
    command.args(arguments(&path, "nobody-is-called-so")).args(source.arguments());
    if may_hang() {
        let (_, said) = run_to_end(&mut command);
        assert!(said.contains("with the first process of its pid namespace"), "{said}");
        return;
    }
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");
    let first = children_of(agent.pid())[0];
    let objects = Objects::of(children_of(first)[0]);
    assert!(!objects.links.is_empty(), "an agent that runs has no links");

    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    poll("the kernel is as it was", || {
        (objects.that_are_left() == Objects::default()).then_some(())
    });
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
