//! The one clock: everything is timed on it, so that a latency is a difference of two moments.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, as the time since boot, suspended time included (`CLOCK_BOOTTIME`).
///
/// It is the clock of the kernel's records (`bpf_ktime_get_boot_ns`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub Duration);

impl Boot {
    /// The boot itself: before everything.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Never.
    pub const MAX: Self = Self(Duration::MAX);

    /// The moment `later` after this one.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// How long it has been since `earlier`; nothing where that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time since boot, suspended time included: the clock of `bpf_ktime_get_boot_ns`.
#[must_use]
pub fn now() -> Boot {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Boot(Duration::new(seconds, nanos))
}
