//! The places that the source watches, and which paths depend on each.

mod crowd;
mod dependents;
mod eyes;
mod trunk;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{
    crowd::{CROWD, Peek},
    dependents::Dependents,
    eyes::Eyes,
    trunk::Trunk,
};
use crate::{
    clock::Boot,
    event::{Actor, PlaceId, Writers},
    source::{Interest, Source, WatchError},
    watch::{self, Child, FileState, Identity, Reach, View},
};

/// The number of a path that is watched.
pub(crate) type Index = usize;

/// A name on the way of a path, with the directory that it is in.
type Followed = (PlaceId, Arc<Path>);

/// All places that are watched.
#[derive(Debug)]
pub(crate) struct Places {
    by_identity: HashMap<Identity, PlaceId>,
    by_id: HashMap<PlaceId, Place>,
    by_watch: HashMap<Index, BTreeMap<PlaceId, Interest>>,
    /// The names, with the directories they are in, that each path followed when it was last looked at.
    followed: HashMap<Index, Box<[Followed]>>,
    /// How far the way of each path is straight.
    trunks: HashMap<Index, Trunk>,
    /// The paths that follow a name of which another has found out that it leads elsewhere.
    astray: BTreeSet<Index>,
    /// The crowded places where something has happened that is yet to be looked for.
    peeks: BTreeMap<PlaceId, Peek>,
    /// What paths have left behind since the last sweep.
    left: Vec<(Index, PlaceId)>,
    /// Numbers that can be handed out again.
    free: Vec<PlaceId>,
    next: u32,
    /// When all paths whose time is rationed, and who have had too much, have made up for that.
    others_paid: Boot,
}

#[derive(Debug)]
struct Place {
    identity: Identity,
    /// Whether it is a file that a path stands for, and no directory on the way.
    is_file: bool,
    dependents: Dependents,
    /// Whether the place has yielded its event, so that it must be armed before the next look.
    has_fired: bool,
    /// How often it has.
    stirs: u64,
    writing: Writing,
    /// Whether what was announced may not have been visible yet when the place was looked at.
    may_be_under_way: bool,
    /// Where a directory was when it was last passed.
    path: PathBuf,
    /// The names of a directory on the way to something, each with the path of the directory: it may be
    /// mounted at more than one.
    ways: HashMap<Arc<Path>, Way>,
    /// When all peeks in vain so far are paid for.
    paid: Boot,
}

/// Whether a file is open for writing, as far as anybody has asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// It is not.
    None,
    /// It is, and every write is announced.
    Announced,
    /// It is, and only its end is announced.
    EndAwaited,
}

/// A name in a directory, what it led to when it was last followed, and the paths that follow it.
#[derive(Debug)]
struct Way {
    child: Child,
    /// In order. Mostly one.
    watches: Vec<Index>,
}

/// A path that something has happened to.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) index: Index,
    pub(crate) interest: Interest,
    pub(crate) at: Boot,
    pub(crate) by: Option<Actor>,
}

impl Place {
    /// Notes that something has happened there, or may have.
    fn stir(&mut self) {
        self.has_fired = true;
        self.stirs += 1;
    }

    /// Notes that a path no longer follows a name.
    fn leave(&mut self, name: &Path, index: Index) {
        if let Some(way) = self.ways.get_mut(name) {
            if let Ok(place) = way.watches.binary_search(&index) {
                way.watches.remove(place);
            }
            if way.watches.is_empty() {
                self.ways.remove(name);
            }
        }
    }

    /// Whether somebody has the file open for writing; if so, and if that will do, only his end is
    /// announced from here on.
    fn writers<S: Source>(
        &mut self,
        id: PlaceId,
        handle: BorrowedFd<'_>,
        source: &mut S,
        may_await_end: bool,
    ) -> Writers {
        let mut writers = source.writers(id, handle);
        let mut is_end_awaited = self.writing == Writing::EndAwaited;
        if writers == Writers::Some && may_await_end && source.await_end(id) {
            is_end_awaited = true;
            // Whoever has closed it since he was asked for is not announced.
            writers = source.writers(id, handle);
        }
        let is_over = is_end_awaited && (writers != Writers::Some || !may_await_end);
        if is_over && source.arm(id, handle, self.dependents.interest()).is_ok() {
            is_end_awaited = false;
            // Nor is what was written until now.
            writers = source.writers(id, handle);
        }
        self.writing = match writers {
            Writers::Some if !is_end_awaited => Writing::Announced,
            _ if is_end_awaited => Writing::EndAwaited,
            _ => Writing::None,
        };
        writers
    }
}

