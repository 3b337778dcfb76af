//! The helper: the agent, started anew to run one command.
//!
//! It has one thread, for a process with more can neither enter namespaces nor change all of its
//! rights at once. Its standard input is the socket to the agent; its standard output and error are
//! those of the command, and it writes nothing there itself.

use std::{
    error::Error as _,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::{Child, Command, ExitCode, Stdio},
};

use nix::sys::{
    signal::{SigSet, Signal as Named},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::retry_on_intr,
    process::{
        DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process_group,
        set_child_subreaper, set_dumpable_behavior, waitid,
    },
};

use super::{
    Word,
    enter::{self, EnterError},
};
use crate::{
    rule::CommandLine,
    sys::spawn,
    target::{Scope, Target},
};

/// Where a command reads that is told nothing.
const NOTHING: &str = "/dev/null";

/// Why a command is not run.
#[derive(Debug, thiserror::Error)]
enum InsideError {
    /// The helper cannot see to its own affairs.
    #[error("the agent's helper cannot look after a command")]
    Prepare {
        /// What the kernel said.
        source: io::Error,
    },
    /// There is nothing for the command to read.
    #[error("cannot open {NOTHING}")]
    Nothing {
        /// What the kernel said.
        source: io::Error,
    },
    /// The way to where it is to run.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The command itself.
    #[error("cannot run {program}")]
    Run {
        /// The program, as it was given.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl InsideError {
    /// The whole of it on one line: what we could not do, why, and what to do about it.
    fn full(&self) -> String {
        let cause = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        let remedy = match self {
            Self::Enter(error) => error.remedy(),
            Self::Nothing { .. } => Some("give the agent a /dev with it"),
            Self::Prepare { .. } | Self::Run { .. } => None,
        };
        let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{self}{cause}{remedy}")
    }
}

/// Runs `command` and tells the agent what became of it: in the place of `target` if that is within the
/// scope, or where we are.
///
/// Only to be called as the first thing that a process does.
#[must_use]
pub fn run(command: &CommandLine, target: Option<&(Target, Scope)>) -> ExitCode {
    let Ok(mut line) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let done = start(command, target).and_then(|(child, ends)| {
        supervise(child, &mut line, &ends).map_err(|source| InsideError::Prepare { source })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut line, &Word::NotRun(error.full()));
            ExitCode::FAILURE
        }
    }
}

/// Starts the command where it is to run; with it comes what tells when a child has ended.
fn start(
    command: &CommandLine,
    target: Option<&(Target, Scope)>,
) -> Result<(Child, SignalFd), InsideError> {
    let ends = prepare().map_err(|source| InsideError::Prepare { source })?;
    // Before we are where another has made what is called so.
    let nothing = File::open(NOTHING).map_err(|source| InsideError::Nothing { source })?;
    let mut child = Command::new(command.program());
    child.args(command.arguments()).stdin(Stdio::from(nothing));
    if let Some((target, scope)) = target {
        // Ours are what the agent wants the command to have besides the target's.
        let environment = enter::enter(*target, scope)?.into_iter().chain(std::env::vars_os());
        child.env_clear().envs(environment);
    }
    spawn::set_apart(&mut child);
    match child.spawn() {
        Ok(child) => Ok((child, ends)),
        Err(source) => {
            let program = command.program().to_owned();
            Err(InsideError::Run { program, source })
        }
    }
}

/// Makes this process one that looks after others.
fn prepare() -> io::Result<SignalFd> {
    // Others of the same user cannot look into this process, or act through it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    spawn::hear_of_children();
    // What the command leaves behind becomes our child.
    set_child_subreaper(Some(getpid()))?;
    let ends = SigSet::from(Named::SIGCHLD);
    ends.thread_block()?;
    Ok(SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits for the command's end or the agent's, and kills what is left.
fn supervise(mut child: Child, line: &mut UnixStream, ends: &SignalFd) -> io::Result<()> {
    let pid = Pid::from_child(&child);
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // Not reaped by this, so that the number of its group is nobody else's until we have used it.
    while retry_on_intr(|| waitid(WaitId::Pid(pid), look))?.is_none() {
        let mut awaited = [PollFd::new(&*line, PollFlags::IN), PollFd::new(ends, PollFlags::IN)];
        retry_on_intr(|| poll(&mut awaited, None))?;
        // The agent says nothing: this is the end of the line.
        if !awaited[0].revents().is_empty() {
            break;
        }
        while ends.read_signal()?.is_some() {}
    }
    let killed = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    let word = match (status.code(), status.signal()) {
        (Some(code), _) => Word::Exited(code),
        (None, signal) => Word::Killed(signal.unwrap_or_default()),
    };
    say(line, &word);
    // Those of the group that have become ours. In another pid namespace its first process has them.
    if killed.is_ok() {
        while retry_on_intr(|| waitid(WaitId::Pgid(Some(pid)), WaitIdOptions::EXITED)).is_ok() {}
    }
    Ok(())
}

/// Says the one word. Where the agent has gone nobody is left to hear it.
fn say(line: &mut UnixStream, word: &Word) {
    if let Ok(mut text) = serde_json::to_vec(word) {
        text.push(b'\n');
        drop(line.write_all(&text));
    }
}
