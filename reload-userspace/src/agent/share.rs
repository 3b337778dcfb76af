//! Rules that are about the same process: none has it read what another must not have it read yet.

use std::collections::{HashMap, HashSet};

use super::{Agent, reloader::RuleId};
use crate::{
    clock::Boot,
    delivery::{Task, Withheld},
    preflight::Refusal,
    report::Decision,
    source::Source,
    target::Target,
};

/// Which other rule keeps a target, and why; `None` where it is in the middle of a change.
type Keeper = (RuleId, Option<Withheld>);

impl<S: Source> Agent<S> {
    /// What a rule is to do next, if no other forbids it. Says so where it may be long until then.
    pub(super) fn next_task(
        &mut self,
        id: RuleId,
        completed: &HashSet<RuleId>,
        now: Boot,
    ) -> Option<Task<Target>> {
        let reloader = self.reloaders.get(&id)?;
        if reloader.delivery.next_at(|_| true).is_none_or(|at| at > now) || self.lacks_place(id) {
            return None;
        }
        let kept = self.kept(id, completed, now);
        let is_free = |target| !kept.contains_key(&target);
        let task = self.reloaders.get_mut(&id)?.delivery.next(now, is_free);
        if task.is_none() {
            self.note_withheld(id, &kept, now);
        }
        task
    }

    /// When there will be something to do for a rule although nothing happens, if ever. What others
    /// forbid is not due: what they do next decides when it is.
    pub(super) fn next_at(
        &self,
        id: RuleId,
        completed: &HashSet<RuleId>,
        now: Boot,
    ) -> Option<Boot> {
        let reloader = self.reloaders.get(&id)?;
        if reloader.delivery.next_at(|_| true)? > now {
            return reloader.delivery.next_at(|_| true);
        }
        if self.lacks_place(id) {
            return None;
        }
        let kept = self.kept(id, completed, now);
        reloader.delivery.next_at(|target| !kept.contains_key(&target))
    }

    /// Whether there is nobody yet in whose place what a rule wants could be checked: that is waited
    /// for.
    fn lacks_place(&self, id: RuleId) -> bool {
        self.reloaders.get(&id).is_some_and(|it| {
            it.is_checked_in_target()
                && it.delivery.is_unchecked()
                && self.targets_of(it).next().is_none()
        })
    }

    /// The targets of a rule that others keep.
    fn kept(&self, id: RuleId, completed: &HashSet<RuleId>, now: Boot) -> HashMap<Target, Keeper> {
        let Some(reloader) = self.reloaders.get(&id) else { return HashMap::new() };
        let keeper = |target: Target| {
            let others = self.reloaders.iter().filter(|(other, _)| **other != id);
            let mut keepers =
                others.filter(|(_, it)| it.delivery.knows(target)).filter_map(|(&other, it)| {
                    match it.delivery.withholds(target) {
                        _ if !self.is_settled(other, completed, now) || it.is_touched() => {
                            Some((other, None))
                        }
                        None => None,
                        why => Some((other, why)),
                    }
                });
            // What is over in a moment is no news, so it comes first.
            let first = keepers.next()?;
            let momentary = keepers.find(|(_, why)| *why != Some(Withheld::Bad));
            Some((target, momentary.unwrap_or(first)))
        };
        reloader.delivery.targets().filter_map(keeper).collect()
    }

    /// Notes, to be told, that bad content of another rule keeps a target from one, if that is news.
    fn note_withheld(&mut self, id: RuleId, kept: &HashMap<Target, Keeper>, now: Boot) {
        for (&target, &(other, why)) in kept {
            let other = self.reloaders.get(&other).map(|it| it.name().to_owned());
            let Some(other) = other.filter(|_| why == Some(Withheld::Bad)) else { continue };
            let Some(reloader) = self.reloaders.get_mut(&id) else { return };
            if reloader.delivery.withheld(target, now) {
                let reason = Refusal::OtherCheckFailed;
                reloader.untold.push(Decision::Refused {
                    rule: reloader.name().to_owned(),
                    pid: Some(target.pid.as_raw()),
                    signal: None,
                    reason,
                    remedy: reason.remedy(),
                    detail: Some(format!("rule {other}")),
                });
            }
        }
    }
}
