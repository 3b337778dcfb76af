//! The memory of `reload-agent trace` does not grow with the number of updates.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    process::Signal,
};
use serde_json::Value;

use crate::support::{
    process::resident_kib,
    source::Source,
    time::poll,
    trace::{Trace, count, objects, os},
};

promise!(ten_thousand_updates_take_no_more_memory_than_a_thousand: ebpf);
fn ten_thousand_updates_take_no_more_memory_than_a_thousand(source: Source) {
    /// How much more memory may be in use at the end, in KiB: what is taken at a time, and what the
    /// allocator has not given back. A record that is kept takes ten, so a leak takes a hundred thousand.
    const ROOM: u64 = 4096;
    const UPDATES: u64 = 10_000;
    let (dir, stage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, draft) = (dir.path().join("app.conf"), stage.path().join("draft"));
    fs::write(&path, "0").unwrap();
    let output = stage.path().join("told.json");
    let arguments = os(&["--format", "json", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let rest = [path.as_os_str(), "--output".as_ref(), output.as_os_str()];
    let trace = Trace::start(source, &arguments.chain(rest).collect::<Vec<_>>());
    let pid = trace.pid();

    let mut early = 0;
    for n in 1..=UPDATES {
        fs::write(&draft, n.to_string()).unwrap();
        let mut reader = Reader::of(&draft);
        fs::rename(&draft, &path).unwrap();
        reader.wait();
        if n == UPDATES / 10 {
            early = resident_kib(pid);
        }
    }
    let late = resident_kib(pid);
    let (status, _) = trace.end(Some(Signal::INT));
    assert!(status.success());
    assert!(late < early + ROOM, "{early} KiB after a tenth, {late} at the end");

    let (updates, summary) = objects(&fs::read(&output).unwrap());
    let lost = summary["lost"].as_u64().unwrap();
    let steps = |update: &Value| count(update, "swapped") + update["more_steps"].as_u64().unwrap();
    let seen: u64 = updates.iter().map(steps).sum();
    println!("{} updates, {seen} steps, {lost} lost, {early} to {late} KiB", updates.len());
    assert_eq!(summary["updates"], updates.len());
    assert!(seen + lost >= UPDATES, "{seen} of {UPDATES} were seen, {lost} lost");
    // Some may be told of as one, but most of them have a record of their own.
    assert!(summary["updates"].as_u64().unwrap() > UPDATES / 2, "{summary}");
}

/// Whoever reads a file next: the trace does when the update is complete, so that the next one is another.
struct Reader(OwnedFd);

impl Reader {
    fn of(file: &Path) -> Self {
        let queue = inotify::init(CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&queue, file, WatchFlags::CLOSE_NOWRITE).unwrap();
        Self(queue)
    }

    #[track_caller]
    fn wait(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        poll("the update is read", || {
            let event = events.next().ok()?;
            event.events().contains(ReadFlags::CLOSE_NOWRITE).then_some(())
        });
    }
}
