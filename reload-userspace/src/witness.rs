//! What tells that somebody opens a file, if anything can: the source, or a fanotify group besides.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    future, mem,
    os::fd::AsFd as _,
    path::Path,
    time::Duration,
};

use nix::unistd::Pid;

use crate::places::Places;
use crate::{
    clock::{self, Boot},
    confirm::{MOST_FILES, Opened, Opens, Ticket},
    event::PlaceId,
    reach::{self, Spot},
    source::{Source, Tells},
    watch::Identity,
};

/// How long what is on its way from the kernel may take.
const MEMORY: Duration = Duration::from_secs(10);

/// How long after it is known that an open is to be told of it is dated.
const DATED: Duration = Duration::from_millis(10);

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
pub(crate) struct Expected {
    tickets: HashMap<Ticket, Expectation>,
    next: u64,
    /// The names of which it is to tell who opens what bears them, by their directories, and the number
    /// that each goes by.
    names: HashMap<(PlaceId, OsString), PlaceId>,
    /// Whether the source has lost events.
    has_lost: bool,
}

/// What one reload is about: its paths, and the files and names that these lead to.
#[derive(Debug)]
struct Expectation {
    spots: Vec<Spot>,
    places: BTreeSet<PlaceId>,
    /// The places that these have been, and until when: what was opened there before may be told of later,
    /// and their numbers may be those of others by then.
    former: HashMap<PlaceId, Boot>,
    /// What was opened before is no evidence.
    since: Boot,
}

/// What tells of changes.
pub(crate) struct Watching<'a, S> {
    pub(crate) source: &'a mut S,
    pub(crate) places: &'a mut Places,
}

/// Whether it would be seen that somebody opens what the paths of a reload lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// It would, as since the last time.
    Steady,
    /// It is from here on: what they lead to now may have been opened before.
    Regained,
    /// It is not: they lead to where nobody has looked yet.
    Lost,
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

    /// Whether there is anybody who may tell who opens a file.
    pub(crate) fn can_tell(&self) -> bool {
        !matches!(self.0, Origin::None)
    }

    /// Has it told who opens these files; `None` where nobody can tell. To be called just before the
    /// signal is sent.
    pub(crate) fn watch<S: Source>(
        &mut self,
        spots: Vec<Spot>,
        watching: &mut Watching<'_, S>,
    ) -> Option<Ticket> {
        match &mut self.0 {
            Origin::Source(expected) => expected.watch(spots, watching),
            Origin::Fanotify(opens) => opens.watch(spots),
            Origin::None => None,
        }
    }

    /// Looks also at what takes the place of the files of that, and says whether it can.
    pub(crate) fn follow<S: Source>(
        &mut self,
        ticket: Option<Ticket>,
        watching: &mut Watching<'_, S>,
    ) -> Sight {
        match (&mut self.0, ticket) {
            (Origin::Source(expected), Some(ticket)) => expected.follow(ticket, watching),
            (Origin::Fanotify(opens), Some(ticket)) => {
                if opens.follow(ticket) {
                    Sight::Regained
                } else {
                    Sight::Steady
                }
            }
            _ => Sight::Steady,
        }
    }

    /// Does not look at the files of that any more.
    pub(crate) fn forget<S: Source>(
        &mut self,
        ticket: Option<Ticket>,
        watching: &mut Watching<'_, S>,
    ) {
        match (&mut self.0, ticket) {
            (Origin::Source(expected), Some(ticket)) => expected.forget(ticket, watching),
            (Origin::Fanotify(opens), Some(ticket)) => opens.forget(ticket),
            _ => {}
        }
    }

    /// For whom it is news that the source tells of an open: those who have asked before it.
    pub(crate) fn opened_at(&self, place: PlaceId, pid: Pid, at: Boot) -> Opened {
        let Origin::Source(expected) = &self.0 else {
            return Opened { pid, tickets: Vec::new() };
        };
        let tickets = expected.tickets.iter();
        let tickets = tickets.filter(|(_, it)| it.since <= at && it.is_about(place, at));
        Opened { pid, tickets: tickets.map(|(&ticket, _)| ticket).collect() }
    }

    /// Notes that the source has lost events.
    pub(crate) fn source_has_lost(&mut self) {
        if let Origin::Source(expected) = &mut self.0 {
            expected.has_lost = true;
        }
    }

    /// Whether somebody may have opened a file since the last time and it was not told.
    pub(crate) fn take_loss(&mut self) -> bool {
        match &mut self.0 {
            Origin::Source(expected) => mem::take(&mut expected.has_lost),
            Origin::Fanotify(opens) => opens.take_loss(),
            Origin::None => false,
        }
    }

    /// The next file that somebody opens, where the source does not tell.
    pub(crate) async fn next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Origin::Fanotify(opens) => opens.next().await.ok(),
            Origin::None | Origin::Source(_) => future::pending().await,
        }
    }

    /// The same without waiting for it.
    pub(crate) fn try_next(&mut self) -> Option<Opened> {
        match &mut self.0 {
            Origin::Fanotify(opens) => opens.try_next(),
            Origin::None | Origin::Source(_) => None,
        }
    }
}

