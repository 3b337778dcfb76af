//! Who opens the files of which that is to be known.

use aya_ebpf::EbpfContext;
use reload_ebpf::{Hook, OpenRecord, RecordKind};

use crate::{
    emit::{Priority, emit, header, is_own},
    maps::EXPECTED,
    place,
};

/// Sends an [`OpenRecord`] if the agent expects somebody to open the file.
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
    if EXPECTED.get(place).is_none_or(|&expected| expected == 0) || is_own() {
        return;
    }
    let record = OpenRecord { header: header(ctx, RecordKind::Open), place, reserved: 0 };
    emit(ctx, record, Hook::Open, Priority::Repeated, || ());
}
