//! How far the kubelet is with the volumes of one path.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{settle::Volume, watch::View};

/// How many old directories of a volume are waited for that nothing leads out of. The kubelet leaves one;
/// whoever leaves more is waited for no longer than he is for one.
const MOST_OLD: usize = 8;

/// The kubelet's volumes in the change under way.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// The directories that they led to before.
    old: Vec<PathBuf>,
    /// Those that were swapped.
    swapped: BTreeSet<PathBuf>,
}

impl Volumes {
    /// Those that were swapped, each by its `..data`.
    pub(super) fn swapped(&self) -> impl Iterator<Item = &PathBuf> {
        self.swapped.iter()
    }

    /// How many old directories are still there.
    pub(super) fn left(&self) -> usize {
        self.old.len()
    }

    /// Says how far the kubelet is, by what was there before and what is there now.
    pub(super) fn observe(&mut self, before: &View, now: &View) -> Volume {
        let most = if now.root.is_some() { MOST_OLD } else { usize::MAX };
        let mut is_first = false;
        for (link, new) in &now.volumes {
            match before.volumes.get(link) {
                Some(old) if old != new => {
                    if self.old.len() < most {
                        self.old.push(old.clone());
                    }
                    self.swapped.insert(link.clone());
                }
                Some(_) => {}
                None => is_first = true,
            }
        }
        let had_any = !self.old.is_empty();
        let is_current = |old: &PathBuf| now.volumes.values().any(|current| current == old);
        self.old.retain(|old| !is_current(old) && is_there(old));
        match (self.old.is_empty(), had_any) {
            (false, _) => Volume::Swapped,
            (true, true) => Volume::Cleared,
            // The first `..data` of a volume: the symlinks of its keys are yet to come.
            (true, false) if is_first => Volume::Swapped,
            (true, false) => Volume::Still,
        }
    }
}

/// Whether a directory is still there. Its path has no symlinks, or is one name in a volume that nothing
/// leads out of: what has taken that name is not followed.
fn is_there(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok()
}
