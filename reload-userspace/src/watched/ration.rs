//! How much of the agent's time a volume may take whose owner decides how often it changes.
//!
//! Pure: time is an argument. What is free is far more than the kubelet ever needs; whoever takes more
//! waits, and all who wait together leave most of the time to the others.

use std::time::Duration;

use crate::clock::Boot;

/// What a look or a reading costs at least, in time until the next one.
const LEAST: Duration = Duration::from_millis(50);

/// Which part of the time they may take, where they take long: a twentieth.
const SHARE: u32 = 20;

/// How much is free after a pause, in time: forty short looks. An update of the kubelet takes ten or so,
/// and comes once in a minute.
const FREE: Duration = Duration::from_secs(2);

/// Which part of the time all those may take together who have used up what is free: a quarter.
const SHARE_OF_ALL: u32 = 4;

/// What one path has had.
#[derive(Debug)]
pub(super) struct Ration {
    /// When all of it is paid for.
    paid: Boot,
    /// What of it those who wait have yet to make up for among them.
    unshared: Duration,
    /// Whether it was looked at when that was its turn: what was found so is read without waiting again.
    may_read: bool,
}

impl Ration {
    pub(super) const fn new() -> Self {
        Self { paid: Boot::ZERO, unshared: Duration::ZERO, may_read: false }
    }

    /// When it may be looked at or read, though others wait.
    pub(super) fn turn(&self) -> Boot {
        Boot(self.paid.0.saturating_sub(FREE))
    }

    /// Whether it may be read at `now`.
    pub(super) fn may_read(&self, now: Boot) -> bool {
        self.may_read || self.turn() <= now
    }

    /// It is looked at because it is its turn.
    pub(super) fn begin(&mut self) {
        self.may_read = true;
    }

    /// It was read.
    pub(super) fn read(&mut self, now: Boot, cost: Duration) {
        self.may_read = false;
        self.take(now, cost);
    }

    /// It was looked at; `others` is when all who wait have made up for what they took.
    pub(super) fn look(&mut self, now: Boot, cost: Duration, others: &mut Boot) {
        self.take(now, cost);
        let cost = std::mem::take(&mut self.unshared);
        if self.turn() > now {
            *others = (*others).max(now).after(cost * SHARE_OF_ALL);
            self.paid = self.paid.max(others.after(FREE));
        }
    }

    fn take(&mut self, now: Boot, cost: Duration) {
        self.paid = self.paid.max(now).after(LEAST.max(cost * SHARE));
        self.unshared += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    const COST: Duration = Duration::from_millis(10);

    /// Has these paths looked at and read as often as they may for a minute, and gives how often that was.
    fn play(paths: usize, cost: Duration) -> u32 {
        let mut rations: Vec<_> = (0..paths).map(|_| Ration::new()).collect();
        let (mut others, mut looks) = (at(0), 0);
        let mut now = at(100_000);
        let end = now.after(Duration::from_mins(1));
        while now < end {
            for ration in rations.iter_mut().filter(|it| it.turn() <= now) {
                ration.begin();
                ration.look(now, cost, &mut others);
                looks += 1;
            }
            now = now.after(Duration::from_millis(1));
        }
        looks
    }

    #[test]
    fn an_update_of_the_kubelet_waits_for_nothing() {
        let (mut ration, mut others) = (Ration::new(), at(0));
        for millis in 0..30 {
            let now = at(100_000 + millis);
            assert!(ration.turn() <= now);
            ration.look(now, Duration::from_micros(300), &mut others);
        }
        assert_eq!(others, at(0), "nobody else has to make up for it");
    }

    #[test]
    fn whoever_takes_too_much_waits() {
        // 40 that are free, 20 a second.
        let short = play(1, Duration::from_micros(100));
        assert!((1200..=1300).contains(&short), "{short}");
        // A twentieth of a minute.
        let long = play(1, COST);
        assert!((300..=320).contains(&long), "{long}");
    }

    #[test]
    fn all_who_take_too_much_leave_most_to_the_others() {
        let looks = play(100, COST);
        // A quarter of a minute, besides what is free.
        let most = 60_000 / 10 / SHARE_OF_ALL + 100 * 11;
        assert!((1500..=most).contains(&looks), "{looks} of {most}");
    }

    #[test]
    fn what_was_found_in_turn_is_read_at_once() {
        let (mut ration, mut others) = (Ration::new(), at(0));
        let now = at(100_000);
        ration.begin();
        ration.look(now, Duration::from_secs(1), &mut others);
        assert!(ration.turn() > now);
        assert!(ration.may_read(now));
        ration.read(now, COST);
        assert!(!ration.may_read(now), "and once only");
        assert!(ration.may_read(ration.turn()));
    }
}
