//! Without rights, without room or without events the next source takes over, and says why.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{AGENT, Agent, Event, arguments, clean, run_to_end},
    filesystem::Filesystem::Tmpfs,
    process::run,
    source::Source,
    target::Recipe,
    time::poll,
    writer::{config, replace},
};

/// What turns the agent into one without rights: somebody else, with no capability.
const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
];

/// Starts an agent by way of a program that changes what it may do, and waits until it is ready.
///
/// Gives what it said by then.
fn start(wrapper: &[&str], path: &Path, process: &str, options: &[&str]) -> (Agent, Vec<Event>) {
    let mut command = clean(Command::new(wrapper[0]));
    command.args(&wrapper[1..]).arg(AGENT).args(arguments(path, process)).args(options);
    let mut agent = Agent::spawn(&mut command);
    let events = agent.events_until("ready");
    (agent, events)
}

/// The wrapper that gives the agent a user namespace of its own, in which `setting` is set.
fn with_setting(setting: &str) -> Vec<String> {
    let script = format!("{setting} && exec \"$0\" \"$@\"");
    ["unshare", "--user", "--map-root-user", "sh", "-c", &script].map(str::to_owned).to_vec()
}

fn start_with_setting(setting: &str, path: &Path, process: &str) -> (Agent, Vec<Event>) {
    let wrapper = with_setting(setting);
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    start(&wrapper, path, process, &["--reconcile", "1h"])
}

/// A setting of the machine, changed for a moment: it is as before once this is dropped.
struct Setting {
    path: PathBuf,
    usual: String,
    /// Who reads what is usual while another has it changed would keep the change for ever.
    _only: MutexGuard<'static, ()>,
}

impl Setting {
    fn new(path: &str, value: &str) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        // A test that failed has put back what it changed.
        let only = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = fs::read_to_string(path).unwrap();
        let setting = Self { path: path.into(), usual, _only: only };
        fs::write(path, value).unwrap();
        setting
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(&self.path, &self.usual).unwrap();
    }
}

/// Why a source was passed over.
#[track_caller]
fn reason<'a>(events: &'a [Event], source: &str) -> &'a str {
    let degraded = |event: &&Event| event.name() == "degraded" && event.text("source") == source;
    let found: Vec<_> = events.iter().filter(degraded).collect();
    assert_eq!(found.len(), 1, "said once of {source}: {events:?}");
    found[0].text("reason")
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn without_rights_it_is_fanotify() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let _target = recipe.start();
    let (mut agent, events) = start(NOBODY, &path, recipe.name(), &["--reconcile", "1h"]);
    assert!(reason(&events, "ebpf").starts_with("eBPF needs CAP_BPF and CAP_PERFMON; grant it"));
    let ready = events.last().unwrap();
    assert_eq!((ready.text("source"), ready.text("strategy")), ("fanotify", "unprivileged"));
    replace(&path, "1");
    let changed = agent.wait_for("changed");
    assert!(changed.field("by").is_null(), "nobody is told who it was: {changed}");
    // The target is root's.
    let failed = agent.wait_for("failed");
    assert!(failed.text("reason").contains("or give it CAP_KILL"), "{failed}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_source_that_is_insisted_on_is_had_or_nothing_is() {
    let (_dir, path) = config();
    let mut command = clean(Command::new(NOBODY[0]));
    command.args(&NOBODY[1..]).arg(AGENT).args(arguments(&path, "x")).args(["--source", "ebpf"]);
    let (code, said) = run_to_end(&mut command);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("reload-agent: source ebpf cannot be had: eBPF needs CAP_BPF"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn without_inotify_instances_and_fanotify_groups_it_polls_until_there_are_some() {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let limits = ["max_inotify_instances", "max_fanotify_groups"];
    let none = limits.map(|limit| format!("echo 0 > /proc/sys/user/{limit}")).join(" && ");
    let (mut agent, events) = start_with_setting(&none, &path, recipe.name());
    for (source, limit) in
        [("fanotify", "fs.fanotify.max_user_groups"), ("inotify", "fs.inotify.max_user_instances")]
    {
        assert!(reason(&events, source).contains(limit), "{events:?}");
    }
    assert_eq!(events.last().unwrap().text("source"), "poll");
    replace(&path, "1");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");

    // The settings of a user namespace belong to whoever is in it.
    let mut enter = Command::new("nsenter");
    enter.args(["--user", "--preserve-credentials", "--target", &agent.pid().to_string()]);
    run(enter.args(["sh", "-c", &none.replace("echo 0", "echo 9")]));
    let ready = agent.wait_for("ready");
    assert_eq!(ready.text("source"), "fanotify");
    replace(&path, "2");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "2");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn without_inotify_watches_a_place_is_polled() {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    // Enough for the directories on the way, and not for the file.
    let file = path.canonicalize().unwrap();
    let directories = file.ancestors().skip(1).count();
    let few = format!(
        "echo 0 > /proc/sys/user/max_fanotify_groups && \
         echo {directories} > /proc/sys/user/max_inotify_watches"
    );
    let (mut agent, events) = start_with_setting(&few, &path, recipe.name());
    let reason = reason(&events, "inotify");
    assert!(reason.starts_with(&format!("not enough for {}: ", file.display())), "{reason}");
    assert!(reason.contains("fs.inotify.max_user_watches"), "{reason}");
    assert_eq!(events.last().unwrap().text("source"), "inotify");
    fs::write(&path, "1").unwrap();
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_may_be_entered_and_not_read_is_polled() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    let path = closed.join("app.conf");
    fs::create_dir(&closed).unwrap();
    fs::write(&path, "0").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o711)).unwrap();
    let recipe = Recipe::new().reading(&path);
    let _target = recipe.start();
    let (mut agent, events) = start(NOBODY, &path, recipe.name(), &["--reconcile", "1h"]);
    let expected = format!("not enough for {}: ", closed.canonicalize().unwrap().display());
    for source in ["fanotify", "inotify"] {
        assert!(reason(&events, source).starts_with(&expected), "{events:?}");
    }
    replace(&path, "1");
    agent.wait_for("changed");
}

