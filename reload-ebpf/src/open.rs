//! Who opens the files of which that is to be known.

use aya_ebpf::EbpfContext;
use reload_ebpf::{Hook, OpenRecord, RecordKind};

use crate::{
    emit::{Priority, emit, header, is_own},
    maps::EXPECTED,
    place,
};

/// Sends an [`OpenRecord`] if the agent expects somebody to open the file, and has not had enough of them.
///
/// # Safety
///
/// `inode` is a `struct inode`, as the verifier knows it.
#[inline]
pub(crate) unsafe fn record(ctx: &impl EbpfContext, inode: *const u8) {
    // SAFETY: the caller says what it is.
    let Some(place) = (unsafe { place::of(inode) }) else {
        return;
    };
    let Some(expected) = EXPECTED.get_ptr_mut(place) else {
        return;
    };
    // SAFETY: the pointer is of a map value, which lives as long as the map. Two processors may both count
    // one down: then there is one record more.
    let rest = unsafe { expected.read_volatile() };
    if rest == 0 || is_own() {
        return;
    }
    // SAFETY: as above.
    unsafe { expected.write_volatile(rest - 1) };
    let record = OpenRecord { header: header(ctx, RecordKind::Open), place, reserved: 0 };
    emit(ctx, record, Hook::Open, Priority::Repeated, || ());
}
