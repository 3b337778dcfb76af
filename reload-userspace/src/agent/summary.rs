//! One digest for all that a rule watches, and after a change no more work than that makes.

use crate::{
    content::{Content, Digest},
    places::Index,
};

/// How many paths are summed up together: about as many as there are such groups where there are ten
/// thousand paths, so that neither takes long.
const GROUP: usize = 100;

/// The digest of what the paths of a rule contain, by groups of them.
#[derive(Debug)]
pub(super) struct Summary {
    /// In the order of the rule, so that the digest is the same when the agent is started again.
    order: Vec<Index>,
    groups: Vec<Digest>,
}

impl Summary {
    /// Sums up what all the paths contain.
    pub(super) fn new<'a>(
        order: Vec<Index>,
        content: impl Fn(Index) -> Option<&'a Content>,
    ) -> Self {
        let groups = order.chunks(GROUP).map(|group| sum(group, &content)).collect();
        Self { order, groups }
    }

    /// Notes that a path contains something else.
    pub(super) fn renew<'a>(
        &mut self,
        index: Index,
        content: impl Fn(Index) -> Option<&'a Content>,
    ) {
        let mut groups = self.order.chunks(GROUP).zip(&mut self.groups);
        if let Some((group, digest)) = groups.find(|(group, _)| group.contains(&index)) {
            *digest = sum(group, content);
        }
    }

    /// The digest of it all.
    pub(super) fn digest(&self) -> Digest {
        Digest::of_all(&self.groups)
    }
}

fn sum<'a>(group: &[Index], content: impl Fn(Index) -> Option<&'a Content>) -> Digest {
    Content::digest(&group.iter().filter_map(|&index| content(index)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_renewed_path_by_path_is_what_is_summed_up_anew() {
        let content = |text: &str| Content::of(&[("file", text)]);
        // A rule may be about paths that another was about before: they keep their numbers.
        let order: Vec<_> = (0..=2 * GROUP).rev().collect();
        let mut contents: BTreeMap<_, _> = order.iter().map(|&it| (it, content("old"))).collect();
        let mut summary = Summary::new(order.clone(), |it| contents.get(&it));
        let mut seen = vec![summary.digest()];
        for &index in &order {
            contents.insert(index, content("new"));
            summary.renew(index, |it| contents.get(&it));
            let anew = Summary::new(order.clone(), |it| contents.get(&it));
            assert_eq!(summary.digest(), anew.digest(), "{index:?}");
            assert!(!seen.contains(&summary.digest()), "{index:?} counts");
            seen.push(summary.digest());
        }
    }
}
