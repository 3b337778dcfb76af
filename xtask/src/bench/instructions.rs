//! What others pay on other kernels than this one's, in instructions.
//!
//! Times of an emulated processor mean nothing. But its clock can be made to go on by a nanosecond with
//! each instruction (QEMU's `-icount shift=0`), and then the program that measures nanoseconds counts
//! instructions: the same to a tenth in every run, whatever else this machine does.
//!
//! The losers: (a) the instructions of the eBPF programs alone, read off their listing or counted by an
//! interpreter, which leaves out trampolines and helpers, more than half of it; (b) a plug-in of QEMU's
//! that counts, which Debian does not have.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    cost::{ALL, Kind, OPERATIONS, Operation, Sample, parse},
    lab::Lab,
    report::Row,
    stat::Confident,
};
use crate::{
    patience::Patience,
    place::Place,
    quote,
    vm::{Line, Load, Processor, carry_out},
};

/// How many instructions the operation `loop` of the program is.
const LOOP: f64 = 2000.0;

/// How far from that what is counted may be: the loop is called, the clock is read, and it ticks.
const LEAST: f64 = 0.99;
const MOST: f64 = 1.03;

/// How many nanoseconds an instruction takes, at least and at most: on processors of 2 to 3 GHz that carry
/// out one or two of those that system calls are made of in a cycle.
const NANOS: (f64, f64) = (1.0 / 6.0, 1.0 / 2.0);

/// Where the program operates on files: on the filesystem that is watched, and on another.
const GROUNDS: [(&str, &str); 2] = [("/tmp/others", "watched"), ("/dev/shm/others", "another")];

/// What an agent adds.
#[derive(Debug, Default)]
struct Counts {
    /// By the ground.
    without: Vec<Sample>,
    with: Vec<Sample>,
}

/// Counts, on each of Debian's kernels.
///
/// # Errors
///
/// Fails where the virtual machines do, and where their clock does not count instructions.
pub(crate) fn count(place: &Place, agent: &Path, lab: &Lab) -> Result<Vec<(Line, Vec<Row>)>> {
    let programs = [agent, &lab.cost].map(|it| (it.to_owned(), it.to_owned())).to_vec();
    let load = Load { folder: "/".into(), programs, job: job(agent, &lab.cost) };
    let reports = carry_out(place, &Line::ALL, Processor::Counting, &load, &Patience::new()?)?;
    let rows = |(line, files): (Line, BTreeMap<String, String>)| {
        let counts = Counts::read(&files).with_context(|| format!("Linux {line}"))?;
        Ok((line, counts.rows()))
    };
    reports.into_iter().map(rows).collect()
}

/// Without an agent, and then with one.
fn job(agent: &Path, program: &Path) -> String {
    let word = |path: &Path| quote(&path.to_string_lossy());
    let (agent, program) = (word(agent), word(program));
    let measure = |when: &str| {
        let one = |(index, (folder, _)): (usize, &(&str, &str))| {
            format!(
                "mkdir -p {folder}\n\
                 echo {ALL} | {program} measure {folder} stranger > /report/{when}-{index}\n"
            )
        };
        GROUNDS.iter().enumerate().map(one).collect::<String>()
    };
    let (without, with) = (measure("without"), measure("with"));
    let quiet = LOOP * MOST;
    // For some seconds after its start a kernel has things to do; and an agent has when it is ready.
    format!(
        r#"set -e
mkdir /tmp/watched /tmp/others
echo 0 > /tmp/watched/app.conf
is_quiet() {{
    count=$(echo loop | {program} measure /tmp/others stranger | head -n 1)
    count=${{count#* }}
    [ "${{count%%.*}}" -lt {quiet} ]
}}
is_ready() {{ case "$(cat /tmp/log)" in *'"event":"ready"'*) ;; *) false ;; esac; }}
until is_quiet; do sleep 1; done
{without}: > /tmp/log
{agent} run --source ebpf --watch /tmp/watched --process nobody-is-called-so \
    --reconcile 1h --log-format json 2> /tmp/log &
until is_ready; do kill -0 $! || {{ cat /tmp/log; exit 1; }}; sleep 1; done
until is_quiet; do sleep 1; done
{with}kill $!
wait $!
cat /tmp/log
"#
    )
}

impl Counts {
    fn read(files: &BTreeMap<String, String>) -> Result<Self> {
        let samples = |when: &str| -> Result<Vec<Sample>> {
            let read = |index: usize| {
                let name = format!("{when}-{index}");
                let text =
                    files.get(&name).with_context(|| format!("nothing was said of {name}"))?;
                let sample: Sample = text.lines().filter_map(parse).collect();
                let (count, _) = *sample.get("loop").context("the clock was not tried")?;
                ensure!(
                    (LEAST..MOST).contains(&(count / LOOP)),
                    "the clock does not count instructions: {count} for {LOOP} of them",
                );
                Ok(sample)
            };
            (0..GROUNDS.len()).map(read).collect()
        };
        Ok(Self { without: samples("without")?, with: samples("with")? })
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, (_, ground)) in GROUNDS.iter().enumerate() {
            for operation in &OPERATIONS {
                let is_about_files = matches!(operation.kind, Kind::Write | Kind::File);
                if (is_about_files || index == 0) && operation.kind != Kind::Process {
                    let on = if is_about_files { format!(", {ground}") } else { String::new() };
                    let what = format!("{}{on}", operation.what);
                    rows.extend(self.row(index, operation, what));
                }
            }
        }
        rows
    }

    fn row(&self, index: usize, operation: &Operation, what: String) -> Option<Row> {
        let of = |samples: &[Sample]| Some(samples.get(index)?.get(operation.key)?.0);
        let (base, with) = (of(&self.without)?, of(&self.with)?);
        let added = with - base;
        let (low, high) = (added * NANOS.0, added * NANOS.1);
        let shown = format!("{added:+.0} on {base:.0}, {low:.0} to {high:.0} ns");
        let value = json!({ "added": added, "without": base });
        let nanos = Confident { median: f64::midpoint(low, high), low, high };
        let row = Row::new(what, shown, value);
        Some(match operation.goal("trampoline") {
            Some(goal) => row.goal_within(nanos, goal),
            None => row,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(loop_ns: f64) -> BTreeMap<String, String> {
        let text =
            |write: f64| format!("loop {loop_ns} 9\nappend {write} 9\ngetppid 340.0 9\ndone\n");
        let names =
            [("without-0", 1000.0), ("without-1", 1000.0), ("with-0", 1300.0), ("with-1", 1120.0)];
        names.into_iter().map(|(name, write)| (name.to_owned(), text(write))).collect()
    }

    #[test]
    fn what_is_added_is_told_in_instructions() {
        let rows = Counts::read(&files(2004.0)).unwrap().rows();
        let shown: Vec<_> =
            rows.iter().map(|row| (row.what.as_str(), row.shown.as_str())).collect();
        let expected = [
            ("write(2), appending, watched", "+300 on 1000, 50 to 150 ns"),
            ("getppid(2)", "+0 on 340, 0 to 0 ns"),
            ("write(2), appending, another", "+120 on 1000, 20 to 60 ns"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_clock_that_counts_something_else_is_not_believed() {
        let error = Counts::read(&files(900.0)).unwrap_err();
        let expected = "the clock does not count instructions: 900 for 2000 of them";
        assert_eq!(error.to_string(), expected);
    }
}
