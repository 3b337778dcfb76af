//! What tells that somebody opens a file, if anything can: the source, or a fanotify group besides.

use std::{
    collections::{BTreeSet, HashMap},
    future, mem,
    path::PathBuf,
};

use nix::unistd::Pid;

use super::places::Places;
use crate::{
    clock::{self, Boot},
    confirm::{MOST_FILES, Opened, Opens, Ticket},
    event::PlaceId,
    source::{Source, Tells},
    watch::Identity,
};

/// Whoever tells of opens.
#[derive(Debug)]
pub struct Witness(Origin);

#[derive(Debug)]
enum Origin {
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

/// What one reload is about: its paths, and where these lead.
#[derive(Debug)]
struct Expectation {
    paths: Vec<PathBuf>,
    places: BTreeSet<PlaceId>,
    /// What was opened before is no evidence.
    since: Boot,
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
        if is_wanted && source.tell_opens() == Tells::Yes {
            return Self(Origin::Source(Expected::default()));
        }
        let opens = is_wanted.then(Opens::open).transpose();
        let opens = opens.inspect_err(|error| {
            tracing::debug!(%error, "nobody tells who opens a file");
        });
        Self(opens.ok().flatten().map_or(Origin::None, Origin::Fanotify))
    }

    /// Has it told who opens these files; `None` where nobody can tell. To be called just before the
    /// signal is sent.
    pub(super) fn watch<S: Source>(
        &mut self,
        paths: &[PathBuf],
        watching: &mut Watching<'_, S>,
    ) -> Option<Ticket> {
        match &mut self.0 {
            Origin::Source(expected) => expected.watch(paths, watching),
            Origin::Fanotify(opens) => opens.watch(paths),
            Origin::None => None,
        }
    }

    /// Looks also at what takes the place of the files of that, and says whether it is elsewhere.
    pub(super) fn follow<S: Source>(
        &mut self,
        ticket: Option<Ticket>,
        watching: &mut Watching<'_, S>,
    ) -> bool {
        match (&mut self.0, ticket) {
            (Origin::Source(expected), Some(ticket)) => expected.follow(ticket, watching),
            (Origin::Fanotify(opens), Some(ticket)) => opens.follow(ticket),
            _ => false,
        }
    }

    /// Does not look at the files of that any more.
    pub(super) fn forget<S: Source>(&mut self, ticket: Option<Ticket>, source: &mut S) {
        match (&mut self.0, ticket) {
            (Origin::Source(expected), Some(ticket)) => expected.forget(ticket, source),
            (Origin::Fanotify(opens), Some(ticket)) => opens.forget(ticket),
            _ => {}
        }
    }

    /// For whom it is news that the source tells of an open: those who have asked before it.
    pub(super) fn opened_at(&self, place: PlaceId, pid: Pid, at: Boot) -> Opened {
        let Origin::Source(expected) = &self.0 else {
            return Opened { pid, tickets: Vec::new() };
        };
        let tickets = expected.tickets.iter();
        let tickets = tickets.filter(|(_, it)| it.since <= at && it.places.contains(&place));
        Opened { pid, tickets: tickets.map(|(&ticket, _)| ticket).collect() }
    }

    /// The next file that somebody opens, where the source does not tell.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Origin::Fanotify(opens) => opens.next().await.ok(),
            Origin::None | Origin::Source(_) => future::pending().await,
        }
    }

    /// The same without waiting for it.
    pub(super) fn try_next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Origin::Fanotify(opens) => opens.try_next(),
            Origin::None | Origin::Source(_) => None,
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
        let expectation = Expectation { paths, places: BTreeSet::new(), since: clock::now() };
        self.tickets.insert(ticket, expectation);
        self.follow(ticket, watching);
        let is_any = self.tickets.get(&ticket).is_some_and(|it| !it.places.is_empty());
        if !is_any {
            self.tickets.remove(&ticket);
        }
        is_any.then_some(ticket)
    }

    /// Has it told of where the paths lead now, and says whether that is elsewhere: what is not watched
    /// yet may have been opened unseen.
    fn follow<S: Source>(&mut self, ticket: Ticket, watching: &mut Watching<'_, S>) -> bool {
        let Some(expectation) = self.tickets.get_mut(&ticket) else {
            return false;
        };
        let mut is_unseen = false;
        let mut now = BTreeSet::new();
        for path in &expectation.paths {
            // One that is not there is not opened either.
            let Some(identity) = Identity::at(path) else { continue };
            match watching.places.of(identity) {
                Some(place) if watching.source.expect_open(place) == Tells::Yes => {
                    now.insert(place);
                }
                _ => is_unseen = true,
            }
        }
        let is_elsewhere = is_unseen || !now.is_subset(&expectation.places);
        let before = mem::replace(&mut expectation.places, now);
        self.expect_no_more(before, watching.source);
        is_elsewhere
    }

    fn forget<S: Source>(&mut self, ticket: Ticket, source: &mut S) {
        if let Some(expectation) = self.tickets.remove(&ticket) {
            self.expect_no_more(expectation.places, source);
        }
    }

    /// Has it no more told of those of the places that no ticket is about.
    fn expect_no_more<S: Source>(&self, places: BTreeSet<PlaceId>, source: &mut S) {
        for place in places {
            if !self.tickets.values().any(|it| it.places.contains(&place)) {
                source.expect_no_open(place);
            }
        }
    }
}
