//! A command that is run, bounded in time and in output.
//!
//! The agent does not start it itself. It starts itself anew, as a helper with one thread
//! ([`inside`]), which goes where the command is to run, drops the rights that the command must not
//! have, starts it, and looks after it. Between them is one socket: the helper says on it what became
//! of the command, and when the agent's end is closed, for whatever reason, the helper kills all that
//! it has started.

mod enter;
pub mod inside;
mod output;
pub mod program;
mod rights;
mod sealed;

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixStream as Socket},
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::unistd::Pid;
use rustix::fs::{Mode, fchmod};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixStream, unix::pipe::Receiver},
    process::Child,
};

use crate::{
    rule::CommandLine,
    target::{ContainerId, Scope, Target},
    timeout::within,
};
use output::Output;

/// The agent's own executable.
const SELF: &str = "/proc/self/exe";

/// How long the helper is given to end what it has started; then it is killed, and the command with it.
const GRACE: Duration = Duration::from_secs(1);

/// How long a helper's word may be, in bytes: longer ones are none.
const MOST_SAID: usize = 64 * 1024;

/// A command to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to run.
    pub command: CommandLine,
    /// Where.
    pub place: Place,
    /// How long it may take; then it is killed.
    pub timeout: Duration,
    /// Variables that it gets besides those of its place.
    pub environment: Vec<(OsString, OsString)>,
}

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the agent runs, as the agent and with its environment.
    Agent,
    /// In the namespaces, the root and the working directory of this process, as its user, with its
    /// environment, and with no capability that it has not; if it is within that scope.
    Target(Target, Scope),
}

/// What became of a command.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// The last of what it wrote to standard output and standard error, in the order in which it did.
    /// The bytes are the command's own, line ends and control characters included.
    pub output: String,
}

/// How a command ended.
#[derive(Debug)]
pub enum Outcome {
    /// With the exit status 0.
    Passed,
    /// With another exit status.
    Exited(i32),
    /// By a signal that was not ours.
    Killed(i32),
    /// It took too long, and was killed.
    TimedOut,
    /// It was never started, or nobody can tell how it ended.
    NotRun(NotRun),
}

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// The helper cannot be started.
    #[error("cannot start the agent's helper {SELF}: {source}; make sure that /proc is mounted")]
    Helper {
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper was killed.
    #[error("the agent's helper was killed; look whether the machine is out of memory")]
    Silent,
    /// The helper says why, and what to do about it.
    #[error("{0}")]
    Refused(String),
}

/// What the helper says, once, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// The command has exited.
    Exited(i32),
    /// The command was killed by a signal.
    Killed(i32),
    /// The command was not run.
    NotRun(String),
}

/// Runs a command to its end, or until its time is up.
///
/// What it leaves behind in its process group when it ends is killed. If the future is dropped, all
/// that was started is killed.
pub async fn run(job: Job) -> Ended {
    run_by(Path::new(SELF), job).await
}

/// The same, where the executable of this process is not the agent's, as in a test.
pub async fn run_by(agent: &Path, job: Job) -> Ended {
    let mut output = Output::default();
    let outcome = match Helper::start(agent, &job) {
        Ok(helper) => helper.outcome(job.timeout, &mut output).await,
        Err(source) => Outcome::NotRun(NotRun::Helper { source }),
    };
    Ended { outcome, output: output.shown() }
}

/// The helpers that there are, by pid.
static HELPERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The pids of the helpers that run: they and what comes from them are nobody's targets, whatever they
/// are called. `nginx -t` is called nginx.
pub fn helpers() -> Vec<Pid> {
    let helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
    helpers.iter().filter_map(|&pid| i32::try_from(pid).ok()).map(Pid::from_raw).collect()
}

/// That a helper is known, for as long as it is looked after.
struct Known(Option<u32>);

impl Known {
    fn new(pid: Option<u32>) -> Self {
        HELPERS.lock().unwrap_or_else(PoisonError::into_inner).extend(pid);
        Self(pid)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
        helpers.retain(|pid| Some(*pid) != self.0);
    }
}

/// The helper, and what connects it with us.
struct Helper {
    /// When it is closed, the helper kills the command.
    line: UnixStream,
    pipe: Receiver,
    /// Reaped by the runtime if it is dropped before its end.
    process: Child,
    _known: Known,
}

impl Helper {
    fn start(agent: &Path, job: &Job) -> io::Result<Self> {
        let (line, theirs) = Socket::pair()?;
        line.set_nonblocking(true)?;
        let (pipe, output) = io::pipe()?;
        // Whoever runs the command may open /dev/stderr anew, as servers do, though the pipe is ours.
        fchmod(output.as_fd(), Mode::RUSR | Mode::WUSR | Mode::WGRP | Mode::WOTH)?;
        let mut command = Command::new(agent);
        command.arg("inside");
        if let Place::Target(target, scope) = &job.place {
            command.args(["--target", &target.pid.to_string()]);
            command.args(["--started", &target.started.to_string()]);
            if let Scope::Pod { uid, containers } = scope {
                command.args(["--pod", &uid.to_string()]);
                let listed = |those: &BTreeSet<ContainerId>| {
                    let those: Vec<_> = those.iter().map(ToString::to_string).collect();
                    format!("--containers={}", those.join(","))
                };
                command.args(containers.as_ref().map(listed));
            }
            // The helper will be within reach of the target's user, so it knows nothing of ours.
            command.env_clear();
        }
        // What the agent was told is the agent's own, passwords above all.
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"RELOAD_"))
        {
            command.env_remove(name);
        }
        command.arg("--").arg(job.command.program()).args(job.command.arguments());
        command.envs(job.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(output.try_clone()?)
            .stderr(Stdio::from(output));
        let mut command = tokio::process::Command::from(command);
        // Ctrl-C is for the agent, which then ends its helpers.
        let process = command.arg0("reload-agent").process_group(0).spawn()?;
        let known = Known::new(process.id());
        Ok(Self {
            _known: known,
            line: UnixStream::from_std(line)?,
            pipe: Receiver::from_owned_fd(pipe.into())?,
            process,
        })
    }

    async fn outcome(self, limit: Duration, output: &mut Output) -> Outcome {
        let Self { line, pipe, mut process, _known } = self;
        let word = async {
            tokio::select! {
                word = hear(&line) => word,
                () = output.collect(&pipe) => None,
            }
        };
        let word = within(limit, word).await;
        // The helper hears that it is over.
        drop(line);
        if within(GRACE, process.wait()).await.is_none() {
            // It hangs in the kernel, or cannot kill what it has started: the kernel will.
            drop(process.start_kill());
        }
        output.drain(&pipe);
        match word {
            None => Outcome::TimedOut,
            Some(Some(Word::Exited(0))) => Outcome::Passed,
            Some(Some(Word::Exited(status))) => Outcome::Exited(status),
            Some(Some(Word::Killed(signal))) => Outcome::Killed(signal),
            Some(Some(Word::NotRun(why))) => Outcome::NotRun(NotRun::Refused(why)),
            Some(None) => Outcome::NotRun(NotRun::Silent),
        }
    }
}

/// Waits for the helper's word, or gives `None` where it has ended without one.
async fn hear(line: &UnixStream) -> Option<Word> {
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    while said.last() != Some(&b'\n') && said.len() < MOST_SAID {
        line.readable().await.ok()?;
        match line.try_read(&mut bytes) {
            Ok(0) => return None,
            Ok(count) => said.extend_from_slice(bytes.get(..count)?),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    serde_json::from_slice(&said).ok()
}
