//! Who opens the content, and whether it is he who is to read it.

use std::mem;

use nix::unistd::Pid;

use super::{
    Opening, Trace,
    record::Hidden,
    step::{Stage, Step},
    update::Update,
    who,
};
use crate::{
    clock::Boot, confirm::MOST_FILES, reach::Spot, source::Source, watched::Watched,
    witness::Watching,
};

impl<S: Source> Trace<S> {
    /// Finds out which of the files that were opened are watched ones, and gives the others.
    pub(super) fn sort_opens(&mut self) -> Vec<Opening> {
        if self.opens.is_empty() {
            return Vec::new();
        }
        let inodes = self.inodes();
        let is_ours = |it: &Opening| {
            let is_expected = !self.witness.opened_at(it.place, it.pid, it.at).tickets.is_empty();
            // A name counts in any directory, so another file of that name may be meant.
            let is_watched = || it.inode.is_none_or(|it| inodes.contains(&it));
            is_expected && (self.places.knows(it.place) || is_watched())
        };
        let opens = mem::take(&mut self.opens).into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = opens.partition(is_ours);
        for Opening { inode, pid, at, .. } in ours {
            self.opened(pid, inode, at);
        }
        others
    }

    /// Notes that somebody opens a watched file.
    pub(super) fn opened(&mut self, pid: Pid, inode: Option<u64>, at: Boot) {
        if pid == Pid::this() {
            return;
        }
        let is_written_by = |update: &Update| {
            update.steps.iter().any(|it| {
                it.who.pid == Some(pid.as_raw())
                    && matches!(it.stage, Some(Stage::FirstWrite | Stage::Swapped))
            })
        };
        if self.bears_a_name(pid) {
            self.note_living(pid, Boot::ZERO);
        }
        // He himself, or whoever he comes from.
        let known = || self.procfs.line(pid).filter_map(|it| self.living.get(&it)).min().copied();
        let since = if self.living.is_empty() { None } else { known() };
        let is_reader = if self.question.names.is_empty() {
            !self.update.as_ref().is_some_and(is_written_by)
        } else {
            since.is_some()
        };
        // Whoever starts the program once more, as to check the content, reads nothing for the one that runs.
        let group = self.procfs.named_container(pid);
        let is_older = |(&it, &other): (&Pid, &Boot)| {
            since.is_some_and(|since| other < since)
                && self.bears_a_name(it)
                && self.procfs.named_container(it) == group
        };
        let joined = since.filter(|_| self.living.iter().any(is_older));
        let is_new = inode.is_some_and(|inode| self.inodes().contains(&inode));
        let what = match inode {
            Some(inode) if is_new => format!("opens the new content (inode {inode})"),
            Some(inode) => format!("opens what was there before (inode {inode})"),
            None => "opens the content".to_owned(),
        };
        let who = who::who(&self.procfs, Some(pid), None);
        let doubt = (
            Stage::Opened,
            "somebody has opened it who has ended since: whose he was is not known",
        );
        let may_be = (!is_reader && who.comm.is_none()).then_some(doubt);
        let stage = is_reader.then_some(Stage::Opened);
        self.note_step(Step { joined, may_be, ..Step::new(at, stage, who, what) });
    }

    /// Has it told who opens the files that the paths lead to now.
    pub(super) fn expect_opens(&mut self) {
        let files: Vec<_> = self.watched.values().flat_map(Watched::files).collect();
        // Names that are gone for good make room.
        if self.expected.len() >= MOST_FILES && files.len() < MOST_FILES {
            let mut watching = Watching { source: &mut self.source, places: &mut self.places };
            for ticket in self.tickets.drain(..) {
                self.witness.forget(Some(ticket), &mut watching);
            }
            self.expected.clear();
        }
        let files = files.into_iter();
        let new: Vec<_> = files.filter(|it| !self.expected.contains(*it)).cloned().collect();
        let has_room = self.expected.len() + new.len() <= MOST_FILES;
        if !has_room && self.sight.hidden.iter().all(|it| it.stage != Stage::Opened) {
            let reason = format!("of more than {MOST_FILES} files it is not told who opens each");
            self.sight.hidden.push(Hidden { stage: Stage::Opened, reason });
        }
        let mut watching = Watching { source: &mut self.source, places: &mut self.places };
        for &ticket in &self.tickets {
            self.witness.follow(Some(ticket), &mut watching);
        }
        if new.is_empty() || !has_room && !self.tickets.is_empty() {
            return;
        }
        let spots = new.iter().cloned().map(Spot::from).collect();
        if let Some(ticket) = self.witness.watch(spots, &mut watching) {
            // What they are called at once: until then the files are held open.
            self.witness.follow(Some(ticket), &mut watching);
            self.tickets.push(ticket);
            self.expected.extend(new);
        }
    }
}
