//! What a process would do with a signal.

use std::{fs, io, os::unix::fs::FileExt as _, path::Path};

use nix::{libc, unistd::Pid};
use rustix::process::Signal;

use super::{
    Procfs, TargetError,
    procfs::{entries, if_there, read, tasks},
    status::{Status, signals},
};

/// What a process would do with one signal if it came now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// A handler runs.
    Caught,
    /// It is blocked, and somebody waits for it: a signalfd, or a thread in `sigwait(3)`.
    Awaited,
    /// It is blocked in every thread, and nobody is seen to wait for it: it stays pending, and ends or
    /// stops the process if it is ever let through.
    Blocked,
    /// Nothing comes of it: it is ignored, or nobody has said what to do about it and it is one of
    /// those that are ignored then (`CHLD`, `CONT`, `URG`, `WINCH`).
    Ignored,
    /// Nobody has said what to do about it, and so it stops the process (`STOP`, `TSTP`, `TTIN`,
    /// `TTOU`).
    Stops,
    /// Nobody has said what to do about it, and so it ends the process.
    Ends,
    /// Nobody has said what to do about it, and the process is the first of its pid namespace, so the
    /// kernel drops it (`pid_namespaces(7)`).
    DroppedByInit,
    /// The process has ended, and only waits to be reaped.
    Zombie,
}

/// Who takes a signal that has no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    /// A thread that does not block it.
    Anybody,
    /// It is blocked in every thread.
    Nobody,
    /// It is blocked, and somebody waits for it.
    Waiter,
}

impl Procfs {
    /// Whether the process is the first of its pid namespace, as that of a container is; not where that cannot
    /// be told.
    #[must_use]
    pub fn is_first_of_its_namespace(&self, pid: Pid) -> bool {
        matches!(self.status(pid), Ok(Some(status)) if status.innermost == 1)
    }

    /// What the process would do with `signal`, or `None` where it is gone.
    ///
    /// For a signal that is caught that is one read. Who waits for one can only be seen with the right
    /// to trace the process (the same uid, or `CAP_SYS_PTRACE`).
    ///
    /// # Errors
    ///
    /// Fails where `/proc` cannot be read.
    pub fn disposition(
        &self,
        pid: Pid,
        signal: Signal,
    ) -> Result<Option<Disposition>, TargetError> {
        let status = self.status(pid)?;
        status.map(|status| self.disposition_of(pid, &status, signal)).transpose()
    }

    /// What a process does with signals, and its name; `None` where it is gone.
    pub(crate) fn status(&self, pid: Pid) -> Result<Option<Status>, TargetError> {
        Status::read_in(&self.home(pid))
    }

    /// What it would do with `signal`, as its status says.
    pub(crate) fn disposition_of(
        &self,
        pid: Pid,
        status: &Status,
        signal: Signal,
    ) -> Result<Disposition, TargetError> {
        let bit = bit(signal);
        if status.is_zombie() {
            return Ok(Disposition::Zombie);
        }
        if status.caught & bit != 0 {
            return Ok(Disposition::Caught);
        }
        let taker = taker(&self.home(pid), bit)?;
        Ok(if taker == Taker::Waiter {
            Disposition::Awaited
        } else if status.ignored & bit != 0 || is_ignored_by_default(signal) {
            Disposition::Ignored
        } else if status.innermost == 1 && !is_forced_upon(pid, signal) {
            Disposition::DroppedByInit
        } else if taker == Taker::Nobody {
            Disposition::Blocked
        } else if is_stop(signal) {
            Disposition::Stops
        } else {
            Disposition::Ends
        })
    }
}

/// Whether the first process of a pid namespace obeys the signal: KILL and STOP are forced upon it from
/// outside of its namespace only (`pid_namespaces(7)`), and in its own it is pid 1 for the agent too.
fn is_forced_upon(pid: Pid, signal: Signal) -> bool {
    [Signal::KILL, Signal::STOP].contains(&signal) && pid.as_raw() != 1
}

