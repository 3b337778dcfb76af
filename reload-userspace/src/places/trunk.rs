//! The part of the way of a path that need not be walked again: plain directories in which nothing has happened.

use std::{path::Path, sync::Arc};

use super::{Eyes, Index, Patience, Place, Places};
use crate::{
    event::PlaceId,
    source::{Interest, Source},
    watch::{Child, Straight},
};

/// The directories from the root to where the way of a path first has a symlink, or ends.
#[derive(Debug)]
pub(super) struct Trunk {
    straight: Straight,
    /// Each directory but the last, with the name in it that was followed and what that led to, from the root
    /// on.
    steps: Box<[(PlaceId, Arc<Path>, Child)]>,
}

#[cfg(test)]
impl Trunk {
    pub(super) fn path(&self) -> &Path {
        &self.straight.path
    }
}

impl Places {
    /// How far on the way of a path nothing has happened since it was walked: to walk there again would show
    /// the same directories, and change nothing.
    fn quiet(&self, index: Index, patience: Patience) -> Option<Straight> {
        let trunk = self.trunks.get(&index)?;
        let is_quiet = |(id, name, child): &&(PlaceId, Arc<Path>, Child)| {
            let place = self.by_id.get(id);
            place.is_some_and(|it| it.is_quiet(patience) && it.leads(name, *child))
        };
        let (_, name, child) = trunk.steps.iter().take_while(is_quiet).last()?;
        Some(trunk.straight.up_to(name, *child))
    }
}

impl Place {
    /// Whether the place would be left as it is if it were shown again.
    fn is_quiet(&self, patience: Patience) -> bool {
        !self.has_fired && (patience == Patience::Hasty || !self.may_be_under_way)
    }

    /// Whether the name leads there, as far as anybody knows.
    fn leads(&self, name: &Path, child: Child) -> bool {
        self.ways.get(name).is_some_and(|way| way.child == child)
    }
}

impl<S: Source> Eyes<'_, S> {
    /// Where the walk may begin.
    pub(super) fn beginning(&self) -> Option<Straight> {
        self.places.quiet(self.index, self.patience)
    }

    /// The walk has begun there: the directories on the way still matter.
    pub(super) fn skip(&mut self, straight: &Straight) {
        let Some(trunk) = self.places.trunks.get(&self.index) else { return };
        let skipped = trunk.steps.iter().take_while(|(_, name, _)| straight.path.starts_with(name));
        for (id, name, _) in skipped {
            self.seen.insert(*id, Interest::Replacement);
            self.followed.insert((*id, Arc::clone(name)));
        }
        self.has_skipped = *straight == trunk.straight;
    }

    /// Notes how far the way is straight.
    pub(super) fn keep(&mut self, straight: Option<Straight>) {
        let known = self.places.trunks.get(&self.index).map(|trunk| &trunk.straight);
        if self.has_skipped && known == straight.as_ref() && self.failures.is_empty() {
            return;
        }
        let trunk = straight.filter(|_| self.failures.is_empty()).and_then(|straight| {
            let names = self.followed.iter().filter(|(_, name)| straight.path.starts_with(name));
            let steps = names.map(|(id, name)| {
                let way = self.places.by_id.get(id)?.ways.get(name)?;
                Some((*id, Arc::clone(name), way.child))
            });
            let mut steps = steps.collect::<Option<Box<_>>>()?;
            steps.sort_by_key(|(_, name, _)| name.as_os_str().len());
            Some(Trunk { straight, steps })
        });
        match trunk {
            Some(trunk) => self.places.trunks.insert(self.index, trunk),
            None => self.places.trunks.remove(&self.index),
        };
    }
}
