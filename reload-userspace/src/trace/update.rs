//! One update, from its first step to the last that is told of it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::step::{Stage, Step, Who};
use crate::{clock::Boot, places::Index};

/// How many different steps of one update are kept, and of each stage the first and the last in any case:
/// the others are counted.
const MOST_STEPS: usize = 256;

/// A milestone that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Which.
    pub(crate) stage: Stage,
    /// When.
    pub(crate) at: Boot,
    /// How long after the one before it; none for the first.
    pub(crate) took: Option<Duration>,
    /// By whom.
    pub(crate) who: Who,
}

/// A gap: so many records are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// When it was found.
    pub(crate) at: Boot,
    /// How many.
    pub(crate) count: u64,
    /// Why, and of which hook.
    pub(crate) reason: String,
}

/// One update.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// When the first step of it was.
    pub(crate) began: Boot,
    /// In order.
    pub(crate) steps: Vec<Step>,
    /// How many more steps there were than are kept.
    pub(crate) more: u64,
    /// How many more there were that may have been of any stage.
    pub(crate) untold: u64,
    /// The signals that processes have sent, after whom they are for, and when first.
    sent: BTreeMap<(i32, i32), Boot>,
    /// What is missing.
    pub(crate) gaps: Vec<Gap>,
    /// The files whose content is another.
    pub(crate) paths: Vec<PathBuf>,
    /// What has come between a watched path and its content.
    pub(crate) obstacles: BTreeMap<Index, String>,
    /// Whether anybody has told of what was done to the files.
    pub(crate) is_told: bool,
    /// Whether there are watched files that were not watched before.
    pub(crate) is_anew: bool,
    /// When it was complete.
    pub(crate) settled: Option<Boot>,
    /// Whether somebody was still writing then, who was not waited for any longer.
    pub(crate) is_cut: bool,
    /// Who was there before, and has not ended when it was over, though there are new ones: the first of them.
    pub(crate) remaining: Vec<Who>,
    /// When it was over.
    pub(crate) over: Option<Boot>,
}

impl Update {
    /// Begins.
    #[must_use]
    pub(crate) fn new(number: u64, began: Boot) -> Self {
        Self {
            number,
            began,
            steps: Vec::new(),
            more: 0,
            untold: 0,
            sent: BTreeMap::new(),
            gaps: Vec::new(),
            paths: Vec::new(),
            obstacles: BTreeMap::new(),
            is_told: false,
            is_anew: false,
            settled: None,
            is_cut: false,
            remaining: Vec::new(),
            over: None,
        }
    }

    /// Takes in a step.
    pub(crate) fn add(&mut self, step: Step) {
        self.began = self.began.min(step.at);
        let step = step.since(self.began);
        if let Some(signal) = step.signal.filter(|_| step.stage == Some(Stage::Signalled)) {
            let first = self.sent.entry(signal).or_insert(step.at);
            *first = step.at.min(*first);
        }
        // What another processor has told may come a little late.
        let place = self.steps.iter().rposition(|it| it.at <= step.at).map_or(0, |it| it + 1);
        if let Some(before) = place.checked_sub(1)
            && self.steps[before].takes_in(&step)
        {
            return;
        }
        self.steps.insert(place, step);
        if self.steps.len() > MOST_STEPS {
            let step = self.steps.remove(self.least());
            self.more += step.count;
        }
    }

    /// Which step tells least: the last that is of no stage, or else one that is neither the first nor the last
    /// of its own.
    fn least(&self) -> usize {
        let (mut first, mut last) = (BTreeMap::new(), BTreeMap::new());
        for (index, step) in self.steps.iter().enumerate() {
            let stage = self.stage_of(step);
            first.entry(stage).or_insert(index);
            last.insert(stage, index);
        }
        let is_between = |index: &usize| {
            let stage = self.stage_of(&self.steps[*index]);
            first[&stage] < *index && *index < last[&stage]
        };
        last.get(&None)
            .copied()
            .or_else(|| (0..self.steps.len()).rev().find(is_between))
            .expect("there are more steps than stages have ends")
    }

    /// Of which stage a step is: a signal that nobody has sent is none that is delivered.
    #[must_use]
    pub(crate) fn stage_of(&self, step: &Step) -> Option<Stage> {
        let sent = || step.signal.and_then(|signal| self.sent.get(&signal).copied());
        let is_sent = || sent().is_some_and(|sent| sent <= step.until);
        step.stage.filter(|&stage| stage != Stage::Delivered || is_sent())
    }

