//! What has been heard of each place, for sources whose kernel side knows no arming: it goes on
//! filling a queue, and what is of a silent place is dropped here.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    clock::{self, Boot},
    event::{Actor, Event, LossReason, PlaceId, SourceName, Writers},
};

/// How many readings in a row may give nothing that is of interest before there is a rest.
const FREE_READINGS: u32 = 32;

/// How long that rest is: a busy writer in a watched place costs 200 wake-ups a second, not more.
const REST: Duration = Duration::from_millis(5);

/// What the queue says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// It was written to, and whoever did has not closed it yet.
    Written,
    /// Somebody who could write has closed it.
    Closed,
    /// Anything else.
    Other,
}

/// What is known of the places of one source, and the events that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Heard {
    places: HashMap<PlaceId, State>,
    events: VecDeque<Event>,
    fruitless: u32,
    rest_until: Option<Boot>,
}

#[derive(Debug)]
struct State {
    is_armed: bool,
    is_being_written: bool,
}

impl Heard {
    /// Arms a place, which may be new.
    pub(super) fn arm(&mut self, place: PlaceId) {
        let state =
            self.places.entry(place).or_insert(State { is_armed: true, is_being_written: false });
        state.is_armed = true;
    }

    pub(super) fn forget(&mut self, place: PlaceId) {
        self.places.remove(&place);
    }

    /// Notes that somebody did something, and yields that as an event if the place is armed.
    pub(super) fn note(&mut self, place: PlaceId, deed: Deed, by: Actor) {
        let Some(state) = self.places.get_mut(&place) else {
            return;
        };
        match deed {
            Deed::Written => state.is_being_written = true,
            Deed::Closed => state.is_being_written = false,
            Deed::Other => {}
        }
        if std::mem::take(&mut state.is_armed) {
            self.yield_one(Event::Changed { place, at: clock::now(), by });
        }
    }

    /// Notes that the queue was full.
    pub(super) fn lose(&mut self, source: SourceName) {
        let hook = "queue";
        // Whoever was being written may have been closed since.
        self.places.values_mut().for_each(|state| state.is_being_written = false);
        self.yield_one(Event::Lost { source, reason: LossReason::QueueFull, hook, count: 1 });
    }

    /// Whether somebody is known to write to the file.
    ///
    /// Of several writers only the last is known of: the first to close counts as the last.
    pub(super) fn writers(&self, place: PlaceId) -> Writers {
        match self.places.get(&place) {
            Some(State { is_being_written: true, .. }) => Writers::Some,
            Some(_) => Writers::None,
            None => Writers::Unknown,
        }
    }

    /// Takes the next event.
    pub(super) fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Notes that the queue has been read.
    pub(super) fn has_read(&mut self) {
        self.fruitless = if self.events.is_empty() { self.fruitless + 1 } else { 0 };
        let is_tired = self.fruitless > FREE_READINGS;
        self.rest_until = is_tired.then(|| clock::now().after(REST));
    }

    /// How long to leave the queue alone, if it fills with what nobody wants to know.
    pub(super) fn rest(&self) -> Option<Duration> {
        Some(self.rest_until?.since(clock::now())).filter(|rest| !rest.is_zero())
    }

    fn yield_one(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Operation;

    const PLACE: PlaceId = PlaceId(7);

    fn write() -> Actor {
        Actor::unknown(Operation::Write)
    }

    #[test]
    fn a_place_yields_one_event_for_each_time_it_is_armed() {
        let mut heard = Heard::default();
        heard.note(PLACE, Deed::Written, write());
        assert_eq!(heard.take(), None);
        heard.arm(PLACE);
        for _ in 0..3 {
            heard.note(PLACE, Deed::Written, write());
        }
        assert!(matches!(heard.take(), Some(Event::Changed { place: PLACE, .. })));
        assert_eq!(heard.take(), None);
        heard.arm(PLACE);
        heard.note(PLACE, Deed::Other, write());
        assert!(heard.take().is_some());
        heard.forget(PLACE);
        heard.note(PLACE, Deed::Other, write());
        assert_eq!(heard.take(), None);
    }

    #[test]
    fn a_silent_place_still_tells_who_writes() {
        let mut heard = Heard::default();
        assert_eq!(heard.writers(PLACE), Writers::Unknown);
        heard.arm(PLACE);
        assert_eq!(heard.writers(PLACE), Writers::None);
        heard.note(PLACE, Deed::Written, write());
        assert_eq!(heard.writers(PLACE), Writers::Some);
        heard.note(PLACE, Deed::Closed, write());
        assert_eq!(heard.writers(PLACE), Writers::None);
        heard.note(PLACE, Deed::Written, write());
        heard.lose(SourceName::Inotify);
        assert_eq!(heard.writers(PLACE), Writers::None);
    }

    #[test]
    fn a_queue_that_gives_nothing_is_left_alone_for_a_while() {
        let mut heard = Heard::default();
        for _ in 0..FREE_READINGS {
            heard.has_read();
        }
        assert_eq!(heard.rest(), None);
        heard.has_read();
        assert!(heard.rest().is_some());
        heard.arm(PLACE);
        heard.note(PLACE, Deed::Other, write());
        heard.has_read();
        assert_eq!(heard.rest(), None);
    }
}
