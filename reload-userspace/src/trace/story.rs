//! Which update something belongs to, and when that is over.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File},
    mem,
    os::fd::AsFd as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use super::{
    COHERENCE, Deed, FAREWELL, LOSS_PAUSE, MOST_DEEDS, MOST_LOOKS, TAIL, Trace,
    record::Record,
    step::{self, Stage, Step},
    update::{Gap, Passed, Update},
    who,
};
use crate::{
    clock::{self, Boot},
    event::{Operation, PlaceId, SourceName},
    places::{Patience, Touched},
    settle::Next,
    source::{Interest, Source, Tells},
    watch::{Identity, Obstacle, wait_for_changes},
    watched::Watched,
};

impl<S: Source> Trace<S> {
    pub(super) fn touch(&mut self, touched: Vec<Touched>) {
        for Touched { index, interest, at, by } in touched {
            if let Some(watched) = self.watched.get_mut(&index) {
                watched.touch(at, by, interest);
            }
        }
    }

    /// Looks at what something has happened to; where that is a change an update is under way. Gives when
    /// the last of what has led to it was, if anything is new. The last look leaves nothing for a later one.
    pub(super) fn look(&mut self, now: Boot, is_last: bool) -> Result<Option<Boot>> {
        let touched = self.places.peek(&mut self.source, now);
        self.touch(touched);
        let before = self.file_places();
        for watched in self.watched.values_mut() {
            if !is_last {
                watched.look_if_due(now, &mut self.places, &mut self.source);
            } else if watched.look_at(now).is_some() {
                watched.look(now, &mut self.places, &mut self.source, Patience::Patient);
            }
        }
        if self.watched.values().all(|it| it.next(now) == Next::Idle) {
            self.adopt();
            // What was done beside the files, and has not led to anything by now, will not.
            self.deeds.retain(|deed| now.since(deed.at) < COHERENCE);
            return Ok(None);
        }
        let looked = self.hear_of_it(now)?;
        let after = self.file_places();
        self.forget_strangers(&before, &after);
        if self.update.as_ref().is_some_and(|it| it.settled.is_some()) {
            self.make_way()?;
        }
        self.looked = looked;
        let near = self.near();
        let seen = self.deeds.iter().filter(|it| it.at <= looked && counts(it, self.over, &near));
        let began = beginning(seen.map(|it| it.at)).unwrap_or(now);
        if self.update.is_none() {
            self.deeds.retain(|it| it.at >= began);
        }
        self.update.get_or_insert(Update::new(self.count + 1, began));
        let latest = self.adopt();
        if before != after {
            if let Some(update) = self.update.as_mut().filter(|_| !after.is_subset(&before)) {
                update.is_anew = true;
            }
            self.queues.recognize(&self.places);
            self.expect_opens();
        }
        Ok(latest)
    }

    /// Hears of what a look has found, which may be ahead of that, and looks again until nothing is new, or
    /// often enough. Gives until when whatever was done is of this update.
    fn hear_of_it(&mut self, now: Boot) -> Result<Boot> {
        let mut again = 0..MOST_LOOKS;
        loop {
            self.wait_for_makers();
            let mut heard = clock::now();
            self.take_all()?;
            if self.source.name() != SourceName::Ebpf {
                // The others date what they tell of by when it is read.
                heard = clock::now();
            }
            // What the last look finds is to be heard, too.
            if again.next().is_none() {
                return Ok(heard);
            }
            let mut is_new = false;
            for watched in self.watched.values_mut().filter(|it| it.next(now) != Next::Idle) {
                let (places, source) = (&mut self.places, &mut self.source);
                is_new |= watched.look(clock::now(), places, source, Patience::Hasty);
            }
            if !is_new {
                return Ok(heard);
            }
        }
    }

