//! What happened, in our words.

use std::{collections::BTreeSet, ffi::OsString, fmt, path::PathBuf};

use nix::unistd::Pid;
use serde::Serialize;

use crate::clock::Boot;

/// The names of the sources, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceName {
    /// The eBPF programs.
    Ebpf,
    /// `fanotify(7)`.
    Fanotify,
    /// `inotify(7)`.
    Inotify,
    /// Looking at the content once a second.
    Poll,
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Poll => "poll",
        })
    }
}

/// The number of a place that a source watches: a directory or a file behind some rule's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub u32);

impl PlaceId {
    /// The first that is handed out; those below belong to the sources.
    pub const FIRST: Self = Self(reload_ebpf::CANARY + 1);
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// The process in the agent's own pid namespace, or `None` where it is not visible there.
    pub pid: Option<i32>,
    /// The name of the task, cut to 15 bytes by the kernel, or `None` where it is not known.
    pub comm: Option<String>,
    /// What it did.
    pub operation: Operation,
}

impl Actor {
    /// Somebody of whom only the deed is known.
    #[must_use]
    pub fn unknown(operation: Operation) -> Self {
        Self { pid: None, comm: None, operation }
    }

    /// Whether anything is known of who it is.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.pid.is_some() || self.comm.is_some()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, comm, operation } = self;
        match (comm, pid) {
            (Some(comm), Some(pid)) => write!(f, "{operation} by {comm} (pid {pid})"),
            (Some(comm), None) => write!(f, "{operation} by {comm}"),
            (None, Some(pid)) => write!(f, "{operation} by pid {pid}"),
            (None, None) => write!(f, "{operation}"),
        }
    }
}

/// What an actor did, as far as the system call that it is in tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `rename(2)` and its kin.
    Rename,
    /// `write(2)` and its kin, `splice(2)`, `copy_file_range(2)`.
    Write,
    /// `open(2)` and its kin: a file was created or truncated.
    Open,
    /// `truncate(2)`, `ftruncate(2)`, `fallocate(2)`.
    Truncate,
    /// `symlink(2)`, `symlinkat(2)`.
    Symlink,
    /// `link(2)`, `linkat(2)`.
    Link,
    /// `unlink(2)`, `unlinkat(2)`, `rmdir(2)`.
    Unlink,
    /// `mkdir(2)`, `mkdirat(2)`.
    Mkdir,
    /// `chmod(2)`, `chown(2)`, `utimensat(2)` and their kin.
    Attributes,
    /// The last reference to a file that was open for writing is gone: `close(2)`, `munmap(2)`, `exit(2)`.
    Close,
    /// Another call, or none: a store to a mapped page.
    Change,
}

impl Operation {
    /// Whether a name that came with it is complete: it was made elsewhere, or is nothing but a name.
    #[must_use]
    pub fn is_arrival(self) -> bool {
        matches!(self, Self::Rename | Self::Link | Self::Symlink)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rename => "rename",
            Self::Write => "write",
            Self::Open => "open",
            Self::Truncate => "truncate",
            Self::Symlink => "symlink",
            Self::Link => "link",
            Self::Unlink => "unlink",
            Self::Mkdir => "mkdir",
            Self::Attributes => "change of attributes",
            Self::Close => "close",
            Self::Change => "change",
        })
    }
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A watched place changed, and stays silent until it is armed again.
    Changed {
        /// Which one.
        place: PlaceId,
        /// When.
        at: Boot,
        /// Who did what, as far as the source can tell.
        by: Actor,
    },
    /// It is time to compare the content behind a place, for nothing announces its changes.
    Due {
        /// Which one.
        place: PlaceId,
    },
    /// Something was mounted or unmounted: paths through there may lead elsewhere.
    Mounted {
        /// Where it may have been; the root stands for everywhere.
        points: BTreeSet<PathBuf>,
    },
    /// Somebody opens a file of which that is expected.
    Opened {
        /// Which one.
        place: PlaceId,
        /// Which inode it is, if that is known.
        inode: Option<u64>,
        /// The process in the agent's own pid namespace.
        pid: Pid,
        /// When.
        at: Boot,
    },
    /// A process with a name that is followed started a program.
    Started {
        /// The process.
        pid: Pid,
        /// When.
        at: Boot,
    },
    /// A process with a name that is followed ended.
    Ended {
        /// The process.
        pid: Pid,
        /// Its name: it may not be there any more to be asked.
        comm: String,
        /// When.
        at: Boot,
    },
    /// A process with a name that is followed made another.
    Forked {
        /// The process.
        parent: Pid,
        /// The other; `None` where it is not visible in the agent's pid namespace.
        child: Option<Pid>,
        /// When.
        at: Boot,
    },
    /// A signal was made for a process with a name that is followed.
    Signalled {
        /// The process.
        pid: Pid,
        /// The signal's number.
        signal: i32,
        /// Who has sent it.
        by: Sender,
        /// The name of the task that was running then, which is the sender's unless the kernel sent it.
        comm: String,
        /// What became of it.
        fate: Fate,
        /// When.
        at: Boot,
    },
    /// A process with a name that is followed takes a signal.
    Delivered {
        /// The process.
        pid: Pid,
        /// The signal's number.
        signal: i32,
        /// The name of the task that takes it.
        comm: String,
        /// What it does with it.
        handling: Handling,
        /// When.
        at: Boot,
    },
    /// Somebody has read from a queue of notifications.
    Read {
        /// Who; `None` where he is not visible in the agent's pid namespace.
        pid: Option<Pid>,
        /// The name of his task.
        comm: String,
        /// The descriptor that he has read from.
        descriptor: i32,
        /// What he has read.
        news: News,
        /// When.
        at: Boot,
    },
    /// Somebody has had inotify watch something.
    Watched {
        /// Who; `None` where he is not visible in the agent's pid namespace.
        pid: Option<Pid>,
        /// The name of his task.
        comm: String,
        /// The descriptor of the queue.
        descriptor: i32,
        /// The number of the watch in that queue.
        watch: i32,
    },
    /// Events are known to be missing: everything must be looked at again.
    Lost {
        /// Who lost them.
        source: SourceName,
        /// How they were lost.
        reason: LossReason,
        /// Which hook of the source lost them.
        hook: &'static str,
        /// How many.
        count: u64,
    },
}