/// Whether a look waits for changes that are being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It does not: it sees what is visible, which is enough if that is something new.
    ///
    /// A rename on ext4 is visible long before the kernel lets go of the directory, for it removes
    /// the file that was replaced first: 200 µs.
    Hasty,
    /// It does: whatever has been announced is visible.
    Patient,
}

/// How to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) patience: Patience,
    /// Whether it is enough to hear of the end of what is being written.
    pub(crate) may_await_end: bool,
}

impl Manner {
    /// The first time: whatever is announced from here on is new.
    pub(crate) const FIRST: Self = Self { patience: Patience::Patient, may_await_end: false };
}

/// What a look has found.
pub(crate) struct Looked {
    pub(crate) view: View,
    /// What cannot be watched.
    pub(crate) failures: Vec<(PathBuf, WatchError)>,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            by_identity: HashMap::new(),
            by_id: HashMap::new(),
            by_watch: HashMap::new(),
            followed: HashMap::new(),
            trunks: HashMap::new(),
            astray: BTreeSet::new(),
            peeks: BTreeMap::new(),
            left: Vec::new(),
            free: Vec::new(),
            next: PlaceId::FIRST.0,
            others_paid: Boot::ZERO,
        }
    }

    /// When all paths whose time is rationed, and who have had too much, have made up for that.
    pub(crate) fn others_paid(&mut self) -> &mut Boot {
        &mut self.others_paid
    }

    /// Notes that a place has changed, and gives the paths that are touched by it.
    ///
    /// Those that only pass a crowded directory are spared until it is known that a name which they
    /// follow leads elsewhere.
    pub(crate) fn fired(&mut self, id: PlaceId, now: Boot, at: Boot, by: &Actor) -> Vec<Touched> {
        let Some(place) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        place.stir();
        let passing = place.dependents.with(Interest::Replacement);
        let is_crowded = passing.len() > CROWD;
        if is_crowded {
            let due = now.max(place.affordable());
            let peek = || Peek { due, patience: Patience::Hasty, at, by: by.clone() };
            self.peeks.entry(id).or_insert_with(peek).due = due;
        }
        let touch = |interest| move |&index: &Index| (index, interest);
        let eager = place.dependents.with(Interest::Any).iter().map(touch(Interest::Any));
        let passing = (!is_crowded).then_some(passing).into_iter().flatten();
        eager
            .chain(passing.map(touch(Interest::Replacement)))
            .map(|(index, interest)| Touched { index, interest, at, by: Some(by.clone()) })
            .collect()
    }

    /// Whether the number is that of a file or directory, and of no name.
    pub(crate) fn knows(&self, id: PlaceId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether it is that of a file that a path stands for, or has.
    pub(crate) fn is_file(&self, id: PlaceId) -> bool {
        self.by_id.get(&id).is_some_and(|place| place.is_file)
    }

    /// Whether no path leads there any more, although it is not forgotten yet.
    pub(crate) fn is_left(&self, id: PlaceId) -> bool {
        !self.by_watch.values().any(|seen| seen.contains_key(&id))
    }

    /// The place of a file, if it is watched.
    pub(crate) fn of(&self, file: Identity) -> Option<PlaceId> {
        self.by_identity.get(&file).copied()
    }

    /// Whether it matters to any path what happens to a name in a directory, or to a file or directory itself
    /// where there is no name; `None` where it is not watched.
    pub(crate) fn matters(&self, file: Identity, name: &OsStr) -> Option<bool> {
        let place = self.by_id.get(&self.of(file)?)?;
        let is_all = name.is_empty() || place.dependents.interest() == Interest::Any;
        Some(is_all || place.ways.keys().any(|way| way.file_name() == Some(name)))
    }

    /// Notes that it is time to compare what depends on a place, and gives the paths that do.
    pub(crate) fn due(&mut self, id: PlaceId) -> Vec<Index> {
        let Some(place) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        place.stir();
        place.dependents.all().collect()
    }

    /// Notes that something was mounted or unmounted, and gives the paths that lead through there.
    ///
    /// All their places are armed again, for the kernel takes its watches away when it unmounts.
    pub(crate) fn mounted(&mut self, points: &BTreeSet<PathBuf>) -> BTreeSet<Index> {
        let is_everywhere = points.contains(Path::new("/"));
        let mut found = BTreeSet::new();
        for place in self.by_id.values() {
            let is_through = |path: &Path| is_everywhere || points.contains(path);
            let ways = place.ways.iter().filter(|(path, _)| is_through(path));
            found.extend(ways.flat_map(|(_, way)| &way.watches));
        }
        for id in found.iter().filter_map(|index| self.by_watch.get(index)).flat_map(BTreeMap::keys)
        {
            if let Some(place) = self.by_id.get_mut(id) {
                place.stir();
            }
        }
        found
    }

    /// Has every place armed again, whatever we believe of it: what went wrong once must not go on.
    pub(crate) fn distrust(&mut self) {
        for place in self.by_id.values_mut() {
            place.stir();
        }
    }

    /// Has the next patient look at a path wait for whatever is being done in its directories, announced or
    /// not.
    pub(crate) fn suspect(&mut self, index: Index) {
        for id in self.by_watch.get(&index).into_iter().flat_map(BTreeMap::keys) {
            if let Some(place) = self.by_id.get_mut(id) {
                place.may_be_under_way = true;
            }
        }
    }

    /// Looks at a path: arms what has fired, watches what is new, forgets what it no longer needs.
    ///
    /// Where it may await the end, whoever goes on writing is not announced until he closes the file: then
    /// there must be another look when that has taken too long.
    pub(crate) fn look<S: Source>(
        &mut self,
        source: &mut S,
        index: Index,
        path: &Path,
        reach: Reach,
        settled: &BTreeMap<PathBuf, FileState>,
        manner: Manner,
    ) -> Looked {
        let mut eyes = Eyes::new(self, source, index, settled, manner);
        let view = watch::look(path, reach, &mut eyes);
        let Eyes { seen, failures, followed, .. } = eyes;
        let before = self.followed.get(&index).into_iter().flatten();
        for (id, name) in before.filter(|it| !followed.contains(*it)) {
            if let Some(place) = self.by_id.get_mut(id) {
                place.leave(name, index);
            }
        }
        self.followed.insert(index, followed.into_iter().collect());
        for (id, interest) in &seen {
            // What no longer matters is no longer armed for from the next time on.
            if let Some(place) = self.by_id.get_mut(id) {
                place.dependents.set(index, *interest);
            }
        }
        let before = self.by_watch.remove(&index).unwrap_or_default();
        self.left
            .extend(before.into_keys().filter(|id| !seen.contains_key(id)).map(|id| (index, id)));
        self.by_watch.insert(index, seen);
        Looked { view, failures }
    }

    /// Notes that a path is not watched any more.
    pub(crate) fn remove(&mut self, index: Index) {
        for (id, name) in self.followed.remove(&index).into_iter().flatten() {
            if let Some(place) = self.by_id.get_mut(&id) {
                place.leave(&name, index);
            }
        }
        let before = self.by_watch.remove(&index).unwrap_or_default();
        self.left.extend(before.into_keys().map(|id| (index, id)));
        self.astray.remove(&index);
        self.trunks.remove(&index);
    }

    /// Forgets the places that no path needs any more. Put off until there is time for it.
    pub(crate) fn sweep<S: Source>(&mut self, source: &mut S) {
        for (index, id) in std::mem::take(&mut self.left) {
            let is_back = self.by_watch.get(&index).is_some_and(|seen| seen.contains_key(&id));
            let Some(place) = self.by_id.get_mut(&id).filter(|_| !is_back) else {
                continue;
            };
            place.dependents.remove(index);
            if place.dependents.is_empty() {
                self.by_identity.remove(&place.identity);
                self.peeks.remove(&id);
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
        path: &Path,
        index: Index,
        interest: Interest,
    ) -> Result<PlaceId, WatchError> {
        let id = self.number();
        if let Err(error) = source.watch(id, handle, interest) {
            self.free.push(id);
            return Err(error);
        }
        let mut dependents = Dependents::default();
        dependents.set(index, interest);
        let place = Place {
            identity,
            is_file: false,
            dependents,
            has_fired: false,
            stirs: 0,
            writing: Writing::None,
            may_be_under_way: true,
            path: path.to_owned(),
            ways: HashMap::new(),
            paid: Boot(Duration::ZERO),
        };
        self.by_identity.insert(identity, id);
        self.by_id.insert(id, place);
        Ok(id)
    }

    /// A number that no place has, until it is [given back](Self::give_back).
    pub(crate) fn reserve(&mut self) -> PlaceId {
        self.number()
    }

    /// The number may be that of a place.
    pub(crate) fn give_back(&mut self, id: PlaceId) {
        self.free.push(id);
    }

    fn number(&mut self) -> PlaceId {
        self.free.pop().unwrap_or_else(|| {
            let id = PlaceId(self.next);
            self.next += 1;
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::{
        clock,
        event::{Event, Operation, SourceName, Writers},
        source::{SourceError, Tells},
    };

    /// A source that only notes what is armed and forgotten.
    #[derive(Default)]
    pub(super) struct Notes {
        pub(super) armed: Vec<PlaceId>,
        pub(super) forgotten: Vec<PlaceId>,
    }

    impl Source for Notes {
        fn name(&self) -> SourceName {
            SourceName::Poll
        }

        fn watch(
            &mut self,
            place: PlaceId,
            _: BorrowedFd<'_>,
            _: Interest,
        ) -> Result<(), WatchError> {
            self.armed.push(place);
            Ok(())
        }

        fn forget(&mut self, place: PlaceId) {
            self.forgotten.push(place);
        }

        fn arm(
            &mut self,
            place: PlaceId,
            _: BorrowedFd<'_>,
            _: Interest,
        ) -> Result<(), WatchError> {
            self.armed.push(place);
            Ok(())
        }

        fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
            Writers::None
        }

        fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
            Ok(Tells::No)
        }

        async fn next(&mut self) -> Result<Event, SourceError> {
            std::future::pending().await
        }

        fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
            Ok(None)
        }

        fn losses(&mut self) -> Vec<Event> {
            Vec::new()
        }
    }

    pub(super) const NOW: Boot = Boot(Duration::from_secs(1000));

    pub(super) fn rename() -> Actor {
        Actor::unknown(Operation::Rename)
    }

    /// Paths through directories that lie in each other, without symlinks.
    struct Nested {
        root: tempfile::TempDir,
        places: Places,
        source: Notes,
    }

    impl Nested {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("a/b/c")).unwrap();
            fs::write(root.path().join("a/b/c/x"), "").unwrap();
            fs::write(root.path().join("a/b/c/y"), "").unwrap();
            Self { root, places: Places::new(), source: Notes::default() }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(path)
        }

        fn look(&mut self, index: Index, path: &str, patience: Patience) -> Looked {
            let (path, settled) = (self.at(path), BTreeMap::new());
            let manner = Manner { patience, may_await_end: false };
            let Self { places, source, .. } = self;
            places.look(source, index, &path, Reach::Anywhere, &settled, manner)
        }

        /// The place of what is at a path now.
        fn place(&self, path: &str) -> Option<PlaceId> {
            self.places.of(Identity::at(&self.at(path)).unwrap())
        }

        fn depends_on(&self, index: Index, path: &str) -> bool {
            self.place(path).is_some_and(|id| self.places.by_watch[&index].contains_key(&id))
        }

        fn fire(&mut self, path: &str) {
            let id = self.place(path).unwrap();
            self.places.fired(id, NOW, NOW, &rename());
        }

        /// Puts another directory in the place of `a`, with what is in it.
        fn replace_a(&self) {
            fs::rename(self.at("a"), self.at("old")).unwrap();
            fs::create_dir(self.at("a")).unwrap();
            fs::rename(self.at("old/b"), self.at("a/b")).unwrap();
        }
    }

    #[test]
    fn directories_that_nothing_happens_in_are_not_walked_again() {
        let mut nested = Nested::new();
        let first = nested.look(0, "a/b/c/x", Patience::Patient);
        let [before, root] = ["a", ""].map(|path| nested.place(path).unwrap());
        // Nobody tells of it.
        nested.replace_a();
        for patience in [Patience::Hasty, Patience::Patient] {
            assert_eq!(nested.look(0, "a/b/c/x", patience).view.files, first.view.files);
            assert!(nested.places.by_watch[&0].contains_key(&before), "it goes on being watched");
            assert!(nested.places.followed[&0].iter().any(|(id, _)| *id == root));
            assert!(!nested.depends_on(0, "a"));
        }
        // Beyond the first in which something has happened they are.
        nested.fire("a/b");
        assert_eq!(nested.look(0, "a/b/c/x", Patience::Hasty).view.files, first.view.files);
        assert!(nested.places.by_watch[&0].contains_key(&before) && !nested.depends_on(0, "a"));
        // Until it is told of.
        nested.fire("");
        assert_eq!(nested.look(0, "a/b/c/x", Patience::Hasty).view.files, first.view.files);
        assert!(nested.depends_on(0, "a") && nested.depends_on(0, "a/b"));
        assert!(!nested.places.by_watch[&0].contains_key(&before));
    }

    #[test]
    fn a_directory_that_is_another_is_walked_to_although_nobody_tells_of_it() {
        let mut nested = Nested::new();
        nested.look(0, "a/b/c/x", Patience::Patient);
        fs::rename(nested.at("a/b"), nested.at("a/old")).unwrap();
        fs::create_dir_all(nested.at("a/b/c")).unwrap();
        fs::write(nested.at("a/b/c/x"), "other").unwrap();
        nested.look(0, "a/b/c/x", Patience::Hasty);
        assert!(nested.depends_on(0, "a/b") && nested.depends_on(0, "a/b/c"));
    }

    #[test]
    fn what_another_path_has_found_to_be_elsewhere_is_walked_to() {
        let mut nested = Nested::new();
        nested.look(0, "a/b/c/x", Patience::Patient);
        // Nobody tells of it, but a path that is new is walked.
        nested.replace_a();
        nested.look(1, "a/b/c/y", Patience::Hasty);
        nested.look(0, "a/b/c/x", Patience::Hasty);
        assert!(nested.depends_on(0, "a"));
    }

    #[test]
    fn what_another_path_has_armed_again_is_walked_all_the_same() {
        let mut nested = Nested::new();
        fs::create_dir(nested.at("other")).unwrap();
        fs::write(nested.at("other/x"), "").unwrap();
        nested.look(0, "other/x", Patience::Patient);
        nested.look(1, "a/b/c/x", Patience::Patient);
        // The directory that the second leads through is where the first leads through by now: whoever
        // looks there does not ask what the second means.
        fs::rename(nested.at("other"), nested.at("old")).unwrap();
        fs::rename(nested.at("a"), nested.at("other")).unwrap();
        fs::write(nested.at("other/x"), "").unwrap();
        fs::create_dir(nested.at("a")).unwrap();
        fs::rename(nested.at("other/b"), nested.at("a/b")).unwrap();
        for path in ["", "other"] {
            nested.fire(path);
        }
        for patience in [Patience::Hasty, Patience::Patient] {
            nested.look(0, "other/x", patience);
        }
        nested.look(1, "a/b/c/x", Patience::Hasty);
        assert!(nested.depends_on(1, "a"), "it is another than before");
    }

    #[test]
    fn who_distrusts_has_every_path_walked() {
        let mut nested = Nested::new();
        let paths = ["a/b/c/x", "a/b/c/y"].into_iter().enumerate();
        for (index, path) in paths.clone() {
            nested.look(index, path, Patience::Patient);
        }
        // Nobody tells of it.
        nested.replace_a();
        nested.places.distrust();
        for (index, path) in paths {
            nested.look(index, path, Patience::Patient);
            assert!(nested.depends_on(index, "a"), "{path}");
        }
    }

    #[test]
    fn a_patient_look_waits_for_what_is_under_way_in_every_directory() {
        let mut nested = Nested::new();
        nested.look(0, "a/b/c/x", Patience::Patient);
        nested.places.suspect(0);
        nested.look(0, "a/b/c/x", Patience::Hasty);
        let root = nested.place("").unwrap();
        assert!(nested.places.by_id[&root].may_be_under_way, "that is left to the next");
        nested.look(0, "a/b/c/x", Patience::Patient);
        assert!(!nested.places.by_id[&root].may_be_under_way);
    }

    #[test]
    fn a_way_is_straight_up_to_its_first_symlink() {
        let mut nested = Nested::new();
        symlink("b", nested.at("a/link")).unwrap();
        let trunk = |nested: &Nested, index| nested.places.trunks[&index].straight.path.clone();
        nested.look(0, "a/link/c/x", Patience::Patient);
        assert_eq!(trunk(&nested, 0), nested.at("a"));
        nested.look(1, "a/b/../b/c/x", Patience::Patient);
        assert_eq!(trunk(&nested, 1), nested.at("a/b"));
        // A directory, whose own directories are none of its way.
        nested.look(2, "a/b", Patience::Patient);
        assert_eq!(trunk(&nested, 2), nested.at("a/b"));
        nested.look(3, "a/nothing/x", Patience::Patient);
        assert!(!nested.places.trunks.contains_key(&3));
        nested.places.remove(0);
        assert!(!nested.places.trunks.contains_key(&0));
    }

    /// A source that tells of the end of writes, and what it was asked for.
    #[derive(Default)]
    struct Trampoline {
        armed: Vec<&'static str>,
        writers: std::collections::VecDeque<Writers>,
    }

    impl Source for Trampoline {
        fn name(&self) -> SourceName {
            SourceName::Ebpf
        }
        fn watch(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            self.armed.push("any");
            Ok(())
        }
        fn forget(&mut self, _: PlaceId) {}
        fn arm(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            self.armed.push("any");
            Ok(())
        }
        fn await_end(&mut self, _: PlaceId) -> bool {
            self.armed.push("end");
            true
        }
        fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
            self.writers.pop_front().unwrap_or(Writers::None)
        }
        fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
            Ok(Tells::No)
        }
        async fn next(&mut self) -> Result<Event, SourceError> {
            std::future::pending().await
        }
        fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
            Ok(None)
        }
        fn losses(&mut self) -> Vec<Event> {
            Vec::new()
        }
    }

    #[test]
    fn after_a_close_that_is_announced_early_every_write_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a");
        fs::write(&path, "a").unwrap();
        let mut places = Places::new();
        let mut source = Trampoline::default();
        let settled = BTreeMap::new();
        places.look(&mut source, 0, &path, Reach::Anywhere, &settled, Manner::FIRST);
        let id = places.of(Identity::at(&path).unwrap()).unwrap();
        source.armed.clear();
        let waiting = Manner { patience: Patience::Hasty, may_await_end: true };
        // The close is announced while i_writecount still counts the file.
        places.fired(id, NOW, NOW, &rename());
        source.writers = [Writers::Some, Writers::Some].into();
        places.look(&mut source, 0, &path, Reach::Anywhere, &settled, waiting);
        // Nothing is announced any more; the next look of settle finds nobody.
        source.writers = [Writers::None].into();
        let looked = places.look(&mut source, 0, &path, Reach::Anywhere, &settled, waiting);
        assert_eq!(looked.view.writers, Some(Writers::None));
        assert_eq!(source.armed.last(), Some(&"any"), "{:?}", source.armed);
    }

    #[test]
    fn whoever_is_waited_for_in_vain_is_announced_again() {
        use crate::{
            settle::{Limits, Next},
            watched::Watched,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a");
        fs::write(&path, "a").unwrap();
        let limits = Limits {
            quiet: Duration::from_millis(100),
            max: Duration::from_secs(2),
            volume: Duration::from_millis(200),
        };
        let mut places = Places::new();
        let mut source = Trampoline::default();
        let mut watched = Watched::new(0, &path, Reach::Anywhere, limits, &mut places, &mut source);
        let id = places.of(Identity::at(&path).unwrap()).unwrap();
        let began = clock::now();
        fs::write(&path, "ab").unwrap();
        // However long it has waited itself for that somebody looks.
        let at = Boot(began.0.saturating_sub(Duration::from_secs(5)));
        places.fired(id, at, at, &rename());
        watched.touch(at, None, Interest::Any);
        source.writers = [Writers::Some; 1024].into();
        let mut now = began;
        watched.look(now, &mut places, &mut source, Patience::Hasty);
        let since = watched.since().unwrap();
        assert!(since >= began);
        while let Next::Look(next) = watched.next(now) {
            now = next.max(now);
            watched.look(now, &mut places, &mut source, Patience::Hasty);
        }
        assert_eq!(watched.next(now), Next::Complete);
        assert_eq!(now.since(since), limits.max);
        let content = watched.read().unwrap();
        watched.accept(content);
        watched.finish();
        assert!(source.armed.contains(&"end"), "{:?}", source.armed);
        assert_eq!(source.armed.last(), Some(&"any"), "{:?}", source.armed);
    }
}
