//! Tells when something was mounted or unmounted: no watch of a file says that its path now leads
//! elsewhere.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{Interest, unix::AsyncFd};

use super::SourceError;
use crate::{
    clock::{self, Boot},
    event::Event,
    mount, sys,
};

/// How long after a reading of the table it is left alone: on a node containers come and go.
const REST: Duration = Duration::from_millis(50);

/// The mount table of the agent's mount namespace, which says when it changes (`proc(5)`: `POLLPRI`).
#[derive(Debug)]
pub(super) struct Mounts {
    table: AsyncFd<OwnedFd>,
    /// Where something is mounted, each time with a number of its own.
    known: HashSet<(u64, PathBuf)>,
    rest_until: Boot,
}

impl Mounts {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = sys::exceptional(open(mount::TABLE, flags, Mode::empty())?)?;
        Ok(Self { table, known: points()?, rest_until: clock::now() })
    }

    /// Waits for the next change. Cancel safe: what has not been given is still to be found.
    pub(super) async fn next(&mut self) -> Result<Event, SourceError> {
        let wait = |source| SourceError::Wait { source };
        loop {
            let rest = self.rest_until.since(clock::now());
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            self.table.ready(Interest::PRIORITY).await.map_err(wait)?.clear_ready();
            self.rest_until = clock::now().after(REST);
            let known = std::mem::replace(&mut self.known, points().map_err(wait)?);
            let changed: HashSet<_> = known.symmetric_difference(&self.known).collect();
            if !changed.is_empty() {
                let points = changed.into_iter().map(|(_, point)| point.clone()).collect();
                return Ok(Event::Mounted { points });
            }
        }
    }
}

fn points() -> io::Result<HashSet<(u64, PathBuf)>> {
    let mounts = mount::Mounts::read()?;
    Ok(mounts.points().map(|(id, point): (u64, &Path)| (id, point.to_owned())).collect())
}