// The ring of eBPF has one record for each place, and poll has no queue.
promise!(a_full_queue_is_told_of_and_nothing_is_missed: fanotify, inotify);
fn a_full_queue_is_told_of_and_nothing_is_missed(source: Source) {
    const KEYS: usize = 40;
    let limit = format!("/proc/sys/fs/{source}/max_queued_events");
    let dir = tempfile::tempdir().unwrap();
    let write = |n: usize| {
        for key in 0..KEYS {
            fs::write(dir.path().join(format!("{key}.conf")), n.to_string()).unwrap();
        }
    };
    write(0);
    let recipe = Recipe::new().reading(dir.path());
    let mut target = recipe.start();
    // It counts when the queue is made. What others make meanwhile is only shorter than usual.
    let short = Setting::new(&limit, "8");
    let mut agent = Agent::with(source, dir.path(), recipe.name(), &["--reconcile", "1h"]);
    drop(short);

    let pid = Pid::from_raw(agent.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    write(1);
    kill_process(pid, Signal::CONT).unwrap();
    let lost = agent.wait_for("lost");
    let expected = (source.name(), "queue_full");
    assert_eq!((lost.text("source"), lost.text("reason")), expected, "{lost}");
    agent.wait_for("reloaded");
    let mut all: Vec<_> = (0..KEYS).map(|key| format!("{key}.conf=1;")).collect();
    all.sort_unstable();
    assert_eq!(target.signal().content, all.concat());
}

promise!(a_mount_over_a_watched_directory_is_seen);
fn a_mount_over_a_watched_directory_is_seen(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    let path = etc.join("app.conf");
    fs::create_dir(&etc).unwrap();
    fs::write(&path, "below").unwrap();
    let above = Tmpfs.mount_with(&[("app.conf", "above")]);
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--reconcile", "1h"]);

    run(Command::new("mount").arg("--bind").arg(&above.dir).arg(&etc));
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "above");
    // What is there now is watched, too.
    replace(&path, "changed");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "changed");
    run(Command::new("umount").arg(&etc));
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "below");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_changes_elsewhere_is_polled() {
    let behind = tempfile::tempdir().unwrap();
    let mounted = tempfile::tempdir().unwrap();
    let path = mounted.path().join("app.conf");
    fs::write(behind.path().join("app.conf"), "0").unwrap();
    run(Command::new("bindfs").arg(behind.path()).arg(mounted.path()));
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut command = clean(Command::new(AGENT));
    let mut agent =
        Agent::spawn(command.args(arguments(&path, recipe.name())).args(["--reconcile", "1h"]));
    let events = agent.events_until("ready");
    let expected = "it lies on fuse, which does not announce what is changed elsewhere";
    assert!(reason(&events, "ebpf").contains(expected), "{events:?}");
    for n in ["1", "2"] {
        // No event of the mounted filesystem: the file behind it is another one.
        replace(&behind.path().join("app.conf"), n);
        agent.wait_for("reloaded");
        assert_eq!(target.signal().content, n);
    }
    drop(agent);
    let (code, said) = run_to_end(
        clean(Command::new(AGENT))
            .args(arguments(&path, recipe.name()))
            .args(["--source", "inotify"]),
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(expected), "{said}");
    drop(target);
    poll("it can be unmounted", || {
        let umount = Command::new("umount").arg(mounted.path()).status().unwrap();
        umount.success().then_some(())
    });
}
