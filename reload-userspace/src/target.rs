//! Whom to reload: processes found by what they are, and held so that no other is ever hit.

mod census;
mod disposition;
mod ending;
mod group;
mod held;
mod look;
#[cfg(test)]
mod made;
mod pid_file;
mod procfs;
mod scope;
mod selector;
mod stat;
mod status;

use std::{io, path::PathBuf, time::Duration};

use nix::unistd::Pid;
use rustix::io::Errno;

use crate::clock::Boot;

pub use census::{Census, Whereabouts};
pub use disposition::Disposition;
pub use held::{Held, Sent};
pub use pid_file::PidFileFault;
pub use procfs::{Child, Procfs};
pub use scope::{Container, ContainerId, PodUid, Scope, ScopeError};
pub use selector::{By, Selector, Which};
pub(crate) use status::Status;

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

impl TargetError {
    /// Whether there is too little of something, so that it would be so with every process.
    fn is_shortage(&self) -> bool {
        let Self::Read { source, .. } = self else { return true };
        let errno = Errno::from_io_error(source);
        errno.is_some_and(|it| [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&it))
    }
}

/// Why a process cannot be found, held or signalled.
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
    /// What `/proc` tells of a process cannot be read, although the process is there.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file in procfs.
        path: PathBuf,
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
    /// A pid file names nobody who may be signalled.
    #[error("cannot go by the pid file {}", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do about it.
        #[source]
        fault: PidFileFault,
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
