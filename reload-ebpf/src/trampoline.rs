//! The strategy `trampoline`: kernel functions, at their entry (fentry) or their end (fexit).
//!
//! Those at the entry fire before the operation, in a task that has the file open for writing or the
//! directory locked until it is done: the agent waits for that. Those at the end fire when it has
//! succeeded. Which functions they are attached to, and what must be known of these, stands in the
//! agent's `source/ebpf/strategy.rs`.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use reload_ebpf::Hook;

use crate::{
    begun, change,
    offsets::{
        OFF_DENTRY_INODE, OFF_FILE_INODE, OFF_FILE_MODE, OFF_INODE_MODE, OFF_RENAME_NEW,
        OFF_RENAME_OLD, RENAME_HAS_DENTRIES, member,
    },
    open,
};

/// Somebody is about to write to a file.
///
/// Hook: fentry on `security_file_permission(file, mask)`, which every way to write passes: `write(2)`
/// and its kin, `io_uring`, `splice(2)`, `copy_file_range(2)`, reflinks, `fallocate(2)`. Readers pass
/// it too, so the mask comes first. What the kernel writes on its own behalf (a loop device, process
/// accounting, a core dump) does not pass it: that is seen when the file is closed.
#[fentry]
pub(crate) fn on_write(ctx: FEntryContext) -> i32 {
    /// `MAY_WRITE` of `include/linux/fs.h`.
    const MAY_WRITE: i32 = 2;
    if ctx.arg::<i32>(1) & MAY_WRITE != 0 {
        // SAFETY: the first argument is a `struct file`.
        unsafe { file(&ctx, ctx.arg(0), Hook::Write) };
    }
    0
}

/// Somebody maps a file so that stores change it, which nothing announces one by one.
///
/// Hook: fentry on `security_mmap_file(file, prot, flags)`. The file is null for anonymous memory:
/// what is read through it is zero then, and no watched place.
#[fentry]
pub(crate) fn on_map(ctx: FEntryContext) -> i32 {
    const PROT_WRITE: u64 = 2;
    const MAP_SHARED: u64 = 1;
    if ctx.arg::<u64>(1) & PROT_WRITE != 0 && ctx.arg::<u64>(2) & MAP_SHARED != 0 {
        // SAFETY: the first argument is a `struct file`.
        unsafe { file(&ctx, ctx.arg(0), Hook::Map) };
    }
    0
}

/// The last reference to an open file goes: whoever could write through it cannot any more, be it by a
/// copy of the descriptor or by a mapping.
///
/// Hook: fentry on `security_file_release(file)` (Linux 6.9) or `__fput(file)`. The file is still
/// counted in `inode.i_writecount` then, until the filesystem has done what it does at the end.
#[fentry]
pub(crate) fn on_close(ctx: FEntryContext) -> i32 {
    /// `FMODE_WRITE` of `include/linux/fs.h`.
    const FMODE_WRITE: u32 = 2;
    let opened: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct file`.
    let mode = unsafe { member::<u32>(opened, &OFF_FILE_MODE) };
    if mode & FMODE_WRITE != 0 {
        // SAFETY: as above.
        unsafe { file(&ctx, opened, Hook::Close) };
    }
    0
}

/// Somebody has opened a file: whether a target has read its new configuration.
///
/// Hook: fexit on `security_file_open(file)`, which also refuses it. Attached only where reloads are
/// confirmed.
#[fexit]
pub(crate) fn on_open(ctx: FExitContext) -> i32 {
    /// `FMODE_READ` of `include/linux/fs.h`.
    const FMODE_READ: u32 = 1;
    if !has_succeeded(&ctx) {
        return 0;
    }
    let opened: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct file`.
    let mode = unsafe { member::<u32>(opened, &OFF_FILE_MODE) };
    // SAFETY: as above.
    let inode = unsafe { member::<*const u8>(opened, &OFF_FILE_INODE) };
    // SAFETY: the inode was read from it.
    if mode & FMODE_READ != 0 && unsafe { is_regular(inode) } {
        // SAFETY: the argument is a `struct file`.
        unsafe { open::record(&ctx, opened) };
    }
    0
}

/// A name for a new file is about to be made, by `open(2)` with `O_CREAT` above all.
///
/// Hook: fentry on `security_inode_create(dir, dentry, mode)`, with the directory locked. There is no
/// function at whose end every new file has passed.
#[fentry]
pub(crate) fn on_create(ctx: FEntryContext) -> i32 {
    // SAFETY: the first argument is the directory, a `struct inode`.
    unsafe { change::record(&ctx, ctx.arg(0), Hook::Create) };
    0
}

/// The size or another attribute of a file was set: `truncate(2)`, `O_TRUNC`, `chmod(2)`.
///
/// Hook: fexit on `notify_change(idmap, dentry, ...)`.
#[fexit]
pub(crate) fn on_attributes(ctx: FExitContext) -> i32 {
    let began = begun::take(ctx.arg(1));
    if has_succeeded(&ctx) {
        // SAFETY: the second argument is a `struct dentry`.
        let inode = unsafe { member::<*const u8>(ctx.arg(1), &OFF_DENTRY_INODE) };
        // SAFETY: the inode was read from it.
        unsafe { change::record_since(&ctx, inode, Hook::Attributes, began) };
    }
    0
}

/// An attribute of a file is about to be set.
///
/// Hook: fentry on what [`on_attributes`] is at the end of. This one and the others like it are attached only
/// where the agent traces.
#[fentry]
pub(crate) fn on_attr_begin(ctx: FEntryContext) -> i32 {
    begun::note(ctx.arg(1));
    0
}

