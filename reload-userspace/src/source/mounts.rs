//! Tells when something was mounted or unmounted: no watch of a file says that its path now leads
//! elsewhere.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{Interest, unix::AsyncFd};

use super::SourceError;
use crate::{event::Event, sys};

/// The mount table of the agent's mount namespace, which says when it changes (`proc(5)`: `POLLPRI`).
#[derive(Debug)]
pub(super) struct Mounts {
    table: AsyncFd<OwnedFd>,
}

impl Mounts {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = open("/proc/self/mountinfo", flags, Mode::empty())?;
        Ok(Self { table: sys::exceptional(table)? })
    }

    /// Waits for the next change. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Event, SourceError> {
        let ready = self.table.ready(Interest::PRIORITY).await;
        ready.map_err(|source| SourceError::Wait { source })?.clear_ready();
        Ok(Event::Mounted)
    }
}
