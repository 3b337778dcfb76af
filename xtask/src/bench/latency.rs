//! From a change of the watched file to the handler of the process that is told of it: everybody by turns.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    contender::{ALL, BARE, Contender, SHELL_LOOP, Started},
    lab::{Lab, Running, Talker},
    report::{Bound, Row},
    stat::{Confident, Percentiles, median},
};
use crate::usage::Usage;

/// How a file is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A new one is renamed over it.
    Rename,
    /// The kubelet swaps its link.
    Swap,
    /// It is written to in place.
    Write,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Rename, Self::Swap, Self::Write];

    /// As the program that changes it calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rename => "rename",
            Self::Swap => "swap",
            Self::Write => "write",
        }
    }

    /// As a person calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rename => "rename(2) over the file",
            Self::Swap => "the kubelet's swap of ..data",
            Self::Write => "a write in place",
        }
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) samples: usize,
    /// Of those that are slow, and miss what comes while they start anew.
    pub(crate) samples_of_slow: usize,
}

/// What was measured of a contender with one way.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) rounds: Vec<Round>,
}

/// One turn of it.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// In microseconds, in the order of time.
    pub(crate) samples: Vec<f64>,
    pub(crate) missed: usize,
    pub(crate) extra: usize,
    pub(crate) ready: Duration,
    /// What it had taken when it was over.
    pub(crate) usage: Usage,
    /// For each change, in microseconds and times.
    pub(crate) processor_us: f64,
    pub(crate) wakes: f64,
}

/// Measures all by turns, except who cannot be.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, plan: Plan, way: Way) -> Result<Vec<Measured>> {
    let present = ALL.into_iter().filter(|it| it.absence().is_none());
    let fresh = |contender| Measured { contender, rounds: Vec::new() };
    let mut all: Vec<_> = present.map(fresh).collect();
    for round in 0..plan.rounds {
        println!("  {}: round {} of {}", way.name(), round + 1, plan.rounds);
        for (turn, measured) in all.iter_mut().enumerate() {
            let folder = lab.grounds[0].watched(&format!("{}-{round}-{turn}", way.word()))?;
            let slow = measured.contender.is_slow();
            let samples = if slow { plan.samples_of_slow } else { plan.samples };
            measured.rounds.push(one_round(lab, measured.contender, &folder, way, samples)?);
        }
    }
    Ok(all)
}

fn one_round(
    lab: &Lab,
    contender: Contender,
    folder: &Path,
    way: Way,
    samples: usize,
) -> Result<Round> {
    let (mut talker, pid) = start_target(lab, folder, way)?;
    let started = contender.start(lab, folder, &pid)?;
    if contender.is_slow() {
        // What it does right after its start is not to be measured.
        lab.patience.pause(Duration::from_millis(200))?;
    }
    let before = started.usage()?;
    let taken = take(lab, &mut talker, samples, REST)?;
    let usage = started.usage()?;
    let changes = count(samples + WARM_UP);
    // Most of what a script does is done by those that have ended.
    let ran = if contender.is_slow() {
        usage.ran.saturating_sub(before.ran).as_secs_f64() * 1e6
    } else {
        number(usage.ran_ns.saturating_sub(before.ran_ns)) / 1e3
    };
    let ready = started.ready;
    Started::stop(started)?;
    Ok(Round {
        samples: taken.samples,
        missed: taken.missed,
        extra: taken.extra,
        ready,
        usage,
        processor_us: ran / changes,
        wakes: number(usage.sleeps.saturating_sub(before.sleeps)) / changes,
    })
}

#[expect(clippy::cast_precision_loss, reason = "the first fifteen digits will do")]
fn number(number: u64) -> f64 {
    number as f64
}

fn count(samples: usize) -> f64 {
    f64::from(u32::try_from(samples).unwrap_or(u32::MAX))
}

impl Measured {
    fn of(&self, pick: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(pick).collect()
    }

    /// All samples, in microseconds.
    pub(crate) fn samples(&self) -> Vec<f64> {
        self.rounds.iter().flat_map(|round| round.samples.iter().copied()).collect()
    }

    fn percentiles(&self) -> Vec<Percentiles> {
        self.rounds.iter().filter_map(|round| Percentiles::of(&round.samples)).collect()
    }

    /// The median, and its interval from round to round.
    pub(crate) fn middle(&self) -> Option<Confident> {
        Confident::of(&self.percentiles().iter().map(|it| it.p50).collect::<Vec<_>>())
    }

    pub(crate) fn missed(&self) -> usize {
        self.rounds.iter().map(|it| it.missed).sum()
    }

    pub(crate) fn extra(&self) -> usize {
        self.rounds.iter().map(|it| it.extra).sum()
    }

    /// Its line in the table.
    pub(crate) fn row(&self) -> Row {
        let (missed, extra) = (self.missed(), self.extra());
        let Some(Percentiles { p50, p90, p99 }) = Percentiles::median(&self.percentiles()) else {
            let shown = format!("all {missed} missed");
            return Row::new(self.contender.name, shown, json!({ "missed": missed }));
        };
        let max = self.samples().into_iter().fold(0.0, f64::max);
        let counts = [(missed, "missed"), (extra, "extra")].into_iter();
        let odd = counts.filter(|(count, _)| *count != 0);
        let odd: Vec<_> = odd.map(|(count, what)| format!(", {count} {what}")).collect();
        let odd = odd.concat();
        let shown = format!("{p50:.0} / {p90:.0} / {p99:.0} / {max:.0}{odd}");
        let interval = self.middle().map(|it| [it.low, it.high]);
        let value = json!({
            "p50_us": p50, "p50_interval_us": interval, "p90_us": p90, "p99_us": p99, "max_us": max,
            "samples": self.samples().len(), "missed": missed, "extra": extra,
        });
        Row::new(self.contender.name, shown, value)
    }

