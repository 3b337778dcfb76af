//! What a look does with each directory and file that it is shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Followed, Index, Manner, Patience, Places, Way, Writing};
use crate::{
    event::{PlaceId, Writers},
    source::{Interest, Source, WatchError},
    watch::{self, Child, FileState, Identity, Straight, Visitor},
};

/// Watches and arms what a walk shows.
pub(super) struct Eyes<'a, S> {
    pub(super) places: &'a mut Places,
    pub(super) source: &'a mut S,
    pub(super) index: Index,
    /// The files as they were when their content was last compared.
    pub(super) settled: &'a BTreeMap<PathBuf, FileState>,
    pub(super) patience: Patience,
    /// Whether the end of what is being written may be waited for.
    pub(super) may_await_end: bool,
    pub(super) seen: BTreeMap<PlaceId, Interest>,
    pub(super) failures: Vec<(PathBuf, WatchError)>,
    pub(super) followed: BTreeSet<Followed>,
    /// The file that was shown last.
    pub(super) file: Option<Met>,
    /// Whether the whole trunk was spared.
    pub(super) has_spared_trunk: bool,
}

impl<'a, S: Source> Eyes<'a, S> {
    /// Those of a look at a path.
    pub(super) fn new(
        places: &'a mut Places,
        source: &'a mut S,
        index: Index,
        settled: &'a BTreeMap<PathBuf, FileState>,
        Manner { patience, may_await_end }: Manner,
    ) -> Self {
        Self {
            places,
            source,
            index,
            settled,
            patience,
            may_await_end,
            seen: BTreeMap::new(),
            failures: Vec::new(),
            followed: BTreeSet::new(),
            file: None,
            has_spared_trunk: false,
        }
    }

    /// Watches or arms a place, and gives it if that went well.
    fn meet(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) -> Option<Met> {
        let met = self.try_meet(handle, identity, path, interest);
        met.map_err(|error| self.failures.push((path.to_owned(), error))).ok()
    }

    fn try_meet(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) -> Result<Met, WatchError> {
        let known = self.places.by_identity.get(&identity).copied();
        let id = match known {
            Some(id) => id,
            None => self.places.add(self.source, handle, identity, path, self.index, interest)?,
        };
        let seen = self.seen.entry(id).or_insert(interest);
        *seen = interest.max(*seen);
        let Some(place) = self.places.by_id.get_mut(&id).filter(|_| known.is_some()) else {
            return Ok(Met { id, is_fresh: true });
        };
        if place.path != path {
            path.clone_into(&mut place.path);
        }
        let before = place.dependents.interest();
        let is_new_here = !place.dependents.contains(self.index);
        place.dependents.add(self.index, interest);
        let is_deaf = place.writing == Writing::EndAwaited
            && !(self.may_await_end && place.dependents.is_only(self.index));
        if !place.has_fired && place.dependents.interest() == before && !is_deaf {
            return Ok(Met { id, is_fresh: is_new_here });
        }
        self.source.arm(id, handle, place.dependents.interest())?;
        if place.writing == Writing::EndAwaited {
            place.writing = Writing::Announced;
        }
        // The others that depend on it have been told; what they see from now on is new.
        place.has_fired = false;
        place.may_be_under_way = true;
        Ok(Met { id, is_fresh: true })
    }
}

/// A place on the way of a look.
pub(super) struct Met {
    id: PlaceId,
    /// Whether it may have changed since it was looked at.
    is_fresh: bool,
}

impl<S: Source> Visitor for Eyes<'_, S> {
    fn vouched(&mut self) -> Option<Straight> {
        self.places.quiet(self.index, self.patience)
    }

    fn begins_at(&mut self, straight: &Straight) {
        self.spare(straight);
    }

    fn was_straight(&mut self, straight: Option<Straight>) {
        self.keep_trunk(straight);
    }

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

    fn child(&mut self, directory: Identity, path: &Path, child: Child) {
        let Some(&id) = self.places.by_identity.get(&directory) else {
            return;
        };
        let Some(place) = self.places.by_id.get_mut(&id) else {
            return;
        };
        let known = place.ways.get_key_value(path);
        let name = known.map_or_else(|| Arc::from(path), |(name, _)| Arc::clone(name));
        let way = place.ways.entry(Arc::clone(&name));
        let way = way.or_insert_with(|| Way { child, watches: Vec::with_capacity(1) });
        if way.child != child {
            self.places.astray.extend(way.watches.iter().filter(|&&other| other != self.index));
        }
        way.child = child;
        if let Err(gap) = way.watches.binary_search(&self.index) {
            way.watches.insert(gap, self.index);
        }
        self.followed.insert((id, name));
    }

    fn file(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) {
        self.file = self.meet(handle, identity, path, Interest::Any);
        let place = self.file.as_ref().and_then(|met| self.places.by_id.get_mut(&met.id));
        if let Some(place) = place {
            place.is_file = true;
        }
    }

    fn writers(&mut self, handle: BorrowedFd<'_>, path: &Path, state: &FileState) -> Writers {
        let Some(file) = self.file.take() else {
            return Writers::Unknown;
        };
        let Some(place) = self.places.by_id.get_mut(&file.id) else {
            return Writers::Unknown;
        };
        // Whoever has a file open and leaves it as it is is not waited for, but for the change in which he
        // was announced: then he is about to write.
        let is_announced = self.may_await_end && place.writing != Writing::None;
        if !file.is_fresh && !is_announced && self.settled.get(path) == Some(state) {
            place.writing = Writing::None;
            return Writers::None;
        }
        let may_await_end = self.may_await_end && place.dependents.is_only(self.index);
        place.writers(file.id, handle, self.source, may_await_end)
    }
}
