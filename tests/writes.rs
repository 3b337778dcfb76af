//! The log says who has written a file and how. That every way of writing is seen is in `coverage.rs`.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, path::Path};

use crate::support::{
    agent::Agent,
    filesystem::{Filesystem, place_apart},
    source::Source,
    target::Recipe,
    way::{WAYS, Way},
    writer::{Outcome, change, config, replace},
};

/// Long enough to store to.
fn text(revision: usize) -> String {
    format!("revision-{revision:03}-{}\n", "x".repeat(60))
}

/// What is not seen, so that nobody is known: see `coverage.rs`.
fn is_gap(way: &Way, filesystem: Filesystem) -> bool {
    filesystem == Filesystem::Overlay && way.name.starts_with("mmap")
}

// The others are not told who it was.
promise!(the_log_says_who_wrote_and_how: ebpf, fanotify);
/// Each way is the first thing that its agent sees: of two changes in a row the log names one actor. What
/// others do in a directory above may be taken for the doing of a change, so that all are apart.
fn the_log_says_who_wrote_and_how(source: Source) {
    let place = place_apart();
    for filesystem in Filesystem::USUAL {
        let files = [("etc/note", ""), ("stage/note", "")];
        let mounted = filesystem.mount_in(place, &files);
        let (path, stage) = (mounted.dir.join("etc/app.conf"), mounted.dir.join("stage"));
        let recipe = Recipe::new();
        let _target = recipe.start();
        for (way, revision) in WAYS.iter().filter(|way| !is_gap(way, filesystem)).zip(1..) {
            replace(&path, &text(0));
            let other = stage.join("other");
            drop(fs::remove_file(&other));
            fs::hard_link(&path, &other).unwrap();
            let mut agent = Agent::with(source, &path, recipe.name(), &["--reconcile", "1h"]);
            let Outcome::Done { pid } = change(way.name, &path, &stage, &text(revision)) else {
                // What should be possible and is not is a matter of `coverage.rs`.
                continue;
            };
            let changed = agent.wait_for("changed");
            source.check_author(&changed, pid, |comm| {
                // What io_uring does not do at once is done by a thread of the process with its own
                // name.
                comm == "writer"
                    || (way.name.starts_with("io_uring") && comm.starts_with("iou-wrk-"))
            });
            // The others know less of how than of who: a truncation is a write to them.
            if source == Source::Ebpf {
                let operation = changed.field("by")["operation"].as_str().unwrap_or_default();
                let is_known = way.operations.contains(&operation);
                assert!(is_known, "{} on {filesystem}: {changed}", way.name);
            }
        }
    }
}

promise!(a_writer_that_goes_on_is_named: ebpf, fanotify);
fn a_writer_that_goes_on_is_named(source: Source) {
    let path = place_apart().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();
    let _target = recipe.start();
    let mut agent = Agent::on(source, &path, recipe.name());
    for change in [|path: &Path| replace(path, "1"), |path: &Path| fs::write(path, "2").unwrap()] {
        change(&path);
        let changed = agent.wait_for("changed");
        assert_eq!(changed.field("by")["pid"], std::process::id(), "{changed}");
    }
}

promise!(nobody_is_named_where_nobody_is_known: inotify, poll);
fn nobody_is_named_where_nobody_is_known(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new();
    let _target = recipe.start();
    let mut agent = Agent::on(source, &path, recipe.name());
    replace(&path, "1");
    let changed = agent.wait_for("changed");
    assert!(changed.field("by").is_null(), "{changed}");
}
