//! A target that restarts around a change has the last content in the end, and no signal too many.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, io::Write as _, time::Duration};

use crate::support::{
    agent::{Agent, count, names},
    kubelet::{Order, Slow, Volume, keys, printed_keys, until_quick},
    source::Source,
    target::Recipe,
    writer::{config, replace},
};

promise!(in_the_middle_of_a_write);
/// It has read half of the new content, so it must be told of the whole.
fn in_the_middle_of_a_write(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let first = recipe.start();
    // Poll does not see that a file is open: to it, what is quiet for so long is complete.
    let options = ["--settle", "2s", "--settle-max", "1m"];
    let mut agent = Agent::with(source, &path, recipe.name(), &options);

    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"half").unwrap();
    first.kill();
    let mut second = recipe.start();
    assert_eq!(second.content, "half");
    file.write_all(b"-and-half").unwrap();
    drop(file);

    let events = agent.events_until("reloaded");
    assert_eq!(events.last().unwrap().pid(), second.pid, "{events:?}");
    assert_eq!(second.signal().content, "half-and-half");
}

promise!(in_the_middle_of_an_update_of_the_kubelet);
/// The new one may start before the swap or after it; in the end it has the new content, complete.
fn in_the_middle_of_an_update_of_the_kubelet(source: Source) {
    for order in Order::ALL {
        until_quick(|| middle_of_an_update(source, order));
    }
}

fn middle_of_an_update(source: Source, order: Order) -> Result<(), Slow> {
    let dir = tempfile::tempdir().unwrap();
    let first = keys(&[("a.conf", "a1"), ("b.conf", "b1")]);
    let mut volume = Volume::mount(dir.path(), order, first);
    volume.pace(Duration::from_millis(5));
    let recipe = Recipe::new().reading(dir.path());
    let old = recipe.start();
    // It is found at its very start.
    let options = ["--handler-timeout", "1m"];
    let mut agent = Agent::with(source, dir.path(), recipe.name(), &options);

    let expected = keys(&[("a.conf", "a2"), ("c.conf", "c2")]);
    let mut new = std::thread::scope(|scope| {
        let update = scope.spawn(|| volume.update(expected.clone()));
        old.kill();
        let new = recipe.start();
        update.join().unwrap();
        new
    });
    volume.quick()?;
    let events = agent.events_until("changed");
    assert_eq!(names(&events).last(), Some(&"changed"));
    if new.content != printed_keys(&expected) {
        assert_eq!(new.signal().content, printed_keys(&expected));
    }
    Ok(())
}

promise!(a_target_that_starts_after_the_change_is_not_signalled_for_it);
/// While there is none, that is said once; the one that starts then has the new content.
fn a_target_that_starts_after_the_change_is_not_signalled_for_it(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let first = recipe.start();
    let mut agent = Agent::on(source, &path, recipe.name());
    first.kill();

    replace(&path, "1");
    let events = agent.events_until_each(&["changed", "waiting"]);
    let waiting = events.iter().find(|event| event.name() == "waiting").unwrap();
    assert_eq!((waiting.text("for"), waiting.text("object")), ("target", recipe.name()));
    replace(&path, "2");
    // A target that starts before the change is seen to be complete may have read less.
    let events = agent.events_until("changed");
    assert_eq!(count(&events, "waiting"), 0, "it is said once: {events:?}");
    let mut second = recipe.start();
    assert_eq!(second.content, "2");

    replace(&path, "3");
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "waiting"), 0, "it is said once: {events:?}");
    assert_eq!(events.last().unwrap().pid(), second.pid);
    assert_eq!(second.signal().content, "3", "the first signal is for the third change");
}

promise!(every_generation_is_found);
/// Many generations, each signalled for the change that came in its time.
fn every_generation_is_found(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut agent = Agent::on(source, &path, recipe.name());
    for n in 1..=source.rounds(20) {
        let mut target = recipe.start();
        let text = n.to_string();
        replace(&path, &text);
        assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
        assert_eq!(target.signal().content, text);
        target.kill();
    }
}
