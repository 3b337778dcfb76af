//! What does not change the content sends nothing.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use crate::support::{
    agent::{Agent, count, names},
    filesystem::{Filesystem, with_each},
    source::Source,
    target::Recipe,
    writer::{Outcome, change, printed, replace},
};

const TEXT: &str = "level=1";

/// Ways of `tests/programs/writer.c` that touch nothing.
const FUTILE: &[&str] = &[
    "rename_of_nothing",
    "rename_no_replace",
    "rename_of_a_directory",
    "rename_from_elsewhere",
    "exclusive_create",
    "link_over",
    "read",
];

promise!(a_call_that_fails_is_not_even_noticed);
fn a_call_that_fails_is_not_even_noticed(source: Source) {
    with_each(Filesystem::USUAL, |filesystem| {
        let mounted = filesystem.mount_with(&[("etc/app.conf", TEXT), ("stage/note", "")]);
        let (path, stage) = (mounted.dir.join("etc/app.conf"), mounted.dir.join("stage"));
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, &path, recipe.name());

        for way in FUTILE {
            let outcome = change(way, &path, &stage, "level=9");
            assert!(matches!(outcome, Outcome::Done { .. }), "{way} on {filesystem}");
        }

        // The fence: a rename out of the stage is one event, and so all that there is.
        change("rename", &path, &stage, "level=2");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "on {filesystem}: {events:?}");
        assert_eq!(target.signal().content, "level=2");
    });
}

/// A way to write what is there already.
type Rewrite = fn(&Path);

const REWRITES: &[(&str, Rewrite)] = &[
    ("in place", |path| fs::write(path, TEXT).unwrap()),
    ("by rename", |path| replace(path, TEXT)),
    ("another mode", |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("another time", |path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }),
    ("a link to the same", |path| {
        let other = path.with_extension("other");
        let link = path.with_extension("link");
        fs::write(&other, TEXT).unwrap();
        symlink(&other, &link).unwrap();
        fs::rename(link, path).unwrap();
    }),
    ("a neighbour", |path| fs::write(path.with_file_name("neighbour.conf"), "other").unwrap()),
];

promise!(the_same_content_again_is_not_signalled);
fn the_same_content_again_is_not_signalled(source: Source) {
    with_each(Filesystem::USUAL, |filesystem| {
        let mounted = filesystem.mount_with(&[("app.conf", TEXT)]);
        let path = mounted.dir.join("app.conf");
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::with(source, &path, recipe.name(), &["--settle-max", "1m"]);

        for (name, rewrite) in REWRITES {
            rewrite(&path);
            assert_eq!(fs::read_to_string(&path).unwrap(), TEXT, "{name} on {filesystem}");
            // Or it would be one change with the last.
            source.let_look();
        }

        replace(&path, "level=2");
        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "changed"), 1, "on {filesystem}: {events:?}");
        assert_eq!(target.signal().content, printed(b"level=2"), "on {filesystem}");
    });
}

promise!(the_same_content_again_is_reported_as_unchanged);
/// A rewrite that one waits for is said to be what it is.
fn the_same_content_again_is_reported_as_unchanged(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, TEXT).unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--settle-max", "1m"]);

    fs::write(&path, TEXT).unwrap();
    let events = agent.events_until("unchanged");
    assert_eq!(names(&events), ["unchanged"]);
    assert_eq!(events[0].text("rule"), recipe.name());

    replace(&path, "level=2");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "level=2");
}

promise!(what_is_taken_back_before_it_is_complete_is_not_signalled);
/// Back and forth within one update is no change either.
fn what_is_taken_back_before_it_is_complete_is_not_signalled(source: Source) {
    use std::io::{Seek as _, Write as _};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, TEXT).unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    // Poll does not see that a file is open: to it, what is quiet for so long is complete.
    let options = ["--settle", "2s", "--settle-max", "1m"];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);

    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all(b"level=7").unwrap();
    file.rewind().unwrap();
    file.write_all(TEXT.as_bytes()).unwrap();
    drop(file);
    agent.wait_for("unchanged");

    replace(&path, "level=2");
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "level=2");
}
