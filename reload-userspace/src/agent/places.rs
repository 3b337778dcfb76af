//! The places that the source watches, and which paths depend on each.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use crate::{
    event::{PlaceId, Writers},
    source::{Interest, Source, WatchError},
    watch::{self, FileState, Identity, View, Visitor},
};

/// The first number that is handed out; those below belong to the sources.
const FIRST: u32 = 1;

/// The number of a path that is watched.
pub(super) type Index = usize;

/// All places that are watched.
#[derive(Debug)]
pub(super) struct Places {
    by_identity: HashMap<Identity, PlaceId>,
    by_id: HashMap<PlaceId, Place>,
    by_watch: HashMap<Index, BTreeMap<PlaceId, Interest>>,
    /// What paths have left behind since the last sweep.
    left: Vec<(Index, PlaceId)>,
    /// Numbers that can be handed out again.
    free: Vec<PlaceId>,
    next: u32,
}

#[derive(Debug)]
struct Place {
    identity: Identity,
    /// The paths that depend on it, and what of it matters to each.
    watches: BTreeMap<Index, Interest>,
    /// Whether the place has yielded its event, so that it must be armed before the next look.
    has_fired: bool,
    /// Whether what was announced may not have been visible yet when the place was looked at.
    may_be_under_way: bool,
}

impl Place {
    /// What of it matters to anybody.
    fn interest(&self) -> Interest {
        self.watches.values().copied().max().unwrap_or(Interest::Replacement)
    }
}

/// Whether a look waits for changes that are being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It does not: it sees what is visible, which is enough if that is something new.
    ///
    /// A rename on ext4 is visible long before the kernel lets go of the directory, for it removes
    /// the file that was replaced first: 200 µs.
    Hasty,
    /// It does: whatever has been announced is visible.
    Patient,
}

/// What a look has found.
pub(super) struct Looked {
    pub(super) view: View,
    /// What cannot be watched.
    pub(super) failures: Vec<(PathBuf, WatchError)>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            by_identity: HashMap::new(),
            by_id: HashMap::new(),
            by_watch: HashMap::new(),
            left: Vec::new(),
            free: Vec::new(),
            next: FIRST,
        }
    }

    /// Notes that a place has changed, and gives the paths that depend on it, and how much.
    pub(super) fn fired(&mut self, id: PlaceId) -> Vec<(Index, Interest)> {
        let Some(place) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        place.has_fired = true;
        place.watches.iter().map(|(&index, &interest)| (index, interest)).collect()
    }

    /// Has every place armed again, whatever we believe of it: what went wrong once must not go on.
    pub(super) fn distrust(&mut self) {
        for place in self.by_id.values_mut() {
            place.has_fired = true;
        }
    }

    /// Looks at a path: arms what has fired, watches what is new, forgets what it no longer needs.
    pub(super) fn look<S: Source>(
        &mut self,
        source: &mut S,
        index: Index,
        path: &Path,
        settled: &BTreeMap<PathBuf, FileState>,
        patience: Patience,
    ) -> Looked {
        let mut eyes = Eyes {
            places: self,
            source,
            index,
            settled,
            patience,
            seen: BTreeMap::new(),
            failures: Vec::new(),
            file: None,
        };
        let view = watch::look(path, &mut eyes);
        let Eyes { seen, failures, .. } = eyes;
        for (id, interest) in &seen {
            // What no longer matters is no longer armed for from the next time on.
            if let Some(place) = self.by_id.get_mut(id) {
                place.watches.insert(index, *interest);
            }
        }
        let before = self.by_watch.remove(&index).unwrap_or_default();
        self.left
            .extend(before.into_keys().filter(|id| !seen.contains_key(id)).map(|id| (index, id)));
        self.by_watch.insert(index, seen);
        Looked { view, failures }
    }

    /// Forgets the places that no path needs any more. Put off until there is time for it.
    pub(super) fn sweep<S: Source>(&mut self, source: &mut S) {
        for (index, id) in std::mem::take(&mut self.left) {
            let is_back = self.by_watch.get(&index).is_some_and(|seen| seen.contains_key(&id));
            let Some(place) = self.by_id.get_mut(&id).filter(|_| !is_back) else {
                continue;
            };
            place.watches.remove(&index);
            if place.watches.is_empty() {
                self.by_identity.remove(&place.identity);
                self.by_id.remove(&id);
                source.forget(id);
                self.free.push(id);
            }
        }
    }

    /// Has the source watch a new place.
    fn add<S: Source>(
        &mut self,
        source: &mut S,
        handle: BorrowedFd<'_>,
        identity: Identity,
        index: Index,
        interest: Interest,
    ) -> Result<PlaceId, WatchError> {
        let id = self.number();
        if let Err(error) = source.watch(id, handle, interest) {
            self.free.push(id);
            return Err(error);
        }
        let watches = BTreeMap::from([(index, interest)]);
        let place = Place { identity, watches, has_fired: false, may_be_under_way: true };
        self.by_identity.insert(identity, id);
        self.by_id.insert(id, place);
        Ok(id)
    }

    fn number(&mut self) -> PlaceId {
        self.free.pop().unwrap_or_else(|| {
            let id = PlaceId(self.next);
            self.next += 1;
            id
        })
    }
}

