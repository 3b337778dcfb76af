//! Every way of writing a file reaches the process that reads it, and the log says who wrote.

#![cfg(test)]

mod support;

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use crate::support::{
    agent::{Agent, count},
    filesystem::Filesystem::{self, Ext4, Overlay, Tmpfs},
    target::Recipe,
    writer::{Outcome, change, printed, replace},
};

/// A way of `tests/programs/writer.c`, and the operations that it may be reported as: a way that
/// takes two calls is reported as the one that the agent hears of first.
struct Way {
    name: &'static str,
    operations: &'static [&'static str],
}

const fn way(name: &'static str, operations: &'static [&'static str]) -> Way {
    Way { name, operations }
}

/// In this order the file is always long enough for what follows.
const WAYS: &[Way] = &[
    way("rewrite", &["open", "write"]),
    way("write", &["write"]),
    way("append", &["write"]),
    way("pwrite", &["write"]),
    way("writev", &["write"]),
    way("pwritev2", &["write"]),
    way("sendfile", &["write"]),
    way("splice", &["write"]),
    way("copy_file_range", &["write"]),
    way("ficlone", &["write"]),
    way("dup", &["write"]),
    way("inherited", &["write"]),
    way("mmap", &["change"]),
    way("mmap_msync", &["change"]),
    way("io_uring", &["write", "change"]),
    way("aio", &["write", "change"]),
    way("truncate", &["truncate"]),
    way("ftruncate", &["truncate"]),
    way("fallocate", &["truncate"]),
    way("punch_hole", &["truncate"]),
    way("o_trunc", &["open"]),
    way("rename", &["rename"]),
    way("exchange", &["rename"]),
    way("symlink_swap", &["rename"]),
    way("rename", &["rename"]),
    way("link", &["unlink", "link"]),
    way("tmpfile", &["unlink", "link"]),
    way("recreate", &["unlink", "open", "write"]),
];

/// A way and a filesystem.
struct Cell {
    way: &'static str,
    filesystem: Filesystem,
    reason: &'static str,
}

/// What the strategy `tracepoint` does not see, so that the slow look at the content finds it.
const GAPS: &[Cell] = &[
    Cell { way: "mmap", filesystem: Overlay, reason: STORES_ON_OVERLAY },
    Cell { way: "mmap_msync", filesystem: Overlay, reason: STORES_ON_OVERLAY },
];

const STORES_ON_OVERLAY: &str =
    "a mapping of overlayfs is one of the upper file: a store changes the upper inode alone";

/// What the filesystem cannot do.
const IMPOSSIBLE: &[Cell] = &[
    Cell { way: "ficlone", filesystem: Ext4, reason: NO_REFLINKS },
    Cell { way: "ficlone", filesystem: Tmpfs, reason: NO_REFLINKS },
    Cell { way: "ficlone", filesystem: Overlay, reason: NO_REFLINKS },
];

const NO_REFLINKS: &str = "it has no reflinks, nor has the ext4 below the overlay";

fn reason(cells: &[Cell], way: &Way, filesystem: Filesystem) -> Option<&'static str> {
    let cell = cells.iter().find(|cell| cell.way == way.name && cell.filesystem == filesystem);
    cell.map(|cell| cell.reason)
}

/// Long enough for a writer to store and truncate to.
fn text(way: &Way, revision: usize) -> String {
    format!("revision-{revision:03}-{}-{}\n", way.name, "x".repeat(40))
}

