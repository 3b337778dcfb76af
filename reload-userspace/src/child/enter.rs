//! The way into the place of a target: its namespaces, its root, its directory, and no rights but its.
//!
//! **Invariant:** all rights that the target has not are dropped before anything that belongs to the
//! target can act: before the first process starts in its pid namespace, and before a program is
//! looked for in its root. What we need of the agent's own `/proc` is opened before we leave it.

mod home;

use std::{ffi::OsString, fs, io};

use nix::{libc, unistd::Pid};
use rustix::{
    process::{DumpableBehavior, chroot, fchdir, set_dumpable_behavior},
    thread::{ThreadNameSpaceType as Namespaces, move_into_thread_name_spaces},
};

use super::{rights::Rights, sealed};
use crate::target::{Scope, Target};
use home::{Home, variables};

/// The kinds of namespaces: as `/proc/<pid>/ns` and as people call them.
const KINDS: [(Namespaces, &str, &str); 7] = [
    (Namespaces::USER, "user", "user"),
    (Namespaces::MOUNT, "mnt", "mount"),
    (Namespaces::PROCESS_ID, "pid", "pid"),
    (Namespaces::NETWORK, "net", "network"),
    (Namespaces::INTER_PROCESS_COMMUNICATION, "ipc", "ipc"),
    (Namespaces::HOST_NAME_AND_NIS_DOMAIN_NAME, "uts", "uts"),
    (Namespaces::CONTROL_GROUP, "cgroup", "cgroup"),
];

/// Why the place of a target cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnterError {
    /// There is no such process any more.
    #[error("the process {pid} has ended")]
    Gone {
        /// Its number.
        pid: Pid,
    },
    /// It is not where it must be.
    #[error("the process {pid} is in none of the containers that the rule is about")]
    Outside {
        /// Its number.
        pid: Pid,
    },
    /// Something of it cannot be seen.
    #[error("cannot look at {what} of the process {pid}")]
    Look {
        /// Its number.
        pid: Pid,
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no copy of the agent that its root could not write to.
    #[error("cannot run a copy of the agent in memory, to be safe from the process {pid}")]
    Copy {
        /// Its number.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its namespaces are closed to us.
    #[error("cannot enter the {kinds} of the process {pid}")]
    Namespaces {
        /// Its number.
        pid: Pid,
        /// Which of them, in words.
        kinds: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its root is closed to us.
    #[error("cannot change to the root directory of the process {pid}")]
    Root {
        /// Its number.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its working directory is closed to us.
    #[error("cannot change to the working directory of the process {pid}")]
    Directory {
        /// Its number.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
    /// It has rights that whoever started it may not have.
    #[error(
        "the process {pid} has rights from its program (set-user-ID or file capabilities), and its \
         environment from somebody else: nothing is run with both"
    )]
    Elevated {
        /// Its number.
        pid: Pid,
    },
    /// We cannot be its user.
    #[error("cannot become the user {uid}:{gid} of the process {pid}")]
    User {
        /// Its number.
        pid: Pid,
        /// Its uid.
        uid: u32,
        /// Its gid.
        gid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// We keep rights that it has not.
    #[error("cannot drop the rights that the process {pid} has not")]
    Drop {
        /// Its number.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
}

impl EnterError {
    /// What to do about it, or `None` where nothing can be done.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Gone { .. } | Self::Outside { .. } | Self::Drop { .. } => None,
            Self::Elevated { .. } => Some("use --check-in agent"),
            Self::Copy { .. } => Some("give it memory for that, and set vm.memfd_noexec below 2"),
            Self::Look { .. } => Some(
                "--check-in target needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or the uid of the \
                 process and no fewer capabilities than it has",
            ),
            Self::Namespaces { source, .. }
                if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
            {
                Some("--check-in target needs Linux 5.8 for a process in other namespaces")
            }
            Self::Namespaces { .. } => Some(
                "--check-in target needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE (and \
                 CAP_SETUID, CAP_SETGID and CAP_DAC_READ_SEARCH for a process of another user)",
            ),
            Self::Root { .. } => {
                Some("--check-in target needs CAP_SYS_CHROOT for a process with a root of its own")
            }
            Self::Directory { .. } => Some(
                "--check-in target needs CAP_DAC_READ_SEARCH, or a directory that the process may \
                 enter",
            ),
            Self::User { .. } => Some(
                "--check-in target needs CAP_SETUID and CAP_SETGID for a process of another user \
                 or with other groups",
            ),
        }
    }
}

/// Goes where `target` is if that is within the scope, and becomes as powerless; gives the target's
/// environment.
///
/// No right is asked for that is not needed: what is the same already stays as it is. What we start
/// afterwards is in the target's pid namespace; we are not, so nobody there can see us.
pub(super) fn enter(
    target: Target,
    scope: &Scope,
) -> Result<Vec<(OsString, OsString)>, EnterError> {
    let pid = target.pid;
    let gone = || EnterError::Gone { pid };
    // Where memory runs out the kernel is to end what is somebody else's before the agent (`proc(5)`). Where
    // it does not take that, nothing is lost.
    drop(fs::write("/proc/self/oom_score_adj", "1000"));
    let look = |what| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => EnterError::Gone { pid },
            _ => EnterError::Look { pid, what, source },
        }
    };

    let home = Home::open(target).map_err(look("/proc"))?.ok_or_else(gone)?;
    let others = other_namespaces(&home).map_err(look("the namespaces"))?;
    if others.contains(Namespaces::MOUNT) {
        sealed::ensure().map_err(|source| EnterError::Copy { pid, source })?;
    }
    let environment = home.read("environ").map_err(look("the environment"))?;
    let root = home.directory("root").map_err(look("the root directory"))?;
    let directory = home.directory("cwd").map_err(look("the working directory"))?;
    let status = home.read("status").map_err(look("the user"))?;
    let outside = rights(&status).ok_or_else(gone)?;
    let owner = home.owner().map_err(look("the user"))?;
    if outside.is_elevated(owner) {
        return Err(EnterError::Elevated { pid });
    }
    // Asked when all that we go by is open, for it is then the process that was asked.
    if !scope.is_anywhere() {
        let groups = home.read("cgroup").map_err(look("the control groups"))?;
        let own = fs::read("/proc/self/cgroup").map_err(look("the control groups"))?;
        if !scope.admits(&groups, &own) {
            return Err(EnterError::Outside { pid });
        }
    }

    // By the numbers of our own user namespace: the target's may have none for them, and forbid it.
    let user = |source| EnterError::User { pid, uid: outside.uid, gid: outside.gid, source };
    outside.take_groups().map_err(user)?;
    if !others.is_empty() {
        let entered = home.process().and_then(|it| move_into_thread_name_spaces(it, others));
        entered.map_err(|errno| {
            let kinds = in_words(others);
            EnterError::Namespaces { pid, kinds, source: errno.into() }
        })?;
    }
    // A process that has ended has no namespaces: where it is still there, they were its own.
    if !home.is_that_of(target) {
        return Err(gone());
    }
    let at_root = |source| EnterError::Root { pid, source };
    if !home::is_our_root(&root).map_err(at_root)? {
        fchdir(&root).and_then(|()| chroot(".")).map_err(|errno| at_root(errno.into()))?;
    }
    fchdir(&directory).map_err(|errno| EnterError::Directory { pid, source: errno.into() })?;

    // By the numbers of the user namespace that we are in now.
    let status = home.read("status").map_err(look("the user"))?;
    let inside = rights(&status).ok_or_else(gone)?;
    become_as(&inside, pid)?;
    Ok(variables(&environment))
}

