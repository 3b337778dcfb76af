//! After a reload the agent says whether it took, by the best evidence that there is, and a target that
//! dies of it is told of loudly.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    agent::{AGENT, Agent, Event, PATIENT, arguments_beside, clean, count, names},
    kubelet::{Keys, Order, Volume, keys},
    nginx::{Nginx, server},
    source::Source,
    target::{Recipe, Running},
    time::{here, pause, pause_here, poll},
    writer::{config, replace},
};

/// So long that what comes in time has not waited for it.
const UNHURRIED: [&str; 2] = ["--confirm-timeout", "1h"];

/// So short that it may be waited for.
const SHORT: [&str; 2] = ["--confirm-timeout", "300ms"];

/// Starts an agent that cannot see who opens a file, for it lacks `CAP_SYS_ADMIN`.
#[track_caller]
fn blind_agent(watch: &Path, process: &str, options: &[impl AsRef<OsStr>]) -> Agent {
    let mut command = clean(Command::new("setpriv"));
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]).arg(AGENT);
    command.args(arguments_beside(watch, process, options)).args(options);
    let mut agent = Agent::spawn(command.args(Source::Inotify.arguments()));
    agent.wait_for("ready");
    agent
}

#[track_caller]
fn check_evidence(event: &Event, pid: i32, evidence: &str) {
    assert_eq!(event.name(), "confirmed", "{event}");
    assert_eq!((event.pid(), event.text("evidence")), (pid, evidence), "{event}");
    assert!(event.number("after_ms") >= 0, "{event}");
}

promise!(a_target_that_reads_the_new_content_is_confirmed);
/// However the content came to be there.
fn a_target_that_reads_the_new_content_is_confirmed(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let options = [&UNHURRIED[..], &PATIENT].concat();
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    for n in 1..=source.rounds(6) {
        let text = n.to_string();
        if n % 2 == 0 {
            fs::write(&path, &text).unwrap();
        } else {
            replace(&path, &text);
        }
        let events = agent.events_until("confirmed");
        assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
        check_evidence(&events[2], target.pid, "reopened");
        assert_eq!(target.signal().content, text);
        source.let_look();
    }
}

promise!(a_file_of_a_directory_that_is_read_is_enough);
/// Files that are new as well: nobody has opened them before.
fn a_file_of_a_directory_that_is_read_is_enough(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.conf"), "0").unwrap();
    let recipe = Recipe::new().reading(dir.path());
    let mut target = recipe.start();
    let options = [&UNHURRIED[..], &PATIENT].concat();
    let mut agent = Agent::with(source, dir.path(), recipe.name(), &options);
    fs::write(dir.path().join("b.conf"), "1").unwrap();
    check_evidence(&agent.wait_for("confirmed"), target.pid, "reopened");
    assert_eq!(target.signal().content, "a.conf=0;b.conf=1;");
}

promise!(what_a_child_reads_its_parent_has_read);
/// Many a master leaves the reading to others, and all the same it is the master that was signalled.
fn what_a_child_reads_its_parent_has_read(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).reader("child");
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
    replace(&path, "1");
    let events = agent.events_until("confirmed");
    check_evidence(events.last().unwrap(), target.pid, "reopened");
    assert_eq!(target.signal().content, "1");
}

promise!(what_others_read_says_nothing);
/// It is not the target that has read it.
fn what_others_read_says_nothing(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new();
    let mut target = recipe.start();
    let options = ["--confirm-timeout", "1s"];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    replace(&path, "1");
    agent.wait_for("reloaded");
    support::process::run(Command::new("head").arg(&path));
    let events = agent.events_until("unconfirmed");
    assert_eq!(names(&events), ["unconfirmed"]);
    assert_eq!(events[0].pid(), target.pid);
    let reason = "it still runs, but has not opened the new content; see its own log";
    assert_eq!(events[0].text("reason"), reason);
    assert!(target.lives());
}

