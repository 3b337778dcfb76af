//! From rename(2) of the watched file to the handler of the process that is told of it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    lab::{Lab, Running, Talker},
    report::{Bound, Row},
    stat::{Percentiles, median},
};
use crate::{
    child::{Ask, Child},
    place::is_program,
};

/// The loop that sidecars run: whoever mounts a `ConfigMap` and knows no better writes it.
const SHELL_LOOP: &str = r#"while :; do
    folder=$(dirname "$(readlink -f "$1/app.conf")")
    inotifywait -qq -e moved_to "$folder"
    kill -HUP $(pgrep -x "$2")
done"#;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watcher {
    Bare,
    Agent,
    ShellLoop,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) samples: usize,
    /// The shell loop is slow, and misses what comes while it starts inotifywait anew.
    pub(crate) samples_of_loop: usize,
}

/// The samples of one watcher.
#[derive(Debug, Default)]
struct Samples {
    rounds: Vec<Percentiles>,
    missed: usize,
    extra: usize,
}

/// Measures all three by turns.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, plan: Plan) -> Result<Vec<Row>> {
    let (mut bare, mut agent, mut shell) =
        (Samples::default(), Samples::default(), Samples::default());
    let has_loop = is_program("inotifywait") && is_program("pgrep");
    for round in 0..plan.rounds {
        let folder = lab.grounds[0].watched(&format!("latency-{round}"))?;
        bare.add(lab, Watcher::Bare, &folder, plan.samples)?;
        agent.add(lab, Watcher::Agent, &folder, plan.samples)?;
        if has_loop {
            shell.add(lab, Watcher::ShellLoop, &folder, plan.samples_of_loop)?;
        }
    }
    let mut rows = Vec::new();
    rows.extend(bare.row("bare C loop, inotify and kill"));
    rows.extend(agent.row("reload-agent"));
    match shell.row("shell loop, inotifywait and pgrep") {
        Some(row) => rows.push(row),
        None => rows.push(Row::new(
            "shell loop, inotifywait and pgrep",
            "not measured: no inotify-tools",
            json!(null),
        )),
    }
    let ratios = [
        ("reload-agent / bare, p50", ratio(&agent, &bare, |it| it.p50), Bound::AtMost(1.5, " x")),
        ("reload-agent / bare, p99", ratio(&agent, &bare, |it| it.p99), Bound::AtMost(2.0, " x")),
        (
            "shell loop / reload-agent, p50",
            ratio(&shell, &agent, |it| it.p50),
            Bound::AtLeast(50.0, " x"),
        ),
    ];
    for (what, ratio, bound) in ratios {
        if let Some(ratio) = ratio {
            rows.push(Row::new(what, format!("{ratio:.2} x"), json!(ratio)).goal(ratio, bound));
        }
    }
    Ok(rows)
}

/// Measures an agent that `start` starts: the median in microseconds, and how many were missed.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn p50_with(
    lab: &Lab,
    start: impl FnOnce() -> Result<Running>,
    folder: &Path,
    samples: usize,
) -> Result<(Running, Option<f64>, usize)> {
    let (mut talker, _pid) = start_target(lab, folder, samples, pause(Watcher::Agent))?;
    let running = start()?;
    let (taken, missed, _extra) = take(lab, &mut talker)?;
    Ok((running, Percentiles::of(&taken).map(|it| it.p50), missed))
}

impl Samples {
    fn add(&mut self, lab: &Lab, watcher: Watcher, folder: &Path, samples: usize) -> Result<()> {
        let (mut talker, pid) = start_target(lab, folder, samples, pause(watcher))?;
        let (taken, missed, extra) = match watcher {
            Watcher::Bare => {
                let mut bare = Talker::start(Command::new(&lab.bare).arg(folder).arg(&pid))?;
                let ready = bare.line(&lab.patience)?;
                ensure!(ready.as_deref() == Some("ready"), "the bare loop does not start");
                take(lab, &mut talker)?
            }
            Watcher::Agent => {
                let running = lab.agent(vec![folder.join("app.conf")])?;
                let taken = take(lab, &mut talker)?;
                running.agent.stop()?;
                taken
            }
            Watcher::ShellLoop => {
                let mut command = Command::new("sh");
                command.args(["-c", SHELL_LOOP, "sh"]).arg(folder).arg(Lab::name());
                let shell =
                    Child::spawn(command.stdin(Stdio::null()).stderr(Stdio::null()), Ask::Signal)?;
                wait_for_inotify(lab, &shell)?;
                take(lab, &mut talker)?
            }
        };
        self.rounds.extend(Percentiles::of(&taken));
        self.missed += missed;
        self.extra += extra;
        Ok(())
    }

