//! Is the change complete? Pure: time is an argument, and nothing is asked of the machine.

use std::time::Duration;

use crate::{clock::Boot, event::Writers};

/// How long to wait for the end of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The quiet after which an in-place write counts as complete where its end cannot be seen.
    pub quiet: Duration,
    /// The longest that a change is waited for, however busy its writer is.
    pub max: Duration,
    /// How long the kubelet is given to remove the old directory of a volume.
    pub volume: Duration,
}

/// What a look at a path has found since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether a file was written to, replaced, added or removed.
    pub changed: bool,
    /// Whether somebody may still be writing.
    pub writers: Writers,
    /// What became of a kubelet's volume.
    pub volume: Volume,
}

/// How far the kubelet is with the update of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// There is no update under way that has been seen.
    Still,
    /// `..data` leads elsewhere, and the directory that it led to is still there: the symlinks of new
    /// keys are yet to come, those of removed keys yet to go.
    Swapped,
    /// The old directory is gone: the last step of an update.
    Cleared,
}

/// When to do what about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is no change under way.
    Idle,
    /// Look again at that moment, or when the source tells of something, whichever is first.
    Look(Boot),
    /// The change is complete.
    Complete,
}

/// The change of one path, from its first event to its completion.
#[derive(Clone, Debug)]
pub struct Settle {
    limits: Limits,
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Since when its end is waited for: since the first look, however long before that it began.
    since: Boot,
    /// When it was last seen to go on.
    last: Boot,
    /// Since when it has been quiet: since the last look that found something, until which it may have gone
    /// on.
    quiet: Boot,
    /// When `..data` was found to be swapped, until the old directory is gone.
    swapped: Option<Boot>,
    writers: Writers,
    /// When they were last looked for.
    looked: Boot,
    /// How often the writers were looked for in vain.
    looks: u32,
}

