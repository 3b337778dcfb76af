//! With `--state-dir` the agent knows after a restart or a crash who has what: a change made while it was
//! down is applied, and nothing is applied twice.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    agent::{Agent, Event, arguments_beside, command, count, names, run_to_end},
    filesystem::place_apart,
    process::run,
    source::Source,
    target::Recipe,
    time::{Dice, pause},
    writer::{config, replace},
};

/// A configuration file, and a place for the ledger.
struct Site {
    _dir: TempDir,
    path: PathBuf,
    state: PathBuf,
}

impl Site {
    fn new() -> Self {
        let (dir, path) = config();
        let state = dir.path().join("state");
        Self { _dir: dir, path, state }
    }

    fn ledger(&self) -> PathBuf {
        self.state.join("ledger")
    }

    #[track_caller]
    fn agent(&self, source: Source, recipe: &Recipe) -> Agent {
        self.agent_with(source, recipe, &[])
    }

    #[track_caller]
    fn agent_with(&self, source: Source, recipe: &Recipe, options: &[&str]) -> Agent {
        let options = [&["--state-dir", self.state.to_str().unwrap()], options].concat();
        Agent::with(source, &self.path, recipe.name(), &options)
    }
}

/// Starts the agent without regard to what it says before it is ready, and gives that as well.
#[track_caller]
fn start(site: &Site, recipe: &Recipe) -> (Agent, Vec<Event>) {
    let options = ["--state-dir", site.state.to_str().unwrap()];
    let mut command = command();
    command.args(arguments_beside(&site.path, recipe.name(), &options)).args(options);
    let mut agent = Agent::spawn(command.args(Source::Inotify.arguments()));
    let events = agent.events_until("ready");
    (agent, events)
}

/// Whether a change was made while the agent was down.
fn is_away(event: &Event) -> bool {
    event.text("when") == "away"
}

/// When the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// Before the change, which is made while it is down.
    Before,
    /// At some moment of the first milliseconds after it.
    Amid,
    /// When it has told of the signal.
    After,
    Never,
}

promise!(no_crash_has_anything_missed_or_applied_twice);
/// A signal cannot be sent and noted in one step: an agent that is killed between the two has it sent
/// once more, for too much does less harm than too little. So one that is killed amid an update may,
/// and no other.
fn no_crash_has_anything_missed_or_applied_twice(source: Source) {
    let site = Site::new();
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let mut agent = site.agent(source, &recipe);
    let mut dice = Dice::new();
    let rounds = source.rounds(200);
    let (mut crashes, mut repeated) = (0, 0);
    // A signal that is repeated comes when the next change is made, and is handled then or with the one
    // after it.
    let mut amid = [false; 2];
    for n in 0..=rounds {
        let text = n.to_string() + "-";
        let crash = match dice.below(8) {
            _ if n == rounds => Crash::Never,
            0 => Crash::Before,
            1..=4 => Crash::Amid,
            5 | 6 => Crash::After,
            _ => Crash::Never,
        };
        println!("{n}: {crash:?}");
        if crash == Crash::Before {
            drop(agent);
            replace(&site.path, &text);
            agent = site.agent(source, &recipe);
        } else {
            replace(&site.path, &text);
        }
        if crash == Crash::Amid {
            crashes += 1;
            pause(Duration::from_micros(dice.below(3000)));
            drop(agent);
            agent = site.agent(source, &recipe);
        }
        let signals = target.signals_until(&text);
        let too_many = signals.len() - 1;
        let most = amid.iter().filter(|amid| **amid).count();
        assert!(too_many <= most, "{crash:?} after {amid:?}: {signals:?}");
        repeated += too_many;
        amid = [amid[1], crash == Crash::Amid];
        if matches!(crash, Crash::After | Crash::Never) {
            // What it has done when it was started is told before.
            agent.until("the change", |event| event.name() == "changed" && !is_away(event));
            agent.wait_for("reloaded");
        }
        if crash == Crash::After {
            drop(agent);
            agent = site.agent(source, &recipe);
        }
    }
    println!("{crashes} crashes amid an update, {repeated} signals repeated");
}

