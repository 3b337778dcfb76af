//! Whether the loop was stopped while it slept: the machine was suspended, the process stopped, frozen or
//! throttled. Pure: time is an argument.

use std::{mem, time::Duration};

use crate::clock::Boot;

/// How late the loop must wake up for it to have been stopped, and not only kept from its processor.
const LATE: Duration = Duration::from_millis(500);

/// How the loop sleeps and wakes up.
#[derive(Debug)]
pub(super) struct Stall {
    /// When it fell asleep.
    slept: Boot,
    /// When it was to wake up at the latest.
    until: Boot,
    was_late: bool,
}

impl Stall {
    /// It has yet to fall asleep.
    pub(super) const NONE: Self = Self { slept: Boot::MAX, until: Boot::MAX, was_late: false };

    /// It falls asleep at `now`, and is to wake up at that moment at the latest.
    pub(super) fn sleep(&mut self, now: Boot, until: Boot) {
        (self.slept, self.until) = (now, until.max(now));
    }

    /// It has woken up: for how long it was stopped, as far as that is known, if it was.
    ///
    /// One that is late time and again is slow: who waits for something must not wait for ever for that.
    pub(super) fn wake(&mut self, now: Boot) -> Option<Duration> {
        let is_late = now.since(self.until) > LATE;
        let was_late = mem::replace(&mut self.was_late, is_late);
        (is_late && !was_late).then(|| now.since(self.slept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    /// Sleeps from the first moment until the second, and wakes up at the third.
    fn night(stall: &mut Stall, slept: u64, until: u64, woke: u64) -> Option<u64> {
        stall.sleep(at(slept), at(until));
        stall.wake(at(woke)).map(|time| u64::try_from(time.as_millis()).unwrap())
    }

    #[test]
    fn whoever_wakes_up_in_time_was_not_stopped() {
        let mut stall = Stall::NONE;
        assert_eq!(stall.wake(at(1000)), None);
        assert_eq!(night(&mut stall, 1000, 1016, 1016), None);
        assert_eq!(night(&mut stall, 1000, 9000, 5000), None, "an event has woken it");
        assert_eq!(night(&mut stall, 1000, 1016, 1516), None);
        // What was due when it fell asleep is done at once, however late it is.
        assert_eq!(night(&mut stall, 9000, 1000, 9001), None);
    }

    #[test]
    fn whoever_wakes_up_late_was_stopped_since_he_fell_asleep() {
        let mut stall = Stall::NONE;
        assert_eq!(night(&mut stall, 1000, 1016, 9000), Some(8000));
        assert_eq!(night(&mut stall, 9000, 9016, 9016), None);
        assert_eq!(night(&mut stall, 9016, 9032, 20_000), Some(10_984));
    }

    #[test]
    fn whoever_is_always_late_is_slow() {
        let mut stall = Stall::NONE;
        let nights = (0..6).map(|night| night * 1000);
        let stops = nights.filter_map(|slept| night(&mut stall, slept, slept + 16, slept + 1000));
        assert_eq!(stops.collect::<Vec<_>>(), [1000]);
    }
}
