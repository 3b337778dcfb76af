//! A process that is held: what is sent to it reaches it or nobody.

use std::{
    cell::RefCell,
    fs::File,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use nix::unistd::Pid;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

use super::{
    Procfs, Target, TargetError,
    procfs::if_there,
    status::{FILE, Status},
};

/// How much of a status is read at once, in bytes; only one with hundreds of groups has more.
const USUAL_STATUS: usize = 4096;

/// A target that is held: whatever becomes of its pid, what is sent reaches this process or none.
#[derive(Debug)]
pub struct Held {
    target: Target,
    handle: Handle,
    /// Its status, once somebody has asked for it: that of this process, whoever has its pid.
    status: RefCell<Option<File>>,
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

impl Held {
    /// Opens a handle on the process with this pid, or gives `None` where there is none.
    ///
    /// The order matters. First we open a handle, which from then on means one process whatever
    /// becomes of the pid; then we ask who has the pid; then we ask whether the handle's process is
    /// still alive. If it is, nobody else can have had the pid in between.
    ///
    /// # Errors
    ///
    /// Fails where the kernel allows no handle or `/proc` cannot be read: the process cannot be a target.
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
        let Some(target) = procfs.target(pid)? else {
            return Ok(None);
        };
        let held = Self { target, handle, status: RefCell::default() };
        Ok(held.is_alive(procfs).then_some(held))
    }

    /// The descriptor of the process, where there is one.
    pub(super) fn handle(&self) -> Option<BorrowedFd<'_>> {
        match &self.handle {
            Handle::PidFd(handle) => Some(handle.as_fd()),
            Handle::Pid => None,
        }
    }

    /// Which process it is.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target
    }

    /// Another hold on the same process.
    ///
    /// # Errors
    ///
    /// Fails where the agent is out of descriptors.
    pub fn try_clone(&self) -> Result<Self, TargetError> {
        let pid = self.target.pid;
        let handle = match &self.handle {
            Handle::PidFd(handle) => Handle::PidFd(
                handle.try_clone().map_err(|source| TargetError::Hold { pid, source })?,
            ),
            Handle::Pid => Handle::Pid,
        };
        Ok(Self { target: self.target, handle, status: RefCell::default() })
    }

    /// What the kernel says of the process, or `None` where it is gone.
    ///
    /// One reading says its name and what it does with signals. The kernel writes the name first: who becomes
    /// another program in between has lost his handlers by then.
    ///
    /// # Errors
    ///
    /// Fails where `/proc` cannot be read.
    pub(crate) fn status(&self, procfs: &Procfs) -> Result<Option<Status>, TargetError> {
        let home = procfs.home(self.target.pid);
        let path = home.join(FILE);
        let mut held = self.status.borrow_mut();
        let file = held.take().map_or_else(|| self.open_status(procfs), |file| Ok(Some(file)))?;
        let Some(file) = file else { return Ok(None) };
        let mut text = [0; USUAL_STATUS];
        match if_there(&path, file.read_at(&mut text, 0))? {
            // Whoever is in very many groups has a long one, of which the kernel keeps as much memory as
            // long as the file is open.
            Some(USUAL_STATUS) => {
                drop(file);
                let status = Status::read_in(&home)?;
                Ok(status.filter(|_| self.is_alive(procfs)))
            }
            Some(length) => {
                *held = Some(file);
                Ok(Status::parse(&text[..length]))
            }
            None => Ok(None),
        }
    }

    fn open_status(&self, procfs: &Procfs) -> Result<Option<File>, TargetError> {
        let path = procfs.home(self.target.pid).join(FILE);
        let file = if_there(&path, File::open(&path))?;
        // If the process lives now nobody else can have had its pid, and the file is its own.
        Ok(if self.has_kept_pid(procfs)? { file } else { None })
    }

    /// Whether the process has not ended yet. A zombie has; one of which nothing can be learnt has not.
    #[must_use]
    pub fn is_alive(&self, procfs: &Procfs) -> bool {
        self.has_kept_pid(procfs).unwrap_or(true)
    }

    /// Whether the pid is still that of the process, for it lives.
    fn has_kept_pid(&self, procfs: &Procfs) -> Result<bool, TargetError> {
        match &self.handle {
            // A pidfd becomes readable when its process ends.
            Handle::PidFd(handle) => {
                let mut polled = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
                Ok(poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ended| ended == 0))
            }
            Handle::Pid => Ok(procfs.target(self.target.pid)? == Some(self.target)),
        }
    }

    /// Sends `signal` to the process.
    ///
    /// A seccomp filter may refuse `pidfd_send_signal(2)`, which it does not know, with what the kernel
    /// says to one who may not. So `kill(2)` is asked as well, and its answer counts.
    ///
    /// # Errors
    ///
    /// Fails where it is not allowed (`EPERM`). A process that is gone is [`Sent::Gone`].
    pub fn send(&self, procfs: &Procfs, signal: Signal) -> Result<Sent, TargetError> {
        let sent = match &self.handle {
            Handle::PidFd(handle) => match pidfd_send_signal(handle, signal) {
                Err(Errno::NOSYS | Errno::PERM) => self.kill(procfs, signal)?,
                sent => sent,
            },
            Handle::Pid => self.kill(procfs, signal)?,
        };
        match sent {
            Ok(()) => Ok(Sent::Delivered),
            Err(Errno::SRCH) => Ok(Sent::Gone),
            Err(errno) => Err(TargetError::Signal { pid: self.target.pid, source: errno.into() }),
        }
    }

    /// Sends by pid, having made sure that the pid is still that of the process.
    fn kill(&self, procfs: &Procfs, signal: Signal) -> Result<Result<(), Errno>, TargetError> {
        let pid = rustix::process::Pid::from_raw(self.target.pid.as_raw());
        Ok(match pid {
            Some(pid) if self.has_kept_pid(procfs)? => kill_process(pid, signal),
            _ => Err(Errno::SRCH),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::target::made::{Machine, stat};

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
        let target = procfs.target(pid_of(&child)).unwrap().unwrap();
        // A process that took over the pid started at another time.
        let earlier = Target { started: target.started - 1, ..target };
        let held = |target| Held { target, handle: Handle::Pid, status: RefCell::default() };
        let stale = held(earlier);
        assert_eq!(stale.status(&procfs).unwrap(), None);
        assert_eq!(stale.send(&procfs, Signal::KILL).unwrap(), Sent::Gone);
        assert_eq!(child.try_wait().unwrap(), None);

        let held = held(target);
        assert!(held.status(&procfs).unwrap().is_some());
        assert_eq!(held.send(&procfs, Signal::TERM).unwrap(), Sent::Delivered);
        child.wait().unwrap();
    }

    #[test]
    fn the_status_is_that_of_the_process_and_of_no_other() {
        let procfs = Procfs::default();
        let mut child = sleeper();
        let held = Held::open(&procfs, pid_of(&child)).unwrap().unwrap();
        assert!(held.status(&procfs).unwrap().unwrap().is_named("sleep"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held.status(&procfs).unwrap(), None, "it was open before");
        let late = Held { target: held.target, handle: Handle::Pid, status: RefCell::default() };
        assert_eq!(late.status(&procfs).unwrap(), None);
    }

    #[test]
    fn a_status_that_does_not_fit_is_read_all_the_same() {
        let machine = Machine::new(&[]);
        let target = Target { pid: Pid::from_raw(4), started: 7 };
        machine.write(4, "stat", stat("x", 1));
        let groups = "1000 ".repeat(USUAL_STATUS / 4);
        let text = format!(
            "Name:\tx\nState:\tS (sleeping)\nPid:\t4\nGroups:\t{groups}\nThreads:\t1\n\
             SigBlk:\t0\nSigIgn:\t0\nSigCgt:\t1\n"
        );
        machine.write(4, "status", text);
        let held = Held { target, handle: Handle::Pid, status: RefCell::default() };
        assert!(held.status(&machine.procfs).unwrap().unwrap().is_named("x"));
        assert!(held.status.borrow().is_none(), "the kernel would keep memory for it");
    }

    #[test]
    fn nobody_is_held_where_nobody_is() {
        // Above the highest pid that Linux ever hands out (2^22).
        let nobody = Pid::from_raw(i32::MAX);
        assert!(Held::open(&Procfs::default(), nobody).unwrap().is_none());
    }
}
