//! A signal that would do harm is withheld, and the log says why.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, count, names},
    process::{Process, run},
    program::REFUSE,
    source::Source,
    target::{Recipe, Running},
    time::poll,
    writer::{config, replace},
};

promise!(a_target_without_a_handler_survives);
/// HUP and USR1 end a process that does not handle them.
fn a_target_without_a_handler_survives(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("later").reading(&path);
    let mut target = recipe.start_early();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "300ms"]);

    replace(&path, "1");
    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    let refused = events.last().unwrap();
    assert_eq!(refused.pid(), target.pid);
    assert_eq!(refused.text("reason"), "not_caught");
    assert_ne!(refused.text("remedy"), "");

    // It lives, and can still learn.
    target.install_handler();
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    assert_eq!(target.signal().content, "2");
}

promise!(a_target_that_ignores_the_signal_is_refused);
fn a_target_that_ignores_the_signal_is_refused(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("ignore");
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "300ms"]);

    replace(&path, "1");
    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().text("reason"), "ignored");
    assert_eq!(events.last().unwrap().pid(), target.pid);
    assert!(target.lives());
}

promise!(a_zombie_is_no_target);
/// It would accept the signal, and do nothing about it.
fn a_zombie_is_no_target(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new();
    let mut zombie = Process::spawn(recipe.command().stdin(Stdio::piped()).stdout(Stdio::null()));
    zombie.kill().unwrap();
    let state = format!("/proc/{}/stat", zombie.pid());
    poll("it is a zombie", || fs::read_to_string(&state).unwrap().contains(") Z ").then_some(()));
    let mut agent = Agent::on(source, &path, recipe.name());
    let waiting = agent.wait_for("waiting");
    assert_eq!((waiting.text("for"), waiting.text("object")), ("target", recipe.name()));

    replace(&path, "1");
    // Whoever starts before the change is seen to be complete may have read less, and is signalled.
    agent.wait_for("changed");
    // A living one beside it is found.
    let mut target = recipe.reading(&path).start();
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().pid(), target.pid);
    assert_eq!(target.signal().content, "2");
}

promise!(a_handler_that_comes_late_is_waited_for);
/// A program that has just started has no handler yet; it will have.
fn a_handler_that_comes_late_is_waited_for(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("later").reading(&path);
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "1m"]);
    let mut target = recipe.start_early();
    assert_eq!(target.content, "0");

    replace(&path, "1");
    agent.wait_for("changed");
    target.install_handler();

    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().pid(), target.pid);
    assert_eq!(target.signal().content, "1");
}

promise!(it_is_the_signal_that_is_sent_that_must_be_handled);
/// USR2 may be handled where HUP is not.
fn it_is_the_signal_that_is_sent_that_must_be_handled(source: Source) {
    const SIGUSR2: i32 = 12;
    let (_dir, path) = config();
    let recipe = Recipe::new().signal(SIGUSR2).reading(&path);
    let mut target = recipe.start();

    let options = ["--handler-timeout", "0s"];
    let mut with_hup = Agent::with(source, &path, recipe.name(), &options);
    let mut with_usr2 = Agent::with(source, &path, recipe.name(), &["--signal", "USR2"]);
    replace(&path, "1");
    assert_eq!(with_hup.wait_for("refused").text("reason"), "not_caught");
    assert_eq!(with_usr2.wait_for("reloaded").text("signal"), "USR2");
    assert_eq!(target.signal().content, "1");
    assert!(target.lives());
}

promise!(a_signal_that_is_meant_to_end_a_process_does);
/// TERM and its like are meant to end, and whoever says `--force` means it.
fn a_signal_that_is_meant_to_end_a_process_does(source: Source) {
    let options: [&[&str]; 3] = [&["--signal", "TERM"], &["--signal", "KILL"], &["--force"]];
    for options in options {
        let (_dir, path) = config();
        let recipe = Recipe::new().handler("none");
        let mut target = recipe.start();
        let mut agent = Agent::with(source, &path, recipe.name(), options);

        replace(&path, "1");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{options:?}: {events:?}");
        poll("the target ends", || (!target.lives()).then_some(()));
    }
}

