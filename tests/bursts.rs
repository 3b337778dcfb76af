//! However fast the changes come, the last state is signalled.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, command, count, unhurried_arguments},
    filesystem::Filesystem,
    source::Source,
    target::Recipe,
    time::{PATIENCE, boot_ns, pause},
    writer::{config, printed, replace},
};

/// How the revisions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rename,
    InPlace,
    /// A symlink leads to another file.
    Swap,
}

impl Kind {
    fn write(self, path: &Path, text: &str) {
        match self {
            Self::Rename => replace(path, text),
            Self::InPlace => fs::write(path, text).unwrap(),
            Self::Swap => {
                let [file, link] = [text, "app.conf.link"].map(|name| path.with_file_name(name));
                fs::write(&file, text).unwrap();
                symlink(&file, &link).unwrap();
                fs::rename(link, path).unwrap();
            }
        }
    }
}

/// How many revisions are written, and how long after each other.
struct Pace(usize, Duration);

/// With nothing to confirm.
const UNCONFIRMED: &str = "0s";

/// Whoever waited for a proof that cannot come any more would wait for longer than the test does.
const CONFIRMED: &str = "1h";

fn check(
    source: Source,
    filesystem: Filesystem,
    kind: Kind,
    confirm_timeout: &str,
    Pace(updates, spacing): Pace,
) {
    println!("--- {filesystem}, {kind:?}, --confirm-timeout {confirm_timeout}");
    let mounted = filesystem.mount_with(&[("app.conf", "revision 0")]);
    let path = mounted.dir.join("app.conf");
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let options = ["--reconcile", "1h", "--confirm-timeout", confirm_timeout];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);
    let mut events = Vec::new();
    if kind == Kind::Swap {
        // What is swapped may be read unseen: so long has it taken where it was seen.
        kind.write(&path, "revision 0.1");
        events = agent.events_until("confirmed");
    }

    for n in 1..=updates {
        kind.write(&path, &format!("revision {n}"));
        if !spacing.is_zero() {
            pause(spacing);
        }
    }
    let last = printed(format!("revision {updates}").as_bytes());
    let mut signals = target.signals_until(&last);

    // The fence: all that came before is in the lines now. It comes at once, for a signal that is
    // under way would find an empty file if it were written in place.
    replace(&path, "the end");
    let end = printed(b"the end");
    signals.extend(target.signals_until(&end));
    let last_two: Vec<_> = signals.iter().rev().map(|signal| &signal.content).take(2).collect();
    assert_eq!(last_two, [&end, &last], "the last state was signalled last");

    // A signal that nobody needs would be one without a change before it.
    let (status, rest) = agent.stop(Signal::TERM);
    assert!(status.success());
    events.extend(rest);
    let (changed, reloaded) = (count(&events, "changed"), count(&events, "reloaded"));
    assert_eq!(reloaded, changed, "one signal for one change");
    assert!(signals.len() <= reloaded, "{} handled, {reloaded} sent", signals.len());
    assert_eq!(count(&events, "lost"), 0);
    println!("{updates} updates, {reloaded} reloads");
}

promise!(two_hundred_updates_at_20_ms);
fn two_hundred_updates_at_20_ms(source: Source) {
    for kind in [Kind::Rename, Kind::InPlace] {
        let pace = Pace(200, Duration::from_millis(20));
        check(source, Filesystem::Ext4, kind, UNCONFIRMED, pace);
    }
}

promise!(two_thousand_updates_as_fast_as_they_can_be_written);
fn two_thousand_updates_as_fast_as_they_can_be_written(source: Source) {
    for filesystem in Filesystem::USUAL {
        for kind in [Kind::Rename, Kind::InPlace] {
            check(source, filesystem, kind, CONFIRMED, Pace(2_000, Duration::ZERO));
        }
    }
    check(source, Filesystem::Tmpfs, Kind::Swap, CONFIRMED, Pace(2_000, Duration::ZERO));
    check(source, Filesystem::Ext4, Kind::Rename, UNCONFIRMED, Pace(2_000, Duration::ZERO));
}

promise!(changes_within_the_interval_become_one_reload_at_its_end);
/// A second HUP within milliseconds hits programs that are still at the first.
fn changes_within_the_interval_become_one_reload_at_its_end(source: Source) {
    // Longer than it takes the source to see the next change.
    let mut interval = Duration::from_millis(if source == Source::Poll { 2500 } else { 700 });
    // Whoever was kept from writing in time has twice as long the next time.
    while !check_interval(source, interval) {
        interval *= 2;
        assert!(interval <= *PATIENCE / 2, "the changes were never written within the interval");
    }
}

/// Whether the changes were all written within the interval: only then they become one.
#[must_use]
fn check_interval(source: Source, interval: Duration) -> bool {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    // The option that comes last does not win over another of its name: so none is given twice.
    let mut command = command();
    command.args(unhurried_arguments(&path, recipe.name())).args(source.arguments());
    command.args(["--min-interval", &format!("{}ms", interval.as_millis())]);
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");

    let before = boot_ns();
    replace(&path, "1");
    let first = target.signal();
    for n in 2..=9 {
        replace(&path, &n.to_string());
    }
    let written = boot_ns();
    let second = target.signal();
    replace(&path, "the-end");
    let third = target.signal();

    // The first was sent after the first change, and no handler runs before its signal is sent. How far
    // apart the handlers are says less: each may be late.
    let interval_ns = u64::try_from(interval.as_nanos()).unwrap();
    for (signal, intervals) in [(&second, 1), (&third, 2)] {
        let after = Duration::from_nanos(signal.at_ns - before);
        assert!(
            signal.at_ns >= before + intervals * interval_ns,
            "handled {after:?} after the start, {intervals} intervals of {interval:?}"
        );
    }
    let is_in_time = written < before + interval_ns;
    if is_in_time {
        let contents = [&first, &second, &third].map(|signal| signal.content.as_str());
        assert_eq!(contents, ["1", "9", "the-end"]);
    }
    is_in_time
}
