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
    process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open},
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
}

impl Child {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be run, and names it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let inner = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{}`", show(command)))?;
        Ok(Self { inner, shown })
    }

    /// The pid, which is nobody else's as long as this value lives.
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
        self.inner.try_wait().with_context(|| format!("cannot wait for {}", self.shown))
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
        // Closed first: a child that runs as another user ends for this.
        drop(self.inner.stdin.take());
        let signalled = end(Pid::from_child(&self.inner));
        let status = self.inner.wait();
        signalled.with_context(|| format!("cannot end {}", self.shown))?;
        status.with_context(|| format!("cannot wait for {}", self.shown))
    }
}

/// Asks a process to end, waits until it has, and kills what is left of its group. The caller has
/// not reaped it, so that the pid and the group are its own.
fn end(pid: Pid) -> io::Result<()> {
    permitted(kill_process(pid, Signal::TERM))?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    ends(&handle)?;
    permitted(kill_process_group(pid, Signal::KILL))
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
    use std::process::Stdio;

    use super::*;

    #[test]
    fn what_a_child_has_started_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & echo $!; wait"]).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        let output = lines(child.pipes().stdout.take().unwrap());
        let grandchild = output.recv_timeout(GRACE).unwrap().parse().unwrap();
        let handle = pidfd_open(Pid::from_raw(grandchild).unwrap(), PidfdFlags::empty()).unwrap();
        child.stop().unwrap();
        assert!(ends(&handle).unwrap());
    }
}
