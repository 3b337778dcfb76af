//! Random interleavings of content, clock, targets and outcomes, against a model that only knows the
//! promises.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

type Key = u8;

/// What happens to a delivery.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The content becomes this.
    Change(u8),
    /// A target starts; it has the content that is there, or nobody knows what.
    Join(Key, bool),
    Leave(Key),
    Wait(u64),
    /// Everything that can be begun is.
    Begin,
    /// One of the things that were begun comes to an end.
    Finish(usize, Ending),
    Forgive,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Well,
    NotYet,
    Refused,
    Failed,
    /// The check cannot be relied on.
    Void,
}

/// What a receiver has been through.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    has: Option<Digest>,
    refused: Option<Digest>,
    applied_at: Option<Boot>,
    is_busy: bool,
}

/// The promises.
struct World {
    delivery: Delivery<Key>,
    plan: Plan,
    now: Boot,
    digest: Digest,
    lives: HashMap<(usize, Option<Key>), Life>,
    passed: Option<Digest>,
    /// Whether the content has been another since the check began.
    is_stale: bool,
    /// What is under way, with the content that it is about.
    tasks: Vec<(Task<Key>, Digest)>,
    confirming: Vec<Receiver<Key>>,
}

impl World {
    fn new(plan: Plan) -> Self {
        let digest = Digest::of(b"0");
        let wanted = Wanted { digest, changed: None, since: Boot::ZERO };
        let delivery = Delivery::new(plan.clone(), wanted, |_| Some(digest));
        let mut lives = HashMap::new();
        for (step, reach) in plan.steps.iter().enumerate() {
            if *reach == Reach::One {
                lives.insert((step, None), Life { has: Some(digest), ..Life::default() });
            }
        }
        let now = Boot(Duration::from_secs(1000));
        let (tasks, confirming) = (Vec::new(), Vec::new());
        Self {
            delivery,
            plan,
            now,
            digest,
            lives,
            passed: None,
            is_stale: false,
            tasks,
            confirming,
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Change(content) => {
                let digest = Digest::of(&[content]);
                self.is_stale |= digest != self.digest;
                self.digest = digest;
                let wanted =
                    Wanted { digest: self.digest, changed: Some(self.now), since: self.now };
                self.delivery.want(wanted);
            }
            Step::Join(target, knows) => self.join(target, knows.then_some(self.digest)),
            Step::Leave(target) => {
                self.delivery.leave(target);
                self.lives.retain(|(_, who), _| *who != Some(target));
                let is_other = |it: &Receiver<Key>| it.target != Some(target);
                self.confirming.retain(is_other);
                self.tasks.retain(|(task, _)| match task {
                    Task::Check => true,
                    Task::Act(receiver) => is_other(receiver),
                });
            }
            Step::Wait(millis) => self.now = self.now.after(Duration::from_millis(millis)),
            Step::Begin => {
                while let Some(task) = self.delivery.next(self.now, |_| true) {
                    self.begin(task);
                }
            }
            Step::Finish(which, ending) => self.finish(which, ending),
            Step::Forgive => {
                self.delivery.forgive();
                self.lives.values_mut().for_each(|life| life.refused = None);
            }
        }
    }

    fn join(&mut self, target: Key, has: Option<Digest>) {
        self.delivery.join(target, |_| has);
        for (step, reach) in self.plan.steps.iter().enumerate() {
            if *reach == Reach::Targets {
                let fresh = Life { has, ..Life::default() };
                self.lives.entry((step, Some(target))).or_insert(fresh);
            }
        }
    }

    /// Checks that a task may begin.
    fn begin(&mut self, task: Task<Key>) {
        self.tasks.push((task, self.digest));
        let Task::Act(Receiver { step, target }) = task else {
            assert!(self.plan.is_checked, "nothing is checked that need not be");
            assert_ne!(self.passed, Some(self.digest), "what has passed is not checked again");
            self.is_stale = false;
            return;
        };
        if self.plan.is_checked {
            assert_eq!(self.passed, Some(self.digest), "only what has passed is applied");
        }
        for (&(other, _), life) in &self.lives {
            if other < step {
                assert_eq!(life.has, Some(self.digest), "the steps before are done");
                assert!(!life.is_busy, "and confirmed");
            }
        }
        for (&(_, other), life) in &self.lives {
            let is_same = target.is_some() && other == target;
            assert!(!is_same || !life.is_busy, "one thing at a time for a target");
        }
        let life = self.lives.get_mut(&(step, target)).unwrap();
        assert_ne!(life.has, Some(self.digest), "nobody is given what he has");
        assert_ne!(life.refused, Some(self.digest), "nor what was refused to him");
        assert!(!life.is_busy, "one reload at a time");
        if let Some(at) = life.applied_at {
            assert!(self.now >= at.after(INTERVAL), "not before the interval has passed");
        }
        life.is_busy = true;
    }

