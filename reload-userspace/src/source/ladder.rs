//! The ladder: of the sources, each place gets the best one that works for it.
//!
//! A source is judged by what it does: it is opened, and on each filesystem it must hear a canary
//! before it is relied on. A place that one source cannot watch falls to the next, alone.

mod contract;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    os::fd::BorrowedFd,
    time::Duration,
};

use rustix::fs::readlink;

use super::{
    Interest, Purpose, Source as _, Trouble, WatchError, canary,
    ground::Ground,
    mounts::MountTable,
    poll::PollSource,
    rung::{Reason, Rung},
};
use crate::{
    clock::{self, Boot},
    event::{Event, PlaceId, SourceName},
    sys,
};

/// The sources that the kernel drives, best first.
pub(super) const KERNEL_DRIVEN: [SourceName; 3] =
    [SourceName::Ebpf, SourceName::Fanotify, SourceName::Inotify];

/// How long until a place that has fallen tries again: limits may have been raised.
const RETRY: Duration = Duration::from_secs(5);

/// Which sources may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best that works, for each place.
    Best,
    /// This one and no other.
    Only(SourceName),
}

impl Choice {
    fn allows(self, name: SourceName) -> bool {
        self == Self::Best || self == Self::Only(name)
    }
}

/// The only source that may be used cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("source {name} cannot be had")]
pub struct LadderError {
    name: SourceName,
    pub(super) source: Reason,
}

/// All the sources, as one.
pub struct Ladder {
    choice: Choice,
    purpose: Purpose,
    diagnostics: bool,
    /// In the order of [`KERNEL_DRIVEN`].
    rungs: [Rung; KERNEL_DRIVEN.len()],
    poll: PollSource,
    mounts: Option<MountTable>,
    places: HashMap<PlaceId, Footing>,
    /// How many of them each source watches.
    counts: BTreeMap<SourceName, isize>,
    /// When the sources that could not be had were last tried again.
    reopened_at: Option<Boot>,
    /// Whether the canary was heard, by device and source.
    grounds: HashMap<(u64, SourceName), bool>,
    /// What has been told, so that thousands of places with one trouble give one line.
    told: HashSet<(SourceName, u64, String)>,
    troubles: Vec<Trouble>,
    /// What was yielded while a canary was listened for.
    aside: VecDeque<Event>,
}

/// Who watches a place.
#[derive(Clone, Copy, Debug)]
struct Footing {
    source: SourceName,
    /// Whether it is polled, be it besides: not every change is announced there.
    is_polled: bool,
    /// When to see whether a better source takes it, if it has fallen.
    retry_at: Option<Boot>,
}

/// How far up a place has come.
struct Climbed {
    source: Option<SourceName>,
    /// Whether a better source may take it later.
    may_climb_further: bool,
    /// Why those better did not take it.
    failures: Vec<(SourceName, WatchError)>,
}

impl Ladder {
    /// Opens the best source that can be had, for that purpose.
    ///
    /// With `diagnostics` the eBPF side tells of itself at the level `debug`.
    ///
    /// # Errors
    ///
    /// Fails where only one source is allowed, and it cannot be had.
    pub fn open(choice: Choice, purpose: Purpose, diagnostics: bool) -> Result<Self, LadderError> {
        let mut ladder = Self {
            choice,
            purpose,
            diagnostics,
            rungs: KERNEL_DRIVEN.map(Rung::Untried),
            poll: PollSource::default(),
            mounts: None,
            places: HashMap::new(),
            counts: BTreeMap::new(),
            reopened_at: None,
            grounds: HashMap::new(),
            told: HashSet::new(),
            troubles: Vec::new(),
            aside: VecDeque::new(),
        };
        match MountTable::open() {
            Ok(mounts) => ladder.mounts = Some(mounts),
            Err(error) => {
                let name = ladder.name();
                let reason =
                    format!("mounts over watched paths are only found by reconcile: {error}");
                ladder.tell(name, 0, reason);
            }
        }
        let mut failures = Vec::new();
        for (index, name) in KERNEL_DRIVEN.into_iter().enumerate() {
            if !choice.allows(name) {
                continue;
            }
            match ladder.rungs[index].open(purpose, diagnostics) {
                Ok(()) => break,
                Err(source) if choice == Choice::Only(name) => {
                    return Err(LadderError { name, source });
                }
                Err(reason) => failures.push((name, explain(&reason))),
            }
        }
        let taker = ladder.name();
        for (name, reason) in failures {
            ladder.tell(name, 0, format!("{reason}; {taker} is used instead"));
        }
        Ok(ladder)
    }

