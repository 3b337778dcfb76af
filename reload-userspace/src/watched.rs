//! One watched path: what it meant when it was last looked at, and the change that is under way.

mod failure;
mod look;
mod ration;
mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{failure::Failure, ration::Ration, volumes::Volumes};
use crate::places::{Index, Looked, Manner, Patience, Places};
use crate::{
    clock::{self, Boot, Effort},
    content::Content,
    event::{Actor, Operation, Writers},
    settle::{Limits, Next, Seen, Settle, Volume},
    source::{Interest, Source},
    watch::{FileState, Identity, Obstacle, Reach, View},
};

/// How long a look costs that has found nothing, in time until the next one.
const IDLE_LOOK: Duration = Duration::from_millis(5);

/// Which part of the time may go into such looks, where they take long: a twentieth.
const IDLE_SHARE: u32 = 20;

/// How many such looks in a row are free, in time.
///
/// So a directory full of other people's files costs 200 looks a second at most, and the first 40
/// events after a pause are looked at the moment they come.
const IDLE_LOOKS: Duration = Duration::from_millis(200);

/// How long after something could not be had, for want of descriptors say, it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long after an event that a look found nothing of it is looked for again, with patience.
///
/// The change may not have been visible yet. It nearly always is, and to wait at once would mean to
/// miss the next one.
const PATIENT_LOOK: Duration = Duration::from_millis(2);

/// One watched path.
#[derive(Debug)]
pub(crate) struct Watched {
    index: Index,
    path: PathBuf,
    /// How far it reaches, and how much time it has taken if that is rationed.
    reach: Reach,
    ration: Ration,
    view: View,
    content: Content,
    /// The files as they were when their content was last compared.
    settled: Arc<BTreeMap<PathBuf, FileState>>,
    settle: Settle,
    /// The kubelet's volumes in the change under way.
    volumes: Volumes,
    /// The names that have come or gone, and may not be all there is to it.
    in_making: BTreeSet<PathBuf>,
    /// Something happened since the last look, first and last at these moments.
    touched: Option<(Boot, Boot)>,
    /// When what was announced and is yet to be found happened.
    announced: Option<Boot>,
    /// When the change under way last went on.
    dated: Option<Boot>,
    /// When it was last looked at.
    looked: Boot,
    /// When to compare the content although nothing was seen.
    verify_at: Option<Boot>,
    /// The files whose content could not be had, as far as that has been told.
    unknown: BTreeMap<PathBuf, String>,
    /// Whether that time has come, and the look for it is done.
    is_to_verify: bool,
    /// When to wait for what was announced and not found.
    look_patiently_at: Option<Boot>,
    /// Who did it, and how close to the files it was.
    cause: Option<(Actor, Interest)>,
    /// Who did the last of the change under way.
    by: Option<Actor>,
    /// When all idle looks so far are paid for.
    paid: Boot,
    /// What has been told of being in the way.
    told: Option<Obstacle>,
    failure: Failure,
}

impl Watched {
    /// Looks for the first time, and takes what is there for what everybody knows already.
    pub(crate) fn new<S: Source>(
        index: Index,
        path: &Path,
        reach: Reach,
        limits: Limits,
        places: &mut Places,
        source: &mut S,
    ) -> Self {
        let looked = places.look(source, index, path, reach, &BTreeMap::new(), Manner::FIRST);
        let content = Content::read(&looked.view, &Content::nothing(), &BTreeMap::new());
        let verify_at = (!content.unknown.is_empty()).then(|| clock::now().after(RETRY));
        let mut watched = Self {
            index,
            path: path.to_owned(),
            reach,
            ration: Ration::new(),
            settled: Arc::clone(&looked.view.files),
            view: looked.view,
            content,
            settle: Settle::new(limits),
            volumes: Volumes::default(),
            in_making: BTreeSet::new(),
            touched: None,
            announced: None,
            dated: None,
            looked: clock::now(),
            verify_at,
            unknown: BTreeMap::new(),
            is_to_verify: false,
            look_patiently_at: None,
            cause: None,
            by: None,
            paid: Boot(Duration::ZERO),
            told: None,
            failure: Failure::None,
        };
        watched.failure.note(looked.failures);
        watched
    }