    /// Gives away what has happened since: that belongs to the next one.
    pub(crate) fn cede(&mut self, since: Boot) -> Vec<Step> {
        let is_later = |step: &mut Step| step.at >= since && step.stage != Some(Stage::Settled);
        self.steps.extract_if(.., is_later).collect()
    }

    /// Notes that it was complete then, whatever was believed before.
    pub(crate) fn settle(&mut self, at: Boot) {
        self.settled = Some(at);
        self.steps.retain(|step| step.stage != Some(Stage::Settled));
        let obstacles: Vec<_> = self.obstacles.values().cloned().collect();
        let what = match (self.paths.as_slice(), obstacles.as_slice()) {
            ([], []) => "the same content as before".to_owned(),
            (_, []) if self.is_cut => "new content; it is still written to".to_owned(),
            (_, []) => "new content".to_owned(),
            (_, obstacles) => obstacles.join(", "),
        };
        self.add(Step::new(at, Some(Stage::Settled), Who::default(), what));
    }

    /// When the last of it was.
    #[must_use]
    pub(crate) fn last(&self) -> Boot {
        self.steps.iter().map(|step| step.until).fold(self.began, Boot::max)
    }

    /// The milestones that were passed, in the order of time.
    #[must_use]
    pub(crate) fn passed(&self) -> Vec<Passed> {
        let mut found: BTreeMap<Stage, (Boot, &Who)> = BTreeMap::new();
        for step in &self.steps {
            let Some(stage) = self.stage_of(step) else { continue };
            match stage {
                Stage::FirstWrite => {
                    found.entry(stage).or_insert((step.at, &step.who));
                    found.insert(Stage::LastWrite, (step.until, &step.who));
                }
                // The last counts of what goes on.
                Stage::Closed | Stage::Swapped | Stage::Exited => {
                    found.insert(stage, (step.until, &step.who));
                }
                _ => {
                    found.entry(stage).or_insert((step.at, &step.who));
                }
            }
        }
        let mut passed: Vec<_> = found.into_iter().collect();
        passed.sort_by_key(|&(stage, (at, _))| (at, stage));
        let mut before = None;
        let passed = passed.into_iter().map(|(stage, (at, who))| {
            let took = before.replace(at).map(|before| at.since(before));
            Passed { stage, at, took, who: who.clone() }
        });
        passed.collect()
    }

