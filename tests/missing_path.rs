//! A watched path that is not there is waited for, and that is said once.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::{
    agent::{Agent, Event, PATIENT, count},
    source::Source,
    target::Recipe,
    writer::replace,
};

/// Whether it says that the path is waited for, by the first part of it that is not there.
fn is_waiting_for(path: &Path) -> impl Fn(&Event) -> bool {
    move |event| {
        let is_of_path = event.name() == "waiting" && event.text("for") == "path";
        is_of_path && path.starts_with(event.text("object"))
    }
}

/// What is said to be waited for.
fn objects(events: &[Event]) -> Vec<&str> {
    let waiting = events.iter().filter(|event| event.name() == "waiting");
    waiting.map(|event| event.text("object")).collect()
}

promise!(a_path_may_come_into_being);
fn a_path_may_come_into_being(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one/two/three/app.conf");
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    assert_eq!(target.content, "!ENOENT");
    let mut agent = Agent::on(source, &path, recipe.name());
    let one = dir.path().join("one");
    let mut events = agent.until("waiting for the path", is_waiting_for(&path));
    assert_eq!(objects(&events), [one.to_str().unwrap()]);

    // Each step is a change of the way to it, and none is a reason to say the same again.
    fs::create_dir(&one).unwrap();
    fs::write(one.join("note"), "").unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_file_name("note"), "").unwrap();
    replace(&path, "1");
    events.extend(agent.events_until("reloaded"));
    let said = objects(&events);
    let different: BTreeSet<_> = said.iter().collect();
    assert_eq!(said.len(), different.len(), "each is said once: {said:?}");
    assert_eq!(events.last().unwrap().pid(), target.pid);
    assert_eq!(target.signal().content, "1");
}

promise!(a_file_may_vanish_and_come_back);
fn a_file_may_vanish_and_come_back(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    check_vanishing(source, &path, &path);
}

promise!(a_directory_on_the_way_may_vanish_and_come_back);
fn a_directory_on_the_way_may_vanish_and_come_back(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let way = dir.path().join("one");
    let path = way.join("two/app.conf");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "0").unwrap();
    check_vanishing(source, &path, &way);
}

/// Takes `part`, `path` or a directory on its way, out of the way and puts it back.
fn check_vanishing(source: Source, path: &Path, part: &Path) {
    let aside = part.with_file_name("aside");
    let recipe = Recipe::new().reading(path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, path, recipe.name(), &PATIENT);

    // Gone, and back as it was: that is no change. It goes twice, and so it is said twice.
    for _ in 0..2 {
        fs::rename(part, &aside).unwrap();
        let events = agent.until("waiting for the path", is_waiting_for(path));
        assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
        assert_eq!(count(&events, "waiting"), 1, "it is said once: {events:?}");
        fs::write(aside.with_file_name("note"), "another event of the directory").unwrap();
        fs::rename(&aside, part).unwrap();
        let events = agent.events_until("unchanged");
        assert_eq!(count(&events, "waiting"), 0, "it is said once: {events:?}");
    }

    // Gone, changed, and back.
    fs::rename(part, &aside).unwrap();
    agent.until("waiting for the path", is_waiting_for(path));
    let hidden = aside.join(path.strip_prefix(part).unwrap());
    // An empty rest would leave a slash behind a file.
    let hidden = if path == part { aside.clone() } else { hidden };
    fs::write(hidden, "1").unwrap();
    fs::rename(&aside, part).unwrap();
    assert_eq!(count(&agent.events_until("reloaded"), "reloaded"), 1);
    assert_eq!(target.signal().content, "1");

    // And it is watched as before.
    fs::write(path, "2").unwrap();
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "2");
}
