//! Whether the children of a target were replaced: pure.

use std::time::Duration;

use crate::{
    clock::Boot,
    target::{Child, Target},
};

/// How exactly the start of a process is known: `USER_HZ` is 100 on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Whether a process may have started since then.
///
/// A tick is as long as many a reload, so whoever started in that of the signal may have.
pub(super) fn may_have_started_since(target: Target, sent: Boot) -> bool {
    target.start().after(TICK) > sent
}

/// The workers of a target.
///
/// They are the children that have its own name, for workers are forked; if none has, all of its
/// children. So neither a log rotator that stays nor a tool that is run now and then is taken for one.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// Those that there were when the target was signalled.
    old: Vec<Target>,
    /// Their names.
    names: Vec<Vec<u8>>,
    /// The new ones that were there at the last look.
    new: Vec<Target>,
}

impl Workers {
    /// Those among the children right after the signal.
    pub(super) fn new(own: Option<&[u8]>, mut children: Vec<Child>, sent: Boot) -> Self {
        // One that was forked between the signal and this look is new already. Of those that started in
        // the tick of the signal nobody knows: they are new where there are others that are not.
        let is_new = |child: &Child| may_have_started_since(child.target, sent);
        let is_any_old = children.iter().any(|child| !is_new(child));
        children.retain(|child| !is_new(child) || (!is_any_old && child.target.start() <= sent));
        if let Some(own) = own.filter(|&own| children.iter().any(|child| child.name == own)) {
            children.retain(|child| child.name == own);
        }
        let old = children.iter().map(|child| child.target).collect();
        let names = children.into_iter().map(|child| child.name).collect();
        Self { old, names, new: Vec::new() }
    }

    /// Whether there are any, that could be replaced.
    pub(super) fn are_there(&self) -> bool {
        !self.old.is_empty()
    }

    /// Whether they are replaced by now: twice in a row there were as many new ones as there were
    /// then, or fewer where none of the old ones is left.
    pub(super) fn are_replaced(&mut self, children: &[Child], sent: Boot) -> bool {
        let is_new = |child: &&Child| {
            !self.old.contains(&child.target)
                && self.names.contains(&child.name)
                && may_have_started_since(child.target, sent)
        };
        let new: Vec<_> = children.iter().filter(is_new).map(|child| child.target).collect();
        let lasting = new.iter().filter(|target| self.new.contains(target)).count();
        let is_old_left = children.iter().any(|child| self.old.contains(&child.target));
        self.new = new;
        lasting > 0 && (lasting >= self.old.len() || !is_old_left)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    /// The signal is sent in the middle of tick 100.
    const SENT: Boot = Boot(Duration::from_millis(1005));

    /// A child, from `pid`, `name` and the tick of its start.
    type Made = (i32, &'static str, u64);

    fn children(made: &[Made]) -> Vec<Child> {
        let child = |&(pid, name, started): &Made| Child {
            target: Target { pid: Pid::from_raw(pid), started },
            name: name.as_bytes().to_vec(),
        };
        made.iter().map(child).collect()
    }

    #[test]
    fn workers_are_replaced_when_as_many_new_ones_last() {
        #[track_caller]
        fn check(before: &[Made], looks: &[&[Made]], expected: Option<usize>) {
            let mut workers = Workers::new(Some(b"x"), children(before), SENT);
            let at = looks.iter().position(|look| workers.are_replaced(&children(look), SENT));
            assert_eq!(at, expected, "from {before:?} by {looks:?}");
        }
        let (a, b) = ((1, "x", 5), (2, "x", 5));
        let (new_a, new_b, new_c) = ((3, "x", 100), (4, "x", 101), (5, "x", 102));
        // The old ones go on to serve for a while.
        check(&[a, b], &[&[a, b, new_a, new_b], &[a, b, new_a, new_b]], Some(1));
        check(&[a, b], &[&[a, b, new_a], &[a, b, new_a, new_b], &[new_a, new_b]], Some(2));
        // A crash loop.
        check(&[a], &[&[a, new_a], &[a, new_b], &[a, new_c]], None);
        check(&[a], &[&[new_a], &[], &[new_b], &[]], None);
        // Fewer than before.
        check(&[a, b], &[&[a, b, new_a], &[a, new_a], &[new_a]], Some(2));
        check(&[a, b], &[&[], &[]], None);
        check(&[a, b], &[&[a, b], &[a, b]], None);
        // There was none.
        check(&[], &[&[new_a], &[new_a]], None);
        // A pid is handed out again.
        check(&[a], &[&[(1, "x", 101)], &[(1, "x", 101)]], Some(1));
        // All have only just started.
        check(&[new_a, (4, "x", 100)], &[&[new_b, new_c], &[new_b, new_c]], Some(1));
        // Another, that the first look has missed.
        check(&[a], &[&[a, (9, "x", 99)], &[a, (9, "x", 99)]], None);
        // Forked before the first look, and most of them in the tick of the signal.
        check(&[a, (9, "x", 101)], &[&[a, (9, "x", 101)], &[(9, "x", 101)]], Some(1));
        check(&[a, b, new_a, new_b], &[&[a, b, new_a, new_b], &[new_a, new_b]], Some(1));
        check(&[a, b, new_a], &[&[a, new_a, new_b], &[new_a, new_b]], Some(1));
        // Some tool.
        check(&[a], &[&[a, (9, "sh", 101)], &[a, (9, "sh", 101)]], None);
        check(&[a, (9, "sh", 7)], &[&[a, (8, "sh", 101)], &[a, (8, "sh", 101)]], None);
        check(&[a, (9, "log", 7)], &[&[new_a, (9, "log", 7)], &[new_a, (9, "log", 7)]], Some(1));
        // Workers of another name.
        check(&[(9, "w", 7)], &[&[(8, "w", 101)], &[(8, "w", 101)]], Some(1));
        check(&[(9, "w", 7)], &[&[(8, "x", 101)], &[(8, "x", 101)]], None);
    }
}