impl Expectation {
    /// Whether it was about a place at that moment.
    fn is_about(&self, place: PlaceId, at: Boot) -> bool {
        self.places.contains(&place) || self.former.get(&place).is_some_and(|&until| at <= until)
    }
}

impl Expected {
    fn watch<S: Source>(
        &mut self,
        mut spots: Vec<Spot>,
        watching: &mut Watching<'_, S>,
    ) -> Option<Ticket> {
        let ticket = Ticket(self.next);
        self.next += 1;
        spots.truncate(MOST_FILES);
        let (places, former) = (BTreeSet::new(), HashMap::new());
        let expectation = Expectation { spots, places, former, since: clock::now() };
        self.tickets.insert(ticket, expectation);
        self.follow(ticket, watching);
        let is_any = self.tickets.get(&ticket).is_some_and(|it| !it.places.is_empty());
        if !is_any {
            self.tickets.remove(&ticket);
        }
        is_any.then_some(ticket)
    }

    /// Has it told of what the paths lead to now: of the files themselves, which may have other names, and
    /// of whatever takes their place under their names. Where a path leads to nothing, or to where nobody
    /// has looked yet, the names of before stay.
    fn follow<S: Source>(&mut self, ticket: Ticket, watching: &mut Watching<'_, S>) -> Sight {
        let Some(expectation) = self.tickets.get_mut(&ticket) else {
            return Sight::Steady;
        };
        let mut sight = Sight::Steady;
        let mut now = BTreeSet::new();
        for spot in &expectation.spots {
            let mut found = BTreeSet::new();
            // One that is not there is not opened either.
            if let Ok(path) = spot.real() {
                let name = expect_name(&mut self.names, &path, watching);
                let file = expect_file(&path, watching);
                let seen = match name.or(file) {
                    None => Sight::Lost,
                    Some(place) if expectation.places.contains(&place) => Sight::Steady,
                    Some(_) => Sight::Regained,
                };
                sight = sight.max(seen);
                found.extend(name.into_iter().chain(file));
            }
            if found.is_empty() {
                let stays = |(directory, _): &(PlaceId, OsString), place: &PlaceId| {
                    expectation.places.contains(place) && !watching.places.is_left(*directory)
                };
                let names = self.names.iter().filter(|(key, place)| stays(key, place));
                found.extend(names.map(|(_, &place)| place));
            }
            now.append(&mut found);
        }
        let before = mem::replace(&mut expectation.places, now);
        let left: Vec<_> = before.difference(&expectation.places).copied().collect();
        self.expect_no_more(before, watching);
        // Not before it is told no more, and whoever is told of is dated a little later.
        let until = clock::now().after(DATED);
        if let Some(expectation) = self.tickets.get_mut(&ticket) {
            expectation.former.retain(|_, &mut at| until.since(at) < MEMORY);
            expectation.former.extend(left.into_iter().map(|place| (place, until)));
        }
        sight
    }

    fn forget<S: Source>(&mut self, ticket: Ticket, watching: &mut Watching<'_, S>) {
        if let Some(expectation) = self.tickets.remove(&ticket) {
            self.expect_no_more(expectation.places, watching);
        }
    }

