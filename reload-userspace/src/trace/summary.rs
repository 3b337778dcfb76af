//! All updates at once, in bounded memory: how long each stage took, and the slowest in full.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    record::Record,
    step::{Stage, Who},
};

/// How many of the slowest updates are kept in full.
pub(crate) const KEPT: usize = 50;

/// How many actors are told apart: whoever starts a process for each write makes one for each.
const MOST_ACTORS: usize = 256;

/// The longest that a stage can be told to have taken, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// How long a stage took over all updates, each after the stage before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Which; none for the whole update.
    pub(crate) stage: Option<Stage>,
    /// How many updates have passed it.
    pub(crate) count: u64,
    /// Half of them took no longer, in microseconds.
    pub(crate) p50_us: f64,
    /// Nine tenths.
    pub(crate) p90_us: f64,
    /// All but a hundredth.
    pub(crate) p99_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
}

/// How often somebody did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Deeds {
    /// Who; the last pid that did it under this name.
    #[serde(flatten)]
    pub(crate) who: Who,
    /// How many steps.
    pub(crate) steps: u64,
    /// Of how many updates.
    pub(crate) updates: u64,
}

/// What is told of all updates.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    /// How many there were.
    pub(crate) updates: u64,
    /// How many of them left the content as it was.
    pub(crate) unchanged: u64,
    /// How many records are missing.
    pub(crate) lost: u64,
    /// How long the stages took, and the whole.
    pub(crate) stages: Vec<Row>,
    /// Who did most.
    pub(crate) actors: Vec<Deeds>,
    /// How many actors more there were.
    pub(crate) more_actors: u64,
}

/// What is kept of all updates.
#[derive(Default)]
pub(crate) struct Summary {
    updates: u64,
    unchanged: u64,
    lost: u64,
    stages: BTreeMap<Stage, Histogram<u64>>,
    whole: Option<Histogram<u64>>,
    /// By name and container, and by pid where the name is not known.
    actors: HashMap<Who, Deeds>,
    more_actors: u64,
    slowest: Vec<Record>,
}

impl Summary {
    /// Takes in an update that is over.
    pub(crate) fn add(&mut self, record: Record) {
        self.updates += 1;
        self.unchanged += u64::from(record.unchanged);
        self.lost += record.lost.iter().map(|gap| gap.count).sum::<u64>();
        for stage in &record.stages {
            if let Some(took) = stage.took_us {
                note(self.stages.entry(stage.stage).or_insert_with(histogram), took);
            }
        }
        // Where there is one moment only nothing is known of how long it took.
        if record.total_us > 0.0 {
            note(self.whole.get_or_insert_with(histogram), record.total_us);
        }
        self.note_actors(&record);
        let place = self.slowest.partition_point(|it| it.total_us >= record.total_us);
        if place < KEPT {
            self.slowest.insert(place, record);
            self.slowest.truncate(KEPT);
        }
    }

    /// Counts what was lost when no update was under way.
    pub(crate) fn lose(&mut self, count: u64) {
        self.lost += count;
    }

    /// The slowest, in the order in which they came.
    #[must_use]
    pub(crate) fn slowest(&self) -> Vec<&Record> {
        let mut slowest: Vec<_> = self.slowest.iter().collect();
        slowest.sort_by_key(|record| record.update);
        slowest
    }

    /// What is told of all.
    #[must_use]
    pub(crate) fn told(&self) -> Told {
        let stages = self.stages.iter().map(|(&stage, it)| row(Some(stage), it));
        let whole = self.whole.iter().map(|it| row(None, it));
        let mut actors: Vec<_> = self.actors.values().cloned().collect();
        actors.sort_by(|a, b| b.steps.cmp(&a.steps).then_with(|| a.who.cmp(&b.who)));
        Told {
            updates: self.updates,
            unchanged: self.unchanged,
            lost: self.lost,
            stages: stages.chain(whole).collect(),
            actors,
            more_actors: self.more_actors,
        }
    }

    fn note_actors(&mut self, record: &Record) {
        let mut seen = Vec::new();
        for step in &record.steps {
            let Who { pid, comm, container } = step.who.clone();
            if pid.is_none() && comm.is_none() {
                continue;
            }
            let key = Who { pid: pid.filter(|_| comm.is_none()), comm, container };
            if !self.actors.contains_key(&key) && self.actors.len() >= MOST_ACTORS {
                self.more_actors += 1;
                continue;
            }
            let none = || Deeds { who: Who::default(), steps: 0, updates: 0 };
            let deeds = self.actors.entry(key.clone()).or_insert_with(none);
            deeds.who = step.who.clone();
            deeds.steps += step.count;
            if !seen.contains(&key) {
                deeds.updates += 1;
                seen.push(key);
            }
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("these bounds are in order")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what a stage took is positive, and cut at an hour"
)]
fn note(histogram: &mut Histogram<u64>, micros: f64) {
    histogram.saturating_record((micros * 1e3).round().max(1.0) as u64);
}

fn row(stage: Option<Stage>, histogram: &Histogram<u64>) -> Row {
    let at = |quantile| micros(histogram.value_at_quantile(quantile));
    Row {
        stage,
        count: histogram.len(),
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        max_us: micros(histogram.max()),
    }
}

/// Microseconds, to a tenth: a histogram knows three digits.
#[expect(clippy::cast_precision_loss, reason = "an hour in nanoseconds is far below 2^53")]
fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}
