//! The ladder: which sources work here, which one `run` would take, and which one a path would get.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use super::{
    finding::{Finding, Id},
    report::Report,
};
use crate::{
    event::{PlaceId, SourceName},
    source::{
        Choice, Interest, Ladder, Purpose, Source as _, Trouble, WatchError, Working, survey,
    },
    watch::Identity,
};

/// What the sources have said.
pub(super) struct Sources {
    choice: Choice,
    /// Best first: how it does its work, or why it cannot be had.
    answers: Vec<(SourceName, Result<Working, String>)>,
}

impl Sources {
    /// Opens each.
    pub(super) fn ask(choice: Choice) -> Self {
        Self { choice, answers: survey() }
    }

    /// The one that `run` would take, with how it does its work.
    pub(super) fn chosen(&self) -> Option<(SourceName, Option<&'static str>)> {
        let mut working = self.answers.iter().filter(|(name, _)| self.is_allowed(*name));
        working.find_map(|(name, answer)| Some((*name, answer.as_ref().ok()?.strategy)))
    }

    /// Whether the one that `run` would take tells who opens a file.
    pub(super) fn tells_opens(&self) -> bool {
        let chosen = self.chosen().map(|(name, _)| name);
        let mut answers = self.answers.iter().filter(|(name, _)| Some(*name) == chosen);
        answers.any(|(_, answer)| answer.as_ref().is_ok_and(|working| working.tells_opens))
    }

    /// Whether `run` would ask for it: it is allowed, and nothing better works.
    pub(super) fn is_asked_for(&self, name: SourceName) -> bool {
        self.is_allowed(name) && self.chosen().is_none_or(|(chosen, _)| chosen >= name)
    }

    fn is_allowed(&self, name: SourceName) -> bool {
        self.choice == Choice::Best || self.choice == Choice::Only(name)
    }

    /// Says what each can do.
    pub(super) fn examine(&self, report: &mut Report) {
        let chosen = self.chosen().map(|(name, _)| name);
        for (name, answer) in &self.answers {
            let finding = match answer {
                Ok(Working { strategy, passed_over, .. }) => {
                    let how = strategy.map(|it| format!(" (strategy {it})")).unwrap_or_default();
                    let use_of_it = if chosen == Some(*name) {
                        ", and `run` would take it"
                    } else if chosen.is_some_and(|chosen| chosen < *name) && self.is_allowed(*name)
                    {
                        ", for what the better ones cannot watch"
                    } else {
                        ""
                    };
                    let better = passed_over.as_ref();
                    let better =
                        better.map(|why| format!("; not by strategy trampoline, for {why}"));
                    let detail = format!("it works{how}{use_of_it}{}", better.unwrap_or_default());
                    Finding::ok(Id::Source, detail)
                }
                Err(reason) if self.choice == Choice::Only(*name) => {
                    Finding::bad(Id::Source, format!("it cannot be had: {reason}"))
                        .remedy("grant what it needs, or let --source auto find one that works")
                }
                Err(reason) if chosen.is_none_or(|chosen| chosen > *name) => {
                    Finding::note(Id::Source, format!("passed over: {reason}"))
                }
                Err(reason) => Finding::note(Id::Source, format!("it cannot be had: {reason}")),
            };
            report.add(finding.of(name.to_string()));
        }
    }

    /// Begins to watch as `run` would: one ladder for all paths, for to load eBPF takes a while.
    pub(super) fn climb(&self) -> Climb<'_> {
        let ladder = Ladder::open(self.choice, Purpose::Reload, false).ok();
        let (places, here) = (HashMap::new(), BTreeSet::new());
        Climb { sources: self, ladder, places, here, failure: None }
    }

    /// Whether it has been told already, of the source as a whole.
    fn has_said(&self, trouble: &Trouble) -> bool {
        self.answers.iter().any(|(name, answer)| {
            // The ladder adds who is used instead.
            let is_said = |reason: &String| trouble.reason.starts_with(reason);
            *name == trouble.source && answer.as_ref().err().is_some_and(is_said)
        })
    }
}

/// The paths, watched by whatever takes them.
pub(super) struct Climb<'a> {
    sources: &'a Sources,
    /// None where no source can be had.
    ladder: Option<Ladder>,
    /// The places of all paths so far.
    places: HashMap<Identity, PlaceId>,
    /// Those of the path that is being looked at.
    here: BTreeSet<PlaceId>,
    /// What cannot be watched of it.
    failure: Option<(PathBuf, WatchError)>,
}

