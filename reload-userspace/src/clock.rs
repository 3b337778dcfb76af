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
    Boot(read(ClockId::Boottime))
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// How much of what a thread waits for counts as its effort: be it for a slow disk.
const MOST_WAITED: Duration = Duration::from_millis(100);

/// What something takes of the thread that does it, for those who ration that.
///
/// The moments do not tell: while the machine is suspended, or the process is stopped, frozen or
/// throttled, nothing is done, and who took that for an effort would be deaf for many times as long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    began: Boot,
    ran: Duration,
}

impl Effort {
    /// It begins now, on this thread.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: now(), ran: read(ClockId::ThreadCPUTime) }
    }

    /// When it began.
    #[must_use]
    pub fn began(self) -> Boot {
        self.began
    }

    /// How much it has been, on the thread that began it: the time that it ran, and of what it waited for
    /// 100 ms at most.
    #[must_use]
    pub fn so_far(self) -> Duration {
        let ran = read(ClockId::ThreadCPUTime).saturating_sub(self.ran);
        effort(now().since(self.began), ran)
    }
}

/// The effort of a thread that ran for a part of a time.
fn effort(all: Duration, ran: Duration) -> Duration {
    all.min(ran.saturating_add(MOST_WAITED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stands_still_makes_no_effort() {
        #[track_caller]
        fn check(all: u64, ran: u64, expected: u64) {
            let [all, ran, expected] = [all, ran, expected].map(Duration::from_millis);
            assert_eq!(effort(all, ran), expected);
        }
        check(3, 3, 3);
        check(3, 1, 3);
        check(5_000, 4_990, 5_000);
        check(3_600_000, 1, 101);
        // The clocks have ticks of their own.
        check(3, 4, 3);
    }
}
