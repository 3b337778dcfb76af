//! An update as it is told: the JSON of docs/trace.md, of which every format is made.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{
    step::{Stage, Who},
    update::Update,
};
use crate::clock::{self, Boot};

/// One update. The names of its fields are a contract.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// Its number in this run, from 1.
    pub(crate) update: u64,
    /// When it began, in UTC.
    pub(crate) began: String,
    /// The same on the clock that everything is timed on, `CLOCK_BOOTTIME`, in nanoseconds.
    pub(crate) boot_ns: u64,
    /// Where the events come from.
    pub(crate) source: String,
    /// How, if there is more than one way.
    pub(crate) strategy: Option<&'static str>,
    /// The files whose content is another.
    pub(crate) paths: Vec<String>,
    /// What has come between a watched path and its content.
    pub(crate) obstacles: Vec<String>,
    /// Whether the content is what it was.
    pub(crate) unchanged: bool,
    /// From the first step to the last stage, in microseconds.
    pub(crate) total_us: f64,
    /// The stages that were passed, in the order of time.
    pub(crate) stages: Vec<Passed>,
    /// Those that would have been seen, had they been passed.
    pub(crate) absent: Vec<Stage>,
    /// For how long it was followed, in microseconds since it began: what came later is not in it.
    pub(crate) followed_us: f64,
    /// Who was there before and has not ended by then, though there are new ones: the first sixteen.
    pub(crate) remaining: Vec<Who>,
    /// Those that cannot be seen here.
    pub(crate) not_visible: Vec<Hidden>,
    /// All that happened, in the order of time.
    pub(crate) steps: Vec<Step>,
    /// How many steps more there were.
    pub(crate) more_steps: u64,
    /// What is known to be missing.
    pub(crate) lost: Vec<Gap>,
}

/// A stage that was passed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Passed {
    /// Which.
    pub(crate) stage: Stage,
    /// When, in microseconds since the update began.
    pub(crate) at_us: f64,
    /// How long after the stage before, in microseconds.
    pub(crate) took_us: Option<f64>,
    /// Whether it took longest.
    pub(crate) is_slowest: bool,
    /// By whom.
    #[serde(flatten)]
    pub(crate) who: Who,
}

/// A stage that cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hidden {
    /// Which.
    pub(crate) stage: Stage,
    /// Why.
    pub(crate) reason: String,
}

/// One thing that happened, so many times in a row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    /// When first, in microseconds since the update began.
    pub(crate) at_us: f64,
    /// When last.
    pub(crate) until_us: f64,
    /// How often.
    pub(crate) count: u64,
    /// Of which stage it is, if of any.
    pub(crate) stage: Option<Stage>,
    /// By whom.
    #[serde(flatten)]
    pub(crate) who: Who,
    /// What.
    pub(crate) what: String,
}

/// Records that are missing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gap {
    /// When that was found, in microseconds since the update began.
    pub(crate) at_us: f64,
    /// How many.
    pub(crate) count: u64,
    /// Why.
    pub(crate) reason: String,
}

/// Where what is told comes from, and what cannot be seen of it.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// The name of the source.
    pub(crate) source: String,
    /// How it does its work.
    pub(crate) strategy: Option<&'static str>,
    /// What cannot be seen.
    pub(crate) hidden: Vec<Hidden>,
}

