//! What the agent itself takes: memory, room on the disk, time to start, processor time when there is nothing
//! to do.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    contender,
    cost::{self, Costs},
    lab::{Lab, Running, Talker},
    latency,
    report::{Bound, Row},
    stat::{Percentiles, median},
};
use crate::usage::Usage;

/// How many samples of latency are taken of it before.
const SAMPLES: usize = 200;

/// Measures the memory of an agent that has worked.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn memory(lab: &Lab) -> Result<Vec<Row>> {
    let folder = lab.grounds[0].watched("one")?;
    let start = || lab.agent(vec![folder.join("app.conf")]);
    let running = latency::p50_with(lab, start, &folder, SAMPLES)?.running;
    let usage = Usage::of_process(running.agent.pid())?;
    running.agent.stop()?;
    let (resident, mib) = size("resident, one file watched, after 210 reloads", usage.rss_kib);
    Ok(vec![
        resident.goal(mib, Bound::AtMost(8.0, " MiB")),
        size("what of it is its own (PSS)", usage.pss_kib).0,
        size("its peak", usage.peak_kib).0,
    ])
}

/// Says how large the agent's binary is, and the programs of others.
///
/// # Errors
///
/// Fails where a program that is there cannot be asked.
pub(crate) fn sizes(lab: &Lab) -> Result<Vec<Row>> {
    let kib = |path: &Path| -> Result<u64> {
        let file = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(file.len() / 1024)
    };
    let (own, mib) = size("reload-agent, static: all that its image contains", kib(&lab.binary)?);
    let mut rows = vec![own.goal(mib, Bound::AtMost(10.0, " MiB"))];
    for other in contender::ALL.into_iter().filter(|it| !it.is_agent()) {
        if let Some(program) = other.program(lab) {
            rows.push(size(format!("{}, without its libraries", other.name), kib(&program)?).0);
        }
    }
    Ok(rows)
}

/// A row for a size, and the size in MiB.
fn size(what: impl Into<String>, kib: u64) -> (Row, f64) {
    let mib = f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
    let shown = if kib < 1024 { format!("{kib} KiB") } else { format!("{mib:.1} MiB") };
    (Row::new(what, shown, json!(mib)), mib)
}

/// Sums up how the agent started, each time that it was.
pub(crate) fn start(costs: &Costs) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, samples) in [
        ("median, as the agent says (after_ms)", &costs.after),
        ("median, seen from outside", &costs.wall),
    ] {
        if let Some(median) = median(samples) {
            let row = Row::new(what, format!("{median:.0} ms"), json!(median));
            rows.push(row.goal(median, Bound::AtMost(300.0, " ms")));
        }
    }
    if let Some(Percentiles { p99, .. }) = Percentiles::of(&costs.wall) {
        rows.push(Row::new("slowest, seen from outside", format!("{p99:.0} ms"), json!(p99)));
    }
    rows
}

/// Measures what the agent does while others are busy with files that it does not watch.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn idle(lab: &Lab, time: Duration) -> Result<Vec<Row>> {
    let mut watch = Vec::new();
    for ground in &lab.grounds {
        watch.push(ground.watched("idle")?);
    }
    // It never gets a word, and is there so that the agent has a target.
    let _target = cost::start(lab, &lab.grounds[0], &Lab::name())?;
    let folder = lab.grounds[0].at("unrelated");
    let Running { mut agent, .. } = lab.agent(watch)?;
    // What it does right after `ready` is not idleness: let it come to rest.
    lab.patience.pause(Duration::from_secs(1))?;
    let before = Usage::of_process(agent.pid())?;
    let mut command = Command::new(&lab.cost);
    let mut busy = Talker::start(command.arg("busy").arg(folder).arg(time.as_secs().to_string()))?;
    let mut done: f64 = 0.0;
    while let Some(line) = busy.line(&lab.patience)? {
        done = line.parse().context("the busy program has failed")?;
    }
    let after = Usage::of_process(agent.pid())?;
    let mut decisions = 0_u32;
    while agent.next()?.is_some() {
        decisions += 1;
    }
    agent.stop()?;
    let seconds = time.as_secs_f64();
    let wakes =
        f64::from(u32::try_from(after.sleeps.saturating_sub(before.sleeps)).unwrap_or(u32::MAX));
    let ran =
        f64::from(u32::try_from(after.ran_ns.saturating_sub(before.ran_ns)).unwrap_or(u32::MAX));
    let (per_minute, share) = (wakes * 60.0 / seconds, ran / seconds / 1e7);
    let rate = done / seconds;
    Ok(vec![
        Row::new("unrelated file operations", format!("{rate:.0} a second"), json!(rate)),
        Row::new("wake-ups a minute", format!("{per_minute:.0}"), json!(per_minute))
            .goal(per_minute, Bound::AtMost(0.0, "")),
        Row::new("processor time", format!("{share:.3} %"), json!(share))
            .goal((share * 10.0).round() / 10.0, Bound::AtMost(0.0, " %")),
        Row::new("decisions logged", decisions.to_string(), json!(decisions)),
    ])
}
