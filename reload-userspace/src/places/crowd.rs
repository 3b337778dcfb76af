//! Crowded places: directories that many paths lead through. An event there is about few of them, and one
//! look finds out which.

use std::{collections::BTreeSet, mem, os::fd::AsFd as _, path::Path, sync::Arc, time::Duration};

use super::{Index, Patience, Place, Places, Touched, Way};
use crate::{
    clock::{self, Boot, Effort},
    event::{Actor, PlaceId},
    reach,
    source::{Interest, Source},
    watch::{self, Child},
};

/// How many paths may lead through a directory before each event there is looked into once, and not
/// by each of them.
pub(super) const CROWD: usize = 8;

/// How long after an event that a peek found nothing of it is looked for again, with patience.
const PATIENT_PEEK: Duration = Duration::from_millis(2);

/// How long a peek in vain costs, in time until the next one.
const PEEK: Duration = Duration::from_millis(5);

/// Which part of the time may go into peeks, where they take long: a twentieth.
const PEEK_SHARE: u32 = 20;

/// How many of them in a row are free, in time.
const PEEKS: Duration = Duration::from_millis(200);

/// Something happened in a crowded place: is it about any of the names that are followed there?
#[derive(Debug)]
pub(super) struct Peek {
    pub(super) due: Boot,
    pub(super) patience: Patience,
    pub(super) at: Boot,
    pub(super) by: Actor,
}

impl Place {
    /// When the next peek may be: those in vain are rationed.
    pub(super) fn affordable(&self) -> Boot {
        Boot(self.paid.0.saturating_sub(PEEKS))
    }

    /// Arms the place and gives the paths that follow a name which leads elsewhere now.
    fn look_into<S: Source>(
        &mut self,
        id: PlaceId,
        source: &mut S,
        patience: Patience,
    ) -> BTreeSet<Index> {
        let everybody = || self.dependents.all().collect();
        let Some((handle, _)) = watch::open_again(&self.path, self.identity) else {
            return everybody();
        };
        if source.arm(id, handle.as_fd(), self.dependents.interest()).is_err() {
            return everybody();
        }
        self.has_fired = false;
        self.may_be_under_way = true;
        if patience == Patience::Patient {
            watch::wait_for_changes(handle.as_fd());
        }
        let child = |path: &Path| match path.parent() {
            // It may be mounted at another path as well.
            Some(other) if other != self.path => {
                let other = reach::open_real(other).ok()?;
                Child::at(other.as_fd(), path)
            }
            _ => Child::at(handle.as_fd(), path),
        };
        let is_other = |(path, way): &(&Arc<Path>, &Way)| child(path) != Some(way.child);
        let others = self.ways.iter().filter(is_other);
        others.flat_map(|(_, way)| way.watches.iter().copied()).collect()
    }
}

impl Places {
    /// When to look into a crowded place, if ever.
    pub(crate) fn peek_at(&self) -> Option<Boot> {
        let astray = (!self.astray.is_empty()).then_some(Boot(Duration::ZERO));
        astray.or_else(|| self.peeks.values().map(|peek| peek.due).min())
    }