impl Record {
    /// Tells of an update that is over.
    #[must_use]
    pub(crate) fn of(update: &Update, sight: &Sight) -> Self {
        let passed = update.passed();
        let micros = |at: Boot| micros(at.since(update.began));
        let slowest = passed.iter().filter_map(|it| it.took).max();
        let is_passed = |stage: Stage| passed.iter().any(|it| it.stage == stage);
        let is_hidden = |stage: Stage| sight.hidden.iter().any(|it| it.stage == stage);
        let mut hidden: Vec<_> =
            sight.hidden.iter().filter(|it| !is_passed(it.stage)).cloned().collect();
        let mut absent: Vec<_> =
            Stage::ALL.into_iter().filter(|&it| !is_passed(it) && !is_hidden(it)).collect();
        for (stage, reason) in update.steps.iter().filter_map(|it| it.may_be) {
            let unsure = absent.extract_if(.., |it| *it == stage);
            hidden.extend(unsure.map(|stage| Hidden { stage, reason: reason.to_owned() }));
        }
        // Who makes a file writes to it before anybody can watch it; what is moved there is complete.
        if update.is_anew && !is_passed(Stage::Swapped) {
            let reason = "the file was made anew, and written before it could be watched";
            let written = |stage: &mut Stage| matches!(stage, Stage::FirstWrite | Stage::LastWrite);
            let unseen = absent.extract_if(.., written);
            hidden.extend(unseen.map(|stage| Hidden { stage, reason: reason.to_owned() }));
        }
        // Of a path that a lesser source watches it is only seen that it is another.
        if !update.is_told {
            let reason = "it was found by comparing the content: nobody has told of the change";
            let done = |stage: &mut Stage| *stage < Stage::Settled;
            let unseen = absent.extract_if(.., done);
            hidden.extend(unseen.map(|stage| Hidden { stage, reason: reason.to_owned() }));
        }
        // What is missing may have been any of them.
        if update.untold > 0 || !update.gaps.is_empty() {
            let reason = "records of this update are missing";
            let unknown = absent.drain(..);
            hidden.extend(unknown.map(|stage| Hidden { stage, reason: reason.to_owned() }));
        }
        Self {
            update: update.number,
            began: wall(update.began),
            boot_ns: u64::try_from(update.began.0.as_nanos()).unwrap_or(u64::MAX),
            source: sight.source.clone(),
            strategy: sight.strategy,
            paths: update.paths.iter().map(|it| it.to_string_lossy().into_owned()).collect(),
            obstacles: update.obstacles.values().cloned().collect(),
            unchanged: update.settled.is_some()
                && update.paths.is_empty()
                && update.obstacles.is_empty(),
            total_us: self::micros(update.total(&passed)),
            absent,
            followed_us: micros(update.over.unwrap_or(update.last()).max(update.last())),
            remaining: update.remaining.clone(),
            not_visible: hidden,
            steps: update
                .steps
                .iter()
                .map(|step| Step {
                    at_us: micros(step.at),
                    until_us: micros(step.until),
                    count: step.count,
                    stage: update.stage_of(step),
                    who: step.who.clone(),
                    what: step.what.clone(),
                })
                .collect(),
            more_steps: update.more + update.untold,
            lost: update
                .gaps
                .iter()
                .map(|gap| Gap {
                    at_us: micros(gap.at),
                    count: gap.count,
                    reason: gap.reason.clone(),
                })
                .collect(),
            stages: passed
                .into_iter()
                .map(|it| Passed {
                    stage: it.stage,
                    at_us: micros(it.at),
                    took_us: it.took.map(self::micros),
                    is_slowest: it.took.is_some() && it.took == slowest,
                    who: it.who,
                })
                .collect(),
        }
    }
}

/// Microseconds, to a tenth.
fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// A moment in UTC.
fn wall(at: Boot) -> String {
    let ago = clock::now().since(at);
    let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_told_of_is_not_said_not_to_have_happened() {
        let sight = Sight { source: "inotify".to_owned(), strategy: None, hidden: Vec::new() };
        let mut update = Update::new(1, Boot::ZERO);
        update.settle(Boot::ZERO);
        let record = Record::of(&update, &sight);
        let hidden: Vec<_> = record.not_visible.iter().map(|it| it.stage).collect();
        let done = [Stage::FirstWrite, Stage::LastWrite, Stage::Closed, Stage::Swapped];
        assert_eq!(hidden, done);
        assert!(record.absent.contains(&Stage::Signalled));
        update.is_told = true;
        let record = Record::of(&update, &sight);
        assert_eq!((record.not_visible, &record.absent[..4]), (Vec::new(), &done[..]));
    }
}
