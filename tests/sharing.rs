//! Rules that are about the same process do right by it together.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{Agent, Event, count, names},
    kubelet::{Order, Slow, Volume, keys, printed_keys, until_quick},
    process::{awaits_signals, waits},
    rules::Home,
    source::Source,
    target::{Recipe, Running},
    time::{boot_ns, pause, poll},
    writer::replace,
};

/// A check that good content passes.
const CHECK: &str = "check: [sh, -c, '! grep -q bad \"$RELOAD_CHANGED\"']";

const SIGUSR1: i32 = 10;

/// Of the events of this name, those about that rule.
fn about(events: &[Event], name: &str, rule: &str) -> usize {
    let is_it = |event: &&Event| event.name() == name && event.text("rule") == rule;
    events.iter().filter(is_it).count()
}

fn is(event: &Event, name: &str, rule: &str) -> bool {
    event.name() == name && event.text("rule") == rule
}

/// Changes things so that the agent hears of all that at the same time, however long it takes.
fn at_once(agent: &Agent, change: impl FnOnce()) {
    let pid = Pid::from_raw(agent.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    change();
    kill_process(pid, Signal::CONT).unwrap();
}

/// Takes all signals that a target has been sent: what it says of one that comes now is its last line.
#[track_caller]
fn take_signals(target: &mut Running) {
    // One that it has not handled yet would be one with ours.
    poll("it has handled all", || awaits_signals(target.pid).then_some(()));
    let sent = boot_ns();
    kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
    while target.signal().at_ns < sent {}
}

/// Rules `a` and `b` about the files `a` and `b`, and one `fence` of its own process, about `fence`.
struct Stage {
    home: Home,
    target: Running,
    fence: Running,
    agent: Agent,
}

impl Stage {
    fn new(source: Source, a: &[&str], b: &[&str]) -> Self {
        let home = Home::new(&["a", "b", "fence"]);
        let recipe = Recipe::new().other_signal(SIGUSR1);
        let fence = Recipe::new();
        let rules = home.write(&[
            home.rule("a", "a", recipe.name(), a),
            home.rule("b", "b", recipe.name(), b),
            home.rule("fence", "fence", fence.name(), &[]),
        ]);
        let (target, fence) = (recipe.start(), fence.start());
        let agent = Agent::with_rules(source, &rules, &["--reconcile", "1h"]);
        Self { home, target, fence, agent }
    }

    fn replace(&self, file: &str, text: &str) {
        replace(&self.home.file(file), text);
    }

    /// Takes events up to the reload for `rule`.
    #[track_caller]
    fn reloaded(&mut self, rule: &str) -> Vec<Event> {
        self.agent.until(&format!("reloaded {rule}"), |event| is(event, "reloaded", rule))
    }

    /// Takes events until both rules have had one of this name.
    #[track_caller]
    fn until_both(&mut self, name: &str) -> Vec<Event> {
        let mut seen = Vec::new();
        while ["a", "b"].iter().any(|rule| about(&seen, name, rule) == 0) {
            seen.extend(self.agent.events_until(name));
        }
        seen
    }

    /// Has the agent do something else, and gives what it has told until then.
    #[track_caller]
    fn fence(&mut self, text: &str) -> Vec<Event> {
        self.replace("fence", text);
        self.fence.signal();
        self.reloaded("fence")
    }
}

promise!(what_changes_together_is_one_signal: ebpf, fanotify, inotify);
/// Where the content is looked at once a second, the two may be seen a second apart.
fn what_changes_together_is_one_signal(source: Source) {
    // Changes of which the first is signalled before the second are two: so both are slow.
    let mut stage = Stage::new(source, &["minInterval: 300ms"], &["minInterval: 300ms"]);
    stage.replace("a", "1");
    stage.target.signal();
    for round in 2..=10 {
        // Within the interval, so that both are there when it is over; or when the agent goes on.
        at_once(&stage.agent, || {
            stage.replace("a", &round.to_string());
            stage.replace("b", &round.to_string());
        });
        stage.target.signal();
        stage.until_both("reloaded");
    }
    let events = stage.fence("1");
    assert_eq!(count(&events, "reloaded"), 1, "each is told once: {events:?}");
    assert_eq!(stage.target.signals_at_hand(), []);
}

promise!(one_after_the_other_they_keep_the_interval);
fn one_after_the_other_they_keep_the_interval(source: Source) {
    let interval = Duration::from_millis(700);
    let mut stage = Stage::new(source, &["minInterval: 700ms"], &["minInterval: 700ms"]);
    // No signal is sent before this, and the handler of none runs before it is sent.
    let begin = boot_ns();
    stage.replace("a", "1");
    stage.target.signal();
    for (intervals, file, text) in [(1, "b", "1"), (2, "a", "2")] {
        stage.replace(file, text);
        let passed = Duration::from_nanos(stage.target.signal().at_ns - begin);
        assert!(passed >= intervals * interval, "{intervals} more after {passed:?}");
    }
}

promise!(different_signals_are_two: ebpf, fanotify, inotify);
fn different_signals_are_two(source: Source) {
    fn told(events: &[Event]) -> Vec<(&str, &str)> {
        let mut signals: Vec<_> = events
            .iter()
            .filter(|event| event.name() == "reloaded" && event.text("rule") != "fence")
            .map(|event| (event.text("rule"), event.text("signal")))
            .collect();
        signals.sort_unstable();
        signals
    }

    let interval = Duration::from_millis(300);
    let keys = ["minInterval: 300ms", "signal: USR1"];
    let mut stage = Stage::new(source, &keys[..1], &keys);
    let begin = boot_ns();
    stage.replace("a", "1");
    // A target that is late handles both at once, and tells of one: so the first is waited for.
    stage.target.signal();
    stage.replace("b", "1");
    let passed = Duration::from_nanos(stage.target.signal().at_ns - begin);
    assert!(passed >= interval, "the second after {passed:?}");
    let events = stage.fence("1");
    assert_eq!(told(&events), [("a", "HUP"), ("b", "USR1")], "{events:?}");

    // And where the agent hears of both together.
    at_once(&stage.agent, || {
        stage.replace("a", "2");
        stage.replace("b", "2");
    });
    let mut events = stage.until_both("reloaded");
    events.extend(stage.fence("2"));
    assert_eq!(told(&events), [("a", "HUP"), ("b", "USR1")], "{events:?}");
}

promise!(bad_content_of_one_withholds_the_target_from_the_other);
/// The signal would have it read what did not pass the check.
fn bad_content_of_one_withholds_the_target_from_the_other(source: Source) {
    let mut stage = Stage::new(source, &[], &[CHECK]);
    stage.replace("b", "bad");
    let events = stage.agent.until("refused", |event| is(event, "refused", "b"));
    assert_eq!(events.last().unwrap().text("reason"), "check_failed");

    stage.replace("a", "1");
    let events = stage.agent.until("refused", |event| is(event, "refused", "a"));
    let refused = events.last().unwrap();
    assert_eq!(refused.text("reason"), "other_check_failed", "{refused}");
    assert_eq!(refused.text("detail"), "rule b", "{refused}");
    assert_eq!(refused.pid(), stage.target.pid);
    let events = stage.fence("1");
    assert_eq!(about(&events, "reloaded", "a"), 0, "{events:?}");
    assert_eq!(about(&events, "refused", "a"), 0, "it is told once: {events:?}");
    assert_eq!(stage.target.signals_at_hand(), []);

    // Nothing is due, so nothing is done.
    let (begin, before) = (Instant::now(), waits(stage.agent.pid()));
    pause(Duration::from_secs(1));
    let woken = waits(stage.agent.pid()) - before;
    // Of a busy machine a pause may be longer.
    let passed = begin.elapsed();
    // Other tests wake it as well, for all are in one directory; without a pause it would be 800 times
    // a second.
    let allowed = 300 * passed.as_millis() / 1000;
    assert!(u128::from(woken) < allowed, "it has woken {woken} times within {passed:?}");

    stage.replace("b", "good");
    // Both are told.
    stage.until_both("reloaded");
    stage.target.signal();
    stage.fence("2");
    assert_eq!(stage.target.signals_at_hand(), [], "it is one signal for both");
}

promise!(bad_content_that_is_heard_of_with_other_content_withholds_that: ebpf, fanotify, inotify);
/// It is behind one of hundreds of links in a directory, and somebody has to find out which.
fn bad_content_that_is_heard_of_with_other_content_withholds_that(source: Source) {
    let home = Home::new(&["a", "old", "bad"]);
    let links = home.file("links");
    fs::create_dir(&links).unwrap();
    fs::write(home.file("bad"), "bad").unwrap();
    let paths: Vec<_> = (0..300).map(|it| links.join(it.to_string())).collect();
    for path in &paths {
        symlink("../old", path).unwrap();
    }
    let recipe = Recipe::new();
    let watches: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let rules = home.write(&[
        home.rule("a", "a", recipe.name(), &[]),
        format!("name: b, watch: [{}], process: {}, {CHECK}", watches.join(", "), recipe.name()),
    ]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &rules, &["--reconcile", "1h"]);

    at_once(&agent, || {
        symlink("../bad", home.file("draft")).unwrap();
        fs::rename(home.file("draft"), &paths[7]).unwrap();
        replace(&home.file("a"), "1");
    });
    agent.until("refused", |event| is(event, "refused", "a"));
    assert_eq!(target.signals_at_hand(), []);

    symlink("../old", home.file("draft")).unwrap();
    fs::rename(home.file("draft"), &paths[7]).unwrap();
    agent.until("reloaded", |event| is(event, "reloaded", "a"));
    target.signal();
}

promise!(content_that_is_rolled_back_withholds_nothing);
fn content_that_is_rolled_back_withholds_nothing(source: Source) {
    let mut stage = Stage::new(source, &[], &[CHECK]);
    stage.replace("b", "bad");
    stage.agent.until("refused", |event| is(event, "refused", "b"));
    stage.replace("a", "1");
    stage.agent.until("refused", |event| is(event, "refused", "a"));
    stage.replace("b", "0");
    let events = stage.reloaded("a");
    assert_eq!(about(&events, "reloaded", "b"), 0, "{events:?}");
    stage.target.signal();
}

promise!(two_rules_with_checks_do_not_wait_for_each_other);
/// Neither may be reloaded before the content of the other has been checked.
fn two_rules_with_checks_do_not_wait_for_each_other(source: Source) {
    let mut stage = Stage::new(source, &[CHECK], &[CHECK]);
    for round in 1..=source.rounds(10) {
        stage.replace("a", &round.to_string());
        stage.replace("b", &round.to_string());
        stage.until_both("reloaded");
    }
    take_signals(&mut stage.target);
    // Bad content in both, mended one by one.
    stage.replace("a", "bad");
    stage.replace("b", "bad");
    stage.until_both("refused");
    stage.replace("a", "good");
    stage.agent.until("changed", |event| is(event, "changed", "a"));
    let events = stage.fence("1");
    assert_eq!(about(&events, "reloaded", "a"), 0, "{events:?}");
    assert_eq!(stage.target.signals_at_hand(), []);
    stage.replace("b", "good");
    stage.until_both("reloaded");
    stage.target.signal();
}

promise!(two_volumes_of_one_rule_are_one_reload: ebpf, fanotify, inotify);
/// The kubelet updates the volumes of a pod some milliseconds apart.
fn two_volumes_of_one_rule_are_one_reload(source: Source) {
    until_quick(|| two_volumes(source));
}

fn two_volumes(source: Source) -> Result<(), Slow> {
    /// Less than the 100 ms that the agent waits for the other volume.
    const CLOSE: Duration = Duration::from_millis(90);
    let home = Home::new(&[]);
    let [config, secret] = ["config", "secret"].map(|name| home.file(name));
    let mount = |dir: &Path, text: &str| {
        fs::create_dir(dir).unwrap();
        Volume::mount(dir, Order::NamesLast, keys(&[("app.conf", text)]))
    };
    let mut volumes = [mount(&config, "c0"), mount(&secret, "s0")];
    // It reads the one, and the other as it is then.
    let recipe = Recipe::new().reading(&secret);
    let watch = format!("watch: [{}, {}]", config.display(), secret.display());
    let rules = home.write(&[format!("name: both, {watch}, process: {}", recipe.name())]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &rules, &["--reconcile", "1h"]);

    for round in 1..=source.rounds(10) {
        let begin = Instant::now();
        volumes[0].update(keys(&[("app.conf", &format!("c{round}"))]));
        pause(Duration::from_millis(u64::from(round % 5) * 5));
        volumes[1].update(keys(&[("app.conf", &format!("s{round}"))]));
        if begin.elapsed() > CLOSE {
            return Err(Slow);
        }
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        let mut paths = events[0].paths();
        paths.sort_unstable();
        let expected = [&config, &secret].map(|dir| dir.join("app.conf"));
        assert_eq!(paths, expected.each_ref().map(|path| path.to_str().unwrap()));
        assert_eq!(target.signal().content, printed_keys(volumes[1].keys()));
    }
    // One of them alone is a reload, too.
    volumes[1].update(keys(&[("app.conf", "alone")]));
    volumes[1].quick()?;
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    assert_eq!(target.signal().content, printed_keys(volumes[1].keys()));
    volumes[0].update(keys(&[("app.conf", "alone")]));
    volumes[0].quick()?;
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    Ok(())
}
