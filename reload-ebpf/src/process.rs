//! What the processes do that may be targets: execs, exits, forks, and the signals for them.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes},
    programs::BtfTracePointContext,
};
use reload_ebpf::{
    COMM_LEN, DeliveryRecord, ForkRecord, Hook, ProcessRecord, RecordKind, SignalRecord,
};

use crate::{
    emit::{Priority, current, emit, header, visible_pid},
    maps::NAMES,
    offsets::{
        OFF_ACTION_HANDLER, OFF_BPRM_FILE, OFF_DENTRY_NAME, OFF_FILE_DENTRY, OFF_TASK_COMM,
        OFF_TASK_LEADER, peek, peek_at,
    },
};

/// Sends a [`ProcessRecord`] if the current process bears one of the names that the agent looks for.
///
/// A name is that of the task or, at an exec, that of the executable, both cut to 15 bytes as the
/// kernel cuts the first. The agent compares the whole name.
#[inline]
pub(crate) fn record(ctx: &BtfTracePointContext, hook: Hook, kind: RecordKind) {
    let id = bpf_get_current_pid_tgid();
    // A thread that ends is not the end of the process; only its leader's is.
    if id >> 32 != id & u64::from(u32::MAX) {
        return;
    }
    let is_named = ctx.command().is_ok_and(is_looked_for)
        || (hook == Hook::Exec && executable(ctx.arg(2)).is_some_and(is_looked_for));
    if !is_named {
        return;
    }
    let header = header(ctx, kind);
    // Whoever is not visible to the agent is none of its processes, whatever he is called.
    if header.pid != 0 {
        emit(ctx, ProcessRecord { header }, hook, Priority::Process, || ());
    }
}

/// Sends a [`ForkRecord`] if the current process bears one of the names, and the new task is a process.
#[inline]
pub(crate) fn fork(ctx: &BtfTracePointContext) {
    let child: *const u8 = ctx.arg(1);
    let is_process = peek::<*const u8>(child, &OFF_TASK_LEADER) == Some(child);
    if !is_process || !is_named(current()) {
        return;
    }
    let header = header(ctx, RecordKind::Fork);
    if header.pid == 0 {
        return;
    }
    let record = ForkRecord { header, child: visible_pid(child).unwrap_or(0), reserved: 0 };
    emit(ctx, record, Hook::Fork, Priority::Process, || ());
}

/// Sends a [`SignalRecord`] if the process that a signal is for bears one of the names.
#[inline]
pub(crate) fn signal(ctx: &BtfTracePointContext) {
    let target: *const u8 = ctx.arg(2);
    if !is_named(target) {
        return;
    }
    // Whoever is not visible to the agent is none of its processes, whatever he is called.
    let Some(visible) = visible_pid(target) else {
        return;
    };
    let record = SignalRecord {
        header: header(ctx, RecordKind::Signal),
        target: visible,
        signal: ctx.arg(0),
        result: ctx.arg(4),
        by_kernel: u32::from(is_by_kernel(ctx.arg(1))),
    };
    emit(ctx, record, Hook::Signal, Priority::Process, || ());
}

/// Whether the kernel itself sends a signal with this `kernel_siginfo`, and not whoever runs: timers, what is
/// ready to be read and children that end all interrupt somebody who has nothing to do with it.
fn is_by_kernel(info: *const u8) -> bool {
    /// What stands in place of one: `SEND_SIG_NOINFO`, by a process, and `SEND_SIG_PRIV`, by the kernel.
    const NONE: usize = 0;
    const PRIVILEGED: usize = 1;
    /// Where `si_code` is (`struct kernel_siginfo`, as in user space), and what it is where a process sends it:
    /// `SI_USER`, `SI_QUEUE`, `SI_TKILL` (`sigaction(2)`).
    const CODE: usize = 8;
    const BY_PROCESSES: [i32; 3] = [0, -1, -6];
    match info.addr() {
        NONE => false,
        PRIVILEGED => true,
        _ => peek_at::<i32>(info, CODE).is_some_and(|code| !BY_PROCESSES.contains(&code)),
    }
}

/// Sends a [`DeliveryRecord`] if the current process bears one of the names.
#[inline]
pub(crate) fn deliver(ctx: &BtfTracePointContext) {
    if !is_named(current()) {
        return;
    }
    let Some(handler) = peek::<usize>(ctx.arg(2), &OFF_ACTION_HANDLER) else {
        return;
    };
    let header = header(ctx, RecordKind::Delivery);
    if header.pid == 0 {
        return;
    }
    let record = DeliveryRecord {
        header,
        signal: ctx.arg(0),
        // `SIG_DFL`, `SIG_IGN`, or the address of a handler.
        action: match handler {
            0 => 0,
            1 => 1,
            _ => 2,
        },
    };
    emit(ctx, record, Hook::Deliver, Priority::Process, || ());
}

/// Whether the process of a task bears one of the names.
fn is_named(task: *const u8) -> bool {
    let leader = peek::<*const u8>(task, &OFF_TASK_LEADER);
    leader.and_then(|leader| peek(leader, &OFF_TASK_COMM)).is_some_and(is_looked_for)
}

fn is_looked_for(name: [u8; COMM_LEN]) -> bool {
    // SAFETY: only the presence of the value is used, not the value.
    unsafe { NAMES.get(name) }.is_some()
}

/// The base name of the file that is executed, from the `struct linux_binprm` of the exec.
fn executable(program: *const u8) -> Option<[u8; COMM_LEN]> {
    let file: *const u8 = peek(program, &OFF_BPRM_FILE)?;
    let dentry: *const u8 = peek(file, &OFF_FILE_DENTRY)?;
    let text: *const u8 = peek(dentry, &OFF_DENTRY_NAME)?;
    let mut name = [0; COMM_LEN];
    // SAFETY: the helper checks the address itself, and writes no more than the buffer holds.
    unsafe { bpf_probe_read_kernel_str_bytes(text, &mut name) }.ok()?;
    Some(name)
}