    /// The update that has settled is over, for there is another change: what came after the look that has
    /// found the last of the old one belongs to that.
    fn make_way(&mut self) -> Result<()> {
        self.adopt();
        let near = self.near();
        let later = self.deeds.iter().filter(|it| counts(it, self.over, &near));
        let began = later.map(|it| it.at).min();
        if let Some((began, update)) = began.zip(self.update.as_mut()) {
            self.aside.extend(update.cede(began));
            update.over = Some(began);
        }
        self.finish()?;
        // The last that was done because of the old one may have come after the first of the new one.
        let just_before = |began: Boot| Boot(began.0.saturating_sub(Duration::from_nanos(1)));
        self.over = began.map_or(self.over, |began| self.over.min(just_before(began)));
        Ok(())
    }

    /// Waits until it has been told who has made what was just found: until then he has the directory locked.
    fn wait_for_makers(&self) {
        let real = self.question.paths.iter().filter(|path| path.is_dir()).cloned();
        for path in self.directories().chain(real) {
            if let Ok(directory) = File::open(path) {
                wait_for_changes(directory.as_fd());
            }
        }
    }

    /// The number of a file that was replaced is handed out again, and until its place is forgotten whoever
    /// gets it is told of.
    fn forget_strangers(&mut self, before: &BTreeSet<PlaceId>, after: &BTreeSet<PlaceId>) {
        let takes_away = |it: &&Deed| {
            !before.contains(&it.place)
                && matches!(it.operation, Operation::Rename | Operation::Unlink)
        };
        let Some(gone_at) = self.deeds.iter().filter(takes_away).map(|it| it.at).min() else {
            return;
        };
        let is_gone = |place| before.contains(&place) && !after.contains(&place);
        self.deeds.retain(|it| it.at < gone_at || !is_gone(it.place));
    }

    /// Makes steps of the update, if there is one, of what has led to it, and gives when the last of that was.
    /// What came after the last look is left: no look can have found it.
    fn adopt(&mut self) -> Option<Boot> {
        let near = self.near();
        let update = self.update.as_mut()?;
        let deeds = mem::take(&mut self.deeds).into_iter();
        let (seen, later): (VecDeque<_>, _) = deeds.partition(|it| it.at <= self.looked);
        self.deeds = later;
        let steps = seen.into_iter().filter(|it| counts(it, self.over, &near)).map(step_of);
        let mut latest = None;
        for step in steps {
            latest = latest.max(Some(step.at));
            update.is_told = true;
            update.add(step);
        }
        if let Some((latest, _)) =
            latest.zip(update.settled).filter(|(latest, settled)| latest > settled)
        {
            update.settle(latest);
        }
        for gap in self.lost.extract_if(.., |gap| gap.at >= update.began) {
            update.gaps.push(gap);
        }
        update.untold += mem::take(&mut self.untold);
        update.more += mem::take(&mut self.more);
        for step in mem::take(&mut self.aside) {
            if step.at >= update.began {
                update.add(step);
            }
        }
        latest
    }

    /// Notes which of the changes are complete, and reads what has become of the content. What completes one
    /// is what has happened last, at `latest`, or else that nothing has happened for a while.
    pub(super) fn settle(&mut self, now: Boot, latest: Option<Boot>) {
        if self.watched.values().any(|it| matches!(it.next(now), Next::Look(_))) {
            return;
        }
        let is_under_way = self.watched.values().any(|it| it.next(now) == Next::Complete);
        let (mut paths, mut is_cut) = (Vec::new(), false);
        for watched in self.watched.values_mut().filter(|it| it.is_to_compare(now)) {
            is_cut |= watched.is_written_to();
            paths.extend(complete(watched));
        }
        if !is_under_way && paths.is_empty() {
            return;
        }
        let at = self.adopt().or(latest).unwrap_or(now);
        if let Some(update) = &mut self.update {
            update.paths.extend(paths);
            update.paths.sort_unstable();
            update.paths.dedup();
            update.is_cut |= is_cut;
            for (&index, watched) in &mut self.watched {
                if let Some(obstacle) = watched.news_of_obstacle() {
                    update.obstacles.insert(index, words(&obstacle));
                } else if watched.obstacle().is_none() {
                    update.obstacles.remove(&index);
                }
            }
            update.settle(at);
        }
        self.expect_opens();
    }

