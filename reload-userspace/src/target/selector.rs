//! Which processes a rule is about.

use std::{ffi::OsStr, fmt, path::PathBuf};

#[cfg(doc)]
use super::Status;
use super::{Procfs, Scope, pid_file};

/// Which processes a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// What they are known by.
    pub by: By,
    /// Which of those.
    pub which: Which,
    /// Among whom.
    pub scope: Scope,
}

/// What a process is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The name of the task, of the executable, or of `argv[0]`, without directories.
    ///
    /// A program that gives itself a title is known by what is before the first `": "` of it:
    /// `gunicorn: master [app]` is a `gunicorn`.
    Process(String),
    /// The path of the executable, symlinks in it being followed whenever it is looked for.
    ///
    /// It is the path that `/proc/<pid>/exe` gives, and so of an interpreter where a script runs. Where
    /// the agent has a file at that path, a process in another mount namespace must run that very
    /// file, for its own files may lie at the same paths. Where it has none, as in a sidecar, the path
    /// is one of the target's, and so it always is for processes of a pod.
    Exe(PathBuf),
    /// The number in the first line of a file, which is read whenever it is looked for.
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
    /// The name that makes a process one of these, whatever else it is, as [`Status::is_named`] compares it; or
    /// `None` where it takes another look ([`super::Procfs::matches`]).
    ///
    /// One that has a backslash would be taken for one that has a newline.
    pub(crate) fn plain_name(&self) -> Option<&str> {
        match &self.by {
            By::Process(name) if self.scope.is_anywhere() && !name.contains('\\') => Some(name),
            _ => None,
        }
    }

    /// The topmost processes of that name.
    #[must_use]
    pub fn process(name: &str) -> Self {
        let by = By::Process(name.to_owned());
        Self { by, which: Which::Topmost, scope: Scope::Anywhere }
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

    /// Why it means nobody, where more can be said than that there is no such process.
    #[must_use]
    pub fn lack(&self, procfs: &Procfs) -> Option<String> {
        match &self.by {
            By::PidFile(path) => pid_file::lack(procfs, path),
            By::Process(_) | By::Exe(_) => None,
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