    /// Has the best source that takes it watch a place, and tells of those that do not.
    fn seat(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<Footing, WatchError> {
        let ground = Ground::of(handle);
        let silence = ground.silence();
        match (&silence, self.choice) {
            (None, _) | (Some(_), Choice::Only(SourceName::Poll)) => {}
            (Some(_), Choice::Only(_)) => return Err(silence.unwrap_or(WatchError::Unknown)),
            (Some(silence), Choice::Best) => {
                let name = self.name();
                self.tell_of_place(name, &ground, handle, &explain(silence));
            }
        }
        let is_silent = silence.is_some();
        let climbed = self.climb(place, handle, interest, &ground, KERNEL_DRIVEN.len());
        let taker = climbed.source.unwrap_or(SourceName::Poll);
        self.tell_of_failures(&climbed, &ground, handle, taker);
        let retry_at = climbed.may_climb_further.then(|| clock::now().after(RETRY));
        if let Some(source) = climbed.source {
            if is_silent {
                self.poll.watch(place, handle, interest)?;
            }
            return Ok(Footing { source, is_polled: is_silent, retry_at });
        }
        if !self.choice.allows(SourceName::Poll) {
            return Err(climbed
                .failures
                .into_iter()
                .next_back()
                .map_or(WatchError::Unknown, |it| it.1));
        }
        self.poll.watch(place, handle, interest)?;
        Ok(Footing { source: SourceName::Poll, is_polled: true, retry_at })
    }

    /// Has the best source above the rung `end` that takes it watch a place.
    fn climb(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
        ground: &Ground,
        end: usize,
    ) -> Climbed {
        let mut climbed = Climbed { source: None, may_climb_further: false, failures: Vec::new() };
        for (index, name) in KERNEL_DRIVEN.into_iter().enumerate().take(end) {
            if !self.choice.allows(name) {
                continue;
            }
            if let Err(reason) = self.rungs[index].open(self.purpose, self.diagnostics) {
                self.tell(name, 0, explain(&reason));
            }
            if !self.rungs[index].is_open() {
                climbed.may_climb_further |= self.rungs[index].is_hopeful();
                continue;
            }
            match self.try_rung(index, place, handle, interest, ground) {
                Ok(()) => {
                    climbed.source = Some(name);
                    break;
                }
                Err(error) => {
                    climbed.may_climb_further |= error.may_pass();
                    climbed.failures.push((name, error));
                }
            }
        }
        climbed
    }

    /// Has a place that has fallen taken by a better source, if one takes it now.
    ///
    /// Until then the one that has it keeps it, with all that it knows of who is writing.
    fn retry(
        &mut self,
        place: PlaceId,
        footing: Footing,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) {
        let now = clock::now();
        if self.reopened_at.is_none_or(|at| at.after(RETRY) <= now) {
            self.reopened_at = Some(now);
            self.rungs.iter_mut().for_each(Rung::reopen);
        }
        let end = KERNEL_DRIVEN.iter().position(|&name| name == footing.source);
        let end = end.unwrap_or(KERNEL_DRIVEN.len());
        let climbed = self.climb(place, handle, interest, &Ground::of(handle), end);
        let retry_at = climbed.may_climb_further.then(|| now.after(RETRY));
        let Some(source) = climbed.source else {
            self.places.insert(place, Footing { retry_at, ..footing });
            return;
        };
        match self.rung(footing.source) {
            Some(rung) => rung.forget(place),
            None => self.poll.forget(place),
        }
        // What happens to it from here on is news again.
        self.told.retain(|(told, ..)| *told != source);
        self.set(place, Some(Footing { source, is_polled: false, retry_at }));
    }

    /// Notes who watches a place.
    fn set(&mut self, place: PlaceId, footing: Option<Footing>) {
        let before = match footing {
            Some(footing) => self.places.insert(place, footing),
            None => self.places.remove(&place),
        };
        for (footing, step) in [(before, -1), (footing, 1)] {
            if let Some(Footing { source, .. }) = footing {
                *self.counts.entry(source).or_default() += step;
            }
        }
    }

    /// Has one source watch a place, if it hears what happens on that filesystem.
    fn try_rung(
        &mut self,
        index: usize,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
        ground: &Ground,
    ) -> Result<(), WatchError> {
        let rung = &mut self.rungs[index];
        let key = (ground.device, rung.name());
        // Not in a directory that somebody cares for: others may have it watched, too.
        if interest == Interest::Replacement
            && !self.grounds.contains_key(&key)
            && let Some(file) = canary::file_in(handle)
        {
            let is_heard = canary::is_heard(rung, file, &mut self.aside)?;
            self.grounds.insert(key, is_heard);
        }
        if self.grounds.get(&key) == Some(&false) {
            return Err(ground.because("where a test write was not heard"));
        }
        rung.watch(place, handle, interest)
    }

    /// Tells of a place that has fallen, and who has taken it.
    fn tell_of_failures(
        &mut self,
        climbed: &Climbed,
        ground: &Ground,
        handle: BorrowedFd<'_>,
        taker: SourceName,
    ) {
        // What is polled anyway need not be told of twice.
        if ground.silence().is_none() {
            for (name, error) in &climbed.failures {
                let because = format!("{}; {taker} takes it", explain(error));
                self.tell_of_place(*name, ground, handle, &because);
            }
        }
    }

    /// Tells of a place; where there is no other source the error itself is told.
    fn tell_of_place(
        &mut self,
        name: SourceName,
        ground: &Ground,
        handle: BorrowedFd<'_>,
        because: &str,
    ) {
        if self.choice == Choice::Best
            && self.told.insert((name, ground.device, because.to_owned()))
        {
            let path = readlink(sys::link_of(handle), Vec::new()).unwrap_or_default();
            let reason = format!("not enough for {}: {because}", path.to_string_lossy());
            self.troubles.push(Trouble { source: name, reason });
        }
    }

    fn tell(&mut self, source: SourceName, device: u64, reason: String) {
        if self.told.insert((source, device, reason.clone())) {
            self.troubles.push(Trouble { source, reason });
        }
    }

    /// The source of that name, if the kernel drives it.
    fn rung(&mut self, name: SourceName) -> Option<&mut Rung> {
        self.rungs.iter_mut().find(|rung| rung.name() == name)
    }

    /// Who watches a place, and whether it is polled, be it besides.
    #[must_use]
    pub fn watcher(&self, place: PlaceId) -> Option<(SourceName, bool)> {
        self.places.get(&place).map(|footing| (footing.source, footing.is_polled))
    }

    fn unseat(&mut self, place: PlaceId) {
        self.rungs.iter_mut().for_each(|rung| rung.forget(place));
        self.poll.forget(place);
    }
}

/// An error with all its causes.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
