//! When something began that a hook tells of only when it is done.
//!
//! Whoever hears of a change from the kernel may act on it before the function that has made it returns. So
//! where that is traced, a change is dated by when it began.

use core::num::NonZero;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use reload_ebpf::Begun;

use crate::{emit::current, maps::BEGUN, offsets::IS_TRACE};

/// Notes that the current task begins something with `subject`: the argument that tells it from what it does
/// for that, as a rename of overlayfs is done by one of another filesystem.
#[inline]
pub(crate) fn note(subject: *const u8) {
    // SAFETY: the helper takes no argument and every tracing program may call it (Linux 5.8).
    let boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    // What finds no room is dated by its end.
    let (Ok(()) | Err(_)) = BEGUN.insert(begun(subject), boot_ns, 0);
}

/// When the current task began what it has now done with `subject`, in nanoseconds since boot, if that was
/// noted; it is forgotten.
#[inline]
pub(crate) fn take(subject: *const u8) -> Option<NonZero<u64>> {
    if IS_TRACE.load() == 0 {
        return None;
    }
    let key = begun(subject);
    // SAFETY: it is copied at once, and only the task that it is of writes to it.
    let boot_ns = unsafe { BEGUN.get(key) }.copied();
    BEGUN.remove(key).ok()?;
    boot_ns.and_then(NonZero::new)
}

fn begun(subject: *const u8) -> Begun {
    Begun { task: current() as u64, subject: subject as u64 }
}