    fn row(&self, what: &str) -> Option<Row> {
        let Percentiles { p50, p90, p99 } = Percentiles::median(&self.rounds)?;
        let (missed, extra) = (self.missed, self.extra);
        let counts = [(missed, "missed"), (extra, "extra")].into_iter();
        let odd: String = counts
            .filter(|(count, _)| *count != 0)
            .flat_map(|(count, what)| [", ".to_owned(), count.to_string(), format!(" {what}")])
            .collect();
        let shown = format!("{p50:.0} / {p90:.0} / {p99:.0}{odd}");
        let value = json!({
            "p50_us": p50, "p90_us": p90, "p99_us": p99, "missed": missed, "extra": extra,
        });
        Some(Row::new(what, shown, value))
    }
}

/// The median of the ratios of neighbours in time, so that what drifts over the run cancels out.
fn ratio(above: &Samples, below: &Samples, pick: fn(&Percentiles) -> f64) -> Option<f64> {
    let pairs = above.rounds.iter().zip(&below.rounds);
    median(&pairs.map(|(above, below)| pick(above) / pick(below)).collect::<Vec<_>>())
}

fn pause(watcher: Watcher) -> Duration {
    match watcher {
        Watcher::Bare | Watcher::Agent => Duration::from_millis(5),
        Watcher::ShellLoop => Duration::from_millis(60),
    }
}

/// Starts the program that measures, and gives the pid of its target, which catches the signal.
fn start_target(
    lab: &Lab,
    folder: &Path,
    samples: usize,
    pause: Duration,
) -> Result<(Talker, String)> {
    let mut command = Command::new(&lab.latency);
    command.arg(folder).arg(Lab::name()).arg(samples.to_string());
    let mut talker = Talker::start(command.arg(pause.as_micros().to_string()))?;
    let line = talker.line(&lab.patience)?.unwrap_or_default();
    let pid = line.strip_prefix("target ").context("the program that measures has no target")?;
    let pid = pid.to_owned();
    Ok((talker, pid))
}

/// Lets it measure: the microseconds that it took, and how many were missed, and were too many.
fn take(lab: &Lab, talker: &mut Talker) -> Result<(Vec<f64>, usize, usize)> {
    talker.go("go")?;
    let (mut taken, mut missed, mut extra) = (Vec::new(), 0, None);
    while let Some(line) = talker.line(&lab.patience)? {
        if line == "missed" {
            missed += 1;
        } else if let Some(number) = line.strip_prefix("extra ") {
            extra = number.parse().ok();
        } else if let Ok(nanos) = line.parse::<f64>() {
            taken.push(nanos / 1e3);
        }
    }
    let extra = extra.context("the program that measures latency has failed")?;
    Ok((taken, missed, extra))
}

/// Waits until the shell's inotifywait watches: the kernel then lists a watch of its descriptor.
fn wait_for_inotify(lab: &Lab, shell: &Child) -> Result<()> {
    let pace = Duration::from_millis(5);
    let is_armed = |pid: &u32| {
        let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
        infos.flatten().any(|info| {
            std::fs::read_to_string(info.path()).is_ok_and(|text| text.contains("inotify wd:"))
        })
    };
    let armed = lab.patience.until(pace, Duration::from_secs(10), || {
        Ok(shell.children().iter().any(is_armed).then_some(()))
    })?;
    armed.context("inotifywait does not start")
}
