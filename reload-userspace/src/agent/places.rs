//! The places that the source watches, and which paths depend on each.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use crate::{
    event::PlaceId,
    source::{Source, WatchError, Writers},
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
    places: HashMap<PlaceId, Place>,
    by_watch: HashMap<Index, BTreeSet<PlaceId>>,
    /// Numbers that can be handed out again.
    free: Vec<PlaceId>,
    next: u32,
}

#[derive(Debug)]
struct Place {
    identity: Identity,
    watches: BTreeSet<Index>,
    /// Whether the place has yielded its event, so that it must be armed before the next look.
    has_fired: bool,
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
            places: HashMap::new(),
            by_watch: HashMap::new(),
            free: Vec::new(),
            next: FIRST,
        }
    }

    /// Notes that a place has changed, and gives the paths that depend on it.
    pub(super) fn fired(&mut self, id: PlaceId) -> Vec<Index> {
        let Some(place) = self.places.get_mut(&id) else {
            return Vec::new();
        };
        place.has_fired = true;
        place.watches.iter().copied().collect()
    }

    /// Looks at a path: arms what has fired, watches what is new, forgets what it no longer needs.
    pub(super) fn look<S: Source>(
        &mut self,
        source: &mut S,
        index: Index,
        path: &Path,
        before: &View,
    ) -> Looked {
        let mut eyes = Eyes {
            places: self,
            source,
            index,
            before,
            seen: BTreeSet::new(),
            failures: Vec::new(),
            is_fresh: false,
        };
        let view = watch::look(path, &mut eyes);
        let Eyes { seen, failures, .. } = eyes;
        let gone: Vec<_> = match self.by_watch.insert(index, seen) {
            Some(before) => before.difference(&self.by_watch[&index]).copied().collect(),
            None => Vec::new(),
        };
        for id in gone {
            self.leave(source, index, id);
        }
        Looked { view, failures }
    }

    /// Takes a path off a place, and forgets the place if it was the last.
    fn leave<S: Source>(&mut self, source: &mut S, index: Index, id: PlaceId) {
        let Some(place) = self.places.get_mut(&id) else {
            return;
        };
        place.watches.remove(&index);
        if place.watches.is_empty() {
            self.by_identity.remove(&place.identity);
            self.places.remove(&id);
            source.forget(id);
            self.free.push(id);
        }
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
    before: &'a View,
    seen: BTreeSet<PlaceId>,
    failures: Vec<(PathBuf, WatchError)>,
    /// Whether the file that was shown last may have been written to since it was looked at.
    is_fresh: bool,
}

impl<S: Source> Eyes<'_, S> {
    /// Watches or arms a place, and says whether it may have changed since it was looked at.
    fn meet(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) -> bool {
        match self.try_meet(handle, identity) {
            Ok(is_fresh) => is_fresh,
            Err(error) => {
                self.failures.push((path.to_owned(), error));
                true
            }
        }
    }

    fn try_meet(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
    ) -> Result<bool, WatchError> {
        let known = self.places.by_identity.get(&identity).copied();
        let Some(id) = known else {
            let id = self.places.number();
            if let Err(error) = self.source.watch(id, handle) {
                self.places.free.push(id);
                return Err(error);
            }
            let watches = BTreeSet::from([self.index]);
            self.places.by_identity.insert(identity, id);
            self.places.places.insert(id, Place { identity, watches, has_fired: false });
            self.seen.insert(id);
            return Ok(true);
        };
        let Some(place) = self.places.places.get_mut(&id) else {
            return Ok(true);
        };
        self.seen.insert(id);
        let is_new_here = place.watches.insert(self.index);
        if place.has_fired {
            self.source.arm(id)?;
            place.has_fired = false;
            // The others that depend on it have been told; what they see from now on is new.
            return Ok(true);
        }
        Ok(is_new_here)
    }
}

impl<S: Source> Visitor for Eyes<'_, S> {
    fn directory(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) {
        if self.meet(handle, identity, path) {
            watch::wait_for_changes(handle);
        }
    }

    fn file(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) {
        self.is_fresh = self.meet(handle, identity, path);
    }

    fn writers(&mut self, handle: BorrowedFd<'_>, path: &Path, state: &FileState) -> Writers {
        let is_known = self.before.files.get(path) == Some(state)
            && self.before.writers == Some(Writers::None);
        if is_known && !self.is_fresh { Writers::None } else { self.source.writers(handle) }
    }
}
