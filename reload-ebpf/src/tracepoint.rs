//! The strategy `tracepoint`: the kernel's own notes of change times, typed raw tracepoints.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use reload_ebpf::Hook;

use crate::change;

/// An inode of a multigrain filesystem (ext4, xfs, btrfs, tmpfs) got a new change time.
///
/// Hook: `ctime_ns_xchg` (Linux 6.13), in `inode_set_ctime_current`. Every write, truncation,
/// creation, link, unlink and rename sets the change time of the inodes that it touches, in the
/// task that asked for it (or its `io_uring` worker), and only when it has succeeded or cannot fail
/// any more. It fires *within* the operation: the agent must wait for the inode's lock, or for its
/// last writer, before it reads.
#[btf_tracepoint]
pub(crate) fn on_ctime_swap(ctx: BtfTracePointContext) -> i32 {
    let inode: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct inode`.
    unsafe { change::record(&ctx, inode, Hook::CtimeSwap) };
    0
}

/// As [`on_ctime_swap`], where the change time was already that of the current clock tick.
///
/// Hook: `ctime_xchg_skip` (Linux 6.13). Without it the second rename of a tick would be unseen.
#[btf_tracepoint]
pub(crate) fn on_ctime_skip(ctx: BtfTracePointContext) -> i32 {
    let inode: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct inode`.
    unsafe { change::record(&ctx, inode, Hook::CtimeSkip) };
    0
}

/// An inode's change time was set to a given value.
///
/// Hook: `inode_set_ctime_to_ts` (Linux 6.13). Filesystems without multigrain timestamps come here,
/// overlayfs above all, which copies the times of the upper inode when an operation is done; so does
/// every inode that is read from a disk, which changes nothing and costs a look at most.
#[btf_tracepoint]
pub(crate) fn on_ctime_set(ctx: BtfTracePointContext) -> i32 {
    let inode: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct inode`.
    unsafe { change::record(&ctx, inode, Hook::CtimeSet) };
    0
}
