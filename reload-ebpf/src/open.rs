//! Who opens the files of which that is to be known.

use aya_ebpf::{
    EbpfContext, helpers::bpf_probe_read_kernel_str_bytes, programs::BtfTracePointContext,
};
use reload_ebpf::{
    CANARY, Hook, NAME_LEN, NAMES_EXPECTED, NO_PLACE, Name, OpenRecord, RecordKind, SYSCALLS,
};

use crate::{
    change::syscall,
    emit::{Priority, current, emit, header, is_own},
    learn,
    maps::{EXPECTED, EXPECTED_NAMES, OPENING},
    offsets::{
        IS_TRACE, OFF_DENTRY_INODE, OFF_DENTRY_NAME, OFF_DENTRY_PARENT, OFF_FILE_DENTRY,
        OFF_FILE_INODE, OFF_FILE_MODE, OFF_INODE_INO, member, peek,
    },
    place,
};

/// Sends an [`OpenRecord`] if the agent expects somebody to open the file, or whatever bears its name,
/// and has not had enough of them.
///
/// # Safety
///
/// `opened` is a `struct file`, as the verifier knows it.
#[inline]
pub(crate) unsafe fn record(ctx: &impl EbpfContext, opened: *const u8) {
    // SAFETY: the caller says what it is.
    let inode = unsafe { member::<*const u8>(opened, &OFF_FILE_INODE) };
    // SAFETY: the inode was read from it.
    let itself = unsafe { place::of(inode) };
    if itself.is_some_and(|place| is_told(ctx, place, inode)) || !are_names_expected() {
        return;
    }
    // SAFETY: as above.
    let dentry = unsafe { member::<*const u8>(opened, &OFF_FILE_DENTRY) };
    // SAFETY: the dentry was read from it.
    let parent = unsafe { member::<*const u8>(dentry, &OFF_DENTRY_PARENT) };
    // SAFETY: and so was its parent.
    let directory = unsafe { member::<*const u8>(parent, &OFF_DENTRY_INODE) };
    let directory = if is_anywhere() {
        Some(NO_PLACE)
    } else {
        // SAFETY: and so was the parent's inode.
        unsafe { place::of(directory) }
    };
    // SAFETY: as above.
    let text = unsafe { member::<*const u8>(dentry, &OFF_DENTRY_NAME) };
    if let Some(place) = directory.and_then(|directory| by_name(directory, text)) {
        is_told(ctx, place, inode);
    }
}

/// As [`record`], of what a system call that opens files has returned.
#[inline]
pub(crate) fn returned(ctx: &BtfTracePointContext) {
    /// `FMODE_READ` of `include/linux/fs.h`.
    const FMODE_READ: u32 = 1;
    /// The highest number of an error.
    const MAX_ERRNO: usize = 4095;
    let descriptor: usize = ctx.arg(1);
    if descriptor > usize::MAX - MAX_ERRNO || !is_opening(syscall(ctx)) {
        return;
    }
    let opened = learn::file(current(), descriptor);
    let opened = opened.filter(|&it| peek(it, &OFF_FILE_MODE).unwrap_or(0u32) & FMODE_READ != 0);
    let inode = opened.and_then(|it| peek::<*const u8>(it, &OFF_FILE_INODE));
    let Some((opened, inode)) = opened.zip(inode) else {
        return;
    };
    let itself = learn::key(inode).and_then(place::by_key);
    if itself.is_some_and(|place| is_told(ctx, place, inode)) || !are_names_expected() {
        return;
    }
    // It is only loaded where a name counts anywhere.
    let dentry = peek::<*const u8>(opened, &OFF_FILE_DENTRY);
    let text = dentry.and_then(|dentry| peek::<*const u8>(dentry, &OFF_DENTRY_NAME));
    if let Some(place) = text.and_then(|text| by_name(NO_PLACE, text)) {
        is_told(ctx, place, inode);
    }
}

/// Whether a system call opens a file, and returns its descriptor.
fn is_opening(syscall: i64) -> bool {
    let number = u32::try_from(syscall).unwrap_or(SYSCALLS);
    OPENING.get(number).is_some_and(|&opening| opening != 0)
}

/// Whether names count in whatever directory they are.
fn is_anywhere() -> bool {
    IS_TRACE.load() != 0
}

/// Whether there are any names to look up.
fn are_names_expected() -> bool {
    EXPECTED.get(NAMES_EXPECTED).is_some_and(|&count| count != 0)
}

/// The place that a name in a directory stands for, if it is expected.
#[inline]
fn by_name(directory: u32, text: *const u8) -> Option<u32> {
    let mut name = Name { directory, text: [0; NAME_LEN] };
    // SAFETY: the helper checks the address itself, and writes no more than the buffer holds.
    unsafe { bpf_probe_read_kernel_str_bytes(text, &mut name.text) }.ok()?;
    // SAFETY: the value is copied at once.
    unsafe { EXPECTED_NAMES.get(name) }.copied()
}

/// Sends the record if openings of the place are expected, and says whether they are.
#[inline]
fn is_told(ctx: &impl EbpfContext, place: u32, inode: *const u8) -> bool {
    // What stands at the place of the canary is how many names there are.
    if place == CANARY {
        return false;
    }
    let Some(expected) = EXPECTED.get_ptr_mut(place) else {
        return false;
    };
    // SAFETY: the pointer is of a map value, which lives as long as the map. Two processors may both count
    // one down: then there is one record more.
    let rest = unsafe { expected.read_volatile() };
    if rest == 0 {
        return false;
    }
    if !is_own() {
        // SAFETY: as above.
        unsafe { expected.write_volatile(rest - 1) };
        let inode = peek(inode, &OFF_INODE_INO).unwrap_or(0);
        let record =
            OpenRecord { header: header(ctx, RecordKind::Open), inode, place, reserved: 0 };
        emit(ctx, record, Hook::Open, Priority::Repeated, || ());
    }
    true
}
