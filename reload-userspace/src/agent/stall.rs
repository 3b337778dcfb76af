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

/// The last sleep. Pure: time is an argument.
#[derive(Debug)]
struct Nap {
    /// When the loop had nothing more to do.
    since: Boot,
    /// When it was to wake up at the latest.
    until: Boot,
    /// For how long it has been in time since it was last late.
    in_time: Duration,
}

impl Stall {
    /// Nobody is at work yet: until [`Stall::begin`] nothing counts as a stop.
    pub(super) fn new() -> Self {
        let nap = Nap { since: Boot::MAX, until: Boot::MAX, in_time: Duration::MAX };
        Self { effort: Effort::begin(), woke: Boot::MAX, nap }
    }

    /// It begins to work at `now`, as if it had woken up.
    pub(super) fn begin(&mut self, now: Boot) {
        (self.woke, self.effort) = (now, Effort::begin());
    }

    /// It falls asleep at `now`, and is to wake up at that moment at the latest.
    pub(super) fn sleep(&mut self, now: Boot, until: Boot) {
        let done = self.done(now);
        // It may have been stopped in the midst of its work.
        let was_stopped = now.since(done) > LATE;
        let until = if was_stopped { done } else { until.max(now) };
        self.nap = Nap { since: done, until, ..self.nap };
        self.effort = Effort::begin();
    }

    /// It is about to judge what is due at `now`: since when it was stopped, if it was since it woke up.
    /// Then it counts as having woken up only now, so that one stop is told once.
    pub(super) fn judge(&mut self, now: Boot) -> Option<Boot> {
        let done = self.done(now);
        if now.since(done) <= LATE {
            return None;
        }
        self.begin(now);
        self.nap.was_in_time().then_some(done)
    }

    /// When it was done with what it has done since it woke up, had nobody stopped it.
    fn done(&self, now: Boot) -> Boot {
        let has_taken_long = now.since(self.woke) > LATE;
        let done = has_taken_long.then(|| self.woke.after(self.effort.so_far()));
        done.map_or(now, |done| done.min(now))
    }

    /// It has woken up at `now`: since when it was stopped, as far as that is known, if it was.
    pub(super) fn wake(&mut self, now: Boot) -> Option<Boot> {
        self.woke = now;
        self.nap.end(now)
    }
}

impl Nap {
    /// One that is late time and again is slow: nobody must wait for anything without end for that.
    fn end(&mut self, now: Boot) -> Option<Boot> {
        if now.since(self.until) <= LATE {
            self.in_time = self.in_time.saturating_add(now.since(self.since));
            return None;
        }
        self.was_in_time().then_some(self.since)
    }

    /// Whether it was in time before it was late.
    fn was_in_time(&mut self) -> bool {
        mem::take(&mut self.in_time) >= LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    /// Sleeps from the first moment until the second, and wakes up at the third.
    fn night(nap: &mut Nap, slept: u64, until: u64, woke: u64) -> Option<Boot> {
        *nap = Nap { since: at(slept), until: at(until), in_time: nap.in_time };
        nap.end(at(woke))
    }

    #[test]
    fn whoever_wakes_up_in_time_was_not_stopped() {
        let mut stall = Stall::new();
        assert_eq!(stall.wake(at(1000)), None);
        assert_eq!(night(&mut stall.nap, 1000, 1016, 1016), None);
        assert_eq!(night(&mut stall.nap, 1000, 9000, 5000), None, "an event has woken it");
        assert_eq!(night(&mut stall.nap, 1000, 1016, 1516), None);
    }

    #[test]
    fn what_is_due_when_it_falls_asleep_makes_nobody_late() {
        let mut stall = Stall::new();
        stall.wake(at(9000));
        stall.sleep(at(9010), at(1000));
        assert_eq!(stall.wake(at(9011)), None);
    }

    #[test]
    fn whoever_wakes_up_late_was_stopped_since_he_fell_asleep() {
        let mut nap = Stall::new().nap;
        assert_eq!(night(&mut nap, 1000, 1016, 9000), Some(at(1000)));
        assert_eq!(night(&mut nap, 9000, 9800, 9800), None);
        assert_eq!(night(&mut nap, 9800, 9816, 20_000), Some(at(9800)));
    }

    #[test]
    fn whoever_was_stopped_in_the_midst_of_his_work_was_so_too() {
        let mut stall = Stall::new();
        // By the clock it has worked for eight seconds; it has made no effort.
        stall.wake(at(1000));
        stall.sleep(at(9000), at(9016));
        let since = stall.wake(at(9016)).unwrap();
        assert!(since < at(8000), "{since:?}");
    }

    /// Before he falls asleep he may have told that something took too long.
    #[test]
    fn whoever_was_stopped_right_after_he_woke_up_hears_of_it_once() {
        let mut stall = Stall::new();
        assert_eq!(stall.judge(at(1000)), None, "nobody is at work");
        stall.begin(at(1000));
        assert_eq!(stall.judge(at(1400)), None);
        let since = stall.judge(at(9000)).unwrap();
        assert!(since < at(8000), "{since:?}");
        assert_eq!(stall.judge(at(9000)), None);
        stall.sleep(at(9010), at(9016));
        assert_eq!(stall.wake(at(9016)), None);
    }

    /// What it was started for it may find at once.
    #[test]
    fn whoever_was_stopped_before_he_first_fell_asleep_was_so_too() {
        let mut stall = Stall::new();
        stall.begin(at(1000));
        stall.sleep(at(9000), at(9016));
        let since = stall.wake(at(9016)).unwrap();
        assert!(since < at(8000), "{since:?}");
    }

    #[test]
    fn whoever_is_always_late_is_slow() {
        let mut nap = Stall::new().nap;
        let mut stops = 0;
        for start in (0..60_000).step_by(1000) {
            assert_eq!(night(&mut nap, start, start + 100, start + 100), None);
            stops += i32::from(night(&mut nap, start + 100, start + 116, start + 1000).is_some());
        }
        assert_eq!(stops, 1);
        assert_eq!(night(&mut nap, 60_000, 60_500, 60_500), None);
        assert!(night(&mut nap, 60_500, 60_516, 70_000).is_some());
    }
}