    /// When the update is over, if there is one that has settled.
    pub(super) fn over_at(&self) -> Option<Boot> {
        let update = self.update.as_ref()?;
        let settled = update.settled?;
        let passed = update.passed();
        let has = |stages: &[Stage]| passed.iter().any(|it| stages.contains(&it.stage));
        // Whoever goes on with what he always does keeps no update from its end.
        let last = passed.last().map_or(settled, |it| it.at);
        let farewell = settled.after(FAREWELL);
        let end = last.max(settled).after(TAIL).min(farewell);
        // Whoever polls, or waits for more, sends his signal some seconds later; and whoever takes it may be
        // slow to read, and slower to replace his children.
        let sees_opens = self.sight.hidden.iter().all(|it| it.stage != Stage::Opened);
        let has_reacted = has(&[Stage::Opened, Stage::Forked, Stage::Exited])
            || !sees_opens && has(&[Stage::Signalled]);
        let can_react = !self.question.names.is_empty() && !update.paths.is_empty();
        let is_silent = can_react && !has_reacted && self.tells == Tells::Yes;
        let is_awaited = is_silent || self.remaining(update).next().is_some();
        Some(if is_awaited { farewell } else { end })
    }

    /// The old children that are waited for: whoever has taken the signal, or made new ones, replaces them.
    fn remaining(&self, update: &Update) -> impl Iterator<Item = Pid> {
        let replaces = |it: &Passed| matches!(it.stage, Stage::Delivered | Stage::Forked);
        let is_reloading = update.passed().iter().any(replaces);
        is_reloading.then(|| self.old_children(update)).into_iter().flatten()
    }

    /// Tells of the update, which is over.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.ask_for_losses();
        let Some(mut update) = self.update.take() else { return Ok(()) };
        let remaining = self.remaining(&update).take(MOST_REMAINING);
        update.remaining = remaining.map(|pid| who::who(&self.procfs, Some(pid), None)).collect();
        update.over.get_or_insert_with(clock::now);
        self.count += 1;
        self.over = update.last();
        let record = Record::of(&update, &self.sight);
        self.output.tell(&record).context("cannot write of an update")?;
        self.summary.add(record);
        Ok(())
    }

    /// Notes what a process does.
    pub(super) fn note(&mut self, pid: Pid, at: Boot, stage: Option<Stage>, what: String) {
        let who = who::who(&self.procfs, Some(pid), None);
        self.note_step(Step::new(at, stage, who, what));
    }

    pub(super) fn note_step(&mut self, step: Step) {
        match &mut self.update {
            Some(update) if step.at >= update.began => update.add(step),
            // An update that was found before it was heard of may have begun earlier than is known yet.
            _ => {
                if self.aside.back_mut().is_some_and(|before| before.takes_in(&step)) {
                    return;
                }
                if self.aside.len() == MOST_DEEDS {
                    // What is of no stage goes first.
                    let idle = self.aside.iter().position(|it| it.stage.is_none());
                    let count = if idle.is_some() { &mut self.more } else { &mut self.untold };
                    *count += self.aside.remove(idle.unwrap_or(0)).map_or(0, |it| it.count);
                }
                self.aside.push_back(step);
            }
        }
    }

    /// The inodes of the watched files.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        self.identities().map(|it| it.inode).collect()
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.watched.values().flat_map(Watched::identities)
    }

    fn file_places(&self) -> BTreeSet<PlaceId> {
        self.identities().filter_map(|it| self.places.of(it)).collect()
    }

    pub(super) fn ask_for_losses(&mut self) {
        let now = clock::now();
        self.losses_at = now.after(LOSS_PAUSE);
        for loss in self.source.losses() {
            self.take(loss);
        }
        self.losses_at = now.after(LOSS_PAUSE);
    }

    /// Notes that records are missing, and that everything must be looked at.
    pub(super) fn lose(&mut self, at: Boot, count: u64, reason: String) {
        match &mut self.update {
            Some(update) => update.gaps.push(Gap { at, count, reason }),
            None => self.lost.push(Gap { at, count, reason }),
        }
        // Of some of them the end may be among what is missing.
        self.living.retain(|&pid, _| self.procfs.name(pid).is_some());
        self.places.distrust();
        self.watched.values_mut().for_each(|it| it.verify(at));
    }

    /// The places of the directories that the paths are in.
    fn near(&self) -> BTreeSet<PlaceId> {
        self.near_identities().filter_map(|it| self.places.of(it)).collect()
    }

    /// Which directories the paths are in.
    pub(super) fn near_identities(&self) -> impl Iterator<Item = Identity> {
        self.directories().filter_map(|it| Identity::at(&it))
    }

    /// The directories that the paths are in, as they are typed and as they are.
    pub(super) fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let paths = self.question.paths.iter();
        paths.flat_map(|path| {
            let real = fs::canonicalize(path).ok();
            let parents = [Some(path.clone()), real].into_iter().flatten();
            parents.filter_map(|it| Some(it.parent()?.to_owned()))
        })
    }
}

