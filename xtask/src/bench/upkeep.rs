//! What the agent itself takes: memory, time to start, processor time when there is nothing to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    cost::{self, Costs},
    lab::{Lab, Running, Talker},
    latency,
    report::{Bound, Row},
    stat::{Percentiles, median},
};
use crate::{agent::Event, patience::Interrupted};

/// How many directories are to be watched, then how many are tried where that does not work.
const MANY: [usize; 4] = [10_000, 8_000, 4_000, 1_000];

/// How many samples of latency are taken of an agent that watches one, and of one that watches many.
const SAMPLES: usize = 200;
const SAMPLES_OF_MANY: usize = 40;

/// What `/proc` tells of a process.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    rss_kib: u64,
    peak_kib: u64,
    /// How often it went to sleep, which is how often it was woken.
    sleeps: u64,
    ran_ns: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let mut usage = Self::default();
        let read =
            |path: String| fs::read_to_string(&path).with_context(|| format!("cannot read {path}"));
        let status = read(format!("/proc/{pid}/status"))?;
        usage.rss_kib = field(&status, "VmRSS:");
        usage.peak_kib = field(&status, "VmHWM:");
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let task = task.with_context(|| format!("cannot list {tasks}"))?.path();
            let status = read(format!("{}/status", task.display()))?;
            usage.sleeps += field(&status, "voluntary_ctxt_switches:");
            // The first number is the time on a processor, Documentation/scheduler/sched-stats.rst.
            let stat = read(format!("{}/schedstat", task.display()))?;
            let ran = stat.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            usage.ran_ns += ran.unwrap_or_default();
        }
        Ok(usage)
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Measures an agent that has worked: its memory, then what becomes of both with many directories.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn memory_and_scale(lab: &Lab) -> Result<(Vec<Row>, Vec<Row>)> {
    let ground = &lab.grounds[0];
    let folder = ground.watched("one")?;
    let watch = vec![folder.join("app.conf")];
    let one = Measured::of(lab, watch, &folder, SAMPLES)?;
    let rows = vec![
        memory("resident, one file watched, after 210 reloads", one.usage.rss_kib, Some(8.0)),
        memory("its peak", one.usage.peak_kib, None),
    ];
    Ok((rows, scale(lab, &one)?))
}

/// Watches as many directories as is possible.
fn scale(lab: &Lab, one: &Measured) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in MANY {
        let folder = |index| lab.grounds[0].watched(&format!("many/{index}"));
        let watch: Vec<PathBuf> = (0..count).map(folder).collect::<Result<_>>()?;
        let middle = watch[count / 2].clone();
        let many = match Measured::of(lab, watch, &middle, SAMPLES_OF_MANY) {
            Ok(many) => many,
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                // The list of arguments has a limit, and so may the agent.
                let error = format!("{error:#}");
                println!("\n{count} directories cannot be watched: {error}.");
                rows.push(Row::new(format!("{count} directories"), "not possible", json!(error)));
                continue;
            }
        };
        let armed = many.wall.saturating_sub(one.wall).as_secs_f64();
        let what = format!("{count} armed, beyond the start with one");
        let row = Row::new(what, format!("{armed:.2} s"), json!(armed));
        rows.push(row.goal(armed, Bound::AtMost(2.0, " s")));
        rows.push(memory("resident", many.usage.rss_kib, None));
        let lost = many.lost.map_or("did not end when asked".to_owned(), |lost| lost.to_string());
        rows.push(Row::new("events lost", lost, json!(many.lost)));
        let shown = |p50: Option<f64>| p50.map_or("-".to_owned(), |p50| format!("{p50:.0} us"));
        let value = json!({ "p50_us": many.p50, "p50_of_one_us": one.p50, "missed": many.missed });
        let (of_many, of_one) = (shown(many.p50), shown(one.p50));
        rows.push(Row::new(
            "rename -> handler, p50",
            format!("{of_many}, {of_one} with one"),
            value,
        ));
        if many.missed != 0 {
            let shown = format!("{} of {SAMPLES_OF_MANY}", many.missed);
            rows.push(Row::new("not handled within 1 s", shown, json!(many.missed)));
        }
        break;
    }
    Ok(rows)
}

/// What was measured of an agent that has reloaded something many times.
#[derive(Debug)]
struct Measured {
    wall: Duration,
    p50: Option<f64>,
    missed: usize,
    usage: Usage,
    /// How often it lost events, or `None` where it was asked to stop and had to be killed.
    lost: Option<usize>,
}

impl Measured {
    fn of(lab: &Lab, watch: Vec<PathBuf>, folder: &Path, samples: usize) -> Result<Self> {
        let start = || lab.agent(watch);
        let (running, p50, missed) = latency::p50_with(lab, start, folder, samples)?;
        let usage = Usage::of(running.agent.pid())?;
        // That it does not end in time is a finding, too, and should not cost us the others.
        let events = running.agent.stop().ok();
        let is_lost = |event: &&Event| event.name() == "lost";
        let lost = events.map(|events| events.iter().filter(is_lost).count());
        Ok(Self { wall: running.wall, p50, missed, usage, lost })
    }
}

fn memory(what: &str, kib: u64, most: Option<f64>) -> Row {
    let mib = f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
    let row = Row::new(what, format!("{mib:.1} MiB"), json!(mib));
    match most {
        Some(most) => row.goal(mib, Bound::AtMost(most, " MiB")),
        None => row,
    }
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
    let before = Usage::of(agent.pid())?;
    let mut command = Command::new(&lab.cost);
    let mut busy = Talker::start(command.arg("busy").arg(folder).arg(time.as_secs().to_string()))?;
    let mut done: f64 = 0.0;
    while let Some(line) = busy.line(&lab.patience)? {
        done = line.parse().context("the busy program has failed")?;
    }
    let after = Usage::of(agent.pid())?;
    let mut decisions = 0_u32;
    while agent.next()?.is_some() {
        decisions += 1;
    }
    agent.stop()?;
    let seconds = time.as_secs_f64();
    let wakes = f64::from(u32::try_from(after.sleeps - before.sleeps).unwrap_or(u32::MAX));
    let ran = f64::from(u32::try_from(after.ran_ns - before.ran_ns).unwrap_or(u32::MAX));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_status() {
        let status = "Name:\ta\nVmHWM:\t    5044 kB\nVmRSS:\t    4988 kB\n\
                      voluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        let numbers = ["VmRSS:", "VmHWM:", "voluntary_ctxt_switches:", "VmNope:"];
        assert_eq!(numbers.map(|name| field(status, name)), [4988, 5044, 17, 0]);
    }
}
