//! Fifty agents on one machine get along with what there is, and say loudly what there is too little
//! of.

#![cfg(test)]

mod support;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, command},
    lines::Lines,
    process::Process,
    source::Source,
    target::{Recipe, Running},
    writer::{config, replace},
};

const PODS: usize = 50;

/// How many of a kind a uid may have: fewer than there are agents.
const ALLOWED: usize = 20;

/// One pod: its directory, its target and its agent.
struct Pod {
    _dir: TempDir,
    path: PathBuf,
    target: Running,
    agent: Agent,
    /// What it has said of a source that is worse than it should be.
    degraded: Vec<String>,
    source: String,
}

/// Starts fifty, each by `command` with the arguments of its pod.
fn start(command: impl Fn() -> Command) -> Vec<Pod> {
    let start = |_| {
        let (dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let target = recipe.start();
        let mut command = command();
        command.args(arguments(&path, recipe.name())).args(["--reconcile", "1h"]);
        let mut agent = Agent::spawn(&mut command);
        let events = agent.events_until("ready");
        let reasons = events.iter().filter(|event| event.name() == "degraded");
        let degraded = reasons.map(|it| format!("{}: {}", it.text("source"), it.text("reason")));
        let degraded = degraded.collect();
        let source = events.last().unwrap().text("source").to_owned();
        Pod { _dir: dir, path, target, agent, degraded, source }
    };
    (0..PODS).map(start).collect()
}

/// Changes all at once, and checks that each target is told once of its own change.
fn change_all(pods: &mut [Pod], round: u32) {
    for (number, pod) in pods.iter().enumerate() {
        replace(&pod.path, &format!("{round}-{number}"));
    }
    for (number, pod) in pods.iter_mut().enumerate() {
        assert_eq!(pod.agent.wait_for("reloaded").pid(), pod.target.pid);
        assert_eq!(pod.target.signal().content, format!("{round}-{number}"));
    }
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn all_have_the_best_source() {
    let mut pods = start(command);
    let best = pods[0].source.clone();
    assert!(pods.iter().all(|pod| pod.source == best), "{best} for all");
    (1..=3).for_each(|round| change_all(&mut pods, round));
}

/// As of the containers of a node, which share the limits of a uid (128 instances by default).
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn where_instances_run_out_the_rest_does_without_them_and_says_so() {
    // One user namespace for all: the first process makes it and stays.
    let script = format!(
        "echo {ALLOWED} > /proc/sys/user/max_inotify_instances && \
         echo {ALLOWED} > /proc/sys/user/max_fanotify_groups && echo made && exec sleep infinity"
    );
    let mut first = clean(Command::new("unshare"));
    first.args(["--user", "--map-root-user", "sh", "-c", &script]);
    let mut first = Process::spawn(first.stdout(Stdio::piped()));
    let mut lines = Lines::of("namespace", first.stdout.take().unwrap());
    lines.until("made", |line| (line == "made").then_some(()));

    let pid = first.pid().to_string();
    let enter = || {
        let mut command = clean(Command::new("nsenter"));
        command.args(["--user", "--preserve-credentials", "--target", &pid]).arg(AGENT);
        command
    };
    let mut pods = start(enter);
    let mut sources = BTreeMap::<&str, usize>::new();
    for pod in &pods {
        *sources.entry(&pod.source).or_default() += 1;
        let said = |source: &str| {
            pod.degraded.iter().any(|it| {
                it.starts_with(&format!("{source}: ")) && it.contains("this user has all")
            })
        };
        match pod.source.as_str() {
            "fanotify" => {}
            "inotify" => assert!(said("fanotify"), "{:?}", pod.degraded),
            "poll" => assert!(said("fanotify") && said("inotify"), "{:?}", pod.degraded),
            other => panic!("{other} without rights"),
        }
    }
    let names = [Source::Fanotify, Source::Inotify, Source::Poll].map(Source::name);
    let counts = names.map(|name| sources.get(name).copied().unwrap_or_default());
    assert_eq!(counts.iter().sum::<usize>(), PODS);
    assert!(counts.iter().all(|&count| count > 0), "{sources:?}");
    change_all(&mut pods, 1);
}
