//! What is known of a rule that another takes the place of: who has got what by which action.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use super::{crew::CrewId, recall::key, reloader::Reloader};
use crate::{
    clock::Boot,
    delivery::{Delivery, Receiver, Wanted},
    rule::Rule,
    target::{PodUid, Target},
};

/// What a rule leaves to the one that takes its place.
pub(super) struct Heritage {
    crew: Option<CrewId>,
    delivery: Delivery<Target>,
    actions: Vec<String>,
    /// Which pod it is about, if it is about one.
    pod: Option<PodUid>,
    /// What has changed since everybody last had the content.
    changed: BTreeSet<PathBuf>,
    /// What has been told.
    has_told_waiting: bool,
    unreadable: HashSet<PathBuf>,
}

impl Heritage {
    pub(super) fn of(reloader: &Reloader) -> Self {
        let (crew, delivery) = (reloader.crew, reloader.delivery.clone());
        Self {
            crew,
            delivery,
            actions: actions(&reloader.rule),
            pod: reloader.rule.pod(),
            changed: reloader.changed.clone(),
            has_told_waiting: reloader.has_told_waiting,
            unreadable: reloader.unreadable.clone(),
        }
    }

    /// Which step of the rule is that step of the one before it.
    pub(super) fn step(&self, step: usize, rule: &Rule) -> Option<usize> {
        let action = self.actions.get(step)?;
        actions(rule).iter().position(|new| new == action)
    }

    /// Whoever was owed a reload still is, be it by another action; nobody else is.
    pub(super) fn leave_to(&self, reloader: &mut Reloader) {
        let Self { crew, delivery: old, actions: old_actions, .. } = self;
        reloader.changed.clone_from(&self.changed);
        reloader.unreadable.clone_from(&self.unreadable);
        reloader.has_told_waiting = self.has_told_waiting && *crew == reloader.crew;
        let is_same_crew = *crew == reloader.crew;
        let new = &mut reloader.delivery;
        let digest = new.wanted().digest;
        let has_it = |it: Receiver<Target>| old.has(it) == Some(old.wanted().digest);
        let is_owed = |target| old.receivers().any(|it| it.target == target && !has_it(it));
        let is_anybody_owed = old.receivers().any(|it| !has_it(it));
        // Processes that nobody was sent to before are owed what somebody was.
        let is_new = !is_same_crew || old.targets().next().is_none();
        // Of a pod nothing but the containers is said anew: which is known some time after they have started,
        // and what has changed meanwhile they may not have read.
        let is_same_pod = self.pod.is_some() && self.pod == reloader.rule.pod();
        let is_clear = is_new && !is_anybody_owed && !is_same_pod;
        let since = if is_clear { Boot::ZERO } else { old.wanted().since };
        new.want(Wanted { digest, since, ..old.wanted() });
        if is_same_crew {
            old.targets().for_each(|target| new.join(target, |_| Some(digest)));
        }
        let actions = actions(&reloader.rule);
        for receiver in new.receivers().collect::<Vec<_>>() {
            let action = actions.get(receiver.step);
            let step = old_actions.iter().position(|old| Some(old) == action);
            match step.map(|step| Receiver { step, ..receiver }) {
                Some(before) if old.receivers().any(|it| it == before) => {
                    new.succeed(receiver, old, before);
                }
                _ if is_anybody_owed && receiver.target.is_none() => new.doubt(receiver),
                _ if is_owed(receiver.target) || is_owed(None) => new.doubt(receiver),
                _ => {}
            }
        }
    }
}

/// What the actions of a rule are called, each by a name of its own.
fn actions(rule: &Rule) -> Vec<String> {
    (0..rule.actions().len()).map(|step| key(rule, step)).collect()
}