/// Whether the default action is to do nothing, `signal(7)`; CONT does nothing to who is not stopped.
fn is_ignored_by_default(signal: Signal) -> bool {
    [Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH].contains(&signal)
}

/// Whether the default action is to stop the process, `signal(7)`.
fn is_stop(signal: Signal) -> bool {
    [Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU].contains(&signal)
}

/// Finds out who takes a signal that has no handler.
fn taker(home: &Path, bit: u64) -> Result<Taker, TargetError> {
    let tasks = tasks(home)?;
    let mut taker = Taker::Nobody;
    let mut has_any = false;
    for task in &tasks {
        let Some(status) = Status::read_in(task)?.filter(|status| !status.has_ended) else {
            continue;
        };
        has_any = true;
        if status.blocked & bit != 0 {
            continue;
        }
        // While a thread waits, what it waits for counts as let through.
        if !waits(task, bit, tasks.len() > 1)? {
            return Ok(Taker::Anybody);
        }
        taker = Taker::Waiter;
    }
    if !has_any {
        return Ok(Taker::Anybody);
    }
    if taker == Taker::Nobody && has_signalfd(home, bit)? {
        taker = Taker::Waiter;
    }
    Ok(taker)
}

/// Whether a thread is in `sigwait(3)` or one of its like for the signal.
///
/// Which signals these are is in its memory. Where that may not be read, one of several threads that
/// waits for signals and alone does not block this one is taken to wait for it.
fn waits(task: &Path, bit: u64, is_one_of_several: bool) -> Result<bool, TargetError> {
    let Some(call) = read(&task.join("syscall"))? else {
        let function = read(&task.join("wchan"))?.unwrap_or_default();
        return Ok(is_one_of_several && function.ends_with(b"sigtimedwait"));
    };
    let Some(address) = awaited_set(&String::from_utf8_lossy(&call)) else {
        return Ok(false);
    };
    let memory = task.join("mem");
    let mut set = [0; 8];
    let is_read = fs::File::open(&memory).and_then(|it| it.read_exact_at(&mut set, address));
    match is_read {
        Ok(()) => Ok(u64::from_ne_bytes(set) & bit != 0),
        // It has gone on, and its memory is another's.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(false),
        Err(error) => Ok(if_there::<bool>(&memory, Err(error))?.unwrap_or(false)),
    }
}

/// Takes the address of the set of signals from `/proc/<pid>/syscall`, if a thread waits for some.
fn awaited_set(call: &str) -> Option<u64> {
    let (number, arguments) = call.trim().split_once(' ')?;
    let is_wait = number.parse() == Ok(libc::SYS_rt_sigtimedwait);
    let first = arguments.split(' ').next()?.strip_prefix("0x")?;
    u64::from_str_radix(first, 16).ok().filter(|_| is_wait)
}

