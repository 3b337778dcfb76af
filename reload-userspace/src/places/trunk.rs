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
    pub(super) straight: Straight,
    /// Each directory but the last, from the root on.
    steps: Box<[Step]>,
}

/// A directory of a trunk, as it was when this path was walked: others look at it as well, and arm it again.
#[derive(Debug)]
struct Step {
    id: PlaceId,
    stirs: u64,
    /// The name in it that was followed.
    name: Arc<Path>,
    /// What that led to.
    child: Child,
}

impl Places {
    /// How far on the way of a path nothing has happened since it was walked: to walk there again would show
    /// the same directories, and change nothing.
    pub(super) fn quiet(&self, index: Index, patience: Patience) -> Option<Straight> {
        let trunk = self.trunks.get(&index)?;
        let is_quiet = |step: &&Step| {
            self.by_id.get(&step.id).is_some_and(|place| place.is_quiet(step, patience))
        };
        let Step { name, child, .. } = trunk.steps.iter().take_while(is_quiet).last()?;
        Some(trunk.straight.up_to(name, *child))
    }
}

impl Place {
    /// Whether the place would be found as it was, and left as it is, if it were shown again.
    fn is_quiet(&self, step: &Step, patience: Patience) -> bool {
        !self.has_fired
            && self.stirs == step.stirs
            && (patience == Patience::Hasty || !self.may_be_under_way)
            && self.ways.get(&step.name).is_some_and(|way| way.child == step.child)
    }
}

impl<S: Source> Eyes<'_, S> {
    /// The walk begins there: the directories before it still matter.
    pub(super) fn spare(&mut self, straight: &Straight) {
        let Some(trunk) = self.places.trunks.get(&self.index) else { return };
        let spared = trunk.steps.iter().take_while(|step| straight.path.starts_with(&step.name));
        for step in spared {
            self.seen.insert(step.id, Interest::Replacement);
            self.followed.insert((step.id, Arc::clone(&step.name)));
        }
        self.has_spared_trunk = *straight == trunk.straight;
    }

    /// Notes how far the way is straight.
    pub(super) fn keep_trunk(&mut self, straight: Option<Straight>) {
        let known = self.places.trunks.get(&self.index).map(|trunk| &trunk.straight);
        if self.has_spared_trunk && known == straight.as_ref() && self.failures.is_empty() {
            return;
        }
        let trunk = straight.filter(|_| self.failures.is_empty()).and_then(|straight| {
            let names = self.followed.iter().filter(|(_, name)| straight.path.starts_with(name));
            let steps = names.map(|(id, name)| {
                let place = self.places.by_id.get(id)?;
                let child = place.ways.get(name)?.child;
                Some(Step { id: *id, stirs: place.stirs, name: Arc::clone(name), child })
            });
            let mut steps = steps.collect::<Option<Box<_>>>()?;
            steps.sort_by_key(|step| step.name.as_os_str().len());
            Some(Trunk { straight, steps })
        });
        match trunk {
            Some(trunk) => self.places.trunks.insert(self.index, trunk),
            None => self.places.trunks.remove(&self.index),
        };
    }
}