    /// Nobody has looked from one moment to the other: that is not time that the end of the change under way
    /// was waited for.
    pub(crate) fn put_off(&mut self, from: Boot, to: Boot) {
        self.settle.put_off(from, to);
    }

    /// From now on a change is waited for so long.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.settle.set_limits(limits);
    }

    /// The path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How far it reaches.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The files that it leads to.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.view.files.keys()
    }

    /// Which files these are.
    pub(crate) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.view.files.values().map(|state| state.identity)
    }

    /// The kubelet's volumes on the way.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &PathBuf> {
        self.view.volumes.keys()
    }

    /// Those of them that were swapped in the change under way.
    pub(crate) fn swapped(&self) -> impl Iterator<Item = &PathBuf> {
        self.volumes.swapped()
    }

    /// When what the path means last changed, as far as files, links and directories tell, in time
    /// since 1970.
    pub(crate) fn latest_change(&self) -> Duration {
        self.view.latest_change
    }

    /// The same of what is in the volume, if nothing may lead out of the path: whatever else is on its way has
    /// no part in it.
    pub(crate) fn changed_within(&self) -> Duration {
        self.view.changed_within
    }

    /// Whether anything is under way, due, or yet to be told.
    pub(crate) fn is_active(&self, now: Boot) -> bool {
        self.look_at(now).is_some()
            || self.next(now) != Next::Idle
            || self.is_to_verify
            || self.has_news_of_obstacle()
            || self.failure.is_news()
    }

    /// Whether the files contain what they did when they were last complete.
    pub(crate) fn is_as_read(&mut self) -> bool {
        self.read().is_none_or(|content| content.changes_since(&self.content).is_empty())
    }

    /// Whether what is in the way is not what has been told.
    pub(crate) fn has_news_of_obstacle(&self) -> bool {
        self.told != self.view.obstacle
    }

    /// What is in the way, if it has not been told yet.
    pub(crate) fn news_of_obstacle(&mut self) -> Option<Obstacle> {
        if self.told == self.view.obstacle {
            return None;
        }
        self.told.clone_from(&self.view.obstacle);
        self.told.clone()
    }

    /// What is in the way.
    pub(crate) fn obstacle(&self) -> Option<&Obstacle> {
        self.view.obstacle.as_ref()
    }

    /// What the files contained when they were last complete.
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Notes that something happened to what the path depends on.
    pub(crate) fn touch(&mut self, at: Boot, by: Option<Actor>, interest: Interest) {
        let first = self.touched.map_or(at, |(first, _)| first);
        self.touched = Some((first, at));
        // Whoever did something in a directory far up the path is the least likely to be meant.
        let is_closer = self.cause.as_ref().is_none_or(|(_, other)| *other <= interest);
        // What replaces a file also takes a name away from the old one, and whoever closes a file last need
        // not be who has written to it.
        let is_consequence = |by: &Actor| match by.operation {
            Operation::Unlink | Operation::Attributes => self.cause.is_some(),
            Operation::Close => self.cause.is_some() || self.by.is_some(),
            _ => false,
        };
        if let Some(by) = by.filter(|by| is_closer && !is_consequence(by)) {
            self.cause = Some((by, interest));
        }
    }

    /// Whether something has happened since the last look began, so that it cannot have seen it.
    pub(crate) fn is_out_of_date(&self) -> bool {
        self.touched.is_some_and(|(_, last)| last >= self.looked)
    }

    /// Has the content compared at that moment, although nothing may be seen.
    pub(crate) fn verify(&mut self, at: Boot) {
        self.verify_at = Some(self.verify_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether the content is to be compared now: a change is complete, or it is time for it.
    pub(crate) fn is_to_compare(&self, now: Boot) -> bool {
        match self.next(now) {
            Next::Complete => true,
            Next::Look(_) => false,
            Next::Idle => self.is_to_verify,
        }
    }

    /// Whoever did the last of the change that has been dealt with, if anything is known of him.
    pub(crate) fn take_by(&mut self) -> Option<Actor> {
        // Whoever has been heard of since the look, and did it before that, has done what it found.
        if self.by.is_none() && self.dated.is_some() && !self.is_out_of_date() {
            self.by = self.cause.take().map(|(by, _)| by);
        }
        self.dated = None; // No more: whoever is heard of from here on has done something else.
        self.by.take().filter(Actor::is_known)
    }

    /// Looks, if there is a reason to look by `now`.
    pub(crate) fn look_if_due<S: Source>(
        &mut self,
        now: Boot,
        places: &mut Places,
        source: &mut S,
    ) {
        if self.look_at(now).is_none_or(|at| at > now) {
            return;
        }
        self.ration.begin();
        let idle = (self.next(now) == Next::Idle).then(Effort::begin);
        let is_due = |at: Option<Boot>| at.is_some_and(|at| at <= now);
        if is_due(self.verify_at) {
            self.verify_at = None;
            self.is_to_verify = true;
        }
        let is_late = self.is_to_verify || is_due(self.look_patiently_at);
        let patience = if is_late { Patience::Patient } else { Patience::Hasty };
        self.look(now, places, source, patience);
        if let Some(effort) = idle
            && patience == Patience::Hasty
            && self.next(now) == Next::Idle
        {
            let cost = IDLE_LOOK.max(effort.so_far() * IDLE_SHARE);
            self.paid = self.paid.max(now.max(clock::now())).after(cost);
        }
    }

    /// Looks now, and says whether anything is new.
    pub(crate) fn look<S: Source>(
        &mut self,
        now: Boot,
        places: &mut Places,
        source: &mut S,
        patience: Patience,
    ) -> bool {
        if patience == Patience::Patient {
            self.look_patiently_at = None;
        }
        let touched = self.touched.take().map(|(first, _)| first);
        let announced = self.announced.take().or(touched);
        let began = clock::now();
        let effort = (self.reach == Reach::Beneath).then(Effort::begin);
        let manner = Manner { patience, may_await_end: self.settle.may_wait(now) };
        let Looked { view, failures } = self.see(places, source, manner);
        if let Some(effort) = effort {
            self.ration.look(now.max(clock::now()), effort.so_far(), places.others_paid());
        }
        let changed = view.files != self.view.files;
        let had_old = self.volumes.left();
        let volume = self.volumes.observe(&self.view, &view);
        let at = announced.unwrap_or(now);
        let dated = announced.unwrap_or_else(|| self.changed_at(&view, now));
        self.looked = began;
        let cause = self.cause.take();
        // Whoever did something in a directory has not written to a file that is still the same.
        let is_likely = |(_, interest): &&(Actor, Interest)| {
            *interest == Interest::Any || !self.is_only_written(&view)
        };
        let by = cause.as_ref().filter(is_likely).map(|(by, _)| by);
        self.note_names(&view, by);
        let in_making = if self.in_making.is_empty() { Writers::None } else { Writers::Unknown };
        let writers = view.writers.unwrap_or(Writers::None).or(in_making);
        if view.obstacle.as_ref().is_some_and(Obstacle::may_pass) {
            self.verify(now.after(RETRY));
        }
        self.view = view;
        // What is announced before it is done has begun where somebody has the file open for writing.
        let has_begun = announced.is_some() && writers == Writers::Some;
        let was_written_to = self.is_written_to();
        // It may have taken long, and so may others before it.
        let seen_at = now.max(clock::now());
        self.settle.observe(at, seen_at, Seen { changed: changed || has_begun, writers, volume });
        self.failure.note(failures);
        // That an old directory is *still* there is no news: what was announced may be its removal.
        let is_new = changed
            || match volume {
                Volume::Still => false,
                Volume::Swapped => had_old == 0 || had_old != self.volumes.left(),
                Volume::Cleared => true,
            };
        // A change may be seen before it is heard of: then whoever is heard of next has made it.
        let is_explained = self.dated.is_some() && self.by.is_none();
        if is_new || is_explained {
            self.by = by.cloned().or(self.by.take());
        }
        if is_new {
            self.dated = Some(dated);
        } else if patience == Patience::Hasty {
            // What was announced is yet to be found, and is the doing of whoever did it.
            self.announced = announced;
            self.cause = cause;
            if announced.is_some() {
                self.look_patiently_at.get_or_insert(now.after(PATIENT_LOOK));
            }
        } else if writers == Writers::Some || was_written_to {
            // He is still about to do it, or has done it since the file was looked at.
            self.cause = cause;
        }
        is_new
    }

    /// What cannot be had and why, if that is news.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// When to look next, if ever, unless something happens before.
    pub(crate) fn look_at(&self, now: Boot) -> Option<Boot> {
        let next = self.next(now);
        let affordable = Boot(self.paid.0.saturating_sub(IDLE_LOOKS));
        let for_event = self
            .touched
            .map(|_| if next == Next::Idle { affordable } else { Boot(Duration::ZERO) });
        let for_settling = match next {
            Next::Look(at) => Some(at),
            Next::Idle | Next::Complete => None,
        };
        let times = [for_event, for_settling, self.look_patiently_at, self.verify_at];
        let at = times.into_iter().flatten().min()?;
        Some(match self.reach {
            Reach::Anywhere => at,
            Reach::Beneath => at.max(self.ration.turn()),
        })
    }

    /// How far the change is.
    pub(crate) fn next(&self, now: Boot) -> Next {
        match self.settle.next(now) {
            Next::Complete if self.reach == Reach::Beneath && !self.ration.may_read(now) => {
                Next::Look(self.ration.turn())
            }
            next => next,
        }
    }

    /// Whether somebody is known to write to a file, whether or not he is waited for.
    pub(crate) fn is_written_to(&self) -> bool {
        self.settle.writers() == Some(Writers::Some)
    }

    /// Since when the end of the change under way is waited for.
    pub(crate) fn since(&self) -> Option<Boot> {
        self.settle.since()
    }

    /// When the change under way last went on, or was found to be.
    pub(crate) fn last(&self) -> Option<Boot> {
        self.settle.last()
    }

    /// When the change under way was last found to go on.
    pub(crate) fn found(&self) -> Option<Boot> {
        self.settle.found()
    }

    /// When the change under way last went on, by the files where nobody has announced it.
    pub(crate) fn dated(&self) -> Option<Boot> {
        self.dated
    }

    /// Reads the files, or gives `None` where there are none to be had: then what they contained before
    /// still holds, until the next look.
    pub(crate) fn read(&mut self) -> Option<Content> {
        if self.view.obstacle.is_some() {
            return None;
        }
        let effort = (self.reach == Reach::Beneath).then(Effort::begin);
        let content = Content::read(&self.view, &self.content, &self.settled);
        if let Some(effort) = effort {
            self.ration.read(clock::now(), effort.so_far());
        }
        if !content.unknown.is_empty() {
            self.verify(clock::now().after(RETRY));
        }
        let news =
            content.unknown.iter().find(|(path, error)| self.unknown.get(*path) != Some(error));
        if let Some((path, error)) = news {
            self.failure.fail(format!(
                "cannot read {}: {error}; what it contained before stands for it until it can be read",
                path.display()
            ));
        }
        self.unknown.clone_from(&content.unknown);
        Some(content)
    }

    /// Takes `content` for that of a complete change, and gives the files that differ.
    pub(crate) fn accept(&mut self, content: Content) -> Vec<PathBuf> {
        let changes = content.changes_since(&self.content);
        self.content = content;
        changes
    }

    /// The change has been dealt with. Who has made it may still be heard of until that is asked.
    pub(crate) fn finish(&mut self) {
        self.settle.finish();
        self.settled = Arc::clone(&self.view.files);
        self.is_to_verify = false;
        self.in_making.clear();
        self.volumes = Volumes::default();
    }

    /// What was read counts for nothing: if it is another, it is read again with what has happened since. A path
    /// beneath a volume is not: its owner could have it read time and again, so it waits for the next look.
    pub(crate) fn discard(&mut self, content: &Content) {
        let is_other = || !content.changes_since(&self.content).is_empty();
        self.is_to_verify |= self.reach == Reach::Anywhere && is_other();
    }

    /// Notes which names have come or gone in a way that does not tell whether that is all.
    ///
    /// A file that is made in place is not yet open when its name appears, and a tool may be about to
    /// rename it over another (`sed -i`), or to put a new one in the place of one that it has moved
    /// away (vim). Only some quiet tells that this is not so.
    fn note_names(&mut self, view: &View, cause: Option<&Actor>) {
        let has_arrived = cause.is_some_and(|by| by.operation.is_arrival());
        for (path, state) in view.files.iter() {
            let before = self.view.files.get(path);
            if before.is_none() && !has_arrived && !state.is_linked {
                self.in_making.insert(path.clone());
            } else if before.is_none_or(|before| before.identity != state.identity) {
                self.in_making.remove(path);
            }
        }
        for (path, state) in self.view.files.iter() {
            if view.files.contains_key(path) {
                continue;
            }
            if self.content.has(path) && !state.is_linked {
                self.in_making.insert(path.clone());
            } else {
                self.in_making.remove(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::BorrowedFd, unix::fs::symlink},
    };

    use super::*;
    use crate::{
        event::{Event, PlaceId, SourceName},
        source::{Choice, Ladder, Purpose, SourceError, Tells, WatchError},
    };

    const LIMITS: Limits = Limits {
        quiet: Duration::from_millis(100),
        max: Duration::from_secs(2),
        volume: Duration::from_millis(200),
    };

    /// The kubelet's last step is announced before it can be seen: while the directory is being
    /// removed. That it is still there then is not what was announced.
    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_an_update_that_is_not_visible_yet_is_looked_for_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        for payload in ["..1", "..2"] {
            fs::create_dir(dir.join(payload)).unwrap();
            fs::write(dir.join(payload).join("a.conf"), payload).unwrap();
        }
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/a.conf", dir.join("a.conf")).unwrap();
        let mut places = Places::new();
        let mut source =
            Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
        let path = dir.join("a.conf");
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);
        let mut look = |watched: &mut Watched, patience| {
            let now = clock::now();
            watched.touch(now, None, Interest::Any);
            watched.look(now, &mut places, &mut source, patience)
        };

        symlink("..2", dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        assert!(look(&mut watched, Patience::Hasty), "the swap is news");
        assert_eq!(watched.look_patiently_at, None);

        assert!(!look(&mut watched, Patience::Hasty), "what is still there is none");
        assert!(watched.look_patiently_at.is_some());

        fs::remove_dir_all(dir.join("..1")).unwrap();
        assert!(look(&mut watched, Patience::Patient), "that it is gone is news");
    }

    /// The kernel tells of a change when it is made, so a look may be ahead of it.
    #[tokio::test(flavor = "current_thread")]
    async fn who_is_heard_of_after_the_content_was_read_is_known() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.conf");
        fs::write(&path, "1").unwrap();
        let mut places = Places::new();
        let mut source =
            Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);

        fs::write(&path, "2, which is longer").unwrap();
        assert!(watched.look(clock::now(), &mut places, &mut source, Patience::Patient));
        watched.finish();
        let by =
            Actor { pid: Some(7), comm: Some("writer".to_owned()), operation: Operation::Write };
        watched.touch(clock::now(), Some(by.clone()), Interest::Any);
        assert!(!watched.look(clock::now(), &mut places, &mut source, Patience::Hasty));
        assert_eq!(watched.take_by(), Some(by));
    }

    /// It is heard of while the content is read, too late for a look.
    #[tokio::test(flavor = "current_thread")]
    async fn who_is_heard_of_late_and_did_it_before_the_look_is_known() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.conf");
        fs::write(&path, "1").unwrap();
        let mut places = Places::new();
        let mut source =
            Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);
        let by =
            Actor { pid: Some(7), comm: Some("writer".to_owned()), operation: Operation::Write };
        let hear = |watched: &mut Watched, at| {
            watched.touch(at, Some(by.clone()), Interest::Any);
        };

        fs::write(&path, "2, which is longer").unwrap();
        let at = clock::now();
        assert!(watched.look(clock::now(), &mut places, &mut source, Patience::Patient));
        watched.finish();
        hear(&mut watched, at);
        assert_eq!(watched.take_by(), Some(by.clone()));

        fs::write(&path, "3").unwrap();
        assert!(watched.look(clock::now(), &mut places, &mut source, Patience::Patient));
        watched.finish();
        hear(&mut watched, clock::now());
        assert_eq!(watched.take_by(), None, "what he has done since is something else");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_volume_that_always_changes_waits_for_its_turn() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.conf");
        fs::write(&path, "0").unwrap();
        let mut places = Places::new();
        let mut source =
            Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
        let mut watch =
            |reach| Watched::new(0, home.path(), reach, LIMITS, &mut places, &mut source);
        let (mut owned, mut shared) = (watch(Reach::Anywhere), watch(Reach::Beneath));
        // However fast this goes, to the agent it is one moment.
        let now = clock::now();
        let mut play = |watched: &mut Watched| {
            for number in 1..100 {
                fs::write(&path, number.to_string()).unwrap();
                watched.touch(now, None, Interest::Any);
                watched.look_if_due(now, &mut places, &mut source);
            }
        };
        play(&mut owned);
        assert!(owned.look_at(now).is_none_or(|at| at <= clock::now().after(LIMITS.quiet)));

        play(&mut shared);
        let turn = shared.look_at(now).unwrap();
        assert!(turn > now && shared.touched.is_some());
        // When it is its turn what has been found is read without waiting once more.
        shared.look_if_due(turn, &mut places, &mut source);
        assert_eq!(shared.touched, None);
        let settled = turn.after(LIMITS.max);
        assert_eq!(shared.next(settled), Next::Complete);
        let content = shared.read().unwrap();
        assert_eq!(shared.accept(content), [path]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn old_directories_that_are_left_behind_are_not_all_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let swap = |number: usize| {
            let name = format!("..{number}");
            fs::create_dir(dir.join(&name)).unwrap();
            fs::write(dir.join(&name).join("a"), &name).unwrap();
            symlink(name, dir.join("..data_tmp")).unwrap();
            fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        };
        swap(0);
        let mut places = Places::new();
        let mut source =
            Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
        let mut watched = Watched::new(0, dir, Reach::Beneath, LIMITS, &mut places, &mut source);
        symlink("..data/a", dir.join("a")).unwrap();
        for number in 1..100 {
            swap(number);
            watched.look(clock::now(), &mut places, &mut source, Patience::Hasty);
        }
        assert!((2..20).contains(&watched.volumes.left()), "{}", watched.volumes.left());
    }

    /// A source under which something is done to a file when that is armed, and when its writers are asked
    /// for, for the how manieth time is told.
    struct Meanwhile {
        path: PathBuf,
        asked: u32,
        on_arm: fn(&Path),
        on_ask: fn(&Path, u32) -> Writers,
    }

    impl Source for Meanwhile {
        fn name(&self) -> SourceName {
            SourceName::Ebpf
        }
        fn watch(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            Ok(())
        }
        fn forget(&mut self, _: PlaceId) {}
        fn arm(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
            (self.on_arm)(&self.path);
            Ok(())
        }
        fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
            self.asked += 1;
            (self.on_ask)(&self.path, self.asked)
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
    fn a_file_that_is_being_replaced_is_not_taken_for_one_that_was_written_to() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().join("a.conf");
        fs::write(&path, "1").unwrap();
        fs::write(path.with_extension("new"), "2").unwrap();
        let new = Identity::at(&path.with_extension("new")).unwrap();
        let mut places = Places::new();
        let mut source = Meanwhile {
            path: path.clone(),
            asked: 0,
            on_arm: |path| fs::hard_link(path, path.with_extension("old")).unwrap(),
            on_ask: |path, asked| {
                if asked == 2 {
                    fs::rename(path.with_extension("new"), path).unwrap();
                }
                Writers::None
            },
        };
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);
        assert_eq!(source.asked, 1);

        let file = places.of(Identity::at(&path).unwrap()).unwrap();
        let now = clock::now();
        places.fired(file, now, now, &Actor::unknown(Operation::Rename));
        assert!(watched.look(now, &mut places, &mut source, Patience::Hasty));
        assert_eq!(watched.identities().collect::<Vec<_>>(), [new]);
    }

    /// The machine is suspended in the middle of a look, say, or a debugger holds the agent.
    #[test]
    fn a_look_that_takes_long_because_the_agent_stands_still_is_soon_followed_by_another() {
        #[expect(clippy::disallowed_methods, reason = "the pause is the input of the test")]
        fn stand_still(_: &Path) {
            std::thread::sleep(Duration::from_secs(1));
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().join("a.conf");
        fs::write(&path, "1").unwrap();
        let mut places = Places::new();
        let mut source = Meanwhile {
            path: path.clone(),
            asked: 0,
            on_arm: stand_still,
            on_ask: |_, _| Writers::None,
        };
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);
        let file = places.of(Identity::at(&path).unwrap()).unwrap();
        let touch = |watched: &mut Watched, now| watched.touch(now, None, Interest::Any);
        let now = clock::now();
        places.fired(file, now, now, &Actor::unknown(Operation::Attributes));
        touch(&mut watched, now);
        watched.look_if_due(now, &mut places, &mut source);
        assert!(watched.touched.is_none(), "it was looked at");
        touch(&mut watched, now);
        watched.look_patiently_at = None;
        let next = watched.look_at(now).unwrap();
        let wait = next.since(now);
        assert!(wait < Duration::from_secs(10), "a second was an effort of {wait:?}");
    }

    #[test]
    fn whoever_writes_and_closes_while_it_is_looked_at_is_known_by_his_write() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().join("a.conf");
        fs::write(&path, "1").unwrap();
        let mut places = Places::new();
        let mut source = Meanwhile {
            path: path.clone(),
            asked: 0,
            on_arm: |_| (),
            on_ask: |path, asked| match asked {
                2 => Writers::Some,
                3 => {
                    fs::write(path, "2, which is longer").unwrap();
                    Writers::None
                }
                _ => Writers::None,
            },
        };
        let mut watched = Watched::new(0, &path, Reach::Anywhere, LIMITS, &mut places, &mut source);
        let file = places.of(Identity::at(&path).unwrap()).unwrap();
        let does = |watched: &mut Watched, operation, places: &mut Places| {
            let (now, by) = (clock::now(), Actor::unknown(operation));
            places.fired(file, now, now, &by);
            let by = Actor { pid: Some(7), ..by };
            watched.touch(now, Some(by.clone()), Interest::Any);
            by
        };
        let writes = does(&mut watched, Operation::Write, &mut places);
        assert!(!watched.look(clock::now(), &mut places, &mut source, Patience::Hasty));
        assert!(!watched.look(clock::now(), &mut places, &mut source, Patience::Patient));
        does(&mut watched, Operation::Close, &mut places);
        assert!(watched.look(clock::now(), &mut places, &mut source, Patience::Hasty));
        assert_eq!(watched.take_by(), Some(writes));
        assert_eq!(source.asked, 4);
    }
}
