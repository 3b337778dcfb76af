//! A watched directory stands for the files in it.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, path::Path};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::Signal,
};

use crate::support::{
    agent::{Agent, PATIENT, count},
    filesystem::{Filesystem, with_each},
    source::Source,
    target::Recipe,
    writer::{printed, replace},
};

/// A change to a directory, the file that it changes, and what the directory then holds.
struct Step {
    change: fn(&Path),
    file: &'static str,
    content: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        change: |dir| fs::write(dir.join("a.conf"), "a1").unwrap(),
        file: "a.conf",
        content: "a.conf=a1;b.conf=b0;",
    },
    Step {
        change: |dir| fs::write(dir.join("c.conf"), "c2").unwrap(),
        file: "c.conf",
        content: "a.conf=a1;b.conf=b0;c.conf=c2;",
    },
    Step {
        change: |dir| fs::remove_file(dir.join("b.conf")).unwrap(),
        file: "b.conf",
        content: "a.conf=a1;c.conf=c2;",
    },
    Step {
        change: |dir| {
            fs::rename(dir.with_extension("stage").join("d"), dir.join("d.conf")).unwrap();
        },
        file: "d.conf",
        content: "a.conf=a1;c.conf=c2;d.conf=d;",
    },
    Step {
        change: |dir| fs::write(dir.join("d.conf"), "d4").unwrap(),
        file: "d.conf",
        content: "a.conf=a1;c.conf=c2;d.conf=d4;",
    },
    Step {
        change: |dir| fs::write(dir.join("with space, \"quotes\" and\nline.conf"), "w").unwrap(),
        file: "with space, \"quotes\" and\nline.conf",
        content: "a.conf=a1;c.conf=c2;d.conf=d4;with space, \"quotes\" and",
    },
];

promise!(files_may_be_added_changed_and_removed);
fn files_may_be_added_changed_and_removed(source: Source) {
    with_each(Filesystem::USUAL, |filesystem| {
        println!("--- {filesystem}");
        let mounted = filesystem.mount_with(&[
            ("conf/a.conf", "a0"),
            ("conf/b.conf", "b0"),
            ("conf.stage/d", "d"),
        ]);
        let dir = mounted.dir.join("conf");
        let recipe = Recipe::new().reading(&dir);
        let mut target = recipe.start();
        let options = [&["--reconcile", "1h"], &PATIENT[..]].concat();
        let mut agent = Agent::with(source, &dir, recipe.name(), &options);

        for step in STEPS {
            (step.change)(&dir);
            let events = agent.events_until("reloaded");
            assert_eq!(count(&events, "changed"), 1, "{}: {events:?}", step.file);
            let changed = events.iter().find(|event| event.name() == "changed").unwrap();
            assert_eq!(changed.paths(), [dir.join(step.file).to_str().unwrap()]);
            assert_eq!(target.signal().content, step.content);
        }
    });
}

promise!(several_paths_may_be_watched);
/// Two watches are one rule: either is a reason to reload.
fn several_paths_may_be_watched(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let conf_d = dir.path().join("conf.d");
    let main = dir.path().join("main.conf");
    fs::create_dir(&conf_d).unwrap();
    fs::write(&main, "m0").unwrap();
    let recipe = Recipe::new().reading(&main);
    let mut target = recipe.start();
    let options = [&["--watch", main.to_str().unwrap()], &PATIENT[..]].concat();
    let mut agent = Agent::with(source, &conf_d, recipe.name(), &options);

    let added = conf_d.join("added.conf");
    fs::write(&added, "1").unwrap();
    assert_eq!(agent.wait_for("changed").paths(), [added.to_str().unwrap()]);
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "m0");

    replace(&main, "m2");
    assert_eq!(agent.wait_for("changed").paths(), [main.to_str().unwrap()]);
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "m2");
}

/// More than are looked at before a signal goes out.
const CROWD: usize = 300;

promise!(a_directory_that_hundreds_of_paths_lead_through_hides_no_change);
/// Each event there may be about any of them, or about none.
fn a_directory_that_hundreds_of_paths_lead_through_hides_no_change(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let [crowd, stage] = ["crowd", "stage"].map(|name| dir.path().join(name));
    fs::create_dir(&stage).unwrap();
    let paths: Vec<_> = (0..CROWD).map(|it| crowd.join(format!("{it}/app.conf"))).collect();
    for path in &paths {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "0").unwrap();
    }
    let path = &paths[CROWD / 2];
    let place = path.parent().unwrap();
    let recipe = Recipe::new().reading(path);
    let mut target = recipe.start();
    let others = paths.iter().filter(|it| *it != path);
    let others = others.flat_map(|it| ["--watch", it.to_str().unwrap()]);
    let options: Vec<_> = others.chain(["--reconcile", "1h"]).collect();
    let agent = Agent::with(source, path, recipe.name(), &options);

    for n in 1..=12 {
        let text = format!("revision {n}");
        if n % 3 == 0 {
            // Another directory in the place of this one.
            fs::write(stage.join("app.conf"), &text).unwrap();
            renameat_with(CWD, &stage, CWD, place, RenameFlags::EXCHANGE).unwrap();
        } else {
            // What happens beside it is about nobody.
            for other in 0..n {
                fs::write(crowd.join(format!("{other}.draft")), "").unwrap();
            }
            replace(path, &text);
        }
        target.signals_until(&printed(text.as_bytes()));
    }

    let (status, events) = agent.stop(Signal::TERM);
    assert!(status.success());
    assert_eq!(count(&events, "reloaded"), count(&events, "changed"), "{events:?}");
    assert_eq!(count(&events, "lost"), 0);
}
