//! Changes in quick succession: is the last one always followed, and by how many signals?

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    contender::{ALL, Contender},
    lab::{Lab, Talker},
    latency::{Way, start_target},
    report::{Bound, Row},
};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many changes are made as fast as they can be.
    pub(crate) changes: u32,
    /// How many pairs of changes are made at each distance.
    pub(crate) pairs: u32,
}

/// The distances between the two changes of a pair, in microseconds.
pub(crate) const SPACINGS: [u32; 7] = [0, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

/// How long everybody is left alone between two pairs.
const REST: Duration = Duration::from_millis(200);

/// What was measured of a contender.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    /// Of as many changes as can be made.
    pub(crate) storm: Burst,
    /// How many of the second changes were missed, by the distance.
    pub(crate) missed: Vec<(u32, u32)>,
}

/// What came of a burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Burst {
    pub(crate) signals: u32,
    /// From the last change until the target had read it, or `None` where it has not.
    pub(crate) served: Option<Duration>,
}

/// Measures all of them.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, plan: Plan) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for (turn, contender) in ALL.into_iter().filter(|it| it.absence().is_none()).enumerate() {
        println!("  bursts: {}", contender.name);
        let folder = lab.grounds[0].watched(&format!("burst-{turn}"))?;
        let (mut talker, pid) = start_target(lab, &folder, Way::Rename)?;
        let started = contender.start(lab, &folder, &pid)?;
        lab.patience.pause(REST)?;
        let mut missed = Vec::new();
        for spacing in SPACINGS {
            let mut count = 0;
            for _ in 0..plan.pairs {
                let burst = burst(lab, &mut talker, 2, spacing)?;
                count += u32::from(burst.served.is_none());
                lab.patience.pause(REST)?;
            }
            missed.push((spacing, count));
        }
        let storm = burst(lab, &mut talker, plan.changes, 0)?;
        started.stop()?;
        all.push(Measured { contender, storm, missed });
    }
    Ok(all)
}

impl Measured {
    /// Its line in the table of the storm.
    pub(crate) fn storm_row(&self) -> Row {
        let Burst { signals, served } = self.storm;
        let shown = match served {
            Some(after) => {
                format!("{:.1} ms later, {signals} signals", after.as_secs_f64() * 1e3)
            }
            None => format!("not in 1 s, {signals} signals"),
        };
        let value = json!({
            "signals": signals, "served_after_us": served.map(|it| it.as_secs_f64() * 1e6),
        });
        let row = Row::new(self.contender.name, shown, value);
        let after = served.map_or(f64::INFINITY, |it| it.as_secs_f64());
        if self.contender.is_agent() { row.goal(after, Bound::AtMost(1.0, " s")) } else { row }
    }

    /// Its line in the table of pairs.
    pub(crate) fn pairs_row(&self) -> Row {
        let shown: Vec<_> = self.missed.iter().map(|(_, count)| count.to_string()).collect();
        let value =
            self.missed.iter().map(|(us, count)| json!({ "spacing_us": us, "missed": count }));
        let value: serde_json::Value = value.collect();
        Row::new(self.contender.name, shown.join(" / "), value)
    }
}

fn burst(lab: &Lab, talker: &mut Talker, changes: u32, spacing: u32) -> Result<Burst> {
    talker.go(&format!("burst {changes} {spacing}"))?;
    let mut found = None;
    while let Some(line) = talker.line(&lab.patience)? {
        if line == "done" {
            return found.context("the program that makes bursts has said nothing of one");
        }
        found = parse(&line);
    }
    anyhow::bail!("the program that makes bursts has failed")
}

/// Takes `burst 3 250000` apart.
fn parse(line: &str) -> Option<Burst> {
    let (signals, nanos) = line.strip_prefix("burst ")?.split_once(' ')?;
    let served = nanos.parse::<i64>().ok()?;
    let served = u64::try_from(served).ok().map(Duration::from_nanos);
    Some(Burst { signals: signals.parse().ok()?, served })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_was_not_followed_has_no_time() {
        let served = Some(Duration::from_micros(250));
        assert_eq!(parse("burst 3 250000"), Some(Burst { signals: 3, served }));
        assert_eq!(parse("burst 0 -1"), Some(Burst { signals: 0, served: None }));
        assert_eq!(parse("burst x 1"), None);
    }
}
