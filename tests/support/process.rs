//! A child process that does not outlive its test.

use std::{
    ops::{Deref, DerefMut},
    process::{Child, Command},
};

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("cannot run {command:?}: {error}"),
        }
    }

    /// The pid, which is not handed out again as long as the child is not reaped.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs `command` to its end, and panics unless it succeeds.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    match command.status() {
        Ok(status) => assert!(status.success(), "{command:?}: {status}"),
        Err(error) => panic!("cannot run {command:?}: {error}"),
    }
}

/// The children that the process has now, in the pid namespace of the test.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.unwrap_or_default().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// How often the first thread of a process has waited for something so far.
pub(crate) fn waits(pid: i32) -> u64 {
    field(pid, "voluntary_ctxt_switches").parse().unwrap()
}

/// Whether the first thread of a process waits for something, and no signal is blocked meanwhile.
pub(crate) fn awaits_signals(pid: i32) -> bool {
    // `sigsuspend` sets the mask before it sleeps, so the state is what to ask for first.
    field(pid, "State").starts_with('S') && field(pid, "SigBlk").trim_start_matches('0').is_empty()
}

/// How much memory a process has, in KiB.
pub(crate) fn resident_kib(pid: i32) -> u64 {
    field(pid, "VmRSS").trim_end_matches(" kB").parse().unwrap()
}

/// What the kernel says of the first thread of a process.
fn field(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap().trim().to_owned()
}