impl Event {
    /// What kind it is, in one word for counters.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Due { .. } => "due",
            Self::Mounted { .. } => "mounted",
            Self::Opened { .. } => "opened",
            Self::Started { .. } => "started",
            Self::Ended { .. } => "ended",
            Self::Forked { .. } => "forked",
            Self::Signalled { .. } => "signalled",
            Self::Delivered { .. } => "delivered",
            Self::Read { .. } => "read",
            Self::Watched { .. } => "watched",
            Self::Lost { .. } => "lost",
        }
    }
}

/// Who has sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A process.
    Process(Pid),
    /// A process that is not visible in the agent's pid namespace.
    Unseen,
    /// The kernel, in the name of nobody: of a timer, a child that has ended, what is ready to be read.
    Kernel,
}

/// What became of a signal that was made (`TRACE_SIGNAL_…` of `include/trace/events/signal.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It waits for the process, which will take it.
    Queued,
    /// It is ignored, and gone.
    Ignored,
    /// There was one already, with which it is one.
    AlreadyPending,
    /// It is lost, for too many wait.
    Overflown,
    /// It waits, and what was sent along is lost, for too much waits.
    InfoLost,
}

/// What a process does with a signal that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// What the kernel does where nobody has said otherwise.
    Default,
    /// Nothing.
    Ignore,
    /// What its handler does.
    Handler,
}

/// What somebody reads from a queue of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Of `inotify(7)`.
    Inotify {
        /// The events, in order.
        heard: Vec<Heard>,
        /// Whether these are all: of what is read at a time only the first is told.
        is_whole: bool,
    },
    /// Of `fanotify(7)`: what it is about is not told.
    Fanotify,
}

/// What somebody hears by `inotify(7)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The number of the watch in that queue; -1 where the queue has overflown.
    pub watch: i32,
    /// What has happened: bits of `IN_…`.
    pub mask: u32,
    /// To what in a directory; empty where it has happened to what is watched itself.
    pub name: OsString,
}

/// Whether a file is open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody can write to it without opening it anew.
    None,
    /// Somebody may still write to it.
    Some,
    /// The source cannot tell.
    Unknown,
}

impl Writers {
    /// What holds of two files together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Some, _) | (_, Self::Some) => Self::Some,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::None, Self::None) => Self::None,
        }
    }
}

/// How events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The ring between kernel and agent had no room.
    RingFull,
    /// The kernel skipped a program that was already running on that processor.
    Recursion,
    /// The queue between kernel and agent had no room.
    QueueFull,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RingFull => "the ring between kernel and agent was full",
            Self::Recursion => "the kernel skipped a program that was already running",
            Self::QueueFull => "the queue between kernel and agent was full",
        })
    }
}
