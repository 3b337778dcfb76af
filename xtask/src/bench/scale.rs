//! What becomes of latency, memory and the start where there is much to watch, or many rules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    lab::{Lab, Running, Talker},
    latency::{self, Sampled},
    report::{Bound, Row},
};
use crate::{agent::Event, patience::Interrupted, usage::Usage};

/// How many directories are watched, by one rule.
const DIRECTORIES: [u32; 4] = [10, 100, 1_000, 10_000];

/// How many rules there are, each with a directory.
const RULES: [u32; 4] = [1, 10, 50, 250];

/// How many samples of latency are taken each time.
const SAMPLES: usize = 100;

/// What was measured of an agent that watches so much.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) count: u32,
    /// From its start until it was ready, in seconds.
    pub(crate) ready: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) missed: usize,
    pub(crate) rss_mib: f64,
    pub(crate) peak_mib: f64,
    /// For each change, in microseconds.
    pub(crate) processor_us: f64,
    /// How often it lost events, or `None` where it was asked to stop and had to be killed.
    pub(crate) lost: Option<usize>,
}

/// What is there more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directories,
    Rules,
}

/// Measures an agent with more and more of it. What cannot be is told of and left out.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, kind: Kind) -> Result<Vec<Measured>> {
    let counts = if kind == Kind::Directories { DIRECTORIES } else { RULES };
    let mut all = Vec::new();
    for count in counts {
        match one(lab, kind, count) {
            Ok(measured) => all.push(measured),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            // There are limits to how much may be watched.
            Err(error) => println!("\nNot with {count} {}: {error:#}.", kind.name()),
        }
    }
    Ok(all)
}

/// Measures latency while others are busy with files that nobody watches, and how busy they are.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn beside_others(lab: &Lab, time: Duration) -> Result<Vec<Row>> {
    let folder = lab.grounds[0].watched("beside")?;
    let unrelated = lab.grounds[0].at("unrelated");
    fs::create_dir_all(&unrelated)
        .with_context(|| format!("cannot create {}", unrelated.display()))?;
    let sample = || {
        let start = || lab.agent(vec![folder.join("app.conf")]);
        let Sampled { running, p50, missed, .. } = latency::p50_with(lab, start, &folder, SAMPLES)?;
        running.agent.stop()?;
        anyhow::Ok((p50, missed))
    };
    let (alone, _) = sample()?;
    let mut command = Command::new(&lab.cost);
    let command = command.arg("busy").arg(unrelated).arg(time.as_secs().to_string());
    let mut busy = Talker::start(command)?;
    let (beside, missed) = sample()?;
    let mut done: f64 = 0.0;
    while let Some(line) = busy.line(&lab.patience)? {
        done = line.parse().context("the busy program has failed")?;
    }
    let rate = done / time.as_secs_f64();
    let shown = |p50: Option<f64>| p50.map_or("-".to_owned(), |it| format!("{it:.0} us"));
    Ok(vec![
        Row::new("unrelated file operations", format!("{rate:.0} a second"), json!(rate)),
        Row::new(
            "rename -> handler, p50",
            format!("{}, {} without them", shown(beside), shown(alone)),
            json!({ "p50_us": beside, "alone_us": alone }),
        ),
        Row::new("missed", missed.to_string(), json!(missed))
            .goal(f64::from(u32::try_from(missed).unwrap_or(u32::MAX)), Bound::AtMost(0.0, "")),
    ])
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directories => "directories",
            Self::Rules => "rules",
        }
    }
}

fn one(lab: &Lab, kind: Kind, count: u32) -> Result<Measured> {
    let folder = |index| lab.grounds[0].watched(&format!("{}-{count}/{index}", kind.name()));
    let folders: Vec<PathBuf> = (0..count).map(folder).collect::<Result<_>>()?;
    let middle = folders[folders.len() / 2].clone();
    let start = || match kind {
        Kind::Directories => lab.agent(folders),
        Kind::Rules => {
            let file = lab.grounds[0].at(&format!("rules-{count}.yaml"));
            let written = fs::write(&file, rules(&folders));
            written.with_context(|| format!("cannot write {}", file.display()))?;
            lab.agent_of_rules(&file)
        }
    };
    let sampled = latency::p50_with(lab, start, &middle, SAMPLES)?;
    let Sampled { running, p50, missed, processor_us } = sampled;
    let Running { agent, wall, .. } = running;
    let usage = Usage::of_process(agent.pid())?;
    // That it does not end in time is a finding, too, and should not cost us the others.
    let events = agent.stop().ok();
    let is_lost = |event: &&Event| event.name() == "lost";
    let lost = events.map(|events| events.iter().filter(is_lost).count());
    let (rss_mib, peak_mib) = (mib(usage.rss_kib), mib(usage.peak_kib));
    let ready = wall.as_secs_f64();
    Ok(Measured { count, ready, p50, missed, rss_mib, peak_mib, processor_us, lost })
}

/// A file with a rule for each of these.
fn rules(folders: &[PathBuf]) -> String {
    let rule = |(index, folder): (usize, &PathBuf)| {
        let path = quoted(&folder.join("app.conf"));
        format!("  - name: rule-{index}\n    watch: {path}\n    process: {}\n", Lab::name())
    };
    format!("rules:\n{}", folders.iter().enumerate().map(rule).collect::<String>())
}

fn quoted(path: &Path) -> String {
    json!(path.to_string_lossy()).to_string()
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

impl Measured {
    /// Its lines in the table.
    pub(crate) fn rows(&self, kind: Kind) -> Vec<Row> {
        let Self { count, ready, p50, missed, rss_mib, processor_us, lost, .. } = self;
        let what = format!("{count} {}", kind.name());
        let ready_row = Row::new(format!("{what}: ready"), format!("{ready:.2} s"), json!(ready));
        let is_most = kind == Kind::Directories && *count == 10_000;
        let ready_row =
            if is_most { ready_row.goal(*ready, Bound::AtMost(2.0, " s")) } else { ready_row };
        let shown = p50.map_or("-".to_owned(), |it| format!("{it:.0} us"));
        let missed_shown = if *missed == 0 { String::new() } else { format!(", {missed} missed") };
        let lost_shown = match lost {
            Some(0) => String::new(),
            Some(lost) => format!(", {lost} times events lost"),
            None => ", did not end when asked".to_owned(),
        };
        let value = json!({
            "p50_us": p50, "missed": missed, "rss_mib": rss_mib, "peak_mib": self.peak_mib,
            "processor_us_a_change": processor_us, "lost": lost,
        });
        let shown = format!(
            "p50 {shown}, {processor_us:.0} us of processor, {rss_mib:.1} MiB{missed_shown}{lost_shown}"
        );
        vec![ready_row, Row::new(format!("{what}: a change in one"), shown, value)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_its_rule() {
        let text = rules(&["/a \"b".into(), "/c".into()]);
        let first = format!(
            "rules:\n  - name: rule-0\n    watch: \"/a \\\"b/app.conf\"\n    process: {}\n",
            Lab::name()
        );
        assert!(text.starts_with(&first), "{text}");
        assert_eq!(text.matches("- name:").count(), 2);
    }
}