/// An nginx, and the file that it includes.
fn nginx() -> (TempDir, PathBuf, Nginx) {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    let path = servers.join("app.conf");
    replace(&path, &server(&servers, "revision 0"));
    let nginx = Nginx::start(&servers);
    (dir, path, nginx)
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn new_workers_confirm_a_reload_where_opens_are_not_seen() {
    let (_dir, path, nginx) = nginx();
    let mut agent = blind_agent(&path, nginx.name(), &UNHURRIED);
    for n in 1..=20 {
        let revision = format!("revision {n}");
        let before = nginx.workers();
        replace(&path, &server(path.parent().unwrap(), &revision));
        let events = agent.events_until("confirmed");
        check_evidence(events.last().unwrap(), nginx.pid(), "workers");
        assert!(nginx.workers().iter().any(|worker| !before.contains(worker)));
        poll("nginx serves the new revision", || nginx.get().filter(|body| *body == revision));
    }
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_configuration_that_nginx_refuses_is_not_confirmed_by_workers() {
    let (_dir, path, nginx) = nginx();
    let mut agent = blind_agent(&path, nginx.name(), &SHORT);
    let before = nginx.workers();
    replace(&path, "nonsense");
    check_evidence(&agent.wait_for("confirmed"), nginx.pid(), "alive");
    assert_eq!(nginx.workers(), before);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn that_it_still_runs_is_said_where_nothing_better_can_be_seen() {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = blind_agent(&path, recipe.name(), &SHORT);
    replace(&path, "1");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    check_evidence(&events[2], target.pid, "alive");
    assert!(events[2].number("after_ms") >= 300, "not before its time: {}", events[2]);
    assert_eq!(target.signal().content, "1");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn nothing_is_waited_for_where_only_that_can_be_seen() {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = blind_agent(&path, recipe.name(), &UNHURRIED);
    for n in 1..=5 {
        replace(&path, &n.to_string());
        agent.wait_for("reloaded");
        assert_eq!(target.signal().content, n.to_string());
    }
}

promise!(a_target_that_dies_of_a_reload_is_told_of_at_once);
/// Whether it has read its configuration first or not, and in whatever way it dies.
fn a_target_that_dies_of_a_reload_is_told_of_at_once(source: Source) {
    let ends = [
        ("exit", "after the reload it ended with exit status 3"),
        ("crash", "after the reload it was killed by SIGABRT"),
    ];
    for (end, reason) in ends {
        for reads in [true, false] {
            let (_dir, path) = config();
            let recipe = Recipe::new().end(end);
            let recipe = if reads { recipe.reading(&path) } else { recipe };
            let target = recipe.start();
            let mut agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
            replace(&path, "1");
            let failed = agent.wait_for("failed");
            assert_eq!((failed.pid(), failed.text("reason")), (target.pid, reason));

            // The one that takes its place has the new content, and gets the next.
            target.kill();
            let next = recipe.start();
            replace(&path, "2");
            let events = agent.events_until("reloaded");
            assert_eq!(events.last().unwrap().pid(), next.pid, "{events:?}");
        }
    }
}

promise!(what_was_confirmed_may_yet_die);
fn what_was_confirmed_may_yet_die(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).end("late");
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
    replace(&path, "1");
    check_evidence(&agent.wait_for("confirmed"), target.pid, "reopened");
    target.go_on();
    let failed = agent.wait_for("failed");
    let reason = "after the reload it ended with exit status 3";
    assert_eq!((failed.pid(), failed.text("reason")), (target.pid, reason));
}

promise!(who_is_stopped_after_a_confirmed_reload_has_not_failed);
/// As by `systemctl restart`.
fn who_is_stopped_after_a_confirmed_reload_has_not_failed(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let first = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
    replace(&path, "1");
    check_evidence(&agent.wait_for("confirmed"), first.pid, "reopened");
    kill_process(Pid::from_raw(first.pid).unwrap(), Signal::TERM).unwrap();
    let events = agent.events_until("waiting");
    assert_eq!(names(&events), ["waiting"], "{events:?}");

    let second = recipe.start();
    replace(&path, "2");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    check_evidence(events.last().unwrap(), second.pid, "reopened");
}

promise!(a_target_that_is_started_anew_is_restarted);
/// By `--restart`, or by whatever signal ends it; at once or after a while.
fn a_target_that_is_started_anew_is_restarted(source: Source) {
    let ways: [(&[&str], bool); 3] =
        [(&["--restart"], false), (&["--signal", "TERM"], false), (&["--restart"], true)];
    for (way, is_late) in ways {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path).handler("none");
        let mut first = recipe.start();
        let options = [way, &UNHURRIED].concat();
        let mut agent = Agent::with(source, &path, recipe.name(), &options);
        replace(&path, "1");
        assert_eq!(agent.wait_for("reloaded").pid(), first.pid);
        poll("it ends", || (!first.lives()).then_some(()));
        if is_late {
            agent.wait_for("waiting");
        }
        let mut second = recipe.start();
        assert_eq!(second.content, "1");
        let events = agent.events_until("confirmed");
        check_evidence(events.last().unwrap(), first.pid, "restarted");
        // It has what is wanted, and is not ended for it.
        assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
        replace(&path, "2");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert_eq!(events[1].pid(), second.pid);
        poll("the second ends", || (!second.lives()).then_some(()));
    }
}

promise!(a_target_that_is_not_started_anew_is_not_confirmed);
fn a_target_that_is_not_started_anew_is_not_confirmed(source: Source) {
    const SIGTERM: i32 = 15;
    let rows = [
        (
            Recipe::new().handler("none"),
            // So long that it has ended by then.
            here(Duration::from_secs(3)),
            "it has ended, and no other has started; look at who is to \
                                         start it",
        ),
        (
            Recipe::new().signal(SIGTERM),
            Duration::from_millis(300),
            "it was asked to end, but still runs; see its own log",
        ),
    ];
    for (recipe, timeout, reason) in rows {
        let (_dir, path) = config();
        let target = recipe.start();
        let timeout = format!("{}ms", timeout.as_millis());
        let options = ["--restart", "--confirm-timeout", &timeout];
        let mut agent = Agent::with(source, &path, recipe.name(), &options);
        replace(&path, "1");
        let unconfirmed = agent.wait_for("unconfirmed");
        assert_eq!(unconfirmed.pid(), target.pid);
        assert_eq!(unconfirmed.text("reason"), reason);
    }
}

promise!(changes_during_a_confirmation_wait_and_become_one);
/// The target is at its first reload and has not read anything: it is left alone.
fn changes_during_a_confirmation_wait_and_become_one(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).reader("late");
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
    replace(&path, "1");
    agent.wait_for("reloaded");
    for n in 2..=9 {
        replace(&path, &n.to_string());
        source.let_look();
    }
    // It has been signalled once, so this is for the first.
    target.go_on();
    assert_eq!(target.signal().content, "9");
    target.go_on();
    assert_eq!(target.signal().content, "9");
    replace(&path, "the-end");
    target.go_on();
    assert_eq!(target.signal().content, "the-end");
    let (_, events) = agent.stop(Signal::TERM);
    let decided = names(&events);
    let second = ["changed", "reloaded", "confirmed"];
    assert!(!decided.contains(&"unconfirmed"), "{events:?}");
    assert_eq!(count(&events, "reloaded"), 2, "{events:?}");
    let second_at = decided.iter().position(|name| *name == "reloaded").unwrap();
    let confirmed_at = decided.iter().position(|name| *name == "confirmed").unwrap();
    assert!(confirmed_at < second_at, "{second:?} after the first confirmation: {events:?}");
}

/// What a volume contains.
fn state(text: &str) -> Keys {
    keys(&[("app.conf", text)])
}

/// A volume, a target that reads what is in it when it is told to go on, and an agent that watches it.
fn with_volume(source: Source) -> (TempDir, Volume, Running, Agent) {
    let home = tempfile::tempdir().unwrap();
    let volume = Volume::mount(home.path(), Order::NamesLast, state("0"));
    let path = home.path().join("app.conf");
    let recipe = Recipe::new().reading(&path).reader("late");
    let target = recipe.start();
    let agent = Agent::with(source, &path, recipe.name(), &UNHURRIED);
    (home, volume, target, agent)
}

promise!(whoever_reads_after_another_update_is_seen_to_read);
/// The kubelet has swapped the volume once more when the target reads: it reads another file, in another
/// directory.
fn whoever_reads_after_another_update_is_seen_to_read(source: Source) {
    let (_home, mut volume, mut target, mut agent) = with_volume(source);
    volume.update(state("1"));
    agent.wait_for("reloaded");
    volume.update(state("2"));
    if source == Source::Poll {
        source.let_look();
    } else {
        // It has followed: it takes in all that it was told of before it sleeps again, and it is never long
        // until it looks at the target once more.
        let slept = agent.wake_ups();
        poll("it has looked", || (agent.wake_ups() >= slept + 8).then_some(()));
    }
    target.go_on();
    assert_eq!(target.signal().content, "2");
    check_evidence(&agent.wait_for("confirmed"), target.pid, "reopened");
}

promise!(whoever_may_have_read_unseen_is_not_waited_for_longer_than_is_usual);
/// He is as slow as never before, and what he is to read has moved: nobody will know whether he has read it.
fn whoever_may_have_read_unseen_is_not_waited_for_longer_than_is_usual(source: Source) {
    let (_home, mut volume, mut target, mut agent) = with_volume(source);
    // It is told in advance, so that the first time is a short one.
    target.go_on();
    volume.update(state("1"));
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");
    check_evidence(&agent.wait_for("confirmed"), target.pid, "reopened");

    volume.update(state("2"));
    agent.wait_for("reloaded");
    volume.update(state("3"));
    agent.wait_for("reloaded");
    target.go_on();
    assert_eq!(target.signal().content, "3");
}

promise!(time_in_which_the_agent_stood_still_does_not_count: ebpf, fanotify);
/// It and its target are frozen, say, and it is the first to go on.
fn time_in_which_the_agent_stood_still_does_not_count(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).reader("late");
    let mut target = recipe.start();
    let timeout = here(Duration::from_secs(5));
    let options = ["--confirm-timeout", &format!("{}ms", timeout.as_millis())];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    replace(&path, "1");
    agent.wait_for("reloaded");
    // Only of one that was in time before it is believed that it was stopped, and is not slow.
    pause_here(Duration::from_secs(1));
    let pid = Pid::from_raw(agent.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    pause(timeout + Duration::from_secs(1));
    kill_process(pid, Signal::CONT).unwrap();
    let has_slept = agent.wake_ups();
    poll("it has looked", || (agent.wake_ups() > has_slept).then_some(()));
    target.go_on();
    assert_eq!(target.signal().content, "1");
    check_evidence(&agent.wait_for("confirmed"), target.pid, "reopened");
}

promise!(without_a_timeout_nothing_is_waited_for);
fn without_a_timeout_nothing_is_waited_for(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path).workers(2);
    let mut target = recipe.start();
    let options = ["--confirm-timeout", "0"];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    for n in 1..=3 {
        replace(&path, &n.to_string());
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert_eq!(target.signal().content, n.to_string());
    }
    let (_, events) = agent.stop(Signal::TERM);
    assert_eq!(names(&events), ["stopped"], "{events:?}");
}

promise!(of_several_targets_each_has_its_own_end);
fn of_several_targets_each_has_its_own_end(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut lasting = recipe.start();
    let mortal = Recipe::named(recipe.name()).reading(&path).end("exit");
    let mortal = mortal.start();
    let options = [&["--all"][..], &UNHURRIED].concat();
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    replace(&path, "1");
    let mut missing = vec![("failed", mortal.pid), ("confirmed", lasting.pid)];
    agent.until("both ends", |event| {
        missing.retain(|&(name, pid)| event.name() != name || event.pid() != pid);
        missing.is_empty()
    });
    assert_eq!(lasting.signal().content, "1");
    replace(&path, "2");
    let events = agent.events_until("confirmed");
    check_evidence(events.last().unwrap(), lasting.pid, "reopened");
    assert_eq!(count(&events, "reloaded"), 1, "{events:?}");
    assert_eq!(lasting.signal().content, "2");
}
