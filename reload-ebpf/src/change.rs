//! Changes of watched inodes.

use aya_ebpf::{
    EbpfContext as _,
    bindings::task_struct,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    programs::BtfTracePointContext,
};
use reload_ebpf::{Armed, CANARY, ChangeRecord, Hook, Key, NO_SYSCALL, RecordKind, SYSCALLS};

use crate::{
    emit::{Priority, emit, header},
    maps::{ARMED, CREATING, OBSERVER, PLACES},
    offsets::{OFF_INODE_INO, OFF_INODE_SB, OFF_REGS_SYSCALL, OFF_SB_DEV, member, peek},
};

/// Sends a [`ChangeRecord`] if the inode, the hook's first argument, is watched and armed.
///
/// Everything before the look-up runs for every inode of the machine: three loads.
#[inline]
pub(crate) fn record(ctx: &BtfTracePointContext, hook: Hook) {
    let inode: *const u8 = ctx.arg(0);
    // SAFETY: the hook's first argument is a `struct inode`.
    let number = unsafe { member::<u64>(inode, &OFF_INODE_INO) };
    // SAFETY: as above.
    let superblock = unsafe { member::<*const u8>(inode, &OFF_INODE_SB) };
    // SAFETY: `superblock` is the pointer that was just read from the inode.
    let device = unsafe { member::<u32>(superblock, &OFF_SB_DEV) };
    let key = Key { inode: number, device: u64::from(device) };
    // SAFETY: the value is copied at once. Numbers are handed out again and entries reused, so it
    // may be that of another place: then that one is looked at in vain.
    let Some(place) = (unsafe { PLACES.get(key) }).copied() else {
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
    let syscall = syscall(ctx);
    if state == Armed::Replacement as u32 && is_creating(syscall) {
        return;
    }
    let record =
        ChangeRecord { header: header(ctx, RecordKind::Change), syscall, place, reserved: 0 };
    // Silent once there is room for the record, so that a place whose record is dropped stays armed;
    // and before the record can be seen, so that it cannot undo the agent's next arming.
    emit(ctx, record, hook, Priority::Low, || {
        // SAFETY: as above.
        unsafe { armed.write_volatile(Armed::Silent as u32) };
    });
}

/// Whether the agent itself is the process that acts.
fn is_own() -> bool {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    OBSERVER.get(0).is_some_and(|observer| observer.tgid == tgid)
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
fn syscall(ctx: &BtfTracePointContext) -> i64 {
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
