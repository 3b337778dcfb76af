//! What is told of a pod as an Event of Kubernetes, and how much of it; pure, time is an argument.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock::Boot,
    report::{Decision, sentence},
};

/// How many Events of a pod are told at once.
const BURST: u32 = 20;

/// How long until one more may be.
const REFILL: Duration = Duration::from_secs(15);

/// How long a note may be, in bytes: `events.k8s.io/v1` takes 1 kB.
const MOST_NOTE: usize = 1000;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// All is well.
    Normal,
    /// Someone should look.
    Warning,
}

impl Weight {
    /// As Kubernetes calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What is told of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// How much it matters.
    pub(super) weight: Weight,
    /// In a word, as in `kubectl describe`.
    pub(super) reason: &'static str,
    /// In a sentence.
    pub(super) note: String,
}

impl Notice {
    /// Something that someone should look at.
    pub(super) fn warning(reason: &'static str, note: &str) -> Self {
        Self { weight: Weight::Warning, reason, note: cut(note) }
    }

    /// What is told of a decision, and the rule that it is about; nothing of most.
    pub(super) fn of(decision: &Decision) -> Option<(&str, Self)> {
        let (rule, weight, reason) = match decision {
            Decision::Reloaded { rule, dry_run: false, .. } => (rule, Weight::Normal, "Reloaded"),
            Decision::Unconfirmed { rule, .. } => (rule, Weight::Warning, "ReloadUnconfirmed"),
            Decision::Refused { rule, .. } => (rule, Weight::Warning, "ReloadRefused"),
            Decision::Failed { rule, .. } => (rule, Weight::Warning, "ReloadFailed"),
            Decision::Warning { rule: Some(rule), .. } => (rule, Weight::Warning, "ReloadWarning"),
            _ => return None,
        };
        let said = sentence(decision);
        let note = said.strip_prefix(&format!("{rule}: ")).unwrap_or(&said);
        Some((rule, Self { weight, reason, note: cut(note) }))
    }
}

/// As much of a note as Kubernetes takes.
pub(super) fn cut(note: &str) -> String {
    if note.len() <= MOST_NOTE {
        return note.to_owned();
    }
    format!("{}…", &note[..note.floor_char_boundary(MOST_NOTE - '…'.len_utf8())])
}

/// How much may still be told of each pod.
#[derive(Debug, Default)]
pub(super) struct Budget<K> {
    pods: HashMap<K, Account>,
}

#[derive(Debug)]
struct Account {
    left: u32,
    since: Boot,
    withheld: u64,
}

impl<K: std::hash::Hash + Eq> Budget<K> {
    /// Whether a notice of a pod may be told now; if so, after how many that were not.
    pub(super) fn spend(&mut self, pod: K, now: Boot) -> Option<u64> {
        let account =
            self.pods.entry(pod).or_insert(Account { left: BURST, since: now, withheld: 0 });
        let earned = now.since(account.since).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            account.left = account.left.saturating_add(earned).min(BURST);
            account.since = now;
        }
        let Some(left) = account.left.checked_sub(1) else {
            account.withheld += 1;
            return None;
        };
        account.left = left;
        Some(std::mem::take(&mut account.withheld))
    }

    /// Forgets the pods that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.pods.retain(|pod, _| is_there(pod));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{preflight::Refusal, report::ActionName};

    #[test]
    fn a_pod_hears_of_reloads_and_of_what_went_wrong() {
        let reloaded = Decision::Reloaded {
            rule: "shop/web".to_owned(),
            action: ActionName::Signal,
            pid: Some(7),
            signal: Some("HUP".to_owned()),
            object: None,
            change_to_signal: Some(Duration::from_micros(8500)),
            dry_run: false,
        };
        let (rule, notice) = Notice::of(&reloaded).unwrap();
        assert_eq!((rule, notice.reason, notice.weight.name()), ("shop/web", "Reloaded", "Normal"));
        assert_eq!(notice.note, "sent HUP to pid 7, 8.5 ms after the change");

        let refused = Decision::Refused {
            rule: "shop/web".to_owned(),
            pid: None,
            signal: None,
            reason: Refusal::CheckFailed,
            remedy: Refusal::CheckFailed.remedy(),
            detail: Some("x".repeat(5000)),
        };
        let (_, notice) = Notice::of(&refused).unwrap();
        assert_eq!((notice.reason, notice.weight.name()), ("ReloadRefused", "Warning"));
        assert!(notice.note.len() <= MOST_NOTE, "{}", notice.note.len());
        assert_eq!(Notice::of(&Decision::Released { rule: "shop/web".to_owned() }), None);
    }

    #[test]
    fn a_pod_that_is_told_of_all_the_time_is_told_of_now_and_then() {
        let at = |seconds| Boot(Duration::from_secs(seconds));
        let mut budget = Budget::default();
        let told = (0..100).filter(|_| budget.spend("busy", at(0)).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(budget.spend("quiet", at(0)), Some(0));
        assert_eq!(budget.spend("busy", at(14)), None);
        assert_eq!(budget.spend("busy", at(15)), Some(81));
        assert_eq!(budget.spend("busy", at(15)), None);
    }
}
