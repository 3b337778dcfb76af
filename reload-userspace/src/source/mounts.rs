//! Tells when something was mounted or unmounted: no watch of a file says that its path now leads
//! elsewhere.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{Interest, unix::AsyncFd};

use super::SourceError;
use crate::{
    clock::{self, Boot, Effort},
    event::Event,
    mount, sys,
};

/// How long after a change the table is left alone at least: on a node containers come and go.
const REST: Duration = Duration::from_millis(50);

/// Which part of the time may go into what a change leads to: a twentieth.
const SHARE: u32 = 20;

/// The mount table of the agent's mount namespace, which says when it changes (`proc(5)`: `POLLPRI`).
///
/// It does not say what has changed: the numbers of mounts and devices are handed out again at once,
/// so a filesystem that was unmounted and another that was mounted there may look the same.
#[derive(Debug)]
pub(super) struct MountTable {
    table: AsyncFd<OwnedFd>,
    /// Where something was mounted when it was last read.
    known: BTreeSet<PathBuf>,
    /// When the last change was yielded, until that has been dealt with.
    yielded: Option<Effort>,
    rest_until: Boot,
}

impl MountTable {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = sys::exceptional(open(mount::TABLE, flags, Mode::empty())?)?;
        Ok(Self { table, known: points()?, yielded: None, rest_until: clock::now() })
    }

    /// Waits for the next change, and yields wherever it may have been. Cancel safe: what has not
    /// been yielded is still to be found.
    pub(super) async fn next(&mut self) -> Result<Event, SourceError> {
        let now = clock::now();
        if let Some(effort) = self.yielded.take() {
            self.rest_until = now.after(REST.max(effort.so_far() * SHARE));
        }
        let rest = self.rest_until.since(now);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        let ready = self.table.ready(Interest::PRIORITY).await;
        ready.map_err(|source| SourceError::Wait { source })?.clear_ready();
        self.yielded = Some(Effort::begin());
        let mut changed = self.known.clone();
        match points() {
            Ok(points) => {
                changed.extend(points.iter().cloned());
                self.known = points;
            }
            // For want of descriptors, say: then it may have been anywhere.
            Err(error) => {
                tracing::warn!(%error, "cannot read {}", mount::TABLE);
                changed.insert(PathBuf::from("/"));
            }
        }
        Ok(Event::Mounted { points: changed })
    }
}

/// Where something is mounted, the root excepted: nobody mounts anything over that.
fn points() -> io::Result<BTreeSet<PathBuf>> {
    let mounts = mount::Mounts::read()?;
    let points = mounts.points().filter(|point| *point != Path::new("/"));
    Ok(points.map(Path::to_owned).collect())
}
