//! The memory of `reload-agent trace` does not grow with the number of updates.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    process::resident_kib,
    source::Source,
    trace::{Trace, count, objects, os, renames_told},
    writer::replace,
};

promise!(ten_thousand_updates_take_no_more_memory_than_a_thousand: ebpf);
fn ten_thousand_updates_take_no_more_memory_than_a_thousand(source: Source) {
    /// How much more memory may be in use at the end, in KiB: what is taken at a time, and what the
    /// allocator has not given back. A record that is kept takes ten, so a leak takes a hundred thousand.
    const ROOM: u64 = 4096;
    const UPDATES: u64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let output = dir.path().join("told.json");
    let arguments = os(&["--format", "json", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let rest = [path.as_os_str(), "--output".as_ref(), output.as_os_str()];
    let trace = Trace::start(source, &arguments.chain(rest).collect::<Vec<_>>());
    let pid = trace.pid();

    let mut early = 0;
    for n in 1..=UPDATES {
        replace(&path, &n.to_string());
        if n == UPDATES / 10 {
            early = resident_kib(pid);
        }
    }
    let is_told = || {
        let told = fs::read_to_string(&output).unwrap();
        let last = told.lines().next_back()?;
        last.contains("\"updates\"").then_some(())
    };
    let late = resident_kib(pid);
    let (status, _) = trace.end(Some(Signal::INT));
    assert!(status.success());
    is_told().expect("the summary is there");
    assert!(late < early + ROOM, "{early} KiB after a tenth, {late} at the end");

    let (updates, summary) = objects(&fs::read(&output).unwrap());
    let lost = summary["lost"].as_u64().unwrap();
    let each = renames_told(&updates[0]);
    let steps = |update: &Value| count(update, "swapped") + update["more_steps"].as_u64().unwrap();
    let seen: u64 = updates.iter().map(steps).sum();
    println!("{} updates, {seen} steps, {lost} lost, {early} to {late} KiB", updates.len());
    assert_eq!(summary["updates"], updates.len());
    assert!(seen + lost >= UPDATES * each, "{seen} of {UPDATES} x {each} were seen, {lost} lost");
}
