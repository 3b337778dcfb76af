//! What the agent costs everybody else: operations on files that nobody watches.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    kernel::{Counting, runs},
    lab::{Ground, Lab, Running, Talker},
    report::{Bound, Row},
    stat::{Confident, median},
};

/// Something that others do.
pub(super) struct Operation {
    /// Its name in the program.
    pub(super) key: &'static str,
    pub(super) what: &'static str,
    pub(super) kind: Kind,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It writes to a file on each filesystem.
    Write,
    /// It does something else with one.
    File,
    /// It is one system call that is about no file.
    Call,
    /// It is many, and no goal is about it.
    Process,
}

impl Operation {
    /// What it may cost with a strategy: 100 ns for each system call, and 250 ns for a write where the
    /// kernel's notes of change times have to be listened to.
    pub(super) fn goal(&self, strategy: &str) -> Option<Bound> {
        let most = match self.kind {
            Kind::Write if strategy == "tracepoint" => 250.0,
            Kind::File if self.key == "open" => 200.0,
            Kind::Write | Kind::File | Kind::Call => 100.0,
            Kind::Process => return None,
        };
        Some(Bound::AtMost(most, " ns"))
    }
}

/// In the order of the table.
pub(super) const OPERATIONS: [Operation; 7] = [
    Operation { key: "append", what: "write(2), appending", kind: Kind::Write },
    Operation { key: "overwrite", what: "write(2), overwriting", kind: Kind::Write },
    Operation { key: "rename", what: "rename(2)", kind: Kind::File },
    Operation { key: "open", what: "open(2) and close(2)", kind: Kind::File },
    Operation { key: "null", what: "write(2) to /dev/null", kind: Kind::Call },
    Operation { key: "getppid", what: "getppid(2)", kind: Kind::Call },
    Operation { key: "spawn", what: "fork(2), execve(2) and exit(2)", kind: Kind::Process },
];

/// The word for all of them.
pub(super) const ALL: &str = "all";

/// How long the agent is left to itself once it is ready, so that what it looks at then is not measured.
const REST: Duration = Duration::from_millis(100);

/// What was measured, and how the agent started each time.
#[derive(Debug)]
pub(crate) struct Costs {
    pub(crate) rows: Vec<Row>,
    /// From the start of the agent to `ready`, as it says, in milliseconds.
    pub(crate) after: Vec<f64>,
    /// The same from the outside.
    pub(crate) wall: Vec<f64>,
}

/// Each operation: how many nanoseconds it took, and how often it was done.
pub(super) type Sample = BTreeMap<String, (f64, f64)>;

/// Measures each operation with the agent and without, by turns.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn measure(lab: &Lab, rounds: usize) -> Result<Costs> {
    let mut programs = Vec::new();
    let mut watch = Vec::new();
    for ground in &lab.grounds {
        programs.push(start(lab, ground, "bench-stranger")?);
        watch.push(ground.watched("cost")?);
    }
    // It is never told to do anything: what is measured is others.
    let _target = start(lab, &lab.grounds[0], &Lab::name())?;
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
        lab.patience.pause(REST)?;
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
    let rows = operations(lab)
        .filter_map(|(operation, index, what)| row(&what, operation, &pairs[index], &strategy));
    Ok(Costs { rows: rows.collect(), after, wall })
}

/// Each operation, on which of the grounds, and what that is called.
fn operations(lab: &Lab) -> impl Iterator<Item = (&'static Operation, usize, String)> {
    let grounds = lab.grounds.iter().enumerate();
    grounds.flat_map(|(index, ground)| {
        // No filesystem has a part in the others.
        let is_about_it = |it: &&Operation| matches!(it.kind, Kind::Write | Kind::File);
        let here = OPERATIONS.iter().filter(move |it| index == 0 || is_about_it(it));
        here.map(move |operation| {
            let what = match operation.kind {
                Kind::Write | Kind::File => format!("{}, {}", operation.what, ground.filesystem),
                Kind::Call | Kind::Process => operation.what.to_owned(),
            };
            (operation, index, what)
        })
    })
}

fn row(
    what: &str,
    operation: &Operation,
    pairs: &[(Sample, Sample)],
    strategy: &str,
) -> Option<Row> {
    let nanos = |sample: &Sample| sample.get(operation.key).map(|(nanos, _)| *nanos);
    let pairs: Vec<_> =
        pairs.iter().filter_map(|(without, with)| Some((nanos(without)?, nanos(with)?))).collect();
    let of = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).collect::<Vec<_>>();
    let base = median(&of(|(without, _)| *without))?;
    let added = Confident::of(&of(|(without, with)| with - without))?;
    let ratio = median(&of(|(without, with)| with / without))?;
    let Confident { median: middle, low, high } = added;
    let shown = format!("{middle:+.0} [{low:+.0}, {high:+.0}] on {base:.0} ns, x {ratio:.2}");
    let value = json!({
        "added_ns": middle, "low_ns": low, "high_ns": high, "without_ns": base, "ratio": ratio,
    });
    let row = Row::new(what, shown, value);
    Some(match operation.goal(strategy) {
        Some(goal) => row.goal_within(added, goal),
        None => row,
    })
}

