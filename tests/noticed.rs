//! A trace tells who has read from inotify or fanotify that the content changed, and of nobody else that he has.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    lines::Lines,
    process::Process,
    program::READER,
    source::Source,
    target::Recipe,
    time::boot_ns,
    trace::{Trace, moment, os},
    writer::{config, replace},
};

/// Somebody who hears of changes (`tests/programs/reader.c`).
struct Reader {
    process: Process,
    said: Lines,
}

impl Reader {
    /// One that has its watch.
    #[track_caller]
    fn start(queue: &str, how_long: &str, path: &Path) -> Self {
        let mut command = Command::new(READER.path());
        command.args([queue, how_long]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut said = Lines::of("reader", process.stdout.take().unwrap());
        said.until("watching", |line| (line == "watching").then_some(()));
        Self { process, said }
    }

    /// Waits until it has heard of that, and says when it had.
    #[track_caller]
    fn hears(&mut self, name: &str) -> u64 {
        self.said.until(name, |line| {
            let (at, heard) = line.strip_prefix("heard ")?.split_once(' ')?;
            (heard == name).then(|| at.parse().unwrap())
        })
    }
}

/// A trace of the files.
#[track_caller]
fn start(source: Source, paths: &[&Path], arguments: &[&str]) -> Trace {
    let arguments = os(&["--format", "json"]).into_iter().chain(os(arguments));
    let watch = paths.iter().flat_map(|path| ["--watch".into(), path.into()]);
    let arguments: Vec<OsString> = arguments.chain(watch).collect();
    Trace::start(source, &arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

/// What somebody is told to have read: of which stage that is, and in which words.
fn reads_by(update: &Value, pid: i32) -> Vec<(Option<&str>, &str)> {
    let steps = update["steps"].as_array().unwrap().iter().filter(|it| it["pid"] == pid);
    let told = steps.map(|it| (it["stage"].as_str(), it["what"].as_str().unwrap()));
    told.filter(|(_, what)| what.starts_with("reads ")).collect()
}

fn other() -> (tempfile::TempDir, PathBuf) {
    let (dir, _) = config();
    let path = dir.path().join("other.conf");
    fs::write(&path, "0").unwrap();
    (dir, path)
}

// The others do not tell who reads.
promise!(whoever_reads_that_the_content_changed_has_noticed_it: ebpf);
/// Whether he has a watch on the file, and ends as soon as he has read, or one on its directory.
fn whoever_reads_that_the_content_changed_has_noticed_it(source: Source) {
    let (dir, path) = config();
    let (elsewhere, other) = other();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut early = Reader::start("inotify", "once", &path);
    let mut stranger = Reader::start("inotify", "on", elsewhere.path());
    let mut passing = Reader::start("inotify", "once", &other);
    let arguments = ["--process", recipe.name(), "--count", "1"];
    let mut trace = start(source, &[&path], &arguments);
    let holder = format!("reader ({})", early.process.pid());
    assert!(trace.preface.iter().any(|line| line.ends_with(&holder)), "{:?}", trace.preface);
    let mut late = Reader::start("inotify", "on", dir.path());

    let before = boot_ns();
    replace(&path, "1");
    let heard = early.hears("-").min(late.hears("app.conf"));
    fs::write(&other, "1").unwrap();
    let name = other.file_name().unwrap().to_str().unwrap();
    stranger.hears(name);
    passing.hears("-");
    kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
    target.signals_until("1");

    let update = trace.update_of(&path);
    let noticed = moment(&update, "noticed");
    assert!((before..=heard).contains(&noticed), "{before}..{heard}: {update:#}");
    assert!(noticed <= moment(&update, "signalled"), "{update:#}");
    let own = reads_by(&update, early.process.pid());
    assert_eq!(own, [(Some("noticed"), "reads it from inotify")], "{update:#}");
    let own = reads_by(&update, late.process.pid());
    let of_it = (Some("noticed"), "reads of app.conf from inotify");
    assert!(own.contains(&of_it), "{update:#}");
    let beside = (None, "reads of app.conf.draft from inotify, beside it");
    assert!(own.iter().all(|it| [of_it, beside].contains(it)), "{update:#}");
    assert_eq!(reads_by(&update, stranger.process.pid()), [], "{update:#}");
    // He has ended, and had his watch before the trace began: it is not known what it was on.
    let unknown = (None, "reads from inotify; of what is not known");
    let own = reads_by(&update, passing.process.pid());
    assert!(own.is_empty() || own == [unknown], "{update:#}");
}

promise!(whoever_begins_to_watch_while_it_is_traced_and_ends_at_once_is_known: ebpf);
fn whoever_begins_to_watch_while_it_is_traced_and_ends_at_once_is_known(source: Source) {
    let (_dir, path) = config();
    let (_elsewhere, other) = other();
    let mut trace = start(source, &[&path, &other], &["--count", "2"]);
    let mut reader = Reader::start("inotify", "once", &path);
    let mut stranger = Reader::start("inotify", "once", Path::new("/proc/self/exe"));
    // When that is told, the watch has been looked at.
    replace(&other, "1");
    let update = trace.update_of(&other);
    assert_eq!(reads_by(&update, reader.process.pid()), [], "{update:#}");

    trace.while_stopped(|| {
        replace(&path, "1");
        reader.hears("-");
    });
    let update = trace.update_of(&path);
    let own = reads_by(&update, reader.process.pid());
    assert_eq!(own, [(Some("noticed"), "reads it from inotify")], "{update:#}");
    assert!(stranger.process.lives());
}

promise!(whoever_reads_it_from_fanotify_has_noticed_it: ebpf);
fn whoever_reads_it_from_fanotify_has_noticed_it(source: Source) {
    let (_dir, path) = config();
    let (_elsewhere, other) = other();
    let mut trace = start(source, &[&path], &["--count", "1"]);
    let mut reader = Reader::start("fanotify", "on", &path);
    let mut stranger = Reader::start("fanotify", "on", &other);
    trace.while_stopped(|| {
        fs::write(&other, "1").unwrap();
        fs::write(&path, "1").unwrap();
        reader.hears("-");
        stranger.hears("-");
    });
    let update = trace.update_of(&path);
    let own = reads_by(&update, reader.process.pid());
    assert!(own.contains(&(Some("noticed"), "reads it from fanotify")), "{update:#}");
    assert_eq!(reads_by(&update, stranger.process.pid()), [], "{update:#}");
}

promise!(where_nobody_tells_who_reads_the_reason_is_told: fanotify, inotify, poll);
fn where_nobody_tells_who_reads_the_reason_is_told(source: Source) {
    let (_dir, path) = config();
    let reader = Reader::start("inotify", "on", &path);
    let mut trace = start(source, &[&path], &["--count", "1"]);
    replace(&path, "1");
    let update = trace.update_of(&path);
    let hidden = update["not_visible"].as_array().unwrap();
    let hidden = hidden.iter().find(|it| it["stage"] == "noticed").unwrap();
    let reason = hidden["reason"].as_str().unwrap();
    let name = source.name();
    let expected = format!(
        "the source {name} does not tell who reads of a change; ebpf does; an inotify watch there is held \
         by reader ({})",
        reader.process.pid()
    );
    assert_eq!(reason, expected);
    let (status, _) = trace.end(None);
    assert!(status.success());
}
