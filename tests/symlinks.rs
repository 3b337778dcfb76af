//! A file is watched through every link and directory that leads to it.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::support::{
    agent::{Agent, count},
    filesystem::{Filesystem, with_each},
    source::Source,
    target::Recipe,
    writer::replace,
};

/// Leads `link` to `to`, in one step.
fn point(link: &Path, to: impl AsRef<Path>) {
    let mut draft = link.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    symlink(to, &draft).unwrap();
    fs::rename(draft, link).unwrap();
}

/// A change somewhere on the way, made in `dir`, after which `text` is what the file holds.
type Hop = fn(dir: &Path, text: &str);

/// The chain at first: `in/a` → `../mid/b` → `/…/rel/c/d`, with `rel/c` → `c1`.
const HOPS: &[(&str, Hop)] = &[
    ("the file is replaced", |dir, text| replace(&dir.join("rel/c1/d"), text)),
    ("the file is written", |dir, text| fs::write(dir.join("rel/c1/d"), text).unwrap()),
    ("the link to its directory is swapped", |dir, text| {
        fs::create_dir(dir.join("rel/c2")).unwrap();
        fs::write(dir.join("rel/c2/d"), text).unwrap();
        point(&dir.join("rel/c"), "c2");
    }),
    ("the file behind the new link is replaced", |dir, text| replace(&dir.join("rel/c2/d"), text)),
    ("the second link is swapped", |dir, text| {
        fs::write(dir.join("rel/e"), text).unwrap();
        point(&dir.join("mid/b"), dir.join("rel/e"));
    }),
    ("the file behind the second link is replaced", |dir, text| replace(&dir.join("rel/e"), text)),
    ("the first link is swapped", |dir, text| {
        fs::write(dir.join("mid/f"), text).unwrap();
        point(&dir.join("in/a"), "../mid/f");
    }),
    ("a directory on the way of the target is replaced", |dir, text| {
        fs::create_dir(dir.join("mid2")).unwrap();
        fs::write(dir.join("mid2/f"), text).unwrap();
        fs::rename(dir.join("mid"), dir.join("mid.old")).unwrap();
        fs::rename(dir.join("mid2"), dir.join("mid")).unwrap();
    }),
    ("the file in the replaced directory is replaced", |dir, text| {
        replace(&dir.join("mid/f"), text);
    }),
    ("the directory of the first link is replaced", |dir, text| {
        fs::create_dir(dir.join("in2")).unwrap();
        fs::write(dir.join("g"), text).unwrap();
        symlink("../g", dir.join("in2/a")).unwrap();
        fs::rename(dir.join("in"), dir.join("in.old")).unwrap();
        fs::rename(dir.join("in2"), dir.join("in")).unwrap();
    }),
    ("a link becomes a file", |dir, text| replace(&dir.join("in/a"), text)),
    ("a file becomes a link", |dir, text| {
        fs::write(dir.join("g"), text).unwrap();
        point(&dir.join("in/a"), "../g");
    }),
];

promise!(a_change_at_any_hop_is_seen);
fn a_change_at_any_hop_is_seen(source: Source) {
    with_each(Filesystem::USUAL, |filesystem| {
        println!("--- {filesystem}");
        let mounted = filesystem.mount();
        let dir = &mounted.dir;
        // Not in a lower layer, for overlayfs renames no directory that is.
        for name in ["rel/c1", "in", "mid"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("rel/c1/d"), "0").unwrap();
        symlink("c1", dir.join("rel/c")).unwrap();
        symlink(dir.join("rel/c/d"), dir.join("mid/b")).unwrap();
        symlink("../mid/b", dir.join("in/a")).unwrap();
        let path = dir.join("in/a");
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        assert_eq!(target.content, "0");
        let options = ["--settle-max", "1m", "--reconcile", "1h"];
        let mut agent = Agent::with(source, &path, recipe.name(), &options);

        for ((name, hop), n) in HOPS.iter().zip(1..) {
            println!("{name}");
            let text = format!("{n}");
            hop(dir, &text);
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "{name}");
            let events = agent.events_until("reloaded");
            assert_eq!(count(&events, "changed"), 1, "{name}: {events:?}");
            let changed = events.iter().find(|event| event.name() == "changed").unwrap();
            assert_eq!(changed.paths(), [path.to_str().unwrap()], "{name}");
            assert_eq!(target.signal().content, text, "{name}");
        }
    });
}

promise!(a_directory_behind_a_link_is_seen_to_be_another);
/// A deployment that keeps its releases side by side and swaps one link.
fn a_directory_behind_a_link_is_seen_to_be_another(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    for release in ["r1", "r2", "r3"] {
        fs::create_dir(dir.path().join(release)).unwrap();
        fs::write(dir.path().join(release).join("app.conf"), release).unwrap();
    }
    let current = dir.path().join("current");
    symlink("r1", &current).unwrap();
    let recipe = Recipe::new().reading(&current);
    let mut target = recipe.start();
    let mut agent = Agent::on(source, &current, recipe.name());

    for release in ["r2", "r3", "r1"] {
        point(&current, release);
        assert_eq!(count(&agent.events_until("reloaded"), "changed"), 1);
        assert_eq!(target.signal().content, format!("app.conf={release};"));
    }
}

promise!(a_circle_of_links_is_waited_out);
/// Links that lead in a circle lead nowhere, for as long as they do.
fn a_circle_of_links_is_waited_out(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "0").unwrap();
    symlink("a", dir.path().join("b")).unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::on(source, &path, recipe.name());

    point(&path, "b");
    assert!(agent.wait_for("degraded").text("reason").contains("symlinks"));
    replace(&path, "1");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "1");
}