promise!(a_change_made_while_it_was_down_is_applied_at_the_start);
/// However it has ended; and where there was none nothing is sent.
fn a_change_made_while_it_was_down_is_applied_at_the_start(source: Source) {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let site = Site::new();
        let recipe = Recipe::new().reading(&site.path);
        let mut target = recipe.start();
        let mut agent = site.agent(source, &recipe);
        replace(&site.path, "1");
        agent.wait_for("reloaded");
        assert_eq!(target.signal().content, "1");
        agent.stop(signal);

        replace(&site.path, "2");
        let mut agent = site.agent(source, &recipe);
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert!(is_away(&events[0]) && events[0].paths().is_empty(), "{events:?}");
        assert_eq!(events[1].pid(), target.pid);
        assert!(events[1].field("change_to_signal_us").is_null(), "nobody knows: {events:?}");
        assert_eq!(target.signal().content, "2");
        agent.stop(signal);

        let mut agent = site.agent(source, &recipe);
        source.let_look();
        replace(&site.path, "3");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert_eq!(target.signal().content, "3");
    }
}

promise!(what_was_rolled_back_while_it_was_down_is_applied);
/// The content is what it was long ago, and not what the target has; of which the agent may have noted
/// just the latter before it crashed.
fn what_was_rolled_back_while_it_was_down_is_applied(source: Source) {
    for is_noted_in_part in [false, true] {
        let site = Site::new();
        let recipe = Recipe::new().reading(&site.path);
        let mut target = recipe.start();
        let mut agent = site.agent(source, &recipe);
        replace(&site.path, "1");
        agent.wait_for("reloaded");
        drop(agent);
        assert_eq!(target.signal().content, "1");
        if is_noted_in_part {
            let text = fs::read_to_string(site.ledger()).unwrap();
            let last = text.trim_end().rfind('\n').unwrap() + 1;
            assert!(text[last..].starts_with("{\"content\""), "{text}");
            fs::write(site.ledger(), &text[..last]).unwrap();
        }
        replace(&site.path, "0");
        let mut agent = site.agent(source, &recipe);
        assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
        assert_eq!(target.signal().content, "0");
    }
}

promise!(a_target_that_started_after_the_change_has_it);
/// Both happened while the agent was down. The target is a child of ours, and so no daemon that may have
/// read something before it was forked; and nobody else makes or removes anything in a directory on the
/// way, which would be a change as well.
fn a_target_that_started_after_the_change_has_it(source: Source) {
    let place = place_apart();
    let path = place.join("app.conf");
    replace(&path, "0");
    let state = place.join("state");
    let site = Site { _dir: tempfile::tempdir().unwrap(), path, state };
    let recipe = Recipe::new().reading(&site.path);
    let first = recipe.start();
    let agent = site.agent(source, &recipe);
    drop(agent);
    first.kill();
    replace(&site.path, "1");
    // Files and processes tell the time by clocks that tick 100 times a second.
    pause(Duration::from_millis(40));
    let mut second = recipe.start();
    assert_eq!(second.content, "1");
    let mut agent = site.agent(source, &recipe);
    // What it is about to send for the former change must not become one with the next.
    source.let_look();
    replace(&site.path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "changed", "reloaded"], "{events:?}");
    assert!(is_away(&events[0]) && !is_away(&events[1]), "{events:?}");
    assert_eq!(second.signal().content, "2");
}

promise!(a_target_that_started_before_the_change_is_signalled);
/// However shortly before: the clocks of files and processes are coarse.
fn a_target_that_started_before_the_change_is_signalled(source: Source) {
    for _ in 0..source.rounds(10) {
        let site = Site::new();
        let recipe = Recipe::new().reading(&site.path);
        let first = recipe.start();
        let agent = site.agent(source, &recipe);
        drop(agent);
        first.kill();
        let mut second = recipe.start();
        replace(&site.path, "1");
        let mut agent = site.agent(source, &recipe);
        assert_eq!(agent.wait_for("reloaded").pid(), second.pid);
        assert_eq!(second.signal().content, "1");
    }
}

promise!(without_a_ledger_the_operator_decides);
fn without_a_ledger_the_operator_decides(source: Source) {
    for (choice, expected) in [("reload", &["0", "1"][..]), ("skip", &["1"])] {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let agent = Agent::with(source, &path, recipe.name(), &["--on-start", choice]);
        if choice == "reload" {
            assert_eq!(target.signal().content, "0");
        }
        replace(&path, "1");
        assert_eq!(target.signal().content, "1");
        let (_, events) = agent.stop(Signal::TERM);
        assert_eq!(count(&events, "reloaded"), expected.len(), "{choice}: {events:?}");
    }
}

#[test]
fn where_the_ledger_knows_the_operator_is_not_asked() {
    let site = Site::new();
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let options = ["--on-start", "reload"];
    let mut agent = site.agent_with(Source::Inotify, &recipe, &options);
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "0");
    drop(agent);
    let mut agent = site.agent_with(Source::Inotify, &recipe, &options);
    Source::Inotify.let_look();
    replace(&site.path, "1");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    assert_eq!(target.signal().content, "1");
}

