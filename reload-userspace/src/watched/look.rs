//! What a look at a path sees, and what that says beside the look before.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::Watched;
use crate::{
    clock::Boot,
    event::Writers,
    places::{Looked, Manner, Patience, Places},
    source::Source,
    watch::{FileState, View},
};

impl Watched {
    /// What there is to be seen, and not half of it.
    ///
    /// Whoever puts another file in the place of this one changes this one first: one name less leads to it.
    /// For some microseconds the path still leads to it then. That it has not been written to tells it from a
    /// change of the file itself, or from nearly every one.
    pub(super) fn see<S: Source>(
        &self,
        places: &mut Places,
        source: &mut S,
        manner: Manner,
    ) -> Looked {
        let mut look = |places: &mut Places, manner| {
            places.look(source, self.index, &self.path, self.reach, &self.settled, manner)
        };
        let first = look(places, manner);
        let may_be_replaced = |(path, state): (&PathBuf, &FileState)| {
            let before = self.view.files.get(path);
            before.is_some_and(|before| before != state && before.is_as_written(state))
        };
        if !first.view.files.iter().any(may_be_replaced) {
            return first;
        }
        places.suspect(self.index);
        let mut again = look(places, Manner { patience: Patience::Patient, ..manner });
        // Of whoever was announced only the first has asked whether he is about to write.
        let writers = [first.view.writers, again.view.writers].into_iter().flatten();
        again.view.writers = writers.reduce(Writers::or);
        again
    }

    /// When the files changed that nobody has announced, as they themselves say.
    pub(super) fn changed_at(&self, view: &View, now: Boot) -> Boot {
        let is_new =
            |(path, state): &(&PathBuf, &FileState)| self.view.files.get(*path) != Some(*state);
        let changed = view.files.iter().filter(is_new).map(|(_, state)| state.changed);
        let latest = changed.max().and_then(|(seconds, nanos)| {
            let since_epoch =
                Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since_epoch).ok()
        });
        // A file that was put there later may say that it changed long before.
        let ago = latest.unwrap_or_default().min(now.since(self.looked));
        Boot(now.0.saturating_sub(ago))
    }

    /// Whether the files are the same as before, though not in the same state.
    pub(super) fn is_only_written(&self, view: &View) -> bool {
        let identities = |view: &View| -> Vec<_> {
            view.files.iter().map(|(path, state)| (path.clone(), state.identity)).collect()
        };
        view.files != self.view.files && identities(view) == identities(&self.view)
    }
}