    /// Has it no more told of those of the places that no ticket is about.
    fn expect_no_more<S: Source>(
        &mut self,
        places: BTreeSet<PlaceId>,
        watching: &mut Watching<'_, S>,
    ) {
        for place in places {
            if self.tickets.values().any(|it| it.places.contains(&place)) {
                continue;
            }
            watching.source.expect_no_open(place);
            let names = self.names.len();
            self.names.retain(|_, it| *it != place);
            if self.names.len() < names {
                watching.places.give_back(place);
            }
        }
    }
}

/// The place of what is at a path without symlinks, if it is watched.
fn place_of<S: Source>(path: &Path, watching: &Watching<'_, S>) -> Option<PlaceId> {
    let handle = reach::open_real(path).ok()?;
    watching.places.of(Identity::of(handle.as_fd())?)
}

/// Has it told of who opens this file, and gives its place.
fn expect_file<S: Source>(path: &Path, watching: &mut Watching<'_, S>) -> Option<PlaceId> {
    let place = place_of(path, watching)?;
    (watching.source.expect_open(place) == Tells::Yes).then_some(place)
}

/// Has it told of who opens whatever bears this name, and gives the number that it goes by.
fn expect_name<S: Source>(
    names: &mut HashMap<(PlaceId, OsString), PlaceId>,
    path: &Path,
    watching: &mut Watching<'_, S>,
) -> Option<PlaceId> {
    let (directory, name) = path.parent().zip(path.file_name())?;
    let directory = place_of(directory, watching)?;
    let key = (directory, name.to_owned());
    let known = names.get(&key).copied();
    let place = known.unwrap_or_else(|| watching.places.reserve());
    if watching.source.expect_open_of(name, directory, place) == Tells::Yes {
        names.insert(key, place);
        return Some(place);
    }
    if known.is_none() {
        watching.places.give_back(place);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsStr, fs, os::fd::BorrowedFd};

    use super::*;
    use crate::{
        event::{Event, SourceName, Writers},
        places::Manner,
        source::{Interest, SourceError, WatchError},
        watch::Reach,
    };

    /// A source that tells of opens to the last: of one at the moment when it is to tell of no more.
    #[derive(Default)]
    struct Last(Option<(PlaceId, Boot)>);

    impl Source for Last {
        fn name(&self) -> SourceName {
            SourceName::Ebpf
        }
        fn watch(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            Ok(())
        }
        fn forget(&mut self, _: PlaceId) {}
        fn arm(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            Ok(())
        }
        fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
            Writers::None
        }
        fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
            Ok(Tells::Yes)
        }
        async fn next(&mut self) -> Result<Event, SourceError> {
            future::pending().await
        }
        fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
            Ok(None)
        }
        fn losses(&mut self) -> Vec<Event> {
            Vec::new()
        }
        fn expect_open(&mut self, _: PlaceId) -> Tells {
            Tells::Yes
        }
        fn expect_open_of(&mut self, _: &OsStr, _: PlaceId, _: PlaceId) -> Tells {
            Tells::Yes
        }
        fn expect_no_open(&mut self, place: PlaceId) {
            self.0 = Some((place, clock::now()));
        }
    }

    #[test]
    fn what_is_told_until_it_is_told_no_more_is_evidence() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().join("app.conf");
        fs::write(&path, "0").unwrap();
        let (mut source, mut places) = (Last::default(), Places::new());
        let settled = BTreeMap::new();
        places.look(&mut source, 0, &path, Reach::Anywhere, &settled, Manner::FIRST);
        let file = place_of(&path, &Watching { source: &mut source, places: &mut places }).unwrap();
        let mut witness = Witness(Origin::Source(Expected::default()));
        let mut watching = Watching { source: &mut source, places: &mut places };
        let ticket = witness.watch(vec![Spot::from(path.clone())], &mut watching);
        let draft = path.with_extension("draft");
        fs::write(&draft, "1").unwrap();
        fs::rename(draft, &path).unwrap();
        // Whoever opened it just before has found the old one.
        assert_eq!(witness.follow(ticket, &mut watching), Sight::Steady);
        let (place, at) = source.0.unwrap();
        assert_eq!(place, file);
        assert_eq!(witness.opened_at(place, Pid::this(), at).tickets, [ticket.unwrap()]);
        let later = clock::now().after(MEMORY);
        assert_eq!(witness.opened_at(place, Pid::this(), later).tickets, []);
    }
}
