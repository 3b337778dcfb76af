//! The source `fanotify`: a mark on the inode of each place, told of by file handle.
//!
//! A handle is all that is needed, for a place is one inode: names and whole renames
//! (`FAN_REPORT_DFID_NAME`, `FAN_RENAME`) would say what the walk that follows finds out anyway, and
//! more surely. So `FAN_REPORT_FID` is enough, which needs no right since Linux 5.13.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    libc,
    sys::fanotify::{Fanotify, InitFlags, MarkFlags, MaskFlags},
};
use rustix::{
    io::{Errno, read},
    process::getpid,
};
use tokio::io::unix::AsyncFd;

use super::{
    Interest, Source, SourceError, Tells, Unavailable, WatchError,
    heard::{Deed, Heard, MOST_READINGS},
    is_directory,
};
use crate::{
    event::{Actor, Event, Operation, PlaceId, SourceName, Writers},
    reach,
    sys::{
        self, FileHandle,
        fanotify::{GROUP, Record, group, mark, records, unmark},
    },
};

/// What of a file matters.
const FILE: MaskFlags = MaskFlags::FAN_MODIFY
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_DELETE_SELF)
    .union(MaskFlags::FAN_MOVE_SELF);

/// What of a directory takes a name away or replaces what it leads to.
const REPLACEMENT: MaskFlags = MaskFlags::FAN_MOVE
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_DELETE_SELF)
    .union(MaskFlags::FAN_MOVE_SELF)
    .union(MaskFlags::FAN_ONDIR);

/// How much is read at once, in bytes: a hundred events or so.
const BUFFER: usize = 8192;

/// A fanotify group.
#[derive(Debug)]
pub(super) struct FanotifySource {
    ready: AsyncFd<OwnedFd>,
    queue: Queue,
    /// With what right the group was made.
    strategy: &'static str,
}

#[derive(Debug)]
struct Queue {
    fanotify: Fanotify,
    by_id: HashMap<FileHandle, PlaceId>,
    marks: HashMap<PlaceId, Mark>,
    heard: Heard,
}

/// A mark of ours.
#[derive(Debug)]
struct Mark {
    id: FileHandle,
    /// Where the inode was when it was marked: a mark is only taken away from a file at hand.
    path: PathBuf,
    mask: MaskFlags,
}

impl FanotifySource {
    /// Makes a group, privileged if that is granted.
    ///
    /// # Errors
    ///
    /// Says what is missing here, and what to grant.
    pub(super) fn open() -> Result<Self, Unavailable> {
        // Only a privileged group may have so many marks, and only it is told who did it.
        let privileged = group(GROUP | InitFlags::FAN_UNLIMITED_MARKS);
        let (fanotify, strategy) = match privileged {
            Ok(fanotify) => (fanotify, "privileged"),
            Err(nix::errno::Errno::EPERM) => {
                (group(GROUP).map_err(|errno| unavailable(errno.into()))?, "unprivileged")
            }
            Err(errno) => return Err(unavailable(errno.into())),
        };
        Ok(Self {
            ready: sys::readable(&fanotify).map_err(unavailable)?,
            queue: Queue {
                fanotify,
                by_id: HashMap::new(),
                marks: HashMap::new(),
                heard: Heard::default(),
            },
            strategy,
        })
    }
}

impl Source for FanotifySource {
    fn name(&self) -> SourceName {
        SourceName::Fanotify
    }