/// Counts how often each operation makes the agent's eBPF programs run, and for how long.
///
/// What others do on the machine meanwhile is counted, too.
///
/// # Errors
///
/// Fails where a program does.
pub(crate) fn count(lab: &Lab) -> Result<Vec<Row>> {
    let counting = match Counting::start() {
        Ok(counting) => counting,
        Err(error) => {
            let shown = format!("{error:#}");
            return Ok(vec![Row::new("not counted", shown.as_str(), json!(shown))]);
        }
    };
    let mut programs = Vec::new();
    let mut watch = Vec::new();
    for ground in &lab.grounds {
        programs.push(start(lab, ground, "bench-stranger")?);
        watch.push(ground.watched("cost")?);
    }
    let _target = start(lab, &lab.grounds[0], &Lab::name())?;
    let Running { agent, .. } = lab.agent(watch)?;
    lab.patience.pause(REST)?;
    let mut rows = Vec::new();
    for (operation, index, what) in operations(lab) {
        let before = runs(agent.pid())?;
        let sample = sample(lab, &mut programs[index], operation.key)?;
        let runs = runs(agent.pid())? - before;
        let Some(&(_, times)) = sample.get(operation.key) else { continue };
        let (per_call, per_run) = (runs.count / times, runs.nanos / runs.count.max(1.0));
        let nanos = runs.nanos / times;
        let shown = format!("{per_call:.4} runs of {per_run:.0} ns: {nanos:.2} ns a call");
        let value =
            json!({ "runs_per_call": per_call, "ns_per_run": per_run, "ns_per_call": nanos });
        rows.push(Row::new(what, shown, value));
    }
    agent.stop()?;
    drop(counting);
    Ok(rows)
}

/// Starts the program that operates on files when it is told to, under this name.
///
/// # Errors
///
/// Fails where it cannot be run.
pub(crate) fn start(lab: &Lab, ground: &Ground, name: &str) -> Result<Talker> {
    let folder = ground.at("unrelated");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut command = Command::new(&lab.cost);
    Talker::start(command.arg("measure").arg(folder).arg(name))
}

fn sample_all(lab: &Lab, programs: &mut [Talker]) -> Result<Vec<Sample>> {
    programs.iter_mut().map(|program| sample(lab, program, ALL)).collect()
}

/// Has a program do one thing, or all.
fn sample(lab: &Lab, program: &mut Talker, word: &str) -> Result<Sample> {
    program.go(word)?;
    let mut sample = Sample::new();
    while let Some(line) = program.line(&lab.patience)? {
        if line == "done" {
            return Ok(sample);
        }
        sample.extend(parse(&line));
    }
    ensure!(!sample.is_empty(), "the program that measures costs has failed");
    Ok(sample)
}

/// Takes `append 250.1 180000` apart.
pub(super) fn parse(line: &str) -> Option<(String, (f64, f64))> {
    let mut words = line.split(' ');
    let (name, nanos, times) = (words.next()?, words.next()?, words.next()?);
    Some((name.to_owned(), (nanos.parse().ok()?, times.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_three_words() {
        assert_eq!(parse("append 250.1 9"), Some(("append".to_owned(), (250.1, 9.0))));
        assert_eq!(parse("append 250.1"), None);
        assert_eq!(parse("cost: cannot append"), None);
    }

    #[test]
    fn a_row_compares_neighbours() {
        let sample = |nanos| Sample::from([("append".to_owned(), (nanos, 1.0))]);
        let pairs: Vec<_> = (0..20)
            .map(|i| 200.0 + f64::from(i))
            .map(|it| (sample(it), sample(it + 8.0)))
            .collect();
        let row = |strategy| row("x", &OPERATIONS[0], &pairs, strategy).unwrap();
        assert_eq!(row("tracepoint").shown, "+8 [+8, +8] on 210 ns, x 1.04");
        let goal = |strategy| row(strategy).goal.unwrap().bound.to_string();
        assert_eq!(goal("tracepoint"), "<= 250 ns");
        assert_eq!(goal("trampoline"), "<= 100 ns");
    }
}
