//! What goes wrong around the agent neither stops it nor makes it reload for nothing.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, arguments, command},
    lines::Lines,
    process::Process,
    source::Source,
    target::{Recipe, Running, unique_name},
    time::{pause, poll},
    writer::{bring, config, printed, replace},
};

/// Changes the file until the target is told of it: the agent is there.
fn wait_for_attached(target: &mut Running, path: &Path) {
    let mut n = 0;
    poll("the agent to be there", || {
        n += 1;
        replace(path, &format!("attached {n}"));
        (!target.signals_at_hand().is_empty()).then_some(())
    });
}

promise!(every_one_of_many_writes_in_place_is_delivered);
/// A look that comes late must not be put off again.
fn every_one_of_many_writes_in_place_is_delivered(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let _agent =
        Agent::with(source, &path, recipe.name(), &["--reconcile", "1h", "--settle-max", "1m"]);
    for n in 1..=source.rounds(60) {
        let text = format!("revision {n}");
        let mut file = File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        pause(Duration::from_millis(u64::from(n % 4)));
        drop(file);
        target.signals_until(&printed(text.as_bytes()));
    }
}

promise!(a_steady_writer_beside_a_file_does_not_hold_it_back);
fn a_steady_writer_beside_a_file_does_not_hold_it_back(source: Source) {
    let (dir, path) = config();
    let noise = File::create(dir.path().join("noise.log")).unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let options = ["--reconcile", "1h", "--settle-max", "300ms"];
    let _agent = Agent::with(source, dir.path(), recipe.name(), &options);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                noise.write_all_at(n.to_string().as_bytes(), 0).unwrap();
                pause(Duration::from_micros(500));
            }
        });
        replace(&path, "new");
        target.signals_until("new");
        is_over.store(true, Ordering::Relaxed);
    });
}

promise!(a_file_of_terabytes_is_not_read);
fn a_file_of_terabytes_is_not_read(source: Source) {
    let (dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, dir.path(), recipe.name(), &[""; 0]);
    File::create(dir.path().join("huge")).unwrap().set_len(1 << 42).unwrap();
    agent.wait_for("degraded");
    replace(&path, "new");
    target.signals_until("new");
    assert!(agent.stop(Signal::TERM).0.success());
}

promise!(a_log_in_the_watched_directory_is_no_configuration);
/// A line in its own log would be the next change, and that the next line.
fn a_log_in_the_watched_directory_is_no_configuration(source: Source) {
    let updates = source.rounds(20);
    let (dir, path) = config();
    let log = dir.path().join("agent.log");
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = command();
    agent
        .args(arguments(dir.path(), recipe.name()))
        .args(source.arguments())
        .stderr(File::create(&log).unwrap());
    let _agent = Process::spawn(&mut agent);
    poll("the agent to be ready", || {
        fs::read_to_string(&log).unwrap().contains("ready").then_some(())
    });

    let mut signals = Vec::new();
    for n in 1..=updates {
        bring(&path, &n.to_string());
        signals.extend(target.signals_until(&n.to_string()));
        // It would find its own line.
        source.let_look();
    }
    assert_eq!(signals.len(), usize::try_from(updates).unwrap(), "{signals:?}");
}

// Poll would take ten minutes to say so much.
promise!(nobody_has_to_read_the_log: ebpf, fanotify, inotify);
fn nobody_has_to_read_the_log(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = command();
    agent.args(arguments(&path, recipe.name())).args(source.arguments()).stderr(Stdio::piped());
    let mut agent = agent.spawn().unwrap();
    wait_for_attached(&mut target, &path);
    // More than any pipe takes by default: 64 KiB.
    for n in 1..=600 {
        replace(&path, &n.to_string());
        target.signals_until(&n.to_string());
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(agent.wait().unwrap().success());
}

promise!(a_target_may_be_in_a_thousand_groups);
/// `status` lists them before what the process does with its signals.
fn a_target_may_be_in_a_thousand_groups(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let groups: Vec<_> = (100_000..101_000).map(|group: u32| group.to_string()).collect();
    let mut start = Command::new("setpriv");
    start.arg("--groups").arg(groups.join(",")).arg(recipe.path());
    start.args(recipe.command().get_args());
    let mut target = Running::of(recipe.name(), &mut start);
    target.wait_until_ready();
    let _agent = Agent::on(source, &path, recipe.name());
    replace(&path, "new");
    target.signals_until("new");
}

promise!(a_daemon_that_forks_after_it_has_read_gets_the_change);
/// A process that was merely forked has what its parent has read.
fn a_daemon_that_forks_after_it_has_read_gets_the_change(source: Source) {
    let (dir, path) = config();
    let name = unique_name();
    let shell = dir.path().join(&name);
    fs::copy("/bin/sh", &shell).unwrap();
    let mut agent = Agent::with(source, &path, &name, &["--handler-timeout", "1m"]);
    let script =
        "echo started; read go; (trap 'echo signal' HUP; while :; do sleep 1 & wait $!; done) &";
    let mut daemon = Command::new(&shell);
    daemon.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut daemon = daemon.spawn().unwrap();
    let mut lines = Lines::of("daemon", daemon.stdout.take().unwrap());

    lines.until("the daemon to start", |line| (line == "started").then_some(()));
    replace(&path, "new");
    agent.wait_for("changed");
    // The fork is to be later by any clock: `/proc` knows starts to 10 ms.
    pause(Duration::from_millis(60));
    daemon.stdin.take().unwrap().write_all(b"go\n").unwrap();
    daemon.wait().unwrap();
    let reloaded = agent.wait_for("reloaded");
    lines.until("the daemon's handler", |line| (line == "signal").then_some(()));
    let forked = rustix::process::Pid::from_raw(reloaded.pid()).unwrap();
    rustix::process::kill_process(forked, Signal::KILL).unwrap();
}