#[test]
fn a_ledger_that_cannot_be_used_is_set_aside() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 6] = [
        ("garbage", |path| fs::write(path, [0xff; 4096]).unwrap()),
        ("a newer version", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
        }),
        ("a bad line in the middle", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen('\n', "\nnonsense\n", 1)).unwrap();
        }),
        ("a directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a symlink", |path| {
            fs::rename(path, path.with_extension("elsewhere")).unwrap();
            symlink(path.with_extension("elsewhere"), path).unwrap();
        }),
        ("a pipe", |path| {
            fs::remove_file(path).unwrap();
            run(Command::new("mkfifo").arg(path));
        }),
    ];
    for (name, spoil) in spoils {
        println!("--- {name}");
        let site = Site::new();
        let recipe = Recipe::new().reading(&site.path);
        let mut target = recipe.start();
        let (agent, _) = start(&site, &recipe);
        agent.stop(Signal::TERM);
        spoil(&site.ledger());

        let (mut agent, events) = start(&site, &recipe);
        assert_eq!(names(&events), ["degraded", "ready"], "{name}: {events:?}");
        let reason = events[0].text("reason");
        let beginning = format!("{} is no ledger that can be used: ", site.ledger().display());
        assert!(reason.starts_with(&beginning), "{name}: {reason}");
        let remedy =
            "and what was applied before is not known; remove it when you have looked at it";
        assert!(reason.ends_with(remedy), "{name}: {reason}");
        let aside = fs::read_dir(&site.state).unwrap().map(|entry| entry.unwrap().file_name());
        let aside: Vec<_> =
            aside.filter(|it| it.to_str().unwrap().starts_with("ledger.bad-")).collect();
        assert!(aside.len() == 1 && reason.contains(aside[0].to_str().unwrap()), "{reason}");

        // It serves, and what is written now is good.
        replace(&site.path, "1");
        agent.wait_for("reloaded");
        assert_eq!(target.signal().content, "1");
        agent.stop(Signal::KILL);
        let (_agent, events) = start(&site, &recipe);
        assert_eq!(names(&events), ["ready"], "{name}: {events:?}");
    }
}

#[test]
fn a_last_line_that_was_not_written_to_its_end_does_no_harm() {
    let site = Site::new();
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let (agent, _) = start(&site, &recipe);
    agent.stop(Signal::TERM);
    let text = fs::read_to_string(site.ledger()).unwrap();
    let whole = text.trim_end().rfind('\n').unwrap() + 1;
    for length in (whole + 1..text.len()).step_by(7) {
        fs::write(site.ledger(), &text[..length]).unwrap();
        let (agent, events) = start(&site, &recipe);
        assert_eq!(names(&events), ["ready"], "{events:?}");
        let (_, events) = agent.stop(Signal::TERM);
        assert_eq!(count(&events, "degraded"), 0, "{events:?}");
    }
    replace(&site.path, "1");
    let (_agent, _) = start(&site, &recipe);
    assert_eq!(target.signal().content, "1");
}

#[test]
fn a_second_agent_does_not_get_the_same_directory() {
    let site = Site::new();
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let (_agent, _) = start(&site, &recipe);
    let options = ["--state-dir", site.state.to_str().unwrap()];
    let mut command = command();
    command.args(arguments_beside(&site.path, recipe.name(), &options)).args(options);
    let (code, said) = run_to_end(command.args(Source::Inotify.arguments()));
    assert_eq!(code, Some(1), "{said}");
    let expected = format!(
        "state directory {} is in use by another agent; stop that one, or give each its own",
        site.state.display()
    );
    assert!(said.contains(&expected), "{said}");
    replace(&site.path, "1");
    assert_eq!(target.signal().content, "1", "the first goes on");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_directory_that_cannot_be_written_to_is_no_reason_to_stop() {
    let place = place_apart();
    let (_dir, path) = config();
    let site = Site { _dir: tempfile::tempdir().unwrap(), path, state: place.to_owned() };
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(place));
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let (mut agent, mut events) = start(&site, &recipe);
    for n in 1..=3 {
        replace(&site.path, &n.to_string());
        events.extend(agent.events_until("reloaded"));
        assert_eq!(target.signal().content, n.to_string());
    }
    let degraded: Vec<_> = events.iter().filter(|event| event.name() == "degraded").collect();
    assert_eq!(degraded.len(), 1, "it is said once: {events:?}");
    let reason = degraded[0].text("reason");
    let beginning = format!("cannot write {}: Read-only file system", site.ledger().display());
    assert!(reason.starts_with(&beginning), "{reason}");
    assert!(reason.ends_with("make room, or mend the disk"), "{reason}");
    let (status, _) = agent.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0));

    run(Command::new("mount").args(["-o", "remount,rw"]).arg(place));
    let (agent, events) = start(&site, &recipe);
    assert_eq!(names(&events), ["ready"], "{events:?}");
    agent.stop(Signal::TERM);
}

