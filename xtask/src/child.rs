//! A process that a chore starts, and that does not outlive it.

use std::{
    io::{BufRead as _, BufReader, Read},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Command, ExitStatus},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group,
        pidfd_open, waitid,
    },
};

use crate::show;

/// How long a process is given to end when it is asked to.
const GRACE: Duration = Duration::from_secs(3);

/// A child with a process group of its own, which ends with this value: it is asked to, waited for,
/// and then the group is killed.
///
/// The group is its own so that Ctrl-C reaches the chore alone, which then ends its children in
/// order, and so that what the child has started ends as well.
#[derive(Debug)]
pub(crate) struct Child {
    inner: std::process::Child,
    shown: String,
    ask: Ask,
    status: Option<ExitStatus>,
}

/// How a child is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// By SIGTERM.
    Signal,
    /// By the end of its input, for it runs as another user.
    EndOfInput,
}

impl Child {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be run, and names it.
    pub(crate) fn spawn(command: &mut Command, ask: Ask) -> Result<Self> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let inner = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{}`", show(command)))?;
        Ok(Self { inner, shown, ask, status: None })
    }

    /// The pid, which is nobody else's as long as the child is not known to have ended.
    pub(crate) fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// The pipes that `command` asked for.
    pub(crate) fn pipes(&mut self) -> &mut std::process::Child {
        &mut self.inner
    }

    /// How it ended, or `None` where it still runs.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does not tell, which should not occur.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            // Not reaped by this, so that the group is still ours to kill.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let ended = waitid(WaitId::Pid(Pid::from_child(&self.inner)), look);
            if ended.with_context(|| format!("cannot wait for {}", self.shown))?.is_some() {
                self.reap()?;
            }
        }
        Ok(self.status)
    }

    /// The pids of its children.
    pub(crate) fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does not tell how it ended, which should not occur.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        drop(self.inner.stdin.take());
        end(Pid::from_child(&self.inner), self.ask)
            .with_context(|| format!("cannot end {}", self.shown))?;
        self.reap()
    }

    /// Kills what is left of the group, and learns how the child ended.
    fn reap(&mut self) -> Result<ExitStatus> {
        permitted(kill_process_group(Pid::from_child(&self.inner), Signal::KILL))
            .with_context(|| format!("cannot kill {}", self.shown))?;
        let status = self.inner.wait();
        let status = status.with_context(|| format!("cannot wait for {}", self.shown))?;
        self.status = Some(status);
        Ok(status)
    }
}

/// Asks a child, which is not reaped, to end, and waits until it has or the time is up.
fn end(pid: Pid, ask: Ask) -> io::Result<()> {
    if ask == Ask::Signal {
        kill_process(pid, Signal::TERM)?;
    }
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    ends(&handle).map(drop)
}

/// Waits for a process to end, and says whether it has.
fn ends(handle: &OwnedFd) -> io::Result<bool> {
    let grace = Timespec { tv_sec: GRACE.as_secs().cast_signed(), tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&grace))? != 0)
}

/// What runs as another user may not be signalled, and ends when its input does.
fn permitted(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error == io::Errno::PERM { Ok(()) } else { Err(error) })
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

/// Reads lines as they come, so that they can be taken without waiting.
pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::{process::Stdio, time::Instant};

    use super::*;

    #[test]
    fn what_a_child_has_started_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & echo $!; wait"]).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command, Ask::Signal).unwrap();
        let output = lines(child.pipes().stdout.take().unwrap());
        let grandchild = output.recv_timeout(GRACE).unwrap().parse().unwrap();
        let handle = pidfd_open(Pid::from_raw(grandchild).unwrap(), PidfdFlags::empty()).unwrap();
        child.stop().unwrap();
        assert!(ends(&handle).unwrap());
    }

    #[test]
    fn what_a_child_leaves_behind_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & echo $!"]).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command, Ask::Signal).unwrap();
        let output = lines(child.pipes().stdout.take().unwrap());
        let left = output.recv_timeout(GRACE).unwrap().parse().unwrap();
        let handle = pidfd_open(Pid::from_raw(left).unwrap(), PidfdFlags::empty()).unwrap();
        // It has said its last word, and may not have ended yet.
        let deadline = Instant::now() + GRACE;
        while child.ended().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the shell goes on");
            thread::yield_now();
        }
        assert!(child.stop().unwrap().success());
        assert!(ends(&handle).unwrap());
    }

    #[test]
    fn a_child_may_be_asked_by_the_end_of_its_input() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = Child::spawn(&mut command, Ask::EndOfInput).unwrap();
        assert_eq!(child.ended().unwrap(), None);
        assert!(child.stop().unwrap().success());
    }
}
