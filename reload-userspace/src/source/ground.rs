//! What a place lies on, and whether all that changes there is announced.

use std::os::fd::BorrowedFd;

use rustix::fs::fstat;

use super::WatchError;
use crate::filesystem::{Changes, Filesystem};

/// What a place lies on.
pub(super) struct Ground {
    /// `st_dev`.
    pub(super) device: u64,
    filesystem: Option<Filesystem>,
}

impl Ground {
    pub(super) fn of(handle: BorrowedFd<'_>) -> Self {
        let device = fstat(handle).map_or(0, |stat| stat.st_dev);
        Self { device, filesystem: Filesystem::of(handle) }
    }

    /// Why the kernel does not announce every change there, if so.
    pub(super) fn silence(&self) -> Option<WatchError> {
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

    /// A failure that is the filesystem's.
    pub(super) fn because(&self, why: &'static str) -> WatchError {
        let filesystem = self.filesystem.map(|filesystem| filesystem.to_string());
        let filesystem = filesystem.unwrap_or_else(|| "an unknown filesystem".to_owned());
        WatchError::Silent { filesystem, why }
    }
}