/// Watches and arms what a walk shows.
struct Eyes<'a, S> {
    places: &'a mut Places,
    source: &'a mut S,
    index: Index,
    /// The files as they were when their content was last compared.
    settled: &'a BTreeMap<PathBuf, FileState>,
    patience: Patience,
    seen: BTreeMap<PlaceId, Interest>,
    failures: Vec<(PathBuf, WatchError)>,
    /// The file that was shown last.
    file: Option<Met>,
}

impl<S: Source> Eyes<'_, S> {
    /// Watches or arms a place, and gives it if that went well.
    fn meet(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) -> Option<Met> {
        let met = self.try_meet(handle, identity, interest);
        met.map_err(|error| self.failures.push((path.to_owned(), error))).ok()
    }

    fn try_meet(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        interest: Interest,
    ) -> Result<Met, WatchError> {
        let known = self.places.by_identity.get(&identity).copied();
        let id = match known {
            Some(id) => id,
            None => self.places.add(self.source, handle, identity, self.index, interest)?,
        };
        let seen = self.seen.entry(id).or_insert(interest);
        *seen = interest.max(*seen);
        let Some(place) = self.places.by_id.get_mut(&id).filter(|_| known.is_some()) else {
            return Ok(Met { id, is_fresh: true });
        };
        let before = place.interest();
        let is_new_here = !place.watches.contains_key(&self.index);
        let mine = place.watches.entry(self.index).or_insert(interest);
        *mine = interest.max(*mine);
        if !place.has_fired && place.interest() == before {
            return Ok(Met { id, is_fresh: is_new_here });
        }
        self.source.arm(id, handle, place.interest())?;
        // The others that depend on it have been told; what they see from now on is new.
        place.has_fired = false;
        place.may_be_under_way = true;
        Ok(Met { id, is_fresh: true })
    }
}

/// A place on the way of a look.
struct Met {
    id: PlaceId,
    /// Whether it may have changed since it was looked at.
    is_fresh: bool,
}

impl<S: Source> Visitor for Eyes<'_, S> {
    fn directory(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) {
        let met = self.meet(handle, identity, path, interest);
        if self.patience == Patience::Hasty {
            return;
        }
        let place = met.and_then(|met| self.places.by_id.get_mut(&met.id));
        if place.is_some_and(|place| std::mem::take(&mut place.may_be_under_way)) {
            watch::wait_for_changes(handle);
        }
    }

    fn file(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) {
        self.file = self.meet(handle, identity, path, Interest::Any);
    }

    fn writers(&mut self, handle: BorrowedFd<'_>, path: &Path, state: &FileState) -> Writers {
        let Some(file) = self.file.take() else {
            return Writers::Unknown;
        };
        // Whoever has a file open and leaves it as it is is not waited for.
        let is_settled = !file.is_fresh && self.settled.get(path) == Some(state);
        if is_settled { Writers::None } else { self.source.writers(file.id, handle) }
    }
}
