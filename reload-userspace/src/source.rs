//! Where events come from.

mod canary;
mod ebpf;
mod fanotify;
mod ground;
mod heard;
mod inotify;
mod ladder;
mod mounts;
mod poll;
mod rung;
mod survey;

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
};

use crate::event::{Event, PlaceId, SourceName, Writers};

pub(crate) use ebpf::BTF;
pub use ebpf::{EbpfSource, Purpose};
pub use ladder::{Choice, Ladder, LadderError};
pub use survey::{Working, survey};

/// Yields what happens to the watched places and the followed processes.
///
/// A place is *armed* or silent. An armed place that changes yields one [`Event::Changed`] and falls
/// silent, so that a busy writer costs one event and not thousands. Whoever wants to know of the next
/// change arms it again, **and only then** looks at the place: what happens after the arming yields
/// a new event, what happened before it is there to be seen.
///
/// # Contract
///
/// - **Ordering.** Events of one place come in the order in which the kernel saw the changes. There is
///   none between places, nor between places and processes.
/// - **Completeness.** A change may be announced while it is still being carried out. A directory
///   entry is visible once the lock of its directory is free, which reading the directory waits for;
///   a write once [`Source::writers`] finds no writer.
/// - **Loss.** A source that loses events says so with [`Event::Lost`]; it never loses them silently.
/// - **Cancel safety.** Dropping the future of `next` loses no event. The agent polls it in `select!`.
/// - **Own doing.** What the agent's own process changes yields no event, where the source can tell.
pub trait Source {
    /// What it is called.
    fn name(&self) -> SourceName;

    /// How it does its work, where there is more than one way.
    fn strategy(&self) -> Option<&'static str> {
        None
    }

    /// Why it does not do its work in a better way.
    fn passed_over(&self) -> Option<&str> {
        None
    }

    /// Watches the file or directory behind `handle` (`O_PATH` will do) as `place`, armed.
    ///
    /// # Errors
    ///
    /// Fails where this place cannot be watched; the others are.
    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError>;

    /// Stops watching `place`. Its events that are already on their way still come.
    fn forget(&mut self, place: PlaceId);

    /// Arms a place, whether or not it has yielded its event; `handle` is on it.
    ///
    /// # Errors
    ///
    /// Fails where the place cannot be watched any more.
    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError>;

    /// Whether somebody has the file behind `handle`, which is watched as `place`, open for writing.
    fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers;

    /// Arms a file for the end of what is being written to it: whoever goes on writing yields nothing, and
    /// whoever closes it yields an event. Says whether it is so; otherwise it is armed as before.
    ///
    /// To be undone by [`Source::arm`]. What was closed before this yields nothing.
    fn await_end(&mut self, place: PlaceId) -> bool {
        let _ = place;
        false
    }

    /// Yields the starts and ends of processes that bear one of these names, and of no others from here
    /// on.
    ///
    /// The names are those of tasks and executables, compared up to their 15th byte: an event may
    /// be of another process whose longer name begins alike.
    ///
    /// Says whether it will: most sources know nothing of processes.
    ///
    /// # Errors
    ///
    /// Fails where the source cannot take so many names.
    fn follow(&mut self, names: &[String]) -> Result<Tells, WatchError>;

    /// Begins to tell who opens the files of which that is [expected](Self::expect_open), and says whether
    /// it will.
    fn tell_opens(&mut self) -> Tells {
        Tells::No
    }

    /// Whether it yields who reads from queues of notifications ([`Event::Read`]), and who has inotify watch
    /// something ([`Event::Watched`]).
    fn tells_reads(&self) -> Tells {
        Tells::No
    }

    /// Has openings of the file that is watched as `place` yield [`Event::Opened`], some hundreds of them
    /// until it is expected again, and says whether it will.
    fn expect_open(&mut self, place: PlaceId) -> Tells {
        let _ = place;
        Tells::No
    }

    /// As [`Source::expect_open`], for whatever bears a name in the directory that is watched as such: the
    /// events are of `place`, which is not watched itself.
    fn expect_open_of(&mut self, name: &OsStr, directory: PlaceId, place: PlaceId) -> Tells {
        let _ = (name, directory, place);
        Tells::No
    }

    /// Has them yield nothing any more.
    fn expect_no_open(&mut self, place: PlaceId) {
        let _ = place;
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// An error is final: the source is broken, and the agent stops or falls back.
    fn next(&mut self) -> impl Future<Output = Result<Event, SourceError>>;

    /// Gives the next event if it is there already: what has happened by now has been announced.
    ///
    /// # Errors
    ///
    /// As [`Source::next`].
    fn try_next(&mut self) -> Result<Option<Event>, SourceError>;

    /// What works less well than it should, and has not been told yet.
    fn troubles(&mut self) -> Vec<Trouble> {
        Vec::new()
    }

    /// Finds out whether what happens is heard, by a file of the agent's own.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    fn prove(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The losses since the last call, as [`Event::Lost`].
    ///
    /// To be asked when a record has arrived, for that is when most are lost, and now and then besides: a
    /// program that the kernel skips leaves no other trace.
    fn losses(&mut self) -> Vec<Event>;
}

