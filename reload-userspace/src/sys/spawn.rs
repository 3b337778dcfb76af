//! How a command begins that is not to be a part of the agent.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use nix::{libc, sys::signal::SigSet};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal, setsid};

/// Has what `command` will start begin apart from us: in a session of its own, so without our
/// terminal, with the signals of a fresh process and no descriptor beyond the first three. It ends
/// with the thread that starts it.
pub fn set_apart(command: &mut Command) {
    let parent = getpid();
    let begin = move || {
        setsid()?;
        reset_signals()?;
        close_on_exec();
        end_with(parent)
    };
    // SAFETY: between `fork` and `exec` the closure makes system calls and nothing else: it takes no
    // lock and no memory, whatever other threads were about.
    unsafe { command.pre_exec(begin) };
}

/// Has this process be told when a child of its ends, also where whoever started it had it ignored.
pub fn hear_of_children() {
    reset_signal(libc::SIGCHLD);
}

/// Gives every signal its default action, and blocks none.
fn reset_signals() -> io::Result<()> {
    (1..=super::SIGNAL_MAX).for_each(reset_signal);
    SigSet::empty().thread_set_mask().map_err(io::Error::from)
}

fn reset_signal(number: i32) {
    // SAFETY: the default action runs no code of ours. What has no other action is refused.
    let _former = unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// Has every descriptor but the first three closed by the next `exec`.
///
/// All of ours are so anyway; these are for what whoever started the agent has left open.
fn close_on_exec() {
    const FIRST: libc::c_uint = 3;
    // By its number, for it is younger than some C libraries. Before Linux 5.11 it is refused.
    // SAFETY: the call takes integers; it marks descriptors and closes none.
    let _marked = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// Has this process killed when its parent ends.
fn end_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent in another pid namespace has no number. One that ended before we asked is replaced.
    if getppid().is_none_or(|now| now == parent) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}