/// Takes on the user and drops what the target has not.
fn become_as(rights: &Rights, pid: Pid) -> Result<(), EnterError> {
    rights.bound();
    let (uid, gid) = (rights.uid, rights.gid);
    rights.take_user().map_err(|source| EnterError::User { pid, uid, gid, source })?;
    let dropped = rights.drop_others();
    // A change of user may have undone it.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from);
    dropped.and(hidden).map_err(|source| EnterError::Drop { pid, source })
}

fn rights(status: &[u8]) -> Option<Rights> {
    Rights::parse(&String::from_utf8_lossy(status))
}

/// The namespaces of the process that are not ours.
fn other_namespaces(home: &Home) -> io::Result<Namespaces> {
    let mut others = Namespaces::empty();
    for (kind, name, _) in KINDS {
        if !home.shares_namespace(name)? {
            others |= kind;
        }
    }
    Ok(others)
}

/// `mount, pid and network namespaces`.
fn in_words(namespaces: Namespaces) -> String {
    let kinds = KINDS.iter().filter(|(kind, ..)| namespaces.contains(*kind));
    let kinds: Vec<_> = kinds.map(|(_, _, word)| *word).collect();
    match kinds.split_last() {
        None => "namespaces".to_owned(),
        Some((last, [])) => format!("{last} namespace"),
        Some((last, others)) => format!("{} and {last} namespaces", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named() {
        fn check(namespaces: Namespaces, expected: &str) {
            assert_eq!(in_words(namespaces), expected);
        }
        check(Namespaces::MOUNT, "mount namespace");
        check(Namespaces::PROCESS_ID | Namespaces::MOUNT, "mount and pid namespaces");
        let three = Namespaces::USER | Namespaces::PROCESS_ID | Namespaces::MOUNT;
        check(three, "user, mount and pid namespaces");
    }
}
