//! One rung of the ladder: a source that is opened when it is needed first.

use std::{ffi::OsStr, os::fd::BorrowedFd};

use super::{
    EbpfSource, Interest, Purpose, Source, SourceError, Tells, Trouble, Unavailable, WatchError,
    ebpf, fanotify::FanotifySource, inotify::InotifySource,
};
use crate::event::{Event, PlaceId, SourceName, Writers};

/// A source that the kernel drives.
pub(super) enum Rung {
    /// Nobody has needed it yet.
    Untried(SourceName),
    /// It cannot be had, or not now.
    Closed(SourceName, Hope),
    /// It is in use.
    Ebpf(Box<EbpfSource>),
    /// It is in use.
    Fanotify(FanotifySource),
    /// It is in use.
    Inotify(InotifySource),
}

/// Whether it is worth to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hope {
    /// Somebody may give back what there was too little of.
    Some,
    /// What is forbidden stays so.
    None,
}

/// What a source itself says of why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error(transparent)]
    Ebpf(#[from] ebpf::Unavailable),
    #[error(transparent)]
    Queue(#[from] Unavailable),
}

impl Rung {
    /// Opens the source, if that has not been tried yet.
    ///
    /// # Errors
    ///
    /// Fails the first time that the source cannot be had; after that there is just no source.
    pub(super) fn open(&mut self, purpose: Purpose, diagnostics: bool) -> Result<(), Reason> {
        let Self::Untried(name) = *self else {
            return Ok(());
        };
        let opened = Self::try_open(name, purpose, diagnostics);
        let hope = match &opened {
            Err(Reason::Queue(reason)) if reason.is_shortage() => Hope::Some,
            _ => Hope::None,
        };
        *self = Self::Closed(name, hope);
        *self = opened?;
        Ok(())
    }

    fn try_open(name: SourceName, purpose: Purpose, diagnostics: bool) -> Result<Self, Reason> {
        Ok(match name {
            SourceName::Ebpf => Self::Ebpf(Box::new(EbpfSource::open(purpose, diagnostics)?)),
            SourceName::Fanotify => Self::Fanotify(FanotifySource::open()?),
            SourceName::Inotify => Self::Inotify(InotifySource::open()?),
            SourceName::Poll => Self::Closed(name, Hope::None),
        })
    }

    /// Has it tried again, if there is hope.
    pub(super) fn reopen(&mut self) {
        if let Self::Closed(name, Hope::Some) = *self {
            *self = Self::Untried(name);
        }
    }

    /// Whether it may be had later.
    pub(super) fn is_hopeful(&self) -> bool {
        matches!(self, Self::Closed(_, Hope::Some))
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Self::Untried(_) | Self::Closed(..))
    }
}

/// Does the same with whatever source it is, or something else where there is none.
macro_rules! with {
    ($rung:expr, $source:ident => $act:expr, $otherwise:expr) => {
        match $rung {
            Rung::Ebpf($source) => $act,
            Rung::Fanotify($source) => $act,
            Rung::Inotify($source) => $act,
            Rung::Untried(_) | Rung::Closed(..) => $otherwise,
        }
    };
}

/// A rung without a source takes no place and yields nothing.
impl Source for Rung {
    fn name(&self) -> SourceName {
        match self {
            Self::Untried(name) | Self::Closed(name, _) => *name,
            Self::Ebpf(source) => source.name(),
            Self::Fanotify(source) => source.name(),
            Self::Inotify(source) => source.name(),
        }
    }

    fn strategy(&self) -> Option<&'static str> {
        with!(self, source => source.strategy(), None)
    }

    fn passed_over(&self) -> Option<&str> {
        with!(self, source => source.passed_over(), None)
    }

    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        with!(self, source => source.watch(place, handle, interest), Err(WatchError::Unknown))
    }

    fn forget(&mut self, place: PlaceId) {
        with!(self, source => source.forget(place), ());
    }

    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        with!(self, source => source.arm(place, handle, interest), Err(WatchError::Unknown))
    }

    fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        with!(self, source => source.writers(place, handle), Writers::Unknown)
    }

    fn await_end(&mut self, place: PlaceId) -> bool {
        with!(self, source => source.await_end(place), false)
    }

    fn follow(&mut self, names: &[String]) -> Result<Tells, WatchError> {
        with!(self, source => source.follow(names), Ok(Tells::No))
    }

    fn tell_opens(&mut self) -> Tells {
        with!(self, source => source.tell_opens(), Tells::No)
    }

    fn tells_reads(&self) -> Tells {
        with!(self, source => source.tells_reads(), Tells::No)
    }

    fn expect_open(&mut self, place: PlaceId) -> Tells {
        with!(self, source => source.expect_open(place), Tells::No)
    }

    fn expect_open_of(&mut self, name: &OsStr, directory: PlaceId, place: PlaceId) -> Tells {
        with!(self, source => source.expect_open_of(name, directory, place), Tells::No)
    }

    fn expect_no_open(&mut self, place: PlaceId) {
        with!(self, source => source.expect_no_open(place), ());
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        with!(self, source => source.troubles(), Vec::new())
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        with!(self, source => source.next().await, std::future::pending().await)
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        with!(self, source => source.try_next(), Ok(None))
    }

    fn losses(&mut self) -> Vec<Event> {
        with!(self, source => source.losses(), Vec::new())
    }
}