    fn strategy(&self) -> Option<&'static str> {
        Some(self.strategy)
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
        if let Some(mark) = self.queue.marks.remove(&place) {
            self.queue.leave(&mark.id, place);
            if let Ok(handle) = reach::open_real(&mark.path) {
                unmark(&self.queue.fanotify, mark.mask, handle.as_fd(), &mark.id);
            }
        }
    }

    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let mask = match (is_directory(handle), interest) {
            (false, _) => FILE,
            (true, Interest::Replacement) => REPLACEMENT,
            (true, Interest::Any) => REPLACEMENT | MaskFlags::FAN_CREATE,
        };
        // Asked for each time: a new inode with an old number has another handle.
        let id = sys::file_handle(handle).map_err(|source| WatchError::Refused { source })?;
        // Added also where it is there: the kernel takes all marks away when it unmounts.
        if let Err(error) = self.queue.mark(MarkFlags::FAN_MARK_ADD, mask, handle) {
            // Whoever may not read it any more still hears by the mark that he has.
            let known = self.queue.marks.get(&place);
            if known.is_some_and(|mark| mark.id == id && mark.mask.contains(mask)) {
                self.queue.heard.arm(place);
                return Ok(());
            }
            return Err(error);
        }
        if let Some(mark) = self.queue.marks.get_mut(&place).filter(|mark| mark.id == id) {
            let surplus = mark.mask.difference(mask);
            mark.mask = mask;
            if !surplus.is_empty() {
                self.queue.mark(MarkFlags::FAN_MARK_REMOVE, surplus, handle)?;
            }
        } else {
            if let Some(mark) = self.queue.marks.remove(&place) {
                self.queue.leave(&mark.id, place);
            }
            let path = reach::path_of(handle).unwrap_or_default();
            self.queue.by_id.insert(id.clone(), place);
            self.queue.marks.insert(place, Mark { id, path, mask });
        }
        self.queue.heard.arm(place);
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
    fn mark(
        &self,
        flags: MarkFlags,
        mask: MaskFlags,
        handle: BorrowedFd<'_>,
    ) -> Result<(), WatchError> {
        mark(&self.fanotify, flags, mask, handle).map_err(|errno| match errno {
            nix::errno::Errno::ENOSPC => WatchError::Limit { name: "fs.fanotify.max_user_marks" },
            errno => WatchError::Refused { source: errno.into() },
        })
    }

    /// Forgets what an inode stands for, unless it stands for another place by now.
    fn leave(&mut self, id: &FileHandle, place: PlaceId) {
        if self.by_id.get(id) == Some(&place) {
            self.by_id.remove(id);
        }
    }

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
        let mut buffer = [0; BUFFER];
        let length = match read(&self.fanotify, &mut buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(SourceError::Wait { source: errno.into() }),
        };
        for record in records(&buffer[..length]) {
            let record = record.ok_or(SourceError::Malformed { length })?;
            self.note(&record);
        }
        self.heard.has_read();
        Ok(true)
    }

    fn note(&mut self, record: &Record) {
        if record.mask.contains(MaskFlags::FAN_Q_OVERFLOW) {
            self.heard.lose(SourceName::Fanotify);
            return;
        }
        let Some(&place) = record.id.as_ref().and_then(|id| self.by_id.get(id)) else {
            return;
        };
        let is_own = record.pid == getpid().as_raw_nonzero().get();
        if is_own && place != PlaceId(reload_ebpf::CANARY) {
            return;
        }
        let (deed, operation) = meaning(record.mask);
        self.heard.note(place, deed, actor(record.pid, operation));
    }
}

/// What an event says (`fanotify(7)`). The kernel may have merged several.
fn meaning(mask: MaskFlags) -> (Deed, Operation) {
    if mask.contains(MaskFlags::FAN_CLOSE_WRITE) {
        (Deed::Closed, Operation::Write)
    } else if mask.contains(MaskFlags::FAN_MODIFY) {
        (Deed::Written, Operation::Write)
    } else if mask.intersects(MaskFlags::FAN_MOVE | MaskFlags::FAN_MOVE_SELF) {
        (Deed::Other, Operation::Rename)
    } else if mask.intersects(MaskFlags::FAN_DELETE | MaskFlags::FAN_DELETE_SELF) {
        (Deed::Other, Operation::Unlink)
    } else if mask.contains(MaskFlags::FAN_ATTRIB) {
        (Deed::Other, Operation::Attributes)
    } else {
        (Deed::Other, Operation::Change)
    }
}

/// Who did it. The kernel gives 0 where it may not tell, or where the process is of another pid
/// namespace; its name is only to be had while it lives.
fn actor(pid: i32, operation: Operation) -> Actor {
    if pid <= 0 {
        return Actor::unknown(operation);
    }
    let comm = fs::read(format!("/proc/{pid}/comm")).ok();
    let comm = comm.map(|comm| String::from_utf8_lossy(comm.trim_ascii_end()).into_owned());
    Actor { pid: Some(pid), comm, operation }
}

fn unavailable(source: io::Error) -> Unavailable {
    let reason = match source.raw_os_error() {
        Some(libc::EPERM) => {
            "fanotify is refused: it needs Linux 5.13 and a seccomp profile that allows \
             fanotify_init, which the default one of Docker and containerd does only for \
             CAP_SYS_ADMIN"
        }
        Some(libc::EMFILE) => {
            "this user has all fanotify groups that fs.fanotify.max_user_groups allows, or this \
             process all descriptors that RLIMIT_NOFILE allows; raise the limit, or run the agent \
             as a user of its own"
        }
        Some(libc::EINVAL) => "fanotify is too old here: it needs Linux 5.1",
        _ => "fanotify cannot be had: the kernel needs CONFIG_FANOTIFY",
    };
    Unavailable { reason, source }
}