    fn finish(&mut self, which: usize, ending: Ending) {
        let count = self.tasks.len() + self.confirming.len();
        if count == 0 {
            return;
        }
        let which = which % count;
        if which >= self.tasks.len() {
            let receiver = self.confirming.swap_remove(which - self.tasks.len());
            self.life(receiver).is_busy = false;
            self.delivery.release(receiver);
            return;
        }
        let (task, digest) = self.tasks.swap_remove(which);
        let Task::Act(receiver) = task else {
            let has_passed = match ending {
                Ending::Well => Some(true),
                Ending::Void => None,
                _ => Some(false),
            };
            self.delivery.checked(has_passed, self.now);
            self.passed = (has_passed == Some(true) && !self.is_stale).then_some(digest);
            return;
        };
        let now = self.now;
        let acted = match ending {
            Ending::Well => Acted::Applied(Then::Confirm),
            Ending::Void => Acted::Applied(Then::Rest),
            Ending::NotYet => Acted::NotYet(now.after(Duration::from_millis(10))),
            Ending::Refused => Acted::Refused,
            Ending::Failed => Acted::Failed,
        };
        self.delivery.acted(receiver, acted, now);
        let life = self.life(receiver);
        life.is_busy = false;
        match acted {
            Acted::Applied(then) => {
                life.has = Some(digest);
                life.applied_at = Some(now);
                life.is_busy = then == Then::Confirm;
                if then == Then::Confirm {
                    self.confirming.push(receiver);
                }
            }
            Acted::Refused => life.refused = Some(digest),
            Acted::NotYet(_) | Acted::Failed => {}
        }
    }

    fn life(&mut self, receiver: Receiver<Key>) -> &mut Life {
        self.lives.get_mut(&(receiver.step, receiver.target)).unwrap()
    }

    /// From here on all goes well: everybody gets what is wanted.
    fn come_to_rest(&mut self) {
        self.play(Step::Forgive);
        for _ in 0..200 {
            while !self.tasks.is_empty() || !self.confirming.is_empty() {
                self.play(Step::Finish(0, Ending::Well));
            }
            self.play(Step::Begin);
            if self.tasks.is_empty() {
                match self.delivery.next_at(|_| true) {
                    Some(at) if at > self.now => self.now = at,
                    Some(at) => {
                        panic!("it is due since {at:?}, and was not begun at {:?}", self.now)
                    }
                    None => break,
                }
            }
        }
        for (who, life) in &self.lives {
            assert_eq!(life.has, Some(self.digest), "{who:?} has what is wanted");
            assert!(!life.is_busy);
        }
        assert_eq!(self.delivery.owed().count(), 0);
        assert_eq!(self.delivery.next(self.now.after(Duration::from_hours(1)), |_| true), None);
    }
}

fn endings() -> impl Strategy<Value = Ending> {
    prop_oneof![
        3 => Just(Ending::Well),
        1 => Just(Ending::NotYet),
        1 => Just(Ending::Refused),
        1 => Just(Ending::Failed),
        1 => Just(Ending::Void),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u8..4).prop_map(Step::Change),
        2 => (0_u8..3, any::<bool>()).prop_map(|(target, knows)| Step::Join(target, knows)),
        1 => (0_u8..3).prop_map(Step::Leave),
        3 => (0_u64..3000).prop_map(Step::Wait),
        5 => Just(Step::Begin),
        5 => (0_usize..8, endings()).prop_map(|(which, ending)| Step::Finish(which, ending)),
        1 => Just(Step::Forgive),
    ];
    proptest::collection::vec(step, 0..80)
}

fn plans() -> impl Strategy<Value = Plan> {
    let reach = prop_oneof![Just(Reach::Targets), Just(Reach::One)];
    (proptest::collection::vec(reach, 1..4), any::<bool>()).prop_map(|(steps, is_checked)| Plan {
        steps,
        is_checked,
        min_interval: INTERVAL,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..Default::default() })]

    #[test]
    fn everybody_gets_the_last_content_once_and_nobody_anything_else(
        plan in plans(),
        steps in steps(),
    ) {
        let mut world = World::new(plan);
        for step in steps {
            world.play(step);
        }
        world.come_to_rest();
    }
}