/// Whether the process has a signalfd that takes the signal.
fn has_signalfd(home: &Path, bit: u64) -> Result<bool, TargetError> {
    for entry in entries(&home.join("fd"))? {
        let link = if_there(&entry, fs::read_link(&entry))?;
        if link.is_none_or(|link| link != Path::new("anon_inode:[signalfd]")) {
            continue;
        }
        let Some(number) = entry.file_name() else {
            continue;
        };
        let info = read(&home.join("fdinfo").join(number))?.unwrap_or_default();
        let info = String::from_utf8_lossy(&info);
        let set = info.lines().find_map(|line| line.strip_prefix("sigmask:")).and_then(signals);
        if set.is_some_and(|set| set & bit != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bit that stands for the signal in a set.
fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::target::made::Machine;

    use super::*;

    const NONE: u64 = 0;
    const HUP: u64 = 1;
    const WINCH: u64 = 1 << 27;
    const TSTP: u64 = 1 << 19;

    /// What is told of a process whose pid in its own namespace is `innermost`.
    fn status(innermost: i32, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nState:\tS (sleeping)\nTgid:\t4\nPid:\t4\nNSpid:\t4\t{innermost}\n\
             Threads:\t1\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    fn of(machine: &Machine, signal: Signal) -> Option<Disposition> {
        machine.procfs.disposition(Pid::from_raw(4), signal).unwrap()
    }

    fn check(status: &str, signal: Signal, expected: Disposition) {
        let machine = Machine::new(&[]);
        machine.write(4, "status", status);
        machine.write(4, "task/4/status", status);
        assert_eq!(of(&machine, signal), Some(expected), "for {signal:?} and {status}");
    }

    #[test]
    fn the_first_of_a_namespace_is_known_from_outside() {
        let is_first = |text: &str| {
            let machine = Machine::new(&[]);
            machine.write(4, "status", text);
            machine.procfs.is_first_of_its_namespace(Pid::from_raw(4))
        };
        assert!(is_first(&status(1, NONE, NONE, NONE)));
        assert!(!is_first(&status(4, NONE, NONE, NONE)));
        assert!(!is_first(""));
    }

    #[test]
    fn a_handler_or_the_default_action_decides() {
        use Disposition::{Blocked, Caught, DroppedByInit, Ends, Ignored, Stops, Zombie};
        check(&status(4, NONE, NONE, HUP), Signal::HUP, Caught);
        check(&status(4, HUP, NONE, HUP), Signal::HUP, Caught);
        check(&status(4, NONE, NONE, HUP), Signal::USR1, Ends);
        check(&status(4, NONE, NONE, NONE), Signal::KILL, Ends);
        check(&status(4, NONE, HUP, NONE), Signal::HUP, Ignored);
        check(&status(4, HUP, HUP, NONE), Signal::HUP, Ignored);
        check(&status(4, HUP, NONE, NONE), Signal::HUP, Blocked);
        check(&status(4, NONE, NONE, NONE), Signal::WINCH, Ignored);
        check(&status(4, NONE, NONE, WINCH), Signal::WINCH, Caught);
        check(&status(4, NONE, NONE, NONE), Signal::CONT, Ignored);
        check(&status(4, NONE, NONE, NONE), Signal::TSTP, Stops);
        check(&status(4, NONE, NONE, TSTP), Signal::TSTP, Caught);
        check(&status(4, NONE, NONE, NONE), Signal::STOP, Stops);
        check(&status(1, NONE, NONE, HUP), Signal::HUP, Caught);
        check(&status(1, NONE, NONE, NONE), Signal::HUP, DroppedByInit);
        check(&status(1, NONE, NONE, NONE), Signal::TERM, DroppedByInit);
        check(&status(1, HUP, NONE, NONE), Signal::HUP, DroppedByInit);
        check(&status(1, NONE, HUP, NONE), Signal::HUP, Ignored);
        // From outside of its namespace.
        check(&status(1, NONE, NONE, NONE), Signal::KILL, Ends);
        let zombie = status(4, NONE, NONE, HUP).replace("S (sl", "Z (zo");
        check(&zombie, Signal::HUP, Zombie);
        // Only its first thread has ended.
        check(&zombie.replace("Threads:\t1", "Threads:\t2"), Signal::HUP, Caught);
        let real_time = crate::sys::signal(64).unwrap();
        check(&status(4, NONE, NONE, 1 << 63), real_time, Caught);
        check(&status(4, NONE, NONE, NONE), real_time, Ends);
    }

    #[test]
    fn in_its_own_namespace_nothing_is_forced_upon_pid_1() {
        let machine = Machine::new(&[]);
        machine.write(1, "status", status(1, NONE, NONE, NONE).replace("\t4\t1\n", "\t1\n"));
        for signal in [Signal::KILL, Signal::STOP, Signal::TERM] {
            let disposition = machine.procfs.disposition(Pid::from_raw(1), signal).unwrap();
            assert_eq!(disposition, Some(Disposition::DroppedByInit), "for {signal:?}");
        }
    }

    #[test]
    fn who_is_gone_does_nothing() {
        assert_eq!(of(&Machine::new(&[]), Signal::HUP), None);
    }

    #[test]
    fn a_signalfd_waits_for_the_signals_in_its_mask() {
        let with = |blocked: &[u64], mask: u64| {
            let machine = Machine::new(&[]);
            machine.write(4, "status", status(4, blocked[0], NONE, NONE));
            for (number, &blocked) in blocked.iter().enumerate() {
                let name = format!("task/{}/status", number + 4);
                machine.write(4, &name, status(4, blocked, NONE, NONE));
            }
            machine.link("4", "fd/0", "/dev/null");
            machine.link("4", "fd/3", "anon_inode:[signalfd]");
            machine.write(4, "fdinfo/3", format!("pos:\t0\nsigmask:\t{mask:016x}\n"));
            of(&machine, Signal::HUP).unwrap()
        };
        assert_eq!(with(&[HUP], HUP), Disposition::Awaited);
        assert_eq!(with(&[HUP, HUP | TSTP], HUP | WINCH), Disposition::Awaited);
        assert_eq!(with(&[HUP], WINCH), Disposition::Blocked);
        // A thread that lets it through may be the one that gets it.
        assert_eq!(with(&[HUP, NONE], HUP), Disposition::Ends);
        assert_eq!(with(&[NONE], HUP), Disposition::Ends);
    }

    #[test]
    fn a_thread_waits_for_the_set_in_its_memory() {
        let call = |number: i64| format!("{number} 0x10 0x0 0x0 0x8 0x0 0x0 0x7ffc 0x7f00\n");
        let with = |call: Option<&str>, memory: u64, wchan: &str, others: Option<u64>| {
            let machine = Machine::new(&[]);
            machine.write(4, "status", status(4, NONE, NONE, NONE));
            machine.write(4, "task/4/status", status(4, NONE, NONE, NONE));
            if let Some(call) = call {
                machine.write(4, "task/4/syscall", call);
            }
            machine.write(
                4,
                "task/4/mem",
                [[0; 16], memory.to_ne_bytes().repeat(2).try_into().unwrap()].concat(),
            );
            machine.write(4, "task/4/wchan", wchan);
            if let Some(blocked) = others {
                machine.write(4, "task/5/status", status(4, blocked, NONE, NONE));
            }
            of(&machine, Signal::HUP).unwrap()
        };
        let waiting = &*call(libc::SYS_rt_sigtimedwait);
        assert_eq!(with(Some(waiting), HUP, "", None), Disposition::Awaited);
        assert_eq!(with(Some(waiting), HUP | TSTP, "", Some(HUP)), Disposition::Awaited);
        assert_eq!(with(Some(waiting), TSTP, "", None), Disposition::Ends);
        assert_eq!(with(Some(waiting), HUP, "", Some(NONE)), Disposition::Ends);
        assert_eq!(with(Some(&call(libc::SYS_pause)), HUP, "", None), Disposition::Ends);
        assert_eq!(with(Some("running\n"), HUP, "", None), Disposition::Ends);
        assert_eq!(with(Some("-1 0x7ffc 0x7f00\n"), HUP, "", None), Disposition::Ends);
        // What it waits for may not be read.
        assert_eq!(with(None, NONE, "do_sigtimedwait", Some(HUP)), Disposition::Awaited);
        assert_eq!(with(None, NONE, "do_sigtimedwait", None), Disposition::Ends);
        assert_eq!(with(None, NONE, "ep_poll", Some(HUP)), Disposition::Ends);
    }

    #[test]
    fn a_name_forges_no_line() {
        let forged = status(4, NONE, NONE, NONE).replace("Name:\tx", "Name:\tx\\nSigCgt:\\t1");
        check(&forged, Signal::HUP, Disposition::Ends);
    }

    #[test]
    fn what_cannot_be_looked_at_is_no_answer() {
        let machine = Machine::new(&[]);
        fs::create_dir_all(machine.home(4).join("status")).unwrap();
        let answer = machine.procfs.disposition(Pid::from_raw(4), Signal::HUP);
        assert!(matches!(answer, Err(TargetError::Read { .. })), "{answer:?}");
    }
}
