//! A file that is still being written is not read half-done.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, io::Write as _, time::Duration};

use crate::support::{
    agent::{Agent, count},
    filesystem::{Filesystem, with_each},
    source::Source,
    target::Recipe,
    time::pause,
    writer::config,
};

/// Longer than any quiet that could be taken for the end.
const THOUGHT: Duration = Duration::from_millis(300);

// Poll cannot see that a file is open, and a thought may be longer than its quiet.
promise!(a_slow_writer_is_waited_for: ebpf, fanotify, inotify);
fn a_slow_writer_is_waited_for(source: Source) {
    with_each(Filesystem::USUAL, |filesystem| {
        let mounted = filesystem.mount_with(&[("app.conf", "0")]);
        let path = mounted.dir.join("app.conf");
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::with(source, &path, recipe.name(), &["--settle-max", "1m"]);

        let mut file = fs::File::create(&path).unwrap();
        for part in ["one", "-two", "-three"] {
            file.write_all(part.as_bytes()).unwrap();
            pause(THOUGHT);
        }
        drop(file);

        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "changed"), 1, "on {filesystem}: {events:?}");
        assert_eq!(target.signal().content, "one-two-three", "on {filesystem}");
    });
}

// The others know of the first that closes, at most, and can only see that more was written.
promise!(the_last_of_two_writers_is_waited_for: ebpf);
/// The last of several writers counts.
fn the_last_of_two_writers_is_waited_for(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--settle-max", "1m"]);

    let mut first = fs::File::options().append(true).open(&path).unwrap();
    let mut second = first.try_clone().unwrap();
    let mut third = fs::File::options().append(true).open(&path).unwrap();
    first.write_all(b"-first").unwrap();
    drop(first);
    pause(THOUGHT);
    second.write_all(b"-second").unwrap();
    drop(second);
    pause(THOUGHT);
    third.write_all(b"-third").unwrap();
    drop(third);

    assert_eq!(count(&agent.events_until("reloaded"), "changed"), 1);
    assert_eq!(target.signal().content, "0-first-second-third");
}

promise!(a_writer_that_stays_is_waited_for_only_so_long);
/// A writer that never closes is not waited for without end.
fn a_writer_that_stays_is_waited_for_only_so_long(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &["--settle-max", "300ms"]);

    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(b"-one").unwrap();
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "0-one");

    file.write_all(b"-two").unwrap();
    agent.wait_for("reloaded");
    assert_eq!(target.signal().content, "0-one-two");
    drop(file);
}

// Poll may look in the middle of a write, and its quiet may be over before the writer goes on.
promise!(a_file_that_is_rewritten_in_place_is_never_read_half_done: ebpf, fanotify, inotify);
/// The moments at which the agent looks are all those after a signal: it looks again on its own.
fn a_file_that_is_rewritten_in_place_is_never_read_half_done(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    // A writer may be held up for long between a change and its announcement: quiet proves nothing.
    let options = ["--reconcile", "1h", "--settle", "10s", "--settle-max", "1m"];
    let _agent = Agent::with(source, &path, recipe.name(), &options);
    for n in 1..=150 {
        let text = format!("{n}-{}-{n}", "x".repeat(3000));
        fs::write(&path, &text).unwrap();
        assert_eq!(target.signal().content, text);
        // From at once to beyond the second look.
        pause(Duration::from_micros(n * 170));
    }
}
