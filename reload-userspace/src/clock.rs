//! The one clock: everything is timed on it, so that a latency is a difference of two moments.

use std::time::Duration;

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
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

    /// The same moment, put off by as much of the time from `from` to `to` as it lies before.
    #[must_use]
    pub fn put_off(self, from: Self, to: Self) -> Self {
        self.after(to.since(from.max(self)))
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

/// How much of a wait counts as an effort. That of a thread for a disk or a server takes less, mostly.
const MOST_WAITED: Duration = Duration::from_millis(100);

/// What something takes of the thread that does it, for those who ration that.
///
/// The moments do not tell: while the machine is suspended, or the process is stopped, frozen or
/// throttled, nothing is done, and who took that for an effort would be deaf for many times as long.
/// Nor does the processor time: what waits for a slow server takes the thread from others as well.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    began: Boot,
    had: Had,
}

/// What a thread has had since it began.
#[derive(Clone, Copy, Debug)]
struct Had {
    /// Processor time.
    ran: Duration,
    /// How often it has waited.
    waits: u64,
}

impl Effort {
    /// It begins now, on this thread.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: now(), had: had() }
    }

    /// How much it has been, on the thread that began it: the time that it ran, and of each time that it
    /// waited 100 ms at most.
    #[must_use]
    pub fn so_far(self) -> Duration {
        let Had { ran, waits } = had();
        let since = Had {
            ran: ran.saturating_sub(self.had.ran),
            waits: waits.saturating_sub(self.had.waits),
        };
        effort(now().since(self.began), since)
    }
}

/// What this thread has had (`getrusage(2)`).
fn had() -> Had {
    // It only fails for another's thread.
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
        return Had { ran: Duration::ZERO, waits: 0 };
    };
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Had {
        ran: Duration::from_micros(micros.try_into().unwrap_or(0)),
        waits: usage.voluntary_context_switches().try_into().unwrap_or(0),
    }
}

/// The effort of a thread that had so much in that time. One wait more may be of somebody else's making: it
/// was preempted or stopped.
fn effort(all: Duration, Had { ran, waits }: Had) -> Duration {
    let waits = u32::try_from(waits).unwrap_or(u32::MAX).saturating_add(1);
    all.min(ran.saturating_add(MOST_WAITED.saturating_mul(waits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stands_still_makes_no_effort() {
        #[track_caller]
        fn check(all: u64, ran: u64, waits: u64, expected: u64) {
            let [all, ran, expected] = [all, ran, expected].map(Duration::from_millis);
            assert_eq!(effort(all, Had { ran, waits }), expected);
        }
        check(3, 3, 0, 3);
        check(3, 1, 0, 3);
        check(5_000, 4_990, 0, 5_000);
        check(3_600_000, 1, 0, 101);
        check(3_600_000, 1, 2, 301);
        // The clocks have ticks of their own.
        check(3, 4, 0, 3);
    }

    #[test]
    fn a_moment_is_put_off_by_what_lies_behind_it() {
        #[track_caller]
        fn check(moment: u64, from: u64, to: u64, expected: u64) {
            let [moment, from, to, expected] =
                [moment, from, to, expected].map(|millis| Boot(Duration::from_millis(millis)));
            assert_eq!(moment.put_off(from, to), expected);
        }
        check(1000, 2000, 9000, 8000);
        check(3000, 2000, 9000, 9000);
        check(9500, 2000, 9000, 9500);
        // What is given twice counts once, mostly, and never leads ahead.
        check(8000, 1500, 9000, 9000);
    }

    #[test]
    fn whoever_waits_for_a_server_again_and_again_does() {
        let had = Had { ran: Duration::from_millis(40), waits: 1000 };
        assert_eq!(effort(Duration::from_secs(5), had), Duration::from_secs(5));
    }
}
