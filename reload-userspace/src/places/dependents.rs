//! The paths that depend on a place, and what of it matters to each.

use std::collections::BTreeSet;

use super::Index;
use crate::source::Interest;

/// Kept apart by what matters to them, for there may be thousands.
#[derive(Debug, Default)]
pub(super) struct Dependents {
    /// To whom everything matters.
    to_all: BTreeSet<Index>,
    /// To whom it matters if a name leads elsewhere.
    to_replacement: BTreeSet<Index>,
}

impl Dependents {
    /// What of the place matters to anybody.
    pub(super) fn interest(&self) -> Interest {
        if self.to_all.is_empty() { Interest::Replacement } else { Interest::Any }
    }

    /// Those to whom just this matters, and no more.
    pub(super) fn with(&self, interest: Interest) -> &BTreeSet<Index> {
        match interest {
            Interest::Any => &self.to_all,
            Interest::Replacement => &self.to_replacement,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Index> + '_ {
        self.to_all.iter().chain(&self.to_replacement).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.to_all.is_empty() && self.to_replacement.is_empty()
    }

    pub(super) fn contains(&self, index: Index) -> bool {
        self.to_all.contains(&index) || self.to_replacement.contains(&index)
    }

    /// Whether nobody else depends on it.
    pub(super) fn is_only(&self, index: Index) -> bool {
        self.all().all(|other| other == index)
    }

    /// Notes what matters to a path from now on.
    pub(super) fn set(&mut self, index: Index, interest: Interest) {
        let (now, no_longer) = match interest {
            Interest::Any => (&mut self.to_all, &mut self.to_replacement),
            Interest::Replacement => (&mut self.to_replacement, &mut self.to_all),
        };
        now.insert(index);
        no_longer.remove(&index);
    }

    /// Notes what matters to a path besides what does already.
    pub(super) fn add(&mut self, index: Index, interest: Interest) {
        if !self.to_all.contains(&index) {
            self.set(index, interest);
        }
    }

    pub(super) fn remove(&mut self, index: Index) {
        self.to_all.remove(&index);
        self.to_replacement.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_kept_once_with_what_matters_to_it() {
        let mut dependents = Dependents::default();
        assert!(dependents.is_empty());
        dependents.set(1, Interest::Replacement);
        dependents.add(2, Interest::Any);
        assert_eq!(dependents.interest(), Interest::Any);
        dependents.add(2, Interest::Replacement);
        assert_eq!(dependents.with(Interest::Any), &BTreeSet::from([2]));
        dependents.set(2, Interest::Replacement);
        assert_eq!(dependents.with(Interest::Replacement), &BTreeSet::from([1, 2]));
        assert_eq!(dependents.interest(), Interest::Replacement);
        assert_eq!(dependents.all().collect::<Vec<_>>(), [1, 2]);
        dependents.remove(1);
        assert!(!dependents.contains(1) && dependents.contains(2));
    }
}
