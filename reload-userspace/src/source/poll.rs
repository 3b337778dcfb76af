//! The source `poll`: nothing tells of changes, so the content is compared once a second.

use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::BorrowedFd,
    time::Duration,
};

use super::{Interest, Source, SourceError, Tells, WatchError};
use crate::{
    clock::{self, Boot, Effort},
    event::{Event, PlaceId, SourceName, Writers},
};

/// How often the content is compared.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which part of the time that may take, where it takes long: a twentieth.
const SHARE: u32 = 20;

/// A clock for the places that nothing else tells of.
#[derive(Debug, Default)]
pub(super) struct PollSource {
    places: BTreeSet<PlaceId>,
    due: VecDeque<PlaceId>,
    /// When the places were last due.
    was_due: Option<Boot>,
    /// What that has led to, until it is known how much it was.
    effort: Option<Effort>,
    /// When they are due again, once that is known.
    next: Option<Boot>,
}

impl PollSource {
    /// Decides when the places are due again, now that what the last time led to has been done, for so much.
    fn plan(&mut self, now: Boot, cost: Duration) -> Option<Boot> {
        if self.places.is_empty() {
            return None;
        }
        let last = self.was_due.unwrap_or(now);
        Some(*self.next.get_or_insert(last.after(INTERVAL).max(now.after(cost * SHARE))))
    }

    /// Yields one of the places that are due.
    fn take(&mut self, now: Boot) -> Option<Event> {
        if self.due.is_empty() && self.next.is_some_and(|next| next <= now) {
            self.due.extend(&self.places);
            self.was_due = Some(now);
            self.effort = Some(Effort::begin());
            self.next = None;
        }
        self.due.pop_front().map(|place| Event::Due { place })
    }
}

impl Source for PollSource {
    fn name(&self) -> SourceName {
        SourceName::Poll
    }

    fn watch(&mut self, place: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
        self.places.insert(place);
        Ok(())
    }

    fn forget(&mut self, place: PlaceId) {
        self.places.remove(&place);
        self.due.retain(|&due| due != place);
    }

    fn arm(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
        Ok(())
    }

    fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
        Writers::Unknown
    }

    fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
        Ok(Tells::No)
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            let now = clock::now();
            if let Some(event) = self.take(now) {
                return Ok(event);
            }
            let cost = self.effort.take().map_or(Duration::ZERO, Effort::so_far);
            match self.plan(now, cost) {
                Some(at) => tokio::time::sleep(at.since(now)).await,
                None => std::future::pending().await,
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        Ok(self.take(clock::now()))
    }

    fn losses(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_millis(40);

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    #[test]
    fn every_place_is_due_once_a_second() {
        let mut poll = PollSource::default();
        assert_eq!(poll.plan(at(0), COST), None);
        poll.places.extend([PlaceId(1), PlaceId(2)]);
        assert_eq!(poll.plan(at(0), COST), Some(at(1000)));
        assert_eq!(poll.take(at(999)), None);
        assert_eq!(poll.take(at(1000)), Some(Event::Due { place: PlaceId(1) }));
        assert_eq!(poll.take(at(1000)), Some(Event::Due { place: PlaceId(2) }));
        assert_eq!(poll.take(at(9000)), None);
        assert_eq!(poll.plan(at(1010), COST), Some(at(2000)));
    }

    #[test]
    fn what_takes_long_is_done_less_often() {
        let mut poll = PollSource::default();
        poll.places.insert(PlaceId(1));
        poll.plan(at(0), COST);
        poll.take(at(1000));
        assert_eq!(poll.plan(at(1200), COST * 5), Some(at(5200)));
        assert_eq!(poll.plan(at(1300), Duration::ZERO), Some(at(5200)));
    }

    /// It was stopped meanwhile, say.
    #[test]
    fn when_it_took_long_for_nothing_the_places_are_due_soon() {
        let mut poll = PollSource::default();
        poll.places.insert(PlaceId(1));
        poll.plan(at(0), COST);
        poll.take(at(1000));
        assert_eq!(poll.plan(at(9000), COST), Some(at(9800)));
    }
}
