//! The source `inotify`: needs no right but to read what is watched.
//!
//! A directory is watched with `IN_ONESHOT`: the kernel itself silences it after its first event, so
//! a busy one costs nothing until it is armed again. A file is watched for good, for the end of a
//! write (`IN_CLOSE_WRITE`) must not be missed while it is silent.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::{
    Interest, Source, SourceError, Tells, Unavailable, WatchError,
    heard::{Deed, Heard, MOST_READINGS},
    is_directory,
};
use crate::{
    event::{Actor, Event, Operation, PlaceId, SourceName, Writers},
    sys,
};

/// What of a file matters.
const FILE: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// What of a directory takes a name away or replaces what it leads to.
///
/// Not `IN_ATTRIB`: of a directory it tells of all that is in it as well, so that every file that is
/// touched or removed in `/tmp` would wake the agent. That a directory may not be entered any more is
/// found by the slow look.
const REPLACEMENT: WatchFlags = WatchFlags::MOVE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONESHOT);

/// How much is read at once, in bytes: some hundred events.
const BUFFER: usize = 8192;

/// An inotify instance.
#[derive(Debug)]
pub(super) struct InotifySource {
    ready: AsyncFd<OwnedFd>,
    queue: Queue,
}

#[derive(Debug)]
struct Queue {
    inotify: OwnedFd,
    /// Who is meant by the kernel's numbers.
    by_number: HashMap<i32, PlaceId>,
    numbers: HashMap<PlaceId, i32>,
    heard: Heard,
}

impl InotifySource {
    /// Makes an instance.
    ///
    /// # Errors
    ///
    /// Says what is missing here, and what to grant.
    pub(super) fn open() -> Result<Self, Unavailable> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|errno| unavailable(errno.into()))?;
        Ok(Self {
            ready: sys::readable(&inotify).map_err(unavailable)?,
            queue: Queue {
                inotify,
                by_number: HashMap::new(),
                numbers: HashMap::new(),
                heard: Heard::default(),
            },
        })
    }
}

impl Source for InotifySource {
    fn name(&self) -> SourceName {
        SourceName::Inotify
    }

    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        self.arm(place, handle, interest)
    }

    fn forget(&mut self, place: PlaceId) {
        self.queue.heard.forget(place);
        if let Some(number) = self.queue.numbers.remove(&place)
            && self.queue.by_number.get(&number) == Some(&place)
        {
            self.queue.by_number.remove(&number);
            // It is gone already where the kernel has silenced it, or its inode has gone.
            let _is_removed = inotify::remove_watch(&self.queue.inotify, number).is_ok();
        }
    }

    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let flags = match (is_directory(handle), interest) {
            (false, _) => FILE,
            (true, Interest::Replacement) => REPLACEMENT,
            (true, Interest::Any) => REPLACEMENT | WatchFlags::CREATE,
        };
        self.queue.heard.arm(place);
        let number = inotify::add_watch(&self.queue.inotify, sys::link_of(handle), flags);
        let number = number.map_err(|errno| {
            self.queue.heard.forget(place);
            refused(errno)
        })?;
        self.queue.by_number.insert(number, place);
        if let Some(old) = self.queue.numbers.insert(place, number)
            && old != number
        {
            self.queue.by_number.remove(&old);
        }
        Ok(())
    }

    fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        // What has been closed by now is in the queue by now. Where it cannot be read, the next
        // event says so.
        self.queue.read_all().unwrap_or_default();
        self.queue.heard.writers(place, handle)
    }

    fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
        Ok(Tells::No)
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            if let Some(event) = self.queue.heard.take() {
                return Ok(event);
            }
            if let Some(rest) = self.queue.heard.rest() {
                tokio::time::sleep(rest).await;
            }
            let mut ready =
                self.ready.readable().await.map_err(|source| SourceError::Wait { source })?;
            if !self.queue.read()? {
                ready.clear_ready();
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        if let Some(event) = self.queue.heard.take() {
            return Ok(Some(event));
        }
        self.queue.read_all()?;
        Ok(self.queue.heard.take())
    }

    fn losses(&mut self) -> Vec<Event> {
        // They come through the queue.
        Vec::new()
    }
}

impl Queue {
    /// Reads what there is, as far as there is an end to it.
    fn read_all(&mut self) -> Result<(), SourceError> {
        for _ in 0..MOST_READINGS {
            if !self.read()? {
                break;
            }
        }
        Ok(())
    }

    /// Reads what fits into the buffer, and says whether there was anything.
    fn read(&mut self) -> Result<bool, SourceError> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let mut sounds = Vec::new();
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => sounds.push((event.wd(), event.events())),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(SourceError::Wait { source: errno.into() }),
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        for (number, what) in sounds {
            self.note(number, what);
        }
        self.heard.has_read();
        Ok(true)
    }

    fn note(&mut self, number: i32, what: ReadFlags) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.heard.lose(SourceName::Inotify);
            return;
        }
        let Some(&place) = self.by_number.get(&number) else {
            return;
        };
        if what.contains(ReadFlags::IGNORED) {
            // Silenced, or gone with its inode or its filesystem.
            self.by_number.remove(&number);
            self.numbers.remove(&place);
        }
        let (deed, operation) = meaning(what);
        self.heard.note(place, deed, Actor::unknown(operation));
    }
}

/// What an event says (`inotify(7)`).
fn meaning(what: ReadFlags) -> (Deed, Operation) {
    if what.contains(ReadFlags::MODIFY) {
        (Deed::Written, Operation::Write)
    } else if what.contains(ReadFlags::CLOSE_WRITE) {
        (Deed::Closed, Operation::Write)
    } else if what.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::MOVE_SELF) {
        (Deed::Other, Operation::Rename)
    } else if what.intersects(ReadFlags::DELETE | ReadFlags::DELETE_SELF) {
        (Deed::Other, Operation::Unlink)
    } else if what.contains(ReadFlags::ATTRIB) {
        (Deed::Other, Operation::Attributes)
    } else {
        (Deed::Other, Operation::Change)
    }
}

fn unavailable(source: io::Error) -> Unavailable {
    let reason = if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
        "this user has all inotify instances that fs.inotify.max_user_instances allows, or this \
         process all descriptors that RLIMIT_NOFILE allows; raise the limit, or run the agent as a \
         user of its own"
    } else {
        "inotify cannot be had: the kernel needs CONFIG_INOTIFY_USER, and the seccomp profile must \
         allow inotify_init1"
    };
    Unavailable { reason, source }
}

fn refused(errno: Errno) -> WatchError {
    match errno {
        Errno::NOSPC => WatchError::Limit { name: "fs.inotify.max_user_watches" },
        errno => WatchError::Refused { source: errno.into() },
    }
}
