//! Execs and exits of the processes that may be targets.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes},
    programs::BtfTracePointContext,
};
use reload_ebpf::{COMM_LEN, Hook, ProcessRecord, RecordKind};

use crate::{
    emit::{Priority, emit, header},
    maps::NAMES,
    offsets::{OFF_BPRM_FILE, OFF_DENTRY_NAME, OFF_FILE_DENTRY, peek},
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
    if is_named {
        emit(ctx, ProcessRecord { header: header(ctx, kind) }, hook, Priority::Process, || ());
    }
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
