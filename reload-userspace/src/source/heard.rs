//! What has been heard of each place, for sources whose kernel side knows no arming: it goes on
//! filling a queue, and what is of a silent place is dropped here.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::BorrowedFd,
    time::Duration,
};

use rustix::fs::fstat;

use crate::{
    clock::{self, Boot},
    event::{Actor, Event, LossReason, PlaceId, SourceName, Writers},
};

/// How many readings in a row may give nothing that is of interest before there is a rest.
const FREE_READINGS: u32 = 32;

/// How long that rest is: a busy writer in a watched place costs 200 wake-ups a second, not more.
const REST: Duration = Duration::from_millis(5);

/// How often a queue is read in a row: more than it takes to empty a full one.
pub(super) const MOST_READINGS: usize = 512;

/// For how long whoever has written and not closed is believed to write: `truncate(2)` never closes.
const MEMORY: Duration = Duration::from_mins(1);

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
    /// When somebody wrote who has not closed it since.
    written: Option<Boot>,
    /// Whether there was something to be heard since the last time that nobody was found to write.
    is_heard_of: bool,
    /// What the file was like then.
    complete: Option<Stamp>,
}

/// The size and times of a file.
type Stamp = [i64; 5];

impl Heard {
    /// Arms a place, which may be new.
    pub(super) fn arm(&mut self, place: PlaceId) {
        let new = || State { is_armed: true, written: None, is_heard_of: true, complete: None };
        self.places.entry(place).or_insert_with(new).is_armed = true;
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
            Deed::Written => state.written = Some(clock::now()),
            Deed::Closed => state.written = None,
            Deed::Other => {}
        }
        state.is_heard_of = true;
        if std::mem::take(&mut state.is_armed) {
            self.yield_one(Event::Changed { place, at: clock::now(), by });
        }
    }

    /// Notes that the queue was full.
    pub(super) fn lose(&mut self, source: SourceName) {
        let hook = "queue";
        // What was being written may have been closed since, and what was closed may be written.
        for state in self.places.values_mut() {
            (state.written, state.is_heard_of, state.complete) = (None, false, None);
        }
        self.yield_one(Event::Lost { source, reason: LossReason::QueueFull, hook, count: 1 });
    }

    /// Whether somebody is known to write to the file behind `handle`.
    ///
    /// Of several writers only the last is known of: the first to close counts as the last. So does a
    /// close that fanotify has merged with a write after it, of the same process. The kernel
    /// changes a file first and tells of it when that is done, so a file that is another than it was
    /// when it was complete, and that nothing was heard of since, is being changed now.
    pub(super) fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        let Some(state) = self.places.get_mut(&place) else {
            return Writers::Unknown;
        };
        let now = clock::now();
        if state.written.is_some_and(|at| now.since(at) < MEMORY) {
            return Writers::Some;
        }
        let stamp = stamp(handle);
        let is_told = std::mem::take(&mut state.is_heard_of);
        if !is_told && state.complete != stamp {
            return Writers::Unknown;
        }
        state.complete = stamp;
        Writers::None
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

fn stamp(file: BorrowedFd<'_>) -> Option<Stamp> {
    let stat = fstat(file).ok()?;
    let nanos = [stat.st_mtime_nsec, stat.st_ctime_nsec].map(|nanos| i64::try_from(nanos).ok());
    Some([stat.st_size, stat.st_mtime, nanos[0]?, stat.st_ctime, nanos[1]?])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _};

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
        let file = tempfile::tempfile().unwrap();
        let file = file.as_fd();
        let mut heard = Heard::default();
        assert_eq!(heard.writers(PLACE, file), Writers::Unknown);
        heard.arm(PLACE);
        assert_eq!(heard.writers(PLACE, file), Writers::None);
        heard.note(PLACE, Deed::Written, write());
        assert_eq!(heard.writers(PLACE, file), Writers::Some);
        heard.note(PLACE, Deed::Closed, write());
        assert_eq!(heard.writers(PLACE, file), Writers::None);
        heard.note(PLACE, Deed::Written, write());
        heard.lose(SourceName::Inotify);
        assert_eq!(heard.writers(PLACE, file), Writers::Unknown, "a close may be among the lost");
    }

    #[test]
    fn a_change_that_is_yet_to_be_announced_has_an_unknown_writer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let handle = file.as_file().as_fd();
        let mut heard = Heard::default();
        heard.arm(PLACE);
        assert_eq!(heard.writers(PLACE, handle), Writers::None);
        fs::write(file.path(), "more").unwrap();
        assert_eq!(heard.writers(PLACE, handle), Writers::Unknown);
        heard.note(PLACE, Deed::Written, write());
        assert_eq!(heard.writers(PLACE, handle), Writers::Some);
        heard.note(PLACE, Deed::Closed, write());
        assert_eq!(heard.writers(PLACE, handle), Writers::None);
        assert_eq!(heard.writers(PLACE, handle), Writers::None);
        fs::write(file.path(), "").unwrap();
        assert_eq!(heard.writers(PLACE, handle), Writers::Unknown);
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
