//! Whom to reload: processes found by what they are, and held so that no other is ever hit.

mod procfs;

use std::{
    ffi::OsStr,
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use nix::unistd::Pid;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::clock::Boot;

pub use procfs::{Procfs, SignalSets};

/// Which processes a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// What they are known by.
    pub by: By,
    /// Which of those.
    pub which: Which,
}

/// What a process is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The name of the task, of the executable, or of `argv[0]`, without directories.
    Process(String),
    /// The path of the executable.
    Exe(PathBuf),
    /// The number in a file.
    PidFile(PathBuf),
}

/// Which of several processes that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The topmost of each process tree.
    #[default]
    Topmost,
    /// Every one.
    All,
}

impl Selector {
    /// The topmost processes of that name.
    #[must_use]
    pub fn process(name: &str) -> Self {
        Self { by: By::Process(name.to_owned()), which: Which::Topmost }
    }

    /// The name by which starts and ends of such processes are announced, or `None` where they have
    /// none that is known.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.by {
            By::Process(name) => Some(name),
            By::Exe(path) => path.file_name().and_then(OsStr::to_str),
            By::PidFile(_) => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            By::Process(name) => f.write_str(name),
            By::Exe(path) | By::PidFile(path) => path.display().fmt(f),
        }
    }
}

/// One process, for its whole life and no longer.
///
/// A pid alone is no identity, for the kernel hands it out again; a pid with the tick at which its
/// process started is one. It survives `execve(2)`: a target is a process, not a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The number of the process in the agent's pid namespace.
    pub pid: Pid,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

impl Target {
    /// The earliest moment at which the process can have started.
    #[must_use]
    pub fn start(&self) -> Boot {
        let ticks = rustix::param::clock_ticks_per_second();
        Boot(Duration::from_millis(self.started.saturating_mul(1000) / ticks.max(1)))
    }
}

/// A target that is held: whatever becomes of its pid, what is sent reaches this process or none.
#[derive(Debug)]
pub struct Held {
    target: Target,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    /// A descriptor of the process (Linux 5.3).
    PidFd(OwnedFd),
    /// The kernel or a seccomp profile knows no pidfd: the start time is compared before each signal.
    Pid,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took it.
    Delivered,
    /// The process is gone.
    Gone,
}

/// Why a process cannot be held or signalled.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// `/proc` cannot be listed.
    #[error("cannot list the processes in {}", root.display())]
    List {
        /// Where procfs is mounted.
        root: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `/proc` is of another pid namespace.
    #[error(
        "{} is not the procfs of this pid namespace; mount it (mount -t proc proc {}, or \
         unshare --mount-proc)",
        root.display(),
        root.display()
    )]
    Foreign {
        /// Where procfs is mounted.
        root: PathBuf,
    },
    /// No handle can be opened.
    #[error("cannot open a handle on the process {pid}")]
    Hold {
        /// The process.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
    /// The signal is not allowed.
    #[error("cannot signal the process {pid}")]
    Signal {
        /// The process.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Held {
    /// Opens a handle on the process with this pid, or gives `None` where there is none.
    ///
    /// The order matters. First we open a handle, which from then on means one process whatever
    /// becomes of the pid; then we ask who has the pid; then we ask whether the handle's process is
    /// still alive. If it is, nobody else can have had the pid in between.
    ///
    /// # Errors
    ///
    /// Fails where the kernel allows no handle: the process cannot be a target.
    pub fn open(procfs: &Procfs, pid: Pid) -> Result<Option<Self>, TargetError> {
        let Some(raw) = rustix::process::Pid::from_raw(pid.as_raw()) else {
            return Ok(None);
        };
        let handle = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(handle) => Handle::PidFd(handle),
            Err(Errno::SRCH) => return Ok(None),
            // Before Linux 5.3, and under seccomp profiles of that time.
            Err(Errno::NOSYS | Errno::PERM) => Handle::Pid,
            Err(errno) => return Err(TargetError::Hold { pid, source: errno.into() }),
        };
        let Some(target) = procfs.target(pid) else {
            return Ok(None);
        };
        let held = Self { target, handle };
        Ok(held.is_alive(procfs).then_some(held))
    }

    /// Which process it is.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target
    }

    /// Whether the process has not ended yet. A zombie has.
    #[must_use]
    pub fn is_alive(&self, procfs: &Procfs) -> bool {
        match &self.handle {
            // A pidfd becomes readable when its process ends.
            Handle::PidFd(handle) => {
                let mut polled = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
                poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ended| ended == 0)
            }
            Handle::Pid => procfs.target(self.target.pid) == Some(self.target),
        }
    }

    /// Sends `signal` to the process.
    ///
    /// # Errors
    ///
    /// Fails where it is not allowed (`EPERM`). A process that is gone is [`Sent::Gone`].
    pub fn send(&self, procfs: &Procfs, signal: Signal) -> Result<Sent, TargetError> {
        let sent = match &self.handle {
            Handle::PidFd(handle) => pidfd_send_signal(handle, signal),
            Handle::Pid if procfs.target(self.target.pid) == Some(self.target) => {
                let pid = rustix::process::Pid::from_raw(self.target.pid.as_raw());
                pid.map_or(Err(Errno::SRCH), |pid| rustix::process::kill_process(pid, signal))
            }
            Handle::Pid => Err(Errno::SRCH),
        };
        match sent {
            Ok(()) => Ok(Sent::Delivered),
            Err(Errno::SRCH) => Ok(Sent::Gone),
            Err(errno) => Err(TargetError::Signal { pid: self.target.pid, source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    fn pid_of(child: &Child) -> Pid {
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    #[test]
    fn a_handle_outlives_its_process_and_means_no_other() {
        let procfs = Procfs::default();
        let mut child = sleeper();
        let held = Held::open(&procfs, pid_of(&child)).unwrap().unwrap();
        assert!(held.is_alive(&procfs));
        assert_eq!(held.send(&procfs, Signal::TERM).unwrap(), Sent::Delivered);
        child.wait().unwrap();
        assert!(!held.is_alive(&procfs));
        assert_eq!(held.send(&procfs, Signal::TERM).unwrap(), Sent::Gone);
    }

    #[test]
    fn without_a_pidfd_the_start_time_decides() {
        let procfs = Procfs::default();
        let mut child = sleeper();
        let target = procfs.target(pid_of(&child)).unwrap();
        // A process that took over the pid started at another time.
        let earlier = Target { started: target.started - 1, ..target };
        let stale = Held { target: earlier, handle: Handle::Pid };
        assert_eq!(stale.send(&procfs, Signal::KILL).unwrap(), Sent::Gone);
        assert_eq!(child.try_wait().unwrap(), None);

        let held = Held { target, handle: Handle::Pid };
        assert_eq!(held.send(&procfs, Signal::TERM).unwrap(), Sent::Delivered);
        child.wait().unwrap();
    }

    #[test]
    fn nobody_is_held_where_nobody_is() {
        // Above the highest pid that Linux ever hands out (2^22).
        let nobody = Pid::from_raw(i32::MAX);
        assert!(Held::open(&Procfs::default(), nobody).unwrap().is_none());
    }
}
