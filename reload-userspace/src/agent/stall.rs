//! Whether the loop was stopped: the machine was suspended, the process stopped, frozen or throttled.

use std::{mem, time::Duration};

use crate::clock::{Boot, Effort};

/// How late the loop must be for it to have been stopped, and not only kept from its processor.
const LATE: Duration = Duration::from_millis(500);

/// How the loop sleeps, wakes up and works.
#[derive(Debug)]
pub(super) struct Stall {
    /// What it has done since it last fell asleep.
    effort: Effort,
    /// When it last woke up.
    woke: Boot,
    nap: Nap,
}

/// One sleep, and the one before. Pure: time is an argument.
#[derive(Debug)]
struct Nap {
    /// When the loop had nothing more to do.
    since: Boot,
    /// When it was to wake up at the latest.
    until: Boot,
    was_late: bool,
}

impl Stall {
    /// It begins to work now.
    pub(super) fn new() -> Self {
        let nap = Nap { since: Boot::MAX, until: Boot::MAX, was_late: false };
        Self { effort: Effort::begin(), woke: Boot::MAX, nap }
    }

    /// It falls asleep at `now`, and is to wake up at that moment at the latest.
    pub(super) fn sleep(&mut self, now: Boot, until: Boot) {
        // It may have been stopped in the midst of its work.
        let has_taken_long = now.since(self.woke) > LATE;
        let since = if has_taken_long { self.woke.after(self.effort.so_far()) } else { now };
        self.nap.begin(since.min(now), until);
        self.effort = Effort::begin();
    }

    /// It has woken up at `now`: for how long it was stopped, as far as that is known, if it was.
    pub(super) fn wake(&mut self, now: Boot) -> Option<Duration> {
        self.woke = now;
        self.nap.end(now)
    }
}

impl Nap {
    fn begin(&mut self, since: Boot, until: Boot) {
        (self.since, self.until) = (since, until.max(since));
    }

    /// One that is late time and again is slow: nobody must wait for anything without end for that.
    fn end(&mut self, now: Boot) -> Option<Duration> {
        let is_late = now.since(self.until) > LATE;
        let was_late = mem::replace(&mut self.was_late, is_late);
        (is_late && !was_late).then(|| now.since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    /// Sleeps from the first moment until the second, and wakes up at the third.
    fn night(nap: &mut Nap, slept: u64, until: u64, woke: u64) -> Option<u64> {
        nap.begin(at(slept), at(until));
        nap.end(at(woke)).map(|time| u64::try_from(time.as_millis()).unwrap())
    }

    #[test]
    fn whoever_wakes_up_in_time_was_not_stopped() {
        let mut nap = Stall::new().nap;
        assert_eq!(nap.end(at(1000)), None);
        assert_eq!(night(&mut nap, 1000, 1016, 1016), None);
        assert_eq!(night(&mut nap, 1000, 9000, 5000), None, "an event has woken it");
        assert_eq!(night(&mut nap, 1000, 1016, 1516), None);
        // What was due when it fell asleep is done at once, however late it is.
        assert_eq!(night(&mut nap, 9000, 1000, 9001), None);
    }

    #[test]
    fn whoever_wakes_up_late_was_stopped_since_he_fell_asleep() {
        let mut nap = Stall::new().nap;
        assert_eq!(night(&mut nap, 1000, 1016, 9000), Some(8000));
        assert_eq!(night(&mut nap, 9000, 9016, 9016), None);
        assert_eq!(night(&mut nap, 9016, 9032, 20_000), Some(10_984));
    }

    #[test]
    fn whoever_is_always_late_is_slow() {
        let mut nap = Stall::new().nap;
        let nights = (0..6).map(|night| night * 1000);
        let stops = nights.filter_map(|slept| night(&mut nap, slept, slept + 16, slept + 1000));
        assert_eq!(stops.collect::<Vec<_>>(), [1000]);
    }
}