/// A name was moved, or exchanged with another.
///
/// Hook: fexit on `vfs_rename(struct renamedata *)` (Linux 5.12), whose directories became dentries in
/// Linux 6.18.
#[fexit]
pub(crate) fn on_rename(ctx: FExitContext) -> i32 {
    let began = begun::take(ctx.arg(0));
    if has_succeeded(&ctx) {
        // SAFETY: the argument is a `struct renamedata`.
        let (old, new) = unsafe { renamed(ctx.arg(0)) };
        // SAFETY: both were read from it.
        unsafe { change::record_since(&ctx, new, Hook::Rename, began) };
        if old != new {
            // SAFETY: as above.
            unsafe { change::record_since(&ctx, old, Hook::Rename, began) };
        }
    }
    0
}

/// A name is about to be moved, or exchanged with another.
///
/// Hook: fentry on what [`on_rename`] is at the end of.
#[fentry]
pub(crate) fn on_rename_begin(ctx: FEntryContext) -> i32 {
    begun::note(ctx.arg(0));
    0
}

/// A file got another name.
///
/// Hook: fexit on `vfs_link(old_dentry, idmap, dir, ...)`.
#[fexit]
pub(crate) fn on_link(ctx: FExitContext) -> i32 {
    let began = begun::take(ctx.arg(0));
    if has_succeeded(&ctx) {
        // SAFETY: the third argument is the directory.
        unsafe { change::record_since(&ctx, ctx.arg(2), Hook::Link, began) };
    }
    0
}

/// A file is about to get another name.
///
/// Hook: fentry on what [`on_link`] is at the end of.
#[fentry]
pub(crate) fn on_link_begin(ctx: FEntryContext) -> i32 {
    begun::note(ctx.arg(0));
    0
}

/// A symlink was made.
///
/// Hook: fexit on `vfs_symlink(idmap, dir, ...)`.
#[fexit]
pub(crate) fn on_symlink(ctx: FExitContext) -> i32 {
    entry(&ctx, Hook::Symlink);
    0
}

/// A directory was made.
///
/// Hook: fexit on `vfs_mkdir(idmap, dir, ...)`. What it returns is a dentry since Linux 6.15, so a
/// failure is not looked for: it costs a look.
#[fexit]
pub(crate) fn on_mkdir(ctx: FExitContext) -> i32 {
    // SAFETY: the second argument is the directory that it is in.
    unsafe { change::record(&ctx, ctx.arg(1), Hook::Mkdir) };
    0
}

/// A name was removed.
///
/// Hook: fexit on `vfs_unlink(idmap, dir, dentry, ...)`.
#[fexit]
pub(crate) fn on_unlink(ctx: FExitContext) -> i32 {
    let began = begun::take(ctx.arg(2));
    if has_succeeded(&ctx) {
        // SAFETY: the second argument is the directory.
        unsafe { change::record_since(&ctx, ctx.arg(1), Hook::Unlink, began) };
    }
    0
}

/// A name is about to be removed.
///
/// Hook: fentry on what [`on_unlink`] is at the end of.
#[fentry]
pub(crate) fn on_unlink_begin(ctx: FEntryContext) -> i32 {
    begun::note(ctx.arg(2));
    0
}

/// A directory was removed.
///
/// Hook: fexit on `vfs_rmdir(idmap, dir, ...)`.
#[fexit]
pub(crate) fn on_rmdir(ctx: FExitContext) -> i32 {
    entry(&ctx, Hook::Rmdir);
    0
}

/// Records a change of the directory that is the hook's second argument, if there was one.
#[inline]
fn entry(ctx: &FExitContext, hook: Hook) {
    if has_succeeded(ctx) {
        // SAFETY: for the hooks that come here it is a `struct inode`.
        unsafe { change::record(ctx, ctx.arg(1), hook) };
    }
}

/// Records a change of a regular file that is open.
///
/// # Safety
///
/// `opened` is a `struct file` of the hook.
#[inline]
unsafe fn file(ctx: &FEntryContext, opened: *const u8, hook: Hook) {
    // SAFETY: the caller says what it is.
    let inode = unsafe { member::<*const u8>(opened, &OFF_FILE_INODE) };
    // SAFETY: the inode was read from it.
    if unsafe { is_regular(inode) } {
        // SAFETY: as above.
        unsafe { change::record(ctx, inode, hook) };
    }
}

/// Whether it is a file with content, and no pipe, socket, device or directory.
///
/// # Safety
///
/// `inode` is a `struct inode` of the hook.
#[inline]
unsafe fn is_regular(inode: *const u8) -> bool {
    /// `S_IFMT` and `S_IFREG` of `inode(7)`.
    const FORMAT: u16 = 0o170_000;
    const REGULAR: u16 = 0o100_000;
    // SAFETY: the caller says what it is.
    let mode = unsafe { member::<u16>(inode, &OFF_INODE_MODE) };
    mode & FORMAT == REGULAR
}

/// The directories of a rename.
///
/// # Safety
///
/// `data` is a `struct renamedata` of the hook.
#[inline]
unsafe fn renamed(data: *const u8) -> (*const u8, *const u8) {
    // SAFETY: the caller says what it is.
    let old = unsafe { member::<*const u8>(data, &OFF_RENAME_OLD) };
    // SAFETY: as above.
    let new = unsafe { member::<*const u8>(data, &OFF_RENAME_NEW) };
    if RENAME_HAS_DENTRIES.load() == 0 {
        return (old, new);
    }
    // SAFETY: both are a `struct dentry` then.
    let inode = |dentry| unsafe { member::<*const u8>(dentry, &OFF_DENTRY_INODE) };
    (inode(old), inode(new))
}

/// Whether the function, which returns an error as `int`, has done what it was asked for.
#[inline]
fn has_succeeded(ctx: &FExitContext) -> bool {
    ctx.ret::<i32>() == Ok(0)
}