promise!(a_target_of_another_user_is_refused_with_advice);
/// An agent that may load eBPF programs, where it is to, and is nobody otherwise.
fn a_target_of_another_user_is_refused_with_advice(source: Source) {
    let (dir, path) = config();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The binary may lie where nobody can reach it.
    let binary = dir.path().join("agent");
    run(Command::new("cp").args([Path::new(AGENT), &binary]));
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();

    let mut command = clean(Command::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    if source == Source::Ebpf {
        command.args(["--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon"]);
    }
    let mut agent = Agent::spawn(
        command.arg(binary).args(arguments(&path, recipe.name())).args(source.arguments()),
    );
    assert_eq!(agent.wait_for("ready").text("source"), source.name());

    replace(&path, "1");
    let failed = agent.wait_for("failed");
    assert_eq!(failed.pid(), target.pid);
    let advice = "run the agent as the uid of that process, or give it CAP_KILL";
    assert!(failed.text("reason").contains(advice), "{failed}");
    assert!(target.lives());
    assert_eq!(target.signals_at_hand(), []);
}

promise!(a_target_that_waits_for_the_signal_is_signalled);
/// It blocks the signal and has no handler, which is as good as one.
fn a_target_that_waits_for_the_signal_is_signalled(source: Source) {
    for way in ["signalfd", "sigwait"] {
        let (_dir, path) = config();
        let recipe = Recipe::new().handler(way).reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, &path, recipe.name());

        replace(&path, "1");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{way}: {events:?}");
        assert_eq!(target.signal().content, "1");
    }
}

promise!(a_signal_that_would_stop_or_be_lost_is_refused);
/// Not every signal kills: what is said must be true of the one that is sent.
fn a_signal_that_would_stop_or_be_lost_is_refused(source: Source) {
    let rows = [("TSTP", "stops"), ("STOP", "stops"), ("WINCH", "ignored"), ("USR1", "not_caught")];
    for (signal, reason) in rows {
        let (_dir, path) = config();
        let recipe = Recipe::new().handler("none");
        let mut target = recipe.start();
        let options = ["--signal", signal, "--handler-timeout", "0s"];
        let mut agent = Agent::with(source, &path, recipe.name(), &options);

        replace(&path, "1");
        assert_eq!(agent.wait_for("refused").text("reason"), reason, "{signal}");
        assert!(target.lives());
    }
}

promise!(what_the_first_process_of_a_namespace_would_not_get_is_refused);
/// The kernel takes the signal, and drops it: TERM as well, which is meant to end.
fn what_the_first_process_of_a_namespace_would_not_get_is_refused(source: Source) {
    for signal in ["HUP", "TERM"] {
        let (_dir, path) = config();
        let recipe = Recipe::new().handler("none");
        let mut namespace = Command::new("unshare");
        namespace.args(["--pid", "--fork", "--kill-child"]).arg(recipe.path());
        namespace.args(["--handler", "none"]);
        let mut target = Running::of(recipe.name(), &mut namespace);
        target.wait_until_ready();
        assert_eq!(target.pid, 1);
        let options = ["--signal", signal, "--handler-timeout", "0s"];
        let mut agent = Agent::with(source, &path, recipe.name(), &options);

        replace(&path, "1");
        let events = agent.events_until("refused");
        assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
        assert_eq!(events.last().unwrap().text("reason"), "dropped_by_init", "{signal}");
        assert!(target.lives());
    }
}

promise!(a_filter_that_forbids_only_the_newer_way_to_signal_does_no_harm);
/// Profiles of container runtimes from before there were pidfds.
fn a_filter_that_forbids_only_the_newer_way_to_signal_does_no_harm(source: Source) {
    for calls in [&["pidfd_send_signal"][..], &["pidfd_open", "pidfd_send_signal"]] {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut command = clean(Command::new(REFUSE.path()));
        command.args(calls).arg("--").arg(AGENT).args(arguments(&path, recipe.name()));
        let mut agent = Agent::spawn(command.args(source.arguments()));
        agent.wait_for("ready");

        replace(&path, "1");
        assert_eq!(agent.wait_for("reloaded").pid(), target.pid, "{calls:?}");
        assert_eq!(target.signal().content, "1");
    }
}
