//! What processes do to each other is told of where that is traced.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use reload_userspace::{
    event::{Event, Fate, Handling, Sender},
    source::{EbpfSource, Purpose, Source as _, Tells},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;

use crate::support::{
    process::{Process, awaits_signals},
    source::Source,
    time::poll,
};

// One test, for the source takes this process the right to open files for a moment.
promise!(forks_and_signals_are_told_of_where_they_are_traced: ebpf);
/// Of a shell that is followed: it forks, ignores one signal, and has a handler for another.
fn forks_and_signals_are_told_of_where_they_are_traced(source: Source) {
    const SCRIPT: &str = "trap '' USR1; trap 'kill $!; exit 7' HUP; sleep 1000 & echo $!; wait";
    assert_eq!(source, Source::Ebpf);
    let dir = tempfile::tempdir().unwrap();
    let name = format!("traced-{}", std::process::id());
    let path = dir.path().join(&name);
    symlink("/bin/sh", &path).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let mut traced = EbpfSource::open(Purpose::Trace, false).unwrap();
    assert_eq!(traced.follow(&[name]).unwrap(), Tells::Yes);

    let mut command = Command::new(&path);
    let mut shell = Process::spawn(command.args(["-c", SCRIPT]).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // While it forks it blocks all signals, and one that is blocked waits even if it is ignored.
    poll("the shell waits", || awaits_signals(shell.pid()).then_some(()));
    let pid = Pid::from_raw(shell.pid()).unwrap();
    for signal in [Signal::USR1, Signal::HUP] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(shell.wait().unwrap().code(), Some(7));

    let mut told = Vec::new();
    while let Some(event) = traced.try_next().unwrap() {
        told.push(event);
    }
    let pid = nix::unistd::Pid::from_raw(shell.pid());
    let sleeper = nix::unistd::Pid::from_raw(line.trim().parse().unwrap());
    let me = Sender::Process(nix::unistd::Pid::this());
    let is_told = |what: &str, is_it: &dyn Fn(&Event) -> bool| {
        assert!(told.iter().any(is_it), "{what}: {told:?}");
    };
    is_told(
        "the fork",
        &|event| matches!(event, Event::Forked { parent, child, .. } if *parent == pid && *child == Some(sleeper)),
    );
    for (number, expected) in [(10, Fate::Ignored), (1, Fate::Queued)] {
        is_told("a signal", &|event| {
            matches!(event, Event::Signalled { pid: whose, signal, by, fate, .. }
                if (*whose, *signal, *by, *fate) == (pid, number, me, expected))
        });
    }
    is_told("the handler", &|event| {
        matches!(event, Event::Delivered { pid: whose, signal: 1, handling, .. }
            if (*whose, *handling) == (pid, Handling::Handler))
    });
    let (mut queued, mut taken) = (None, None);
    for event in &told {
        match event {
            Event::Signalled { signal: 1, at, .. } => queued = Some(*at),
            Event::Delivered { signal: 1, at, .. } => taken = Some(*at),
            _ => {}
        }
    }
    assert!(queued.unwrap() <= taken.unwrap(), "{told:?}");
    let is_of_nobody_else = |event: &Event| match event {
        Event::Signalled { pid: whose, .. } | Event::Delivered { pid: whose, .. } => {
            [pid, sleeper].contains(whose)
        }
        Event::Forked { parent, .. } => *parent == pid,
        _ => true,
    };
    assert!(told.iter().all(is_of_nobody_else), "{told:?}");
}
