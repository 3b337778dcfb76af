//! The ladder: of the sources, each place gets the best one that works for it.
//!
//! A source is judged by what it does: it is opened, and on each filesystem it must hear a canary
//! before it is relied on. A place that one source cannot watch falls to the next, alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future,
    os::fd::BorrowedFd,
    time::Duration,
};

use rustix::fs::{fstat, readlink};

use super::{
    Follows, Interest, Source, SourceError, Trouble, WatchError, canary, link_of,
    mounts::Mounts,
    poll::PollSource,
    rung::{Reason, Rung},
};
use crate::{
    clock::{self, Boot},
    event::{Event, PlaceId, SourceName, Writers},
    filesystem::{Changes, Filesystem},
};

/// The sources that the kernel drives, best first.
const KERNEL_DRIVEN: [SourceName; 3] =
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
    source: Reason,
}

/// All the sources, as one.
pub struct Ladder {
    choice: Choice,
    diagnostics: bool,
    /// In the order of [`KERNEL_DRIVEN`].
    rungs: [Rung; KERNEL_DRIVEN.len()],
    poll: PollSource,
    mounts: Option<Mounts>,
    places: HashMap<PlaceId, Footing>,
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

impl Ladder {
    /// Opens the best source that can be had.
    ///
    /// With `diagnostics` the eBPF side tells of itself at the level `debug`.
    ///
    /// # Errors
    ///
    /// Fails where only one source is allowed, and it cannot be had.
    pub fn open(choice: Choice, diagnostics: bool) -> Result<Self, LadderError> {
        let mut ladder = Self {
            choice,
            diagnostics,
            rungs: KERNEL_DRIVEN.map(Rung::Untried),
            poll: PollSource::default(),
            mounts: Mounts::open().ok(),
            places: HashMap::new(),
            grounds: HashMap::new(),
            told: HashSet::new(),
            troubles: Vec::new(),
            aside: VecDeque::new(),
        };
        for (index, name) in KERNEL_DRIVEN.into_iter().enumerate() {
            if !choice.allows(name) {
                continue;
            }
            match ladder.rungs[index].open(diagnostics) {
                Ok(()) => break,
                Err(source) if choice == Choice::Only(name) => {
                    return Err(LadderError { name, source });
                }
                Err(reason) => ladder.tell(name, 0, explain(&reason)),
            }
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
        let mut last = match (ground.silence(), self.choice) {
            (None, _) | (Some(_), Choice::Only(SourceName::Poll)) => None,
            (Some(silence), Choice::Only(_)) => return Err(silence),
            (Some(silence), Choice::Best) => {
                let name = self.name();
                self.tell_of_place(name, &ground, handle, &silence);
                Some(silence)
            }
        };
        let is_silent = last.is_some();
        for (index, name) in KERNEL_DRIVEN.into_iter().enumerate() {
            if !self.choice.allows(name) {
                continue;
            }
            if let Err(reason) = self.rungs[index].open(self.diagnostics) {
                self.tell(name, 0, explain(&reason));
            }
            if !self.rungs[index].is_open() {
                continue;
            }
            match self.try_rung(index, place, handle, interest, &ground) {
                Ok(()) if is_silent => {
                    self.poll.watch(place, handle, interest)?;
                    return Ok(Footing { source: name, is_polled: true, retry_at: None });
                }
                Ok(()) => {
                    let retry_at = last.map(|_| clock::now().after(RETRY));
                    return Ok(Footing { source: name, is_polled: false, retry_at });
                }
                Err(error) => {
                    // What is polled anyway need not be told of twice.
                    if !is_silent {
                        self.tell_of_place(name, &ground, handle, &error);
                    }
                    last = Some(error);
                }
            }
        }
        if !self.choice.allows(SourceName::Poll) {
            return Err(last.unwrap_or(WatchError::Unknown));
        }
        self.poll.watch(place, handle, interest)?;
        let retry_at = (self.choice == Choice::Best).then(|| clock::now().after(RETRY));
        Ok(Footing { source: SourceName::Poll, is_polled: true, retry_at })
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
        if !self.grounds.contains_key(&key)
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

    /// Tells of a place that has fallen; where there is no other source the error itself is told.
    fn tell_of_place(
        &mut self,
        name: SourceName,
        ground: &Ground,
        handle: BorrowedFd<'_>,
        error: &WatchError,
    ) {
        let because = explain(error);
        if self.choice == Choice::Best && self.told.insert((name, ground.device, because.clone())) {
            let path = readlink(link_of(handle), Vec::new()).unwrap_or_default();
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

impl Source for Ladder {
    /// The best source that is in use.
    fn name(&self) -> SourceName {
        self.rungs.iter().find(|rung| rung.is_open()).map_or(SourceName::Poll, Source::name)
    }

    fn strategy(&self) -> Option<&'static str> {
        self.rungs.iter().find(|rung| rung.is_open()).and_then(Source::strategy)
    }

    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let footing = self.seat(place, handle, interest)?;
        self.places.insert(place, footing);
        Ok(())
    }

    fn forget(&mut self, place: PlaceId) {
        self.places.remove(&place);
        self.unseat(place);
    }

    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let footing = self.places.get(&place).copied();
        let is_to_retry = footing
            .and_then(|footing| footing.retry_at)
            .is_some_and(|retry_at| retry_at <= clock::now());
        if is_to_retry {
            self.rungs.iter_mut().for_each(Rung::reopen);
        } else if let Some(Footing { source, .. }) = footing {
            let armed = self.rung(source).map(|rung| rung.arm(place, handle, interest));
            if armed.is_none_or(|armed| armed.is_ok()) {
                return Ok(());
            }
        }
        self.unseat(place);
        self.watch(place, handle, interest)
    }

    fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        let Some(&Footing { source, is_polled, .. }) = self.places.get(&place) else {
            return Writers::Unknown;
        };
        match self.rung(source).map(|rung| rung.writers(place, handle)) {
            // Where not every change is announced somebody elsewhere may have it open.
            Some(Writers::None) if is_polled => Writers::Unknown,
            Some(writers) => writers,
            None => Writers::Unknown,
        }
    }

    fn follow(&mut self, names: &[String]) -> Result<Follows, WatchError> {
        let [best, ..] = &mut self.rungs;
        best.follow(names)
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        if let Some(event) = self.aside.pop_front() {
            return Ok(event);
        }
        let [ebpf, fanotify, inotify] = &mut self.rungs;
        let mounted = async {
            match &mut self.mounts {
                Some(mounts) => mounts.next().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = ebpf.next() => event,
            event = fanotify.next() => event,
            event = inotify.next() => event,
            event = self.poll.next() => event,
            event = mounted => {
                // A device number may be another filesystem's now.
                self.grounds.clear();
                event
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        if let Some(event) = self.aside.pop_front() {
            return Ok(Some(event));
        }
        for rung in &mut self.rungs {
            if let Some(event) = rung.try_next()? {
                return Ok(Some(event));
            }
        }
        self.poll.try_next()
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        std::mem::take(&mut self.troubles)
    }

    fn losses(&mut self) -> Vec<Event> {
        self.rungs.iter_mut().flat_map(Source::losses).collect()
    }
}

/// What a place lies on.
struct Ground {
    device: u64,
    filesystem: Option<Filesystem>,
}

impl Ground {
    fn of(handle: BorrowedFd<'_>) -> Self {
        let device = fstat(handle).map_or(0, |stat| stat.st_dev);
        Self { device, filesystem: Filesystem::of(handle) }
    }

    /// Why the kernel does not announce every change there, if so.
    fn silence(&self) -> Option<WatchError> {
        match self.filesystem?.changes() {
            Changes::Here => None,
            Changes::Elsewhere => Some(self.because(
                "which does not announce what is changed elsewhere, so that the content must be \
                 compared once a second (source poll)",
            )),
            Changes::MadeUp => Some(self.because(
                "whose content is made up when it is read, so that it must be compared once a \
                 second (source poll)",
            )),
        }
    }

    fn because(&self, why: &'static str) -> WatchError {
        let filesystem = self.filesystem.map(|filesystem| filesystem.to_string());
        let filesystem = filesystem.unwrap_or_else(|| "an unknown filesystem".to_owned());
        WatchError::Silent { filesystem, why }
    }
}

/// What each source says when it is asked whether it works here, best first: how, or why not.
#[must_use]
pub fn survey() -> Vec<(SourceName, Result<Option<&'static str>, String>)> {
    let all = KERNEL_DRIVEN.into_iter().chain([SourceName::Poll]);
    all.map(|name| {
        let ladder = Ladder::open(Choice::Only(name), false);
        (name, ladder.map(|ladder| ladder.strategy()).map_err(|error| explain(&error.source)))
    })
    .collect()
}

/// An error with all its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