impl Climb<'_> {
    /// Has a directory or file watched.
    pub(super) fn place(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) {
        let Some(ladder) = &mut self.ladder else {
            return;
        };
        let count = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let (id, done) = match self.places.entry(identity) {
            Entry::Occupied(known) => (*known.get(), ladder.arm(*known.get(), handle, interest)),
            Entry::Vacant(new) => {
                let id = *new.insert(PlaceId(count.saturating_add(PlaceId::FIRST.0)));
                (id, ladder.watch(id, handle, interest))
            }
        };
        self.here.insert(id);
        if let Err(error) = done {
            self.failure.get_or_insert((path.to_owned(), error));
        }
    }

    /// Says who watches the path whose places were told since the last call, and why nobody better
    /// does; nothing where no source can be had.
    pub(super) fn finding(&mut self) -> Option<Finding> {
        let ladder = self.ladder.as_mut()?;
        let here = mem::take(&mut self.here);
        let troubles = ladder.troubles();
        if let Some((path, error)) = self.failure.take() {
            let why = format!("{:#}", anyhow::Error::new(error));
            let detail = format!("nobody, for {}: {why}", path.display());
            let remedy = "let --source auto find a source that can";
            return Some(Finding::bad(Id::WatchedBy, detail).remedy(remedy));
        }
        let mut sources = BTreeSet::new();
        for (name, is_polled) in here.into_iter().filter_map(|place| ladder.watcher(place)) {
            sources.insert(name);
            sources.extend(is_polled.then_some(SourceName::Poll));
        }
        let names: Vec<_> = sources.iter().map(SourceName::to_string).collect();
        let mut details = vec![names.join(", ")];
        let news = troubles.into_iter().filter(|trouble| !self.sources.has_said(trouble));
        details.extend(news.map(|Trouble { source, reason }| format!("{source}: {reason}")));
        let best = self.sources.chosen().map(|(name, _)| name);
        if details.len() == 1 && sources.last().copied() > best {
            // The ladder tells of a trouble once, however many paths have it.
            details.push("why is told of a path above".to_owned());
        }
        let kind = if details.len() == 1 { Finding::ok } else { Finding::note };
        Some(kind(Id::WatchedBy, details.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Status, *};

    /// What is said of the ladder if eBPF and fanotify cannot be had.
    fn said(choice: Choice) -> Vec<(Status, String)> {
        let sources = Sources {
            choice,
            answers: vec![
                (SourceName::Ebpf, Err("no right".to_owned())),
                (SourceName::Fanotify, Err("no call".to_owned())),
                (SourceName::Inotify, Ok(Working::default())),
                (SourceName::Poll, Ok(Working::default())),
            ],
        };
        let mut report = Report::default();
        sources.examine(&mut report);
        report.findings.into_iter().map(|finding| (finding.status, finding.detail)).collect()
    }

    #[track_caller]
    fn check(choice: Choice, expected: &[(Status, &str)]) {
        let said = said(choice);
        let said: Vec<_> = said.iter().map(|(status, text)| (*status, text.as_str())).collect();
        assert_eq!(said, expected, "for {choice:?}");
    }

    #[test]
    fn each_rung_is_told_and_why_it_is_passed_over() {
        check(
            Choice::Best,
            &[
                (Status::Note, "passed over: no right"),
                (Status::Note, "passed over: no call"),
                (Status::Ok, "it works, and `run` would take it"),
                (Status::Ok, "it works, for what the better ones cannot watch"),
            ],
        );
        check(
            Choice::Only(SourceName::Poll),
            &[
                (Status::Note, "passed over: no right"),
                (Status::Note, "passed over: no call"),
                (Status::Ok, "it works"),
                (Status::Ok, "it works, and `run` would take it"),
            ],
        );
    }

    #[test]
    fn only_the_one_that_is_insisted_on_must_work() {
        let said = said(Choice::Only(SourceName::Fanotify));
        let bad: Vec<_> = said.iter().filter(|(status, _)| *status == Status::Bad).collect();
        assert_eq!(bad, [&(Status::Bad, "it cannot be had: no call".to_owned())]);
    }
}
