//! Who opens the files of which that is to be known.

use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel_str_bytes};
use reload_ebpf::{CANARY, Hook, NAME_LEN, NAMES_EXPECTED, Name, OpenRecord, RecordKind};

use crate::{
    emit::{Priority, emit, header, is_own},
    maps::{EXPECTED, EXPECTED_NAMES},
    offsets::{
        OFF_DENTRY_INODE, OFF_DENTRY_NAME, OFF_DENTRY_PARENT, OFF_FILE_DENTRY, OFF_FILE_INODE,
        member,
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
    // What stands at the place of the canary is how many names there are.
    if itself.is_some_and(|place| place != CANARY && tell(ctx, place)) {
        return;
    }
    if EXPECTED.get(NAMES_EXPECTED).is_none_or(|&count| count == 0) {
        return;
    }
    // SAFETY: as above.
    if let Some(place) = unsafe { by_name(opened) } {
        tell(ctx, place);
    }
}

/// The place that the name stands for by which the file was opened, if it is expected.
///
/// # Safety
///
/// `opened` is a `struct file`, as the verifier knows it.
#[inline]
unsafe fn by_name(opened: *const u8) -> Option<u32> {
    // SAFETY: the caller says what it is.
    let dentry = unsafe { member::<*const u8>(opened, &OFF_FILE_DENTRY) };
    // SAFETY: the dentry was read from it.
    let parent = unsafe { member::<*const u8>(dentry, &OFF_DENTRY_PARENT) };
    // SAFETY: and so was its parent.
    let directory = unsafe { member::<*const u8>(parent, &OFF_DENTRY_INODE) };
    // SAFETY: and so was the parent's inode.
    let directory = unsafe { place::of(directory) }?;
    let mut name = Name { directory, text: [0; NAME_LEN] };
    // SAFETY: as above.
    let text = unsafe { member::<*const u8>(dentry, &OFF_DENTRY_NAME) };
    // SAFETY: the helper checks the address itself, and writes no more than the buffer holds.
    unsafe { bpf_probe_read_kernel_str_bytes(text, &mut name.text) }.ok()?;
    // SAFETY: the value is copied at once.
    unsafe { EXPECTED_NAMES.get(name) }.copied()
}

/// Sends the record if openings of the place are expected, and says whether they are.
#[inline]
fn tell(ctx: &impl EbpfContext, place: u32) -> bool {
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
        let record = OpenRecord { header: header(ctx, RecordKind::Open), place, reserved: 0 };
        emit(ctx, record, Hook::Open, Priority::Repeated, || ());
    }
    true
}