impl Settle {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, pending: None }
    }

    /// From now on a change is waited for so long.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes in what a look at `now` has found of what happened at `at`.
    pub fn observe(&mut self, at: Boot, now: Boot, seen: Seen) {
        if self.pending.is_none() && !seen.changed && seen.volume != Volume::Swapped {
            return;
        }
        let fresh = Pending {
            since: now,
            last: at,
            quiet: now,
            swapped: None,
            writers: Writers::None,
            looked: now,
            looks: 0,
        };
        let pending = self.pending.get_or_insert(fresh);
        if seen.changed {
            pending.last = pending.last.max(at);
            pending.quiet = now;
        }
        pending.looks = pending.looks.saturating_add(1);
        pending.writers = seen.writers;
        pending.looked = now;
        pending.swapped = match seen.volume {
            Volume::Still => pending.swapped,
            Volume::Swapped => pending.swapped.or(Some(now)),
            Volume::Cleared => None,
        };
    }

    /// Nobody has looked from one moment to the other: that is not time that it has waited.
    pub fn put_off(&mut self, from: Boot, to: Boot) {
        if let Some(pending) = &mut self.pending {
            pending.since = pending.since.put_off(from, to);
            pending.quiet = pending.quiet.put_off(from, to);
            pending.swapped = pending.swapped.map(|at| at.put_off(from, to));
        }
    }

    /// What to do at `now`.
    #[must_use]
    pub fn next(&self, now: Boot) -> Next {
        let Some(pending) = &self.pending else {
            return Next::Idle;
        };
        let volume = self.volume_end(pending).filter(|&end| end > now);
        let waits = [volume, self.write_end(pending, now)];
        waits.into_iter().flatten().min().map_or(Next::Complete, Next::Look)
    }

    /// Whether there is a change under way whose writers may still be waited for.
    #[must_use]
    pub fn may_wait(&self, now: Boot) -> bool {
        self.pending.is_some_and(|pending| self.latest(&pending) > now)
    }

    /// Since when the end of the change under way is waited for.
    #[must_use]
    pub fn since(&self) -> Option<Boot> {
        self.pending.map(|pending| pending.since)
    }

    /// When the change under way was last seen to go on: the moment that its content dates from.
    #[must_use]
    pub fn last(&self) -> Option<Boot> {
        self.pending.map(|pending| pending.last)
    }

    /// When the change under way was last found to go on, which may be long after it did: since then it has been
    /// quiet.
    #[must_use]
    pub fn found(&self) -> Option<Boot> {
        self.pending.map(|pending| pending.quiet)
    }

    /// Whether somebody was writing when the change under way was last looked at.
    #[must_use]
    pub fn writers(&self) -> Option<Writers> {
        self.pending.map(|pending| pending.writers)
    }

    /// Forgets the change: it has been dealt with.
    pub fn finish(&mut self) {
        self.pending = None;
    }

    fn volume_end(&self, pending: &Pending) -> Option<Boot> {
        pending.swapped.map(|at| at.after(self.limits.volume))
    }

    fn latest(&self, pending: &Pending) -> Boot {
        pending.since.after(self.limits.max)
    }

    fn write_end(&self, pending: &Pending, now: Boot) -> Option<Boot> {
        /// How long the last wait between two looks for writers may become, in doublings of 1 ms.
        const DOUBLINGS: u32 = 4;
        let latest = self.latest(pending);
        let end = match pending.writers {
            Writers::None => return None,
            // Also where that moment has passed: only another look can tell that they are gone.
            Writers::Some => {
                pending.looked.after(Duration::from_millis(1 << pending.looks.min(DOUBLINGS)))
            }
            Writers::Unknown => {
                Some(pending.quiet.after(self.limits.quiet)).filter(|&end| end > now)?
            }
        };
        (latest > now).then(|| end.min(latest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        quiet: Duration::from_millis(100),
        max: Duration::from_secs(2),
        volume: Duration::from_millis(200),
    };

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    const REPLACED: Seen = Seen { changed: true, writers: Writers::None, volume: Volume::Still };
    const NOTHING: Seen = Seen { changed: false, writers: Writers::None, volume: Volume::Still };

    fn written(writers: Writers) -> Seen {
        Seen { changed: true, writers, volume: Volume::Still }
    }

    fn volume(changed: bool, volume: Volume) -> Seen {
        Seen { changed, writers: Writers::None, volume }
    }

    /// Plays what was seen when, and compares what is to be done at the end of it.
    #[track_caller]
    fn check(seen: &[(u64, Seen)], now: u64, expected: Next) {
        let mut settle = Settle::new(LIMITS);
        for &(millis, seen) in seen {
            settle.observe(at(millis), at(millis), seen);
        }
        assert_eq!(settle.next(at(now)), expected, "for {seen:?} at {now}");
    }

    #[test]
    fn a_replaced_file_is_complete_at_once() {
        check(&[(1000, REPLACED)], 1000, Next::Complete);
    }

    #[test]
    fn nothing_is_nothing() {
        check(&[], 1000, Next::Idle);
        check(&[(1000, NOTHING)], 1000, Next::Idle);
        check(&[(1000, volume(false, Volume::Cleared))], 1000, Next::Idle);
    }

    #[test]
    fn a_write_is_complete_when_the_last_writer_has_closed() {
        let open = (1000, written(Writers::Some));
        check(&[open], 1000, Next::Look(at(1002)));
        check(&[open, (1002, written(Writers::Some))], 1002, Next::Look(at(1006)));
        check(&[open, (1002, NOTHING)], 1002, Next::Complete);
        // A look that is late is still due.
        check(&[open], 1500, Next::Look(at(1002)));
    }

    #[test]
    fn the_wait_between_looks_stops_growing() {
        let mut seen = vec![(1000, written(Writers::Some)); 40];
        check(&seen, 1000, Next::Look(at(1016)));
        seen.push((1500, written(Writers::Some)));
        check(&seen, 1500, Next::Look(at(1516)));
    }

    #[test]
    fn a_write_whose_end_cannot_be_seen_is_complete_after_the_quiet() {
        let unknown = written(Writers::Unknown);
        check(&[(1000, unknown)], 1000, Next::Look(at(1100)));
        check(&[(1000, unknown), (1090, unknown)], 1100, Next::Look(at(1190)));
        check(&[(1000, unknown), (1090, unknown)], 1190, Next::Complete);
    }

    #[test]
    fn no_writer_holds_a_change_for_longer_than_the_maximum() {
        let busy = [(1000, written(Writers::Some)), (2995, written(Writers::Some))];
        check(&busy, 2995, Next::Look(at(2999)));
        check(&[busy[0], (2999, written(Writers::Some))], 2999, Next::Look(at(3000)));
        check(&busy, 3000, Next::Complete);
        let unknown = [(1000, written(Writers::Unknown)), (2990, written(Writers::Unknown))];
        check(&unknown, 2990, Next::Look(at(3000)));
        check(&unknown, 3000, Next::Complete);
    }

    #[test]
    fn time_in_which_nobody_looked_is_given_again() {
        let after_a_stop = |seen| {
            let mut settle = Settle::new(LIMITS);
            settle.observe(at(1000), at(1000), seen);
            settle.put_off(at(1000), at(9000));
            settle.next(at(9000))
        };
        // He is looked for before he is given up.
        assert_eq!(after_a_stop(written(Writers::Some)), Next::Look(at(1002)));
        assert_eq!(after_a_stop(written(Writers::Unknown)), Next::Look(at(9100)));
        assert_eq!(after_a_stop(volume(true, Volume::Swapped)), Next::Look(at(9200)));
        assert_eq!(after_a_stop(REPLACED), Next::Complete);
        let mut settle = Settle::new(LIMITS);
        settle.put_off(at(1000), at(9000));
        assert_eq!(settle.next(at(9000)), Next::Idle);
    }

    /// Nobody could be reloaded when it began.
    #[test]
    fn a_change_that_is_looked_at_late_is_waited_for_as_long_as_any() {
        let seen_late = |seen| {
            let mut settle = Settle::new(LIMITS);
            settle.observe(at(1000), at(9000), seen);
            assert_eq!(settle.last(), Some(at(1000)));
            settle.next(at(9000))
        };
        assert_eq!(seen_late(written(Writers::Some)), Next::Look(at(9002)));
        assert_eq!(seen_late(written(Writers::Unknown)), Next::Look(at(9100)));
        assert_eq!(seen_late(volume(true, Volume::Swapped)), Next::Look(at(9200)));
        assert_eq!(seen_late(REPLACED), Next::Complete);
    }

    #[test]
    fn a_volume_is_complete_when_its_old_directory_is_gone() {
        let swap = (1000, volume(true, Volume::Swapped));
        check(&[swap], 1000, Next::Look(at(1200)));
        check(&[swap, (1001, volume(true, Volume::Swapped))], 1001, Next::Look(at(1200)));
        check(&[swap, (1003, volume(false, Volume::Cleared))], 1003, Next::Complete);
        // The older kubelet makes the symlinks first; they change nothing before the swap.
        check(&[(990, NOTHING), swap], 1000, Next::Look(at(1200)));
    }

    #[test]
    fn a_volume_without_an_old_directory_is_complete_after_the_timeout() {
        check(&[(1000, volume(true, Volume::Swapped))], 1199, Next::Look(at(1200)));
        check(&[(1000, volume(true, Volume::Swapped))], 1200, Next::Complete);
    }

    #[test]
    fn both_must_be_over() {
        let both = Seen { changed: true, writers: Writers::Some, volume: Volume::Swapped };
        check(&[(1000, both)], 1000, Next::Look(at(1002)));
        check(&[(1000, both), (1002, volume(false, Volume::Swapped))], 1002, Next::Look(at(1200)));
        check(&[(1000, both), (1002, volume(false, Volume::Cleared))], 1002, Next::Complete);
    }

    #[test]
    fn a_finished_change_is_over() {
        let mut settle = Settle::new(LIMITS);
        settle.observe(at(1000), at(1000), REPLACED);
        assert_eq!(settle.last(), Some(at(1000)));
        settle.finish();
        assert_eq!(settle.next(at(1000)), Next::Idle);
        assert_eq!(settle.last(), None);
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let writers = prop_oneof![Just(Writers::None), Just(Writers::Some), Just(Writers::Unknown)];
        let volume = prop_oneof![4 => Just(Volume::Still), 1 => Just(Volume::Swapped), 1 => Just(Volume::Cleared)];
        (any::<bool>(), writers, volume).prop_map(|(changed, writers, volume)| Seen {
            changed,
            writers,
            volume,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever is seen when, it is complete no sooner than it may be, and no later than promised.
        #[test]
        fn a_change_is_complete_when_it_may_be_and_not_before(
            looks in proptest::collection::vec((0_u64..400, seen()), 1..30),
        ) {
            let mut settle = Settle::new(LIMITS);
            let mut now = 1000;
            // What the promises are about: the first and the last of the change, and of its volume.
            let (mut first, mut last, mut swapped) = (None, 0, None);
            let mut writers = Writers::None;
            for (pause, seen) in looks {
                now += pause;
                settle.observe(at(now), at(now), seen);
                if first.is_some() || seen.changed || seen.volume == Volume::Swapped {
                    first = first.or(Some(now));
                    writers = seen.writers;
                    if seen.changed || first == Some(now) {
                        last = now;
                    }
                    swapped = match seen.volume {
                        Volume::Still => swapped,
                        Volume::Swapped => swapped.or(Some(now)),
                        Volume::Cleared => None,
                    };
                }
                let is_written = |first: u64| now >= first + 2000 || match writers {
                    Writers::None => true,
                    Writers::Some => false,
                    Writers::Unknown => now >= last + 100,
                };
                let is_swapped = swapped.is_none_or(|swapped| now >= swapped + 200);
                match (first, settle.next(at(now))) {
                    (None, next) => prop_assert_eq!(next, Next::Idle),
                    (Some(first), Next::Complete) => prop_assert!(is_written(first) && is_swapped),
                    (Some(first), _) => prop_assert!(!is_written(first) || !is_swapped),
                }
            }
            let Some(first) = first else { return Ok(()) };
            // From here on nothing more happens, and whoever writes goes on: it ends all the same.
            let end = (first + 2000).max(swapped.unwrap_or(0) + 200).max(now);
            for _ in 0..1000 {
                match settle.next(at(now)) {
                    Next::Look(when) => {
                        now = now.max(u64::try_from(when.0.as_millis()).unwrap());
                        let seen = Seen { changed: false, writers, volume: Volume::Still };
                        settle.observe(at(now), at(now), seen);
                    }
                    next => {
                        prop_assert_eq!(next, Next::Complete);
                        prop_assert!(now <= end, "at {}, not by {}", now, end);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "it never ends");
        }
    }
}