#[test]
fn commands_are_remembered() {
    let site = Site::new();
    let log = site.path.with_file_name("log");
    let exec = format!("sh -c 'cat {} >> {}'", site.path.display(), log.display());
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let mut options = vec!["run", "--log-format", "json", "--min-interval", "0"];
    options.extend(["--watch", site.path.to_str().unwrap(), "--exec", &exec]);
    options.extend(["--state-dir", site.state.to_str().unwrap()]);
    let start = || {
        let mut agent = Agent::spawn(command().args(&options).args(Source::Inotify.arguments()));
        agent.wait_for("ready");
        agent
    };
    let mut agent = start();
    replace(&site.path, "1");
    agent.wait_for("confirmed");
    agent.stop(Signal::KILL);
    replace(&site.path, "2");
    let mut agent = start();
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert!(is_away(&events[0]), "{events:?}");
    agent.stop(Signal::KILL);
    let mut agent = start();
    Source::Inotify.let_look();
    replace(&site.path, "3");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert_eq!(said(), "123");
}

/// Starts a server that refuses the password `b` until it is told not to, and gives its address and who
/// has asked.
fn server(is_open: Arc<AtomicBool>) -> (SocketAddr, Receiver<String>) {
    /// `u:b`, as it is sent.
    const B: &str = "Basic dTpi";
    let (sender, asked) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let who = if head.iter().any(|line| line.ends_with(B)) { "b" } else { "a" };
            let status = if who == "a" || is_open.load(Ordering::SeqCst) { 200 } else { 500 };
            let answer =
                format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            // Whoever has the answer finds that it was asked for.
            sender.send(format!("{who} {status}")).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, asked)
}

#[test]
fn of_two_servers_that_look_alike_each_is_remembered() {
    let site = Site::new();
    let is_open = Arc::new(AtomicBool::new(false));
    let (address, asked) = server(Arc::clone(&is_open));
    let rules = site.path.with_file_name("rules.yaml");
    // Only what is not shown of them differs.
    let actions = ["a", "b"].map(|it| format!("      - post: http://u:{it}@{address}/reload\n"));
    let text = format!(
        "rules:\n  - name: r\n    watch: [{}]\n    actions:\n{}    minInterval: 0s\n",
        site.path.display(),
        actions.concat()
    );
    fs::write(&rules, text).unwrap();
    let mut options = vec!["run", "--log-format", "json", "--config", rules.to_str().unwrap()];
    options.extend(["--state-dir", site.state.to_str().unwrap()]);
    let start = || {
        let mut agent = Agent::spawn(command().args(&options).args(Source::Inotify.arguments()));
        agent.wait_for("ready");
        agent
    };
    let mut agent = start();
    replace(&site.path, "1");
    agent.wait_for("failed");
    agent.stop(Signal::KILL);
    assert_eq!(asked.try_iter().take(2).collect::<Vec<_>>(), ["a 200", "b 500"]);
    is_open.store(true, Ordering::SeqCst);
    let mut agent = start();
    agent.wait_for("confirmed");
    agent.stop(Signal::KILL);
    let mut agent = start();
    Source::Inotify.let_look();
    replace(&site.path, "2");
    agent.wait_for("confirmed");
    agent.wait_for("confirmed");
    let asked: Vec<_> = asked.try_iter().filter(|it| it != "b 500").collect();
    assert_eq!(asked, ["b 200", "a 200", "b 200"]);
}

#[test]
fn a_dry_run_remembers_nothing() {
    let site = Site::new();
    let recipe = Recipe::new().reading(&site.path);
    let mut target = recipe.start();
    let mut agent = site.agent_with(Source::Inotify, &recipe, &["--dry-run"]);
    replace(&site.path, "1");
    agent.wait_for("reloaded");
    agent.stop(Signal::TERM);
    assert!(!site.state.exists());

    let mut agent = site.agent(Source::Inotify, &recipe);
    replace(&site.path, "2");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "2");
    agent.stop(Signal::TERM);
    let before = fs::read(site.ledger()).unwrap();
    let mut agent = site.agent_with(Source::Inotify, &recipe, &["--dry-run"]);
    replace(&site.path, "3");
    agent.wait_for("reloaded");
    agent.stop(Signal::TERM);
    assert_eq!(fs::read(site.ledger()).unwrap(), before);
    let mut agent = site.agent(Source::Inotify, &recipe);
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "3");
}