    /// How sure its median is, and what it takes: its line in a table of its own.
    pub(crate) fn cost_row(&self) -> Row {
        let interval = self.middle().map(|it| format!("{:.0} to {:.0}", it.low, it.high));
        // There is a round, or else a number that is none.
        let of = |pick: fn(&Round) -> f64| median(&self.of(pick)).unwrap_or(f64::NAN);
        let processor = of(|it| it.processor_us);
        let wakes = of(|it| it.wakes);
        let rss = of(|it| number(it.usage.rss_kib));
        let pss = of(|it| number(it.usage.pss_kib));
        let ready = of(|it| it.ready.as_secs_f64() * 1e3);
        let shown = format!(
            "{} / {processor:.0} / {wakes:.1} / {:.1} / {:.1} / {ready:.0}",
            interval.as_deref().unwrap_or("-"),
            rss / 1024.0,
            pss / 1024.0,
        );
        let value = json!({
            "processor_us_a_change": processor, "wakes_a_change": wakes, "rss_kib": rss,
            "pss_kib": pss, "ready_ms": ready,
        });
        Row::new(self.contender.name, shown, value)
    }
}

/// How the agent compares to the others, beside the goals.
pub(crate) fn ratios(all: &[Measured]) -> Vec<Row> {
    let find = |contender| all.iter().find(|it| it.contender == contender);
    let mut rows = Vec::new();
    for agent in all.iter().filter(|it| it.contender.is_agent()) {
        let ratios = [
            ("p50", find(BARE), false, Bound::AtMost(1.5, " x")),
            ("p99", find(BARE), false, Bound::AtMost(2.0, " x")),
            ("p50", find(SHELL_LOOP), true, Bound::AtLeast(50.0, " x")),
        ];
        for (which, other, is_upside_down, bound) in ratios {
            let pick = |it: &Percentiles| if which == "p50" { it.p50 } else { it.p99 };
            let Some(other) = other else { continue };
            let (above, below) = if is_upside_down { (other, agent) } else { (agent, other) };
            let Some(ratio) = ratio(above, below, pick) else { continue };
            let what = format!("{} / {}, {which}", above.contender.name, below.contender.name);
            rows.push(Row::new(what, format!("{ratio:.2} x"), json!(ratio)).goal(ratio, bound));
        }
    }
    rows
}

/// The median of the ratios of neighbours in time, so that what drifts over the run cancels out.
fn ratio(above: &Measured, below: &Measured, pick: impl Fn(&Percentiles) -> f64) -> Option<f64> {
    let (above, below) = (above.percentiles(), below.percentiles());
    let pairs = above.iter().zip(&below);
    median(&pairs.map(|(above, below)| pick(above) / pick(below)).collect::<Vec<_>>())
}

/// What was measured of an agent that goes on running.
pub(crate) struct Sampled {
    pub(crate) running: Running,
    /// In microseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) missed: usize,
    /// For each change, in microseconds.
    pub(crate) processor_us: f64,
}

/// Measures an agent that `start` starts.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn p50_with(
    lab: &Lab,
    start: impl FnOnce() -> Result<Running>,
    folder: &Path,
    samples: usize,
) -> Result<Sampled> {
    let (mut talker, _pid) = start_target(lab, folder, Way::Rename)?;
    let running = start()?;
    let before = Usage::of_process(running.agent.pid())?;
    let taken = take(lab, &mut talker, samples, REST)?;
    let after = Usage::of_process(running.agent.pid())?;
    Ok(Sampled {
        p50: Percentiles::of(&taken.samples).map(|it| it.p50),
        missed: taken.missed,
        processor_us: number(after.ran_ns.saturating_sub(before.ran_ns))
            / 1e3
            / count(samples + WARM_UP),
        running,
    })
}

/// How many changes the program makes before those that it measures.
const WARM_UP: usize = 10;

/// How long everybody is left alone after a change, half as long at least and half as long again at most: what
/// he does after his signal is not to be measured, nor what a changed file costs whoever is in the midst of that.
const REST: Duration = Duration::from_millis(60);

/// Starts the program that changes the file, and gives the pid of its target, which catches the signal.
///
/// # Errors
///
/// Fails where it does not start.
pub(crate) fn start_target(lab: &Lab, folder: &Path, way: Way) -> Result<(Talker, String)> {
    let mut command = Command::new(&lab.latency);
    let mut talker = Talker::start(command.arg(folder).arg(Lab::name()).arg(way.word()))?;
    let line = talker.line(&lab.patience)?.unwrap_or_default();
    let pid = line.strip_prefix("target ").context("the program that measures has no target")?;
    let pid = pid.to_owned();
    Ok((talker, pid))
}

/// What came of so many changes.
struct Taken {
    samples: Vec<f64>,
    missed: usize,
    extra: usize,
}

fn take(lab: &Lab, talker: &mut Talker, samples: usize, pause: Duration) -> Result<Taken> {
    talker.go(&format!("single {samples} {}", pause.as_micros()))?;
    let mut taken = Taken { samples: Vec::new(), missed: 0, extra: 0 };
    while let Some(line) = talker.line(&lab.patience)? {
        if line == "done" {
            return Ok(taken);
        } else if line == "missed" {
            taken.missed += 1;
        } else if let Some(number) = line.strip_prefix("extra ") {
            taken.extra = number.parse().context("the program that measures speaks otherwise")?;
        } else if let Ok(nanos) = line.parse::<f64>() {
            taken.samples.push(nanos / 1e3);
        }
    }
    anyhow::bail!("the program that measures latency has failed")
}