/// Something works less well than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// With which source.
    pub source: SourceName,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Whether a source tells of what only some can tell of: processes, and who opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// It yields that.
    Yes,
    /// Whoever wants to know looks for himself.
    No,
}

/// Which changes of a place matter. A source may yield more than it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Of a directory, those that take a name away or replace what it leads to.
    Replacement,
    /// All.
    Any,
}

/// Why a place or a name cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel side has no room for another place or name.
    #[error(
        "the source can watch no more than {limit} {things}; use fewer rules or narrower paths"
    )]
    Full {
        /// How many there can be.
        limit: u32,
        /// What there are too many of.
        things: &'static str,
    },
    /// This user watches as much as it may.
    #[error("this user watches as many files and directories as {name} allows; raise it")]
    Limit {
        /// The setting of `sysctl(8)`.
        name: &'static str,
    },
    /// The kernel announces no changes there, or not all.
    #[error("it lies on {filesystem}, {why}")]
    Silent {
        /// What kind it is.
        filesystem: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel side did not take it.
    #[error("the kernel refused to watch it")]
    Refused {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel side did not find the file.
    #[error("the kernel does not know the file that is to be watched")]
    Unknown,
}

impl WatchError {
    /// Whether it may go well another time: limits are raised, rights given, watches given back.
    fn may_pass(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Limit { .. } => true,
            Self::Refused { source } => {
                let passing =
                    [Errno::ACCESS, Errno::PERM, Errno::NOSPC, Errno::NOMEM, Errno::MFILE];
                Errno::from_io_error(source).is_some_and(|errno| passing.contains(&errno))
            }
            Self::Silent { .. } | Self::Unknown => false,
        }
    }
}

/// Why a source cannot be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: &'static str,
    source: io::Error,
}

impl Unavailable {
    /// Whether there is too little of something, which others may give back.
    fn is_shortage(&self) -> bool {
        let errno = Errno::from_io_error(&self.source);
        errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno))
    }
}

/// Why a source broke.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its descriptor cannot be waited for.
    #[error("cannot wait for records of the kernel")]
    Wait {
        /// What the kernel said.
        source: io::Error,
    },
    /// A record makes no sense: the two halves are not of one build.
    #[error("a record of {length} bytes from the kernel makes no sense")]
    Malformed {
        /// How long it is.
        length: usize,
    },
}

fn is_directory(handle: BorrowedFd<'_>) -> bool {
    fstat(handle).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// The number of a descriptor, as the kernel's interfaces want it.
pub(crate) fn number(handle: BorrowedFd<'_>) -> u64 {
    u64::try_from(handle.as_raw_fd()).unwrap_or(u64::MAX)
}
