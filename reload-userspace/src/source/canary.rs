//! Whether a source hears what happens: a file of our own is written to, and it should say so.

use std::{
    collections::VecDeque,
    fs::{File, Permissions},
    io::Write as _,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::PermissionsExt as _,
    },
};

use reload_ebpf::CANARY;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, openat};

use super::{Interest, Source, WatchError};
use crate::event::{Event, PlaceId};

/// A file without a name on the filesystem of `directory`, or `None` where we may not have one.
///
/// It is in no directory (`O_TMPFILE`), so nobody who lists them meets it, and nothing is left of it.
/// Whoever has `directory` watched by inotify is told of a file with a made-up name all the same.
pub(super) fn file_in(directory: BorrowedFd<'_>) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    openat(directory, ".", flags, Mode::RUSR | Mode::WUSR).ok().map(File::from)
}

/// Whether `source` hears that a file in memory is written to; what else it says is put `aside`.
///
/// # Errors
///
/// Fails where there can be no such file, or it cannot be watched.
pub(super) fn sing(
    source: &mut impl Source,
    aside: &mut VecDeque<Event>,
) -> Result<bool, WatchError> {
    let file = memfd_create("reload-agent", MemfdFlags::CLOEXEC)
        .map_err(|errno| WatchError::Refused { source: errno.into() })?;
    is_heard(source, file.into(), aside)
}

/// Whether `source` hears that `file` is written to; what else it says meanwhile is put `aside`.
///
/// # Errors
///
/// Fails where the file cannot be watched.
pub(super) fn is_heard(
    source: &mut impl Source,
    mut file: File,
    aside: &mut VecDeque<Event>,
) -> Result<bool, WatchError> {
    let place = PlaceId(CANARY);
    source.watch(place, file.as_fd(), Interest::Any)?;
    // A write may come within the tick of the clock in which the file was made, and then sets no new
    // time; a change of attributes always sets one.
    let is_written = file.write_all(b"chirp").is_ok()
        && file.set_permissions(Permissions::from_mode(0o600)).is_ok();
    // Every source notes a write before the writer goes on, so what is not there by now never comes.
    let mut is_heard = false;
    while let Ok(Some(event)) = source.try_next() {
        match event {
            Event::Changed { place: heard, .. } if heard == place => is_heard = true,
            event => aside.push_back(event),
        }
    }
    source.forget(place);
    Ok(is_heard || !is_written)
}
