//! Which pods to nudge, and when, so that the kubelet looks at them at once; pure, time is an argument.
//!
//! The kubelet renews a pod's volumes when it syncs the pod: once a minute or so, and whenever the pod
//! itself changes, of which an annotation is enough. It may do so before it has heard of the change that
//! the pod was nudged for, so a nudge that nothing comes of is repeated.

use std::{collections::HashMap, time::Duration};

use crate::clock::Boot;

/// How long after a nudge of a pod the next one may be: twice as long for each that nothing came of, for
/// there are objects whose annotations change all the time, and never what is in them.
const PAUSE: Duration = Duration::from_secs(1);

/// How often that is doubled: up to about a minute.
const MOST_DOUBLINGS: u32 = 6;

/// How long a nudge may come to nothing before it is repeated.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a pod is nudged for one change.
const MOST_ATTEMPTS: u32 = 3;

/// How many pods may be nudged at once, and how long until one more may be.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(100);

/// The pods to nudge.
#[derive(Debug)]
pub(super) struct Nudges<K> {
    wanted: HashMap<K, Wanted>,
    /// When each was nudged last, and how often in a row nothing came of it.
    nudged: HashMap<K, (Boot, u32)>,
    /// How many may be nudged at this moment, as of when.
    left: u32,
    since: Boot,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    due: Boot,
    attempts: u32,
}

impl<K: Clone + std::hash::Hash + Ord> Nudges<K> {
    pub(super) fn new(now: Boot) -> Self {
        Self { wanted: HashMap::new(), nudged: HashMap::new(), left: BURST, since: now }
    }

    /// Something has changed that a pod mounts.
    pub(super) fn want(&mut self, pod: K, now: Boot) {
        let due = self.nudged.get(&pod).map_or(now, |&(last, fruitless)| {
            let doublings = fruitless.saturating_sub(1).min(MOST_DOUBLINGS);
            last.after(PAUSE * 2_u32.pow(doublings)).max(now)
        });
        let due =
            self.wanted.get(&pod).filter(|it| it.attempts == 0).map_or(due, |it| it.due.min(due));
        self.wanted.insert(pod, Wanted { due, attempts: 0 });
    }

    /// A volume of the pod has been renewed: nothing more need be done.
    pub(super) fn came(&mut self, pod: &K) {
        if self.wanted.get(pod).is_some_and(|wanted| wanted.attempts > 0) {
            self.wanted.remove(pod);
        }
        if let Some((_, fruitless)) = self.nudged.get_mut(pod) {
            *fruitless = 0;
        }
    }

    /// Forgets the pods that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.wanted.retain(|pod, _| is_there(pod));
        self.nudged.retain(|pod, _| is_there(pod));
    }

    /// The pods to nudge now.
    pub(super) fn due(&mut self, now: Boot) -> Vec<K> {
        let earned = now.since(self.since).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        let due = self.wanted.iter().filter(|(_, wanted)| wanted.due <= now);
        // Who has waited the longest comes first, so that nobody keeps others from their turn.
        let mut due: Vec<(Boot, K)> = due.map(|(pod, wanted)| (wanted.due, pod.clone())).collect();
        due.sort_unstable();
        due.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        let due: Vec<K> = due.into_iter().map(|(_, pod)| pod).collect();
        for pod in &due {
            self.left = self.left.saturating_sub(1);
            let nudged = self.nudged.entry(pod.clone()).or_insert((now, 0));
            *nudged = (now, nudged.1 + 1);
            if let Some(wanted) = self.wanted.get_mut(pod) {
                *wanted = Wanted { due: now.after(PATIENCE), attempts: wanted.attempts + 1 };
                if wanted.attempts == MOST_ATTEMPTS {
                    self.wanted.remove(pod);
                }
            }
        }
        due
    }

    /// When there is one to nudge, if ever.
    pub(super) fn next_at(&self) -> Option<Boot> {
        let due = self.wanted.values().map(|wanted| wanted.due).min()?;
        Some(if self.left == 0 { due.max(self.since.after(REFILL)) } else { due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(millis))
    }

    #[test]
    fn a_pod_is_nudged_at_once_and_then_once_a_second() {
        let mut nudges = Nudges::new(at(0));
        nudges.want("a", at(0));
        assert_eq!(nudges.due(at(0)), ["a"]);
        nudges.came(&"a");
        nudges.want("a", at(10));
        nudges.want("a", at(20));
        assert_eq!(nudges.due(at(20)), [""; 0]);
        assert_eq!(nudges.next_at(), Some(at(1000)));
        assert_eq!(nudges.due(at(1000)), ["a"]);
        nudges.came(&"a");
        assert_eq!(nudges.next_at(), None);
    }

    #[test]
    fn a_nudge_that_nothing_comes_of_is_repeated_and_then_given_up() {
        let mut nudges = Nudges::new(at(0));
        nudges.want("a", at(0));
        for expected in [0, 5000, 10_000] {
            assert_eq!(nudges.next_at(), Some(at(expected)));
            assert_eq!(nudges.due(at(expected)), ["a"]);
        }
        assert_eq!(nudges.next_at(), None);
    }

    #[test]
    fn nudges_that_nothing_comes_of_become_rare() {
        let mut nudges = Nudges::new(at(0));
        // Its object is annotated twice a second for an hour, and never what is in it changes.
        let count: usize = (0..3_600_000)
            .step_by(500)
            .map(|millis| {
                nudges.want("a", at(millis));
                nudges.due(at(millis)).len()
            })
            .sum();
        assert!((50..80).contains(&count), "{count}");
        nudges.came(&"a");
        nudges.want("a", at(3_601_000));
        assert_eq!(nudges.due(at(3_601_000)), ["a"], "as if nothing had been");
    }

    #[test]
    fn whoever_is_nudged_all_the_time_keeps_nobody_from_his_turn() {
        let mut nudges = Nudges::new(at(0));
        let mut is_served = false;
        nudges.want(1000, at(1));
        for millis in (1..3000).step_by(10) {
            for busy in 0..30 {
                nudges.want(busy, at(millis));
            }
            let due = nudges.due(at(millis));
            is_served |= due.contains(&1000);
            for pod in &due {
                nudges.came(pod);
            }
        }
        assert!(is_served);
    }

    #[test]
    fn what_came_before_the_nudge_does_not_spare_it() {
        let mut nudges = Nudges::new(at(0));
        nudges.want("a", at(0));
        nudges.came(&"a");
        assert_eq!(nudges.due(at(0)), ["a"]);
    }

    #[test]
    fn many_pods_are_nudged_one_after_the_other() {
        let mut nudges = Nudges::new(at(0));
        let pods: Vec<_> = (0..50).collect();
        for &pod in &pods {
            nudges.want(pod, at(0));
        }
        assert_eq!(nudges.due(at(0)).len(), 20);
        assert_eq!(nudges.next_at(), Some(at(100)));
        let mut count = 20;
        for millis in (100..=3000).step_by(100) {
            count += nudges.due(at(millis)).len();
        }
        assert_eq!(count, 50, "each of them once");
        nudges.retain(|_| false);
        assert_eq!(nudges.next_at(), None);
    }
}
