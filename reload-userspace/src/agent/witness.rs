//! What tells that somebody opens a file, if anything can: the source, or a fanotify group besides.

use std::{
    collections::{BTreeSet, HashMap},
    future,
    path::PathBuf,
};

use nix::unistd::Pid;

use super::places::Places;
use crate::{
    confirm::{MOST_FILES, Opened, Opens, Ticket},
    event::PlaceId,
    source::{Follows, Source},
};

/// Whoever tells of opens.
#[derive(Debug)]
pub struct Witness(Teller);

#[derive(Debug)]
enum Teller {
    /// It is not wanted, or cannot be had here.
    None,
    /// The source, which tells of places.
    Source(Expected),
    /// fanotify, which needs rights of its own.
    Fanotify(Opens),
}

/// The places that the source is to tell of.
#[derive(Debug, Default)]
pub(super) struct Expected {
    tickets: HashMap<Ticket, Expectation>,
    next: u64,
}

/// What one reload is about: its paths, and where these have led to since.
#[derive(Debug, Default)]
struct Expectation {
    paths: Vec<PathBuf>,
    places: BTreeSet<PlaceId>,
}

/// What tells of changes.
pub(super) struct Watching<'a, S> {
    pub(super) source: &'a mut S,
    pub(super) places: &'a Places,
}

impl Witness {
    /// Has the source tell, or else fanotify, if that is wanted and either can.
    ///
    /// To be called while the agent has the rights for it. To begin takes some milliseconds, for which the
    /// first reload should not wait.
    pub fn open<S: Source>(is_wanted: bool, source: &mut S) -> Self {
        if source.tell_opens(is_wanted) == Follows::Yes {
            return Self(Teller::Source(Expected::default()));
        }
        let opens = is_wanted.then(Opens::open).transpose();
        let opens = opens.inspect_err(|error| {
            tracing::debug!(%error, "nobody tells who opens a file");
        });
        Self(opens.ok().flatten().map_or(Teller::None, Teller::Fanotify))
    }

    /// Has it told who opens these files; `None` where nobody can tell. To be called just before the
    /// signal is sent.
    pub(super) fn watch<S: Source>(
        &mut self,
        paths: &[PathBuf],
        watching: &mut Watching<'_, S>,
    ) -> Option<Ticket> {
        match &mut self.0 {
            Teller::Source(expected) => expected.watch(paths, watching),
            Teller::Fanotify(opens) => opens.watch(paths),
            Teller::None => None,
        }
    }

    /// Looks also at what takes the place of the files of that, and says whether it is elsewhere.
    pub(super) fn follow<S: Source>(
        &mut self,
        ticket: Option<Ticket>,
        watching: &mut Watching<'_, S>,
    ) -> bool {
        match (&mut self.0, ticket) {
            (Teller::Source(expected), Some(ticket)) => expected.follow(ticket, watching),
            (Teller::Fanotify(opens), Some(ticket)) => opens.follow(ticket),
            _ => false,
        }
    }

    /// Does not look at the files of that any more.
    pub(super) fn forget<S: Source>(&mut self, ticket: Option<Ticket>, source: &mut S) {
        match (&mut self.0, ticket) {
            (Teller::Source(expected), Some(ticket)) => expected.forget(ticket, source),
            (Teller::Fanotify(opens), Some(ticket)) => opens.forget(ticket),
            _ => {}
        }
    }

    /// For whom it is news that the source tells of an open.
    pub(super) fn opened_at(&self, place: PlaceId, pid: Pid) -> Opened {
        let Teller::Source(expected) = &self.0 else {
            return Opened { pid, tickets: Vec::new() };
        };
        let tickets = expected.tickets.iter().filter(|(_, it)| it.places.contains(&place));
        Opened { pid, tickets: tickets.map(|(&ticket, _)| ticket).collect() }
    }

    /// The next file that somebody opens, where the source does not tell.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Teller::Fanotify(opens) => opens.next().await.ok(),
            Teller::None | Teller::Source(_) => future::pending().await,
        }
    }

    /// The same without waiting for it.
    pub(super) fn try_next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Teller::Fanotify(opens) => opens.try_next(),
            Teller::None | Teller::Source(_) => None,
        }
    }
}

impl Expected {
    fn watch<S: Source>(
        &mut self,
        paths: &[PathBuf],
        watching: &mut Watching<'_, S>,
    ) -> Option<Ticket> {
        let ticket = Ticket(self.next);
        self.next += 1;
        let paths = paths.iter().take(MOST_FILES).cloned().collect();
        self.tickets.insert(ticket, Expectation { paths, places: BTreeSet::new() });
        if self.follow(ticket, watching) {
            return Some(ticket);
        }
        self.tickets.remove(&ticket);
        None
    }

    /// Has it told of where the paths lead now, and says whether that is news.
    fn follow<S: Source>(&mut self, ticket: Ticket, watching: &mut Watching<'_, S>) -> bool {
        let Some(Expectation { paths, places }) = self.tickets.get_mut(&ticket) else {
            return false;
        };
        let mut is_new = false;
        // What is not watched yet will be, by the look that follows the change.
        for place in paths.iter().filter_map(|path| watching.places.of_file(path)) {
            // Also for one that is known: its number may be another file's by now.
            let is_told = watching.source.expect_opens(place, true);
            is_new |= is_told && places.insert(place);
        }
        is_new
    }

    fn forget<S: Source>(&mut self, ticket: Ticket, source: &mut S) {
        let Some(Expectation { places, .. }) = self.tickets.remove(&ticket) else { return };
        for place in places {
            if !self.tickets.values().any(|it| it.places.contains(&place)) {
                source.expect_opens(place, false);
            }
        }
    }
}