    /// Looks into the crowded places where something has happened, and gives the paths that it is
    /// about.
    pub(crate) fn peek<S: Source>(&mut self, source: &mut S, now: Boot) -> Vec<Touched> {
        let due = self.peeks.iter().filter(|(_, peek)| peek.due <= now);
        let due: Vec<_> = due.map(|(&id, _)| id).collect();
        let astray = mem::take(&mut self.astray);
        let interest = Interest::Replacement;
        let mut touched: Vec<_> = astray
            .into_iter()
            .map(|index| Touched { index, interest, at: now, by: None })
            .collect();
        for id in due {
            let Some((mut peek, place)) = self.peeks.remove(&id).zip(self.by_id.get_mut(&id))
            else {
                continue;
            };
            let effort = Effort::begin();
            let found = place.look_into(id, source, peek.patience);
            let cost = PEEK.max(effort.so_far() * PEEK_SHARE);
            place.paid = place.paid.max(now.max(clock::now())).after(cost);
            if found.is_empty() && peek.patience == Patience::Hasty {
                peek.due = now.after(PATIENT_PEEK);
                peek.patience = Patience::Patient;
                self.peeks.insert(id, peek);
                continue;
            }
            touched.extend(found.into_iter().map(|index| Touched {
                index,
                interest,
                at: peek.at,
                by: Some(peek.by.clone()),
            }));
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf};

    use super::{
        super::{
            Manner,
            tests::{NOW, Notes, rename},
        },
        *,
    };
    use crate::watch::Reach;

    const NOBODY: [Index; 0] = [];

    /// A directory with a link `a` and a link `b` to directories, and paths through them by turns.
    struct Crowded {
        dir: tempfile::TempDir,
        paths: Vec<PathBuf>,
        places: Places,
        source: Notes,
    }

    impl Crowded {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for real in ["real-a", "real-b", "other"] {
                fs::create_dir(dir.path().join(real)).unwrap();
                for index in 0..=CROWD {
                    fs::write(dir.path().join(real).join(index.to_string()), real).unwrap();
                }
            }
            symlink("real-a", dir.path().join("a")).unwrap();
            symlink("real-b", dir.path().join("b")).unwrap();
            let root = dir.path().canonicalize().unwrap();
            let path = |index: usize| root.join(["a", "b"][index % 2]).join(index.to_string());
            let paths: Vec<_> = (0..=CROWD).map(path).collect();
            let mut crowded = Self { dir, paths, places: Places::new(), source: Notes::default() };
            (0..=CROWD).for_each(|index| crowded.look(index));
            crowded
        }

        fn look(&mut self, index: Index) {
            let path = &self.paths[index];
            let settled = BTreeMap::new();
            let Self { places, source, .. } = self;
            places.look(source, index, path, Reach::Anywhere, &settled, Manner::FIRST);
        }

        /// The number of the directory that the links are in.
        fn place(&self) -> PlaceId {
            let root = self.dir.path().canonicalize().unwrap();
            let found = self.places.by_id.iter().find(|(_, place)| place.path == root);
            *found.unwrap().0
        }

        fn peek(&mut self, now: Boot) -> Vec<Index> {
            let touched = self.places.peek(&mut self.source, now);
            touched.into_iter().map(|touched| touched.index).collect()
        }

        fn swap(&self, link: &str) {
            let draft = self.dir.path().join("draft");
            symlink("other", &draft).unwrap();
            fs::rename(draft, self.dir.path().join(link)).unwrap();
        }
    }

    #[test]
    fn what_is_about_no_name_that_is_followed_touches_nobody() {
        let mut crowded = Crowded::new();
        let id = crowded.place();
        assert!(crowded.places.fired(id, NOW, NOW, &rename()).is_empty());
        crowded.source.armed.clear();
        assert_eq!(crowded.peek(NOW), NOBODY);
        assert_eq!(crowded.source.armed, [id], "armed before it is looked into");
        // What may not have been visible yet is looked for once more.
        assert_eq!(crowded.places.peek_at(), Some(NOW.after(PATIENT_PEEK)));
        assert_eq!(crowded.peek(NOW.after(PATIENT_PEEK)), NOBODY);
        assert_eq!(crowded.places.peek_at(), None);
    }

    #[test]
    fn a_name_that_leads_elsewhere_touches_those_who_follow_it() {
        let mut crowded = Crowded::new();
        let id = crowded.place();
        crowded.swap("b");
        crowded.places.fired(id, NOW, NOW, &rename());
        let odd: Vec<_> = (0..=CROWD).filter(|index| index % 2 == 1).collect();
        assert_eq!(crowded.peek(NOW), odd);
        // Once they have looked there is nothing new about it.
        for &index in &odd {
            crowded.look(index);
        }
        crowded.peek(NOW);
        crowded.places.fired(id, NOW, NOW, &rename());
        assert_eq!(crowded.peek(NOW), NOBODY);
    }

    #[test]
    fn what_one_path_finds_out_the_others_are_told() {
        let mut crowded = Crowded::new();
        crowded.swap("b");
        crowded.look(1);
        assert_eq!(crowded.places.peek_at(), Some(Boot(Duration::ZERO)));
        assert_eq!(crowded.peek(NOW), [3, 5, 7]);
        assert_eq!(crowded.peek(NOW), NOBODY);
    }

    #[test]
    fn peeks_in_vain_are_rationed() {
        let mut crowded = Crowded::new();
        let id = crowded.place();
        for _ in 0..1000 {
            crowded.places.fired(id, NOW, NOW, &rename());
            crowded.peek(NOW);
        }
        crowded.places.fired(id, NOW, NOW, &rename());
        assert!(crowded.places.peek_at() > Some(NOW));
    }

    #[test]
    fn names_that_nobody_follows_any_more_are_forgotten() {
        let mut crowded = Crowded::new();
        let id = crowded.place();
        crowded.swap("b");
        for index in (0..=CROWD).filter(|index| index % 2 == 1) {
            crowded.look(index);
        }
        let ways = crowded.places.by_id[&id].ways.keys();
        let mut names: Vec<_> = ways.map(|path| path.file_name().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "other", "real-a"]);
        crowded.places.sweep(&mut crowded.source);
        // The directory behind the old link, and the four files in it.
        assert_eq!(crowded.source.forgotten.len(), 5);
    }
}