const INITIAL: &str = "revision-000-----------------------------------------------------------\n";

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn on_ext4() {
    check_seen_at_once(Ext4);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn on_tmpfs() {
    check_seen_at_once(Tmpfs);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn on_overlayfs() {
    check_seen_at_once(Overlay);
}

/// Held by the test that runs: agents watch the directories above a file too, and what one test does
/// there at the moment of another's change may be taken for the doing of that change.
static TURN: Mutex<()> = Mutex::new(());

/// Every way but the gaps is followed by one reload, which the event has brought about.
fn check_seen_at_once(filesystem: Filesystem) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mounted = filesystem.mount_with(&[("etc/app.conf", INITIAL), ("stage/note", "")]);
    let (path, stage) = (mounted.dir.join("etc/app.conf"), mounted.dir.join("stage"));
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    // So rare a look at the content cannot be what finds a change.
    let mut agent = Agent::with(&path, recipe.name(), &["--reconcile", "1h"]);

    let ways = WAYS.iter().filter(|way| reason(GAPS, way, filesystem).is_none());
    for (way, revision) in ways.zip(1..) {
        let name = way.name;
        let before = fs::read(&path).unwrap();
        let outcome = change(name, &path, &stage, &text(way, revision));
        let impossible = reason(IMPOSSIBLE, way, filesystem);
        if outcome == Outcome::Unsupported {
            assert!(impossible.is_some(), "{name} should work on {filesystem}");
            continue;
        }
        assert_eq!(impossible, None, "{name} works on {filesystem}");
        let after = fs::read(&path).unwrap();
        assert_ne!(before, after, "{name} changes the file");

        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "changed"), 1, "{name} is one change: {events:?}");
        assert_eq!(count(&events, "lost"), 0, "{name}: {events:?}");
        let changed = events.iter().find(|event| event.name() == "changed").unwrap();
        assert_eq!(changed.paths(), [path.to_str().unwrap()], "{name}");
        assert_eq!(events.last().unwrap().pid(), target.pid, "{name}");

        // The signals are compared one by one, so that one too many would be found as well.
        assert_eq!(target.signal().content, printed(&after), "{name}");
        let took = events.last().unwrap().number("change_to_signal_us");
        println!("{name} on {filesystem}: {took} us");
    }
}

/// Each way is the first thing that its agent sees: of two changes in a row the log names one actor.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_log_says_who_wrote_and_how() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for filesystem in Filesystem::ALL {
        let mounted = filesystem.mount_with(&[("etc/note", ""), ("stage/note", "")]);
        let (path, stage) = (mounted.dir.join("etc/app.conf"), mounted.dir.join("stage"));
        let recipe = Recipe::new();
        let _target = recipe.start();
        for (way, revision) in WAYS.iter().zip(1..) {
            let is_seen =
                [GAPS, IMPOSSIBLE].iter().all(|cells| reason(cells, way, filesystem).is_none());
            if !is_seen {
                continue;
            }
            replace(&path, INITIAL);
            let mut agent = Agent::with(&path, recipe.name(), &["--reconcile", "1h"]);
            let Outcome::Done { pid } = change(way.name, &path, &stage, &text(way, revision))
            else {
                panic!("{} should work on {filesystem}", way.name);
            };
            let changed = agent.wait_for("changed");
            let by = changed.field("by");
            assert_eq!(by["pid"], pid, "{} on {filesystem}: {changed}", way.name);
            let comm = by["comm"].as_str().unwrap_or_default();
            // What io_uring does not do at once is done by a thread of the process with its own name.
            let is_worker = way.name == "io_uring" && comm.starts_with("iou-wrk-");
            assert!(comm == "writer" || is_worker, "{} on {filesystem}: {changed}", way.name);
            let operation = by["operation"].as_str().unwrap_or_default();
            let is_known = way.operations.contains(&operation);
            assert!(is_known, "{} on {filesystem}: {changed}", way.name);
        }
    }
}

/// A gap that has closed should be taken from the table, and one that has not is still covered.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_is_not_seen_is_found_by_the_slow_look() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for filesystem in Filesystem::ALL {
        let mounted = filesystem.mount_with(&[("etc/app.conf", INITIAL), ("stage/note", "")]);
        let (path, stage) = (mounted.dir.join("etc/app.conf"), mounted.dir.join("stage"));
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::with(&path, recipe.name(), &["--reconcile", "1s"]);

        // On overlayfs the first opening for writing copies the file up, which is seen. Done before.
        change("write", &path, &stage, "x");
        agent.wait_for("reloaded");
        target.signal();

        let gaps = WAYS.iter().filter(|way| reason(GAPS, way, filesystem).is_some());
        for (way, revision) in gaps.zip(1..) {
            let outcome = change(way.name, &path, &stage, &text(way, revision));
            assert!(matches!(outcome, Outcome::Done { .. }), "{} is possible", way.name);
            let events = agent.events_until("reloaded");
            let changed = events.iter().find(|event| event.name() == "changed").unwrap();
            // Found by the clock, or by an event of somebody else in a directory above.
            assert_ne!(changed.field("by")["comm"], "writer", "{}: {changed}", way.name);
            assert_eq!(target.signal().content, printed(&fs::read(&path).unwrap()));
        }
    }
}