/// How many who have not ended are named.
const MOST_REMAINING: usize = 16;

/// When the last of what was done began, of what was done without a pause.
fn beginning(times: impl Iterator<Item = Boot>) -> Option<Boot> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let mut began = times.pop()?;
    while let Some(at) = times.pop().filter(|&at| began.since(at) < COHERENCE) {
        began = at;
    }
    Some(began)
}

/// Whether a deed is part of an update, where the one before was over then and these directories are near.
fn counts(deed: &Deed, over: Boot, near: &BTreeSet<PlaceId>) -> bool {
    let is_change = deed.operation.is_arrival()
        || matches!(deed.operation, Operation::Unlink | Operation::Mkdir);
    // Far up the path many things happen that are of no concern.
    let is_close = deed.interest == Interest::Any || near.contains(&deed.place) && is_change;
    deed.at > over && is_close
}

/// The step that a deed is.
fn step_of(deed: Deed) -> Step {
    let Deed { is_file, at, operation, who, .. } = deed;
    let (stage, what) = if is_file {
        (step::of_file(operation), format!("{operation} of a file"))
    } else {
        (step::of_directory(operation), format!("{operation} in a directory"))
    };
    Step::new(at, stage, who, what)
}

/// What has come between a path and its content, in words.
fn words(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Missing(path) => format!("{} is gone", path.display()),
        obstacle => obstacle.to_string(),
    }
}

/// Takes the content for that of a complete change, and gives the files that differ.
fn complete(watched: &mut Watched) -> Vec<PathBuf> {
    let content = watched.read();
    let changes = content.map(|it| watched.accept(it)).unwrap_or_default();
    watched.finish();
    drop(watched.take_by());
    changes
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command};

    use super::*;
    use crate::{
        event::Event,
        source::{Choice, Ladder, Purpose},
        trace::{Format, Output, Question},
        witness::Witness,
    };

    /// A trace of nothing.
    fn trace() -> Trace<Ladder> {
        let choice = Choice::Only(SourceName::Poll);
        let mut source = Ladder::open(choice, Purpose::Trace, false).unwrap();
        let witness = Witness::open(false, &mut source);
        let output = Output::new(Format::Json, Box::new(io::sink()));
        let question = Question { paths: Vec::new(), names: Vec::new(), count: None, span: None };
        Trace::new(question, source, witness, output).unwrap()
    }

    #[tokio::test]
    async fn whoever_has_ended_unheard_is_forgotten_when_it_is_told_that_records_are_missing() {
        let mut trace = trace();
        let mut child = Command::new("true").spawn().unwrap();
        let gone = Pid::from_raw(child.id().try_into().unwrap());
        let at = clock::now();
        for pid in [Pid::this(), gone] {
            trace.take(Event::Started { pid, at });
        }
        child.wait().unwrap();
        assert_eq!(trace.living.len(), 2);
        trace.lose(at, 1, "the ring was full".to_owned());
        assert_eq!(trace.living.into_keys().collect::<Vec<_>>(), [Pid::this()]);
    }
}
