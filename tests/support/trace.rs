//! A trace that runs, and what it tells.

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{agent::command, lines::Lines, process::Process, source::Source};

/// A trace that runs.
pub(crate) struct Trace {
    process: Process,
    said: Lines,
    /// What it has said before it saw what happens.
    pub(crate) preface: Vec<String>,
    /// What it tells, once it is read line by line.
    told: Option<Lines>,
}

impl Trace {
    /// Starts one, and waits until it sees what happens.
    #[track_caller]
    pub(crate) fn start(source: Source, arguments: &[&OsStr]) -> Self {
        let mut command = command();
        let mut trace = Self::spawn(command.arg("trace").args(source.arguments()).args(arguments));
        let mut preface = Vec::new();
        trace.wait_until("ready", |line| {
            preface.push(line.to_owned());
            line.starts_with("ready;").then_some(())
        });
        trace.preface = preface;
        trace
    }

    /// Starts the command of one, or one that starts it.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let said = Lines::of("trace", process.stderr.take().unwrap());
        Self { process, said, preface: Vec::new(), told: None }
    }

    /// Waits until it has said what is looked for.
    #[track_caller]
    pub(crate) fn wait_until<T>(&mut self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.said.until(what, find)
    }

    /// Takes the next update of the content of this file, of `--format json`.
    #[track_caller]
    pub(crate) fn update_of(&mut self, path: &Path) -> Value {
        let stdout = self.process.stdout.take();
        let told = self.told.get_or_insert_with(|| Lines::of("told", stdout.unwrap()));
        told.until("an update", |line| {
            let update: Value = serde_json::from_str(line).unwrap();
            (update["paths"] == serde_json::json!([path])).then_some(update)
        })
    }

    /// Does `work` while it stands still, so that for it all of that is one, however long it takes.
    pub(crate) fn while_stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        let pid = Pid::from_raw(self.process.pid()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let done = work();
        kill_process(pid, Signal::CONT).unwrap();
        done
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Takes what it tells and was not taken, once it has ended by itself or, if that is wanted, by a signal.
    #[track_caller]
    pub(crate) fn end(mut self, signal: Option<Signal>) -> (ExitStatus, Vec<u8>) {
        if let Some(signal) = signal {
            kill_process(Pid::from_raw(self.process.pid()).unwrap(), signal).unwrap();
        }
        let mut told = Vec::new();
        if let Some(mut stdout) = self.process.stdout.take() {
            stdout.read_to_end(&mut told).unwrap();
        }
        let status = self.process.wait().unwrap();
        drop(self.said);
        (status, told)
    }
}

/// The objects of `--format json`, and the summary.
#[track_caller]
pub(crate) fn objects(told: &[u8]) -> (Vec<Value>, Value) {
    let text = str::from_utf8(told).unwrap();
    let mut objects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = objects.pop().unwrap();
    assert!(summary["summary"].is_object(), "{summary}");
    (objects, summary["summary"].clone())
}

/// The moment of a stage, in nanoseconds since boot.
#[track_caller]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive")]
pub(crate) fn moment(update: &Value, stage: &str) -> u64 {
    let stages = update["stages"].as_array().unwrap();
    let stage = stages.iter().find(|it| it["stage"] == stage);
    let stage = stage.unwrap_or_else(|| panic!("no such stage in {update:#}"));
    update["boot_ns"].as_u64().unwrap() + (stage["at_us"].as_f64().unwrap() * 1e3) as u64
}

/// Arguments that are text.
pub(crate) fn os(texts: &[&str]) -> Vec<OsString> {
    texts.iter().map(Into::into).collect()
}

/// How often an update tells of a stage.
pub(crate) fn count(update: &Value, stage: &str) -> u64 {
    let steps = update["steps"].as_array().unwrap().iter();
    steps.filter(|it| it["stage"] == stage).map(|it| it["count"].as_u64().unwrap()).sum()
}

/// How often each rename is told of: the strategy `tracepoint` hears of the directory twice, as that of the
/// old name and of the new.
pub(crate) fn renames_told(update: &Value) -> u64 {
    if update["strategy"] == "tracepoint" { 2 } else { 1 }
}
