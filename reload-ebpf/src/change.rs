//! Changes of watched inodes.

use core::num::NonZero;

use aya_ebpf::{
    EbpfContext,
    bindings::task_struct,
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};
use reload_ebpf::{Armed, CANARY, ChangeRecord, Hook, NO_SYSCALL, RecordKind, SYSCALLS};

use crate::{
    emit::{Priority, emit, header, is_own},
    maps::{ARMED, CREATING},
    offsets::{OFF_REGS_SYSCALL, peek},
    place,
};

/// Sends a [`ChangeRecord`] if the inode is watched, and armed for what the hook tells of.
///
/// # Safety
///
/// `inode` is a `struct inode`, as the verifier knows it.
#[inline]
pub(crate) unsafe fn record(ctx: &impl EbpfContext, inode: *const u8, hook: Hook) {
    // SAFETY: as the caller says.
    unsafe { record_since(ctx, inode, hook, None) };
}

/// As [`record`], of what began then, in nanoseconds since boot, if that is known. No other number than zero
/// says that it is not: the verifier wants to know all of an argument.
///
/// # Safety
///
/// As [`record`].
#[inline]
pub(crate) unsafe fn record_since(
    ctx: &impl EbpfContext,
    inode: *const u8,
    hook: Hook,
    began: Option<NonZero<u64>>,
) {
    // SAFETY: the caller says what it is.
    let Some(place) = (unsafe { place::of(inode) }) else {
        return;
    };
    let Some(armed) = ARMED.get_ptr_mut(place) else {
        return;
    };
    // SAFETY: the pointer is of a map value, which lives as long as the map. Two processors may
    // both see it armed: then there are two records of one change, which is harmless.
    let state = unsafe { armed.read_volatile() };
    if state == Armed::Silent as u32 || (place != CANARY && is_own()) {
        return;
    }
    if state == Armed::End as u32 && hook.is_under_way() {
        return;
    }
    let syscall = syscall(ctx);
    if state == Armed::Replacement as u32
        && hook.is_creating().unwrap_or_else(|| is_creating(syscall))
    {
        return;
    }
    let mut header = header(ctx, RecordKind::Change);
    header.boot_ns = began.map_or(header.boot_ns, NonZero::get);
    let record = ChangeRecord { header, syscall, place, hook: hook as u32 };
    let priority = if hook.is_under_way() { Priority::Repeated } else { Priority::Change };
    // Silent once there is room for the record, so that a place whose record is dropped stays armed;
    // and before the record can be seen, so that it cannot undo the agent's next arming.
    emit(ctx, record, hook, priority, || {
        if state != Armed::Every as u32 {
            // SAFETY: as above.
            unsafe { armed.write_volatile(Armed::Silent as u32) };
        }
    });
}

/// Whether a system call only ever adds names.
fn is_creating(syscall: i64) -> bool {
    let number = u32::try_from(syscall).unwrap_or(SYSCALLS);
    CREATING.get(number).is_some_and(|&creating| creating != 0)
}

/// The number of the system call that the current task is in.
///
/// A worker of `io_uring` is in none: its registers are a copy of those of the task that it was made
/// for.
pub(crate) fn syscall(ctx: &impl EbpfContext) -> i64 {
    if ctx.command().is_ok_and(|name| name.starts_with(b"iou-")) {
        return NO_SYSCALL;
    }
    // SAFETY: the helper takes no argument and every tracing program may call it (Linux 5.11).
    let task: *mut task_struct = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the task is the one that the helper above gave (Linux 5.15).
    let registers = unsafe { bpf_task_pt_regs(task) } as *const u8;
    // Four bytes: all there are on arm64, and the lower ones of eight on x86-64.
    peek::<i32>(registers, &OFF_REGS_SYSCALL).map_or(NO_SYSCALL, i64::from)
}