    /// From the first step to the last milestone of these.
    #[must_use]
    pub(crate) fn total(&self, passed: &[Passed]) -> Duration {
        passed.last().map_or(Duration::ZERO, |last| last.at.since(self.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Boot {
        Boot(Duration::from_micros(micros))
    }

    fn step(micros: u64, stage: Stage, what: &str) -> Step {
        Step::new(at(micros), Some(stage), Who::default(), what.to_owned())
    }

    #[test]
    fn milestones_are_in_the_order_of_time() {
        let mut update = Update::new(1, at(10));
        for (micros, stage) in [
            (10, Stage::FirstWrite),
            (40, Stage::Swapped),
            (30, Stage::FirstWrite),
            (50, Stage::Settled),
            (90, Stage::Exited),
            (60, Stage::Signalled),
            (95, Stage::Exited),
        ] {
            update.add(step(micros, stage, "x"));
        }
        let passed = update.passed();
        let got: Vec<_> =
            passed.iter().map(|it| (it.stage, it.at.since(update.began).as_micros())).collect();
        let expected = [
            (Stage::FirstWrite, 0),
            (Stage::LastWrite, 20),
            (Stage::Swapped, 30),
            (Stage::Settled, 40),
            (Stage::Signalled, 50),
            (Stage::Exited, 85),
        ];
        assert_eq!(got, expected);
        assert_eq!(passed[0].took, None);
        assert_eq!(passed[5].took, Some(Duration::from_micros(35)));
        assert_eq!(update.total(&passed), Duration::from_micros(85));
        let mut update = Update::new(1, at(10));
        update.add(Step::new(at(10), None, Who::default(), String::new()));
        update.add(step(30, Stage::Swapped, "x"));
        let total = update.total(&update.passed());
        assert_eq!(total, Duration::from_micros(20), "it began before its first stage");
    }

    #[test]
    fn what_came_after_the_next_change_is_ceded_to_it() {
        let mut update = Update::new(1, at(10));
        for (micros, stage) in [
            (10, Stage::Swapped),
            (12, Stage::Signalled),
            (30, Stage::Delivered),
            (31, Stage::Opened),
        ] {
            update.add(step(micros, stage, "x"));
        }
        update.settle(at(40));
        let ceded: Vec<_> = update.cede(at(30)).into_iter().filter_map(|it| it.stage).collect();
        assert_eq!(ceded, [Stage::Delivered, Stage::Opened]);
        let kept: Vec<_> = update.steps.iter().filter_map(|it| it.stage).collect();
        assert_eq!(kept, [Stage::Swapped, Stage::Signalled, Stage::Settled]);
    }

    #[test]
    fn only_the_end_of_what_was_there_before_is_a_milestone() {
        let end = |born| Step::end(at(50), at(born), Who::default());
        let mut update = Update::new(1, at(10));
        update.add(end(9));
        update.add(end(11));
        let stages: Vec<_> = update.steps.iter().map(|it| it.stage).collect();
        assert_eq!(stages, [Some(Stage::Exited), None]);
        // What is old in the next one was made in this one.
        let mut next = Update::new(2, at(40));
        update.cede(at(40)).into_iter().for_each(|step| next.add(step));
        assert_eq!((next.steps[0].stage, next.steps[0].count), (Some(Stage::Exited), 2));
    }

    #[test]
    fn what_goes_on_is_one_step_and_what_is_too_much_is_counted() {
        let mut update = Update::new(1, at(0));
        for micros in 0..1000 {
            update.add(step(micros, Stage::FirstWrite, "write"));
        }
        assert_eq!((update.steps.len(), update.steps[0].count), (1, 1000));
        for micros in 1000..2000 {
            update.add(step(micros, Stage::Opened, &micros.to_string()));
        }
        assert_eq!((update.steps.len(), update.more), (MOST_STEPS, 745));
    }

    #[test]
    fn only_a_signal_that_was_sent_is_delivered() {
        const HUP: Option<(i32, i32)> = Some((7, 1));
        const ALRM: Option<(i32, i32)> = Some((7, 14));
        const OTHERS: Option<(i32, i32)> = Some((8, 1));
        let mut update = Update::new(1, at(0));
        for (micros, stage, signal) in [
            (10, None, ALRM),
            (11, Some(Stage::Delivered), ALRM),
            // One that it has sent itself.
            (15, Some(Stage::Delivered), HUP),
            (21, Some(Stage::Delivered), HUP),
            (22, Some(Stage::Delivered), OTHERS),
            // It is heard of late.
            (20, Some(Stage::Signalled), HUP),
        ] {
            let what = format!("{signal:?} at {micros}");
            let step = Step::new(at(micros), stage, Who::default(), what);
            update.add(Step { signal, ..step });
        }
        let got: Vec<_> = update.passed().iter().map(|it| (it.stage, it.at)).collect();
        assert_eq!(got, [(Stage::Signalled, at(20)), (Stage::Delivered, at(21))]);
        let stages: Vec<_> = update.steps.iter().map(|it| update.stage_of(it)).collect();
        let of = [None, None, None, Some(Stage::Signalled), Some(Stage::Delivered), None];
        assert_eq!(stages, of);
    }

    #[test]
    fn what_is_of_a_stage_is_kept_however_much_there_is_of_others() {
        let mut update = Update::new(1, at(0));
        update.add(step(0, Stage::Swapped, "x"));
        for micros in 1..1000 {
            update.add(Step::new(at(micros), None, Who::default(), micros.to_string()));
        }
        update.add(step(1000, Stage::Signalled, "x"));
        for micros in 1001..2000 {
            update.add(step(micros, Stage::Exited, &micros.to_string()));
        }
        update.add(step(2000, Stage::Opened, "x"));
        let got: Vec<_> = update.passed().iter().map(|it| (it.stage, it.at)).collect();
        let expected = [
            (Stage::Swapped, at(0)),
            (Stage::Signalled, at(1000)),
            (Stage::Exited, at(1999)),
            (Stage::Opened, at(2000)),
        ];
        assert_eq!(got, expected);
        assert_eq!(update.steps.len() as u64 + update.more, 2001);
    }
}
