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
    /// `None` where a path of the group contains something else since it was summed up.
    groups: Vec<Option<Digest>>,
}

impl Summary {
    /// Nothing is summed up yet.
    pub(super) fn new(order: Vec<Index>) -> Self {
        let groups = vec![None; order.len().div_ceil(GROUP)];
        Self { order, groups }
    }

    /// Notes that a path may contain something else.
    pub(super) fn renew(&mut self, index: Index) {
        if let Some(position) = self.order.iter().position(|&it| it == index) {
            self.groups[position / GROUP] = None;
        }
    }

    /// The digest of it all: of the digests of the groups, or of the only one.
    pub(super) fn digest<'a>(&mut self, content: impl Fn(Index) -> Option<&'a Content>) -> Digest {
        let groups = self.order.chunks(GROUP).zip(&mut self.groups);
        let sum = |group: &[Index]| {
            let contents = group.iter().filter_map(|&index| content(index));
            Content::digest(&contents.collect::<Vec<_>>())
        };
        let digests: Vec<_> =
            groups.map(|(group, known)| *known.get_or_insert_with(|| sum(group))).collect();
        match digests[..] {
            [only] => only,
            _ => Digest::of_all(&digests),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn content(name: &str, text: &str) -> Content {
        Content::of(&[(name, text)])
    }

    #[test]
    fn what_is_renewed_path_by_path_is_what_is_summed_up_anew() {
        // A rule may be about paths that another was about before: their numbers need not rise.
        let order: Vec<_> = (0..=2 * GROUP).rev().collect();
        let mut contents: BTreeMap<_, _> =
            order.iter().map(|&it| (it, content("file", "old"))).collect();
        let mut summary = Summary::new(order.clone());
        let mut seen = vec![summary.digest(|it| contents.get(&it))];
        for pair in order.chunks(2) {
            for &index in pair {
                contents.insert(index, content("file", "new"));
                summary.renew(index);
            }
            let digest = summary.digest(|it| contents.get(&it));
            let anew = Summary::new(order.clone()).digest(|it| contents.get(&it));
            assert_eq!(digest, anew, "{pair:?}");
            assert!(!seen.contains(&digest), "{pair:?} counts");
            seen.push(digest);
        }
    }

    #[test]
    fn what_belongs_to_which_path_counts_also_across_groups() {
        let digest = |last: &str, first: &str| {
            let name = |index: Index| match index {
                _ if index + 1 == GROUP => content("last", last),
                GROUP => content("first", first),
                _ => content("file", ""),
            };
            let contents: Vec<_> = (0..=GROUP).map(name).collect();
            Summary::new((0..=GROUP).collect()).digest(|it| contents.get(it))
        };
        assert_ne!(digest("a", "b"), digest("b", "a"));
    }

    #[test]
    fn few_paths_are_one_group_and_need_no_digest_of_digests() {
        let only = content("file", "text");
        assert_eq!(Summary::new(vec![7]).digest(|_| Some(&only)), Content::digest(&[&only]));
    }
}
