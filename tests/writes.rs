//! The log says who has written a file and how. That every way of writing is seen is in `coverage.rs`.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    agent::{Agent, Event},
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
    filesystem == Filesystem::Overlay && (way.name.starts_with("mmap") || way.name == "mprotect")
}

// The others are not told who it was.
promise!(the_log_says_who_wrote_and_how: ebpf, fanotify);
/// Each way is the first thing that happens to a file of its own: of two changes in a row the log names one
/// actor. What others do in a directory above may be taken for the doing of a change, so that all are apart.
fn the_log_says_who_wrote_and_how(source: Source) {
    let place = place_apart();
    for filesystem in Filesystem::USUAL {
        let ways = || WAYS.iter().filter(|way| !is_gap(way, filesystem));
        let home = |way: &Way| PathBuf::from(way.name);
        let files: Vec<_> = ways().map(|way| home(way).join("etc/app.conf")).collect();
        let files: Vec<_> = files.iter().map(|file| (file.to_str().unwrap(), "before")).collect();
        let mounted = filesystem.mount_in(place, &files);
        let recipe = Recipe::new();
        let _target = recipe.start();
        let mut options = vec!["--process".into(), recipe.name().to_owned()];
        options.extend(["--reconcile", "1h"].map(str::to_owned));
        for (file, _) in &files {
            let path = mounted.dir.join(file);
            // One that is in the lower layer of overlayfs only would be copied up first.
            replace(&path, &text(0));
            let stage = path.parent().unwrap().with_file_name("stage");
            fs::create_dir(&stage).unwrap();
            fs::hard_link(&path, stage.join("other")).unwrap();
            options.extend(["--watch".to_owned(), path.to_str().unwrap().to_owned()]);
        }
        // A writer that is slow is waited for, or what it has done first would be how. For fanotify, which
        // is asked for who alone, this would be how long a truncation takes.
        if source == Source::Ebpf {
            options.extend(["--settle-max", "1m"].map(str::to_owned));
        }
        let mut agent = Agent::ready(source, &options);
        for (way, revision) in ways().zip(1..) {
            let home = mounted.dir.join(home(way));
            let (path, stage) = (home.join("etc/app.conf"), home.join("stage"));
            let Outcome::Done { pid } = change(way.name, &path, &stage, &text(revision)) else {
                // What should be possible and is not is a matter of `coverage.rs`.
                continue;
            };
            let is_it = |event: &Event| {
                event.name() == "changed" && event.paths() == [path.to_str().unwrap()]
            };
            let changed = agent.until(way.name, is_it).pop().unwrap();
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
