//! What the agent costs everybody else: operations on files that nobody watches.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    lab::{Ground, Lab, Running, Talker},
    report::{Bound, Row},
    stat::{Spread, median},
};

/// Operations in the order of the table: their names in the program, and for people.
const OPERATIONS: [(&str, &str); 5] = [
    ("append", "write(2), appending"),
    ("overwrite", "write(2), overwriting"),
    ("rename", "rename(2)"),
    ("open", "open(2) and close(2)"),
    ("getppid", "getppid(2)"),
];

/// What was measured, and how the agent started each time.
#[derive(Debug)]
pub(crate) struct Costs {
    pub(crate) rows: Vec<Row>,
    /// From the start of the agent to `ready`, as it says, in milliseconds.
    pub(crate) after: Vec<f64>,
    /// The same from the outside.
    pub(crate) wall: Vec<f64>,
}

/// The nanoseconds of each operation.
type Sample = BTreeMap<String, f64>;

/// Measures each operation with the agent and without, by turns.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, rounds: usize) -> Result<Costs> {
    let mut programs = Vec::new();
    let mut watch = Vec::new();
    for ground in &lab.grounds {
        programs.push(start(lab, ground)?);
        watch.push(ground.watched("cost")?);
    }
    // Without and with, for each filesystem and round.
    let mut pairs: Vec<Vec<(Sample, Sample)>> = lab.grounds.iter().map(|_| Vec::new()).collect();
    let (mut after, mut wall) = (Vec::new(), Vec::new());
    let mut strategy = String::new();
    for round in 0..rounds {
        let mut without = Vec::new();
        // Every other round the other way round, so that what drifts over the run cancels out.
        if round % 2 == 0 {
            without = sample_all(lab, &mut programs)?;
        }
        let Running { agent, ready, wall: took } = lab.agent(watch.clone())?;
        let with = sample_all(lab, &mut programs)?;
        agent.stop()?;
        if round % 2 != 0 {
            without = sample_all(lab, &mut programs)?;
        }
        for (index, pair) in without.into_iter().zip(with).enumerate() {
            pairs[index].push(pair);
        }
        ready.text("/strategy").clone_into(&mut strategy);
        wall.push(took.as_secs_f64() * 1e3);
        let millis = ready.number("/after_ms").context("`ready` does not tell after_ms")?;
        after.push(f64::from(u32::try_from(millis).unwrap_or(u32::MAX)));
    }
    let mut rows = Vec::new();
    for (index, ground) in lab.grounds.iter().enumerate() {
        for (key, what) in OPERATIONS {
            // No filesystem has a part in the last one.
            let is_new = index == 0 || key != "getppid";
            let what = if key == "getppid" {
                what.to_owned()
            } else {
                format!("{what}, {}", ground.filesystem)
            };
            rows.extend(row(&what, key, &pairs[index], &strategy).filter(|_| is_new));
        }
    }
    Ok(Costs { rows, after, wall })
}

fn row(what: &str, key: &str, pairs: &[(Sample, Sample)], strategy: &str) -> Option<Row> {
    let pairs: Vec<_> = pairs
        .iter()
        .filter_map(|(without, with)| Some((*without.get(key)?, *with.get(key)?)))
        .collect();
    let base = median(&pairs.iter().map(|(without, _)| *without).collect::<Vec<_>>())?;
    let added: Vec<_> = pairs.iter().map(|(without, with)| with - without).collect();
    let Spread { median: added, around } = Spread::of(&added)?;
    let is_write = matches!(key, "append" | "overwrite");
    let most = if is_write && strategy == "tracepoint" { 250.0 } else { 100.0 };
    let shown = format!("{added:+.0} (+-{around:.0}) on {base:.0} ns");
    let value = json!({ "added_ns": added, "half_of_quartiles_ns": around, "without_ns": base });
    Some(Row::new(what, shown, value).goal(added, Bound::AtMost(most, " ns")))
}

/// Starts the program that operates on files, under the name of a target.
///
/// # Errors
///
/// Fails where it cannot be run.
pub(crate) fn start(lab: &Lab, ground: &Ground) -> Result<Talker> {
    let folder = ground.at("unrelated");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut command = Command::new(&lab.cost);
    Talker::start(command.arg("measure").arg(folder).arg(Lab::name()))
}

fn sample_all(lab: &Lab, programs: &mut [Talker]) -> Result<Vec<Sample>> {
    programs.iter_mut().map(|program| sample(lab, program)).collect()
}

fn sample(lab: &Lab, program: &mut Talker) -> Result<Sample> {
    program.go()?;
    let mut sample = Sample::new();
    while let Some(line) = program.line(&lab.patience)? {
        if line == "done" {
            return Ok(sample);
        }
        let parsed = line
            .split_once(' ')
            .and_then(|(name, nanos)| Some((name.to_owned(), nanos.parse().ok()?)));
        sample.extend(parsed);
    }
    ensure!(!sample.is_empty(), "the program that measures costs has failed");
    Ok(sample)
}
