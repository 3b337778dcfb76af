//! For people: a timeline for each update, and a table of all. Eighty columns are enough.

use std::io::{self, Write};

use crate::{
    report::one_line,
    trace::{
        record::{Passed, Record, Step},
        step::{Stage, Who},
        summary::Told,
    },
};

/// How wide a line is.
const WIDTH: usize = 80;

/// How much of it is before what happened.
const INDENT: usize = 36;

/// Makes what follows stand out, and ends that.
const COLOUR: (&str, &str) = ("\x1b[1;33m", "\x1b[0m");

/// A line of the timeline: something that happened, or the end of it.
struct Line<'a> {
    at_us: f64,
    passed: Option<&'a Passed>,
    told: String,
}

pub(super) fn tell(to: &mut dyn Write, record: &Record, has_colour: bool) -> io::Result<()> {
    let what = match (record.paths.as_slice(), record.obstacles.as_slice()) {
        ([], []) if record.unchanged => "the content is what it was".to_owned(),
        ([], []) => "it did not come to an end".to_owned(),
        ([], obstacles) => obstacles.join(", "),
        ([path], _) => path.clone(),
        ([path, others @ ..], _) => format!("{path} and {} more", others.len()),
    };
    writeln!(to, "update {}  {}  {}", record.update, record.began, took(record.total_us))?;
    writeln!(to, "  {}", one_line(&what))?;
    let containers = containers(record);
    for (number, container) in (1..).zip(&containers) {
        writeln!(to, "  [{number}] is {}", one_line(container))?;
    }
    for Line { at_us, passed, told } in lines(record, &containers) {
        let after = passed.and_then(|it| it.took_us).map(|it| format!("+{}", took(it)));
        let (mark, colour) = match passed {
            Some(it) if it.is_slowest => ("<", if has_colour { COLOUR } else { ("", "") }),
            _ => (" ", ("", "")),
        };
        let stage = passed.map_or("", |it| it.stage.words());
        let head = format!("{:>9} {:>9}{mark} {stage:<12}", took(at_us), after.unwrap_or_default());
        let told = wrap(&told, WIDTH - INDENT);
        let mut told = told.iter();
        let first = told.next().map_or("", String::as_str);
        writeln!(to, "  {}{head}{} {first}", colour.0, colour.1)?;
        for line in told {
            writeln!(to, "{:INDENT$}{line}", "")?;
        }
    }
    if record.more_steps > 0 {
        writeln!(to, "  and {} steps more", record.more_steps)?;
    }
    for gap in &record.lost {
        writeln!(to, "  {:>9} GAP: {} records lost: {}", took(gap.at_us), gap.count, gap.reason)?;
    }
    let remaining = record.remaining.iter().map(|it| name(it, &containers));
    list(to, "has not ended, and was there before", remaining)?;
    let title = format!("did not happen within {}", took(record.followed_us));
    list(to, &title, record.absent.iter().map(|it| it.words()))?;
    list(to, "not visible", record.not_visible.iter().map(|it| it.stage.words()))?;
    writeln!(to)
}

/// The lines of the timeline. A stage stands at the step that it is, and has a line of its own where that step
/// is another already, or began earlier.
fn lines<'a>(record: &'a Record, containers: &[&str]) -> Vec<Line<'a>> {
    let told = |step: &Step| {
        let times = if step.count > 1 { format!(" ({} times)", step.count) } else { String::new() };
        format!("{}{}{times}", by(&step.who, containers), step.what)
    };
    let steps = record.steps.iter();
    let mut lines: Vec<_> =
        steps.map(|it| Line { at_us: it.at_us, passed: None, told: told(it) }).collect();
    for passed in &record.stages {
        let is_it = |step: &Step| {
            step.stage.is_some_and(|stage| last_of(stage, passed.stage) == passed.stage)
                && [step.at_us, step.until_us].map(f64::to_bits).contains(&passed.at_us.to_bits())
        };
        let step = record.steps.iter().position(is_it);
        let free = step.filter(|&step| {
            lines[step].passed.is_none() && lines[step].at_us.to_bits() == passed.at_us.to_bits()
        });
        match free {
            Some(step) => lines[step].passed = Some(passed),
            None => lines.push(Line {
                at_us: passed.at_us,
                passed: Some(passed),
                told: format!("{}the last of it", by(&passed.who, containers)),
            }),
        }
    }
    let stage = |line: &Line<'_>| line.passed.map(|it| it.stage);
    lines.sort_by(|one, other| {
        one.at_us.total_cmp(&other.at_us).then_with(|| stage(one).cmp(&stage(other)))
    });
    lines
}

/// A step of writing is the first or the last.
fn last_of(stage: Stage, passed: Stage) -> Stage {
    if stage == Stage::FirstWrite && passed == Stage::LastWrite { passed } else { stage }
}

fn list<T: AsRef<str>>(
    to: &mut dyn Write,
    title: &str,
    words: impl Iterator<Item = T>,
) -> io::Result<()> {
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    let text = format!("{title}: {}", words.join(", "));
    for (index, line) in wrap(&text, WIDTH - 4).into_iter().enumerate() {
        writeln!(to, "{}{line}", if index == 0 { "  " } else { "    " })?;
    }
    Ok(())
}

pub(super) fn end(to: &mut dyn Write, told: &Told) -> io::Result<()> {
    writeln!(
        to,
        "{} update{}, {} unchanged, {} records lost",
        told.updates,
        if told.updates == 1 { "" } else { "s" },
        told.unchanged,
        told.lost
    )?;
    if told.stages.is_empty() {
        return Ok(());
    }
    writeln!(to, "  after the stage before  count       p50       p90       p99       max")?;
    for row in &told.stages {
        writeln!(
            to,
            "  {:<22} {:>6} {:>9} {:>9} {:>9} {:>9}",
            row.stage.map_or("the whole update", Stage::words),
            row.count,
            took(row.p50_us),
            took(row.p90_us),
            took(row.p99_us),
            took(row.max_us),
        )?;
    }
    Ok(())
}

/// The containers of an update, each once: they are long, and stand above it.
fn containers(record: &Record) -> Vec<&str> {
    let mut containers = Vec::new();
    for container in record.steps.iter().filter_map(|step| step.who.container.as_deref()) {
        if !containers.contains(&container) {
            containers.push(container);
        }
    }
    containers
}

/// Somebody, in words, before what he does.
fn by(who: &Who, containers: &[&str]) -> String {
    let name = name(who, containers);
    if name.is_empty() { name } else { format!("{name}: ") }
}

/// Somebody, in words.
fn name(who: &Who, containers: &[&str]) -> String {
    let Who { pid, comm, container } = who;
    let number = containers.iter().position(|it| Some(*it) == container.as_deref());
    let container = number.map(|it| format!(" [{}]", it + 1)).unwrap_or_default();
    match (comm, pid) {
        (Some(comm), Some(pid)) => format!("{comm} ({pid}){container}"),
        (Some(comm), None) => format!("{comm}{container}"),
        (None, Some(pid)) => format!("pid {pid}{container}"),
        (None, None) => String::new(),
    }
}

/// Microseconds in a unit that is easy to read.
pub(super) fn took(micros: f64) -> String {
    if micros < 1e3 {
        format!("{micros:.1} us")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// Lines of at most so many characters, but for words that are longer.
pub(in crate::trace) fn wrap(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in one_line(text).split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Boot,
        trace::{record::Sight, step, update::Update},
    };

    fn told(update: &Update) -> String {
        let sight = Sight { source: "ebpf".to_owned(), strategy: None, hidden: Vec::new() };
        let mut told = Vec::new();
        tell(&mut told, &Record::of(update, &sight), false).unwrap();
        String::from_utf8(told).unwrap()
    }

    #[test]
    fn nothing_that_matters_is_cut() {
        let at = |micros| Boot(Duration::from_micros(micros));
        let who = |comm: &str, container: Option<&str>| Who {
            pid: Some(4_194_303),
            comm: Some(comm.to_owned()),
            container: container.map(str::to_owned),
        };
        let mut update = Update::new(1, at(0));
        update.is_told = true;
        for micros in [0, 500] {
            let what = "write of a file".to_owned();
            update.add(step::Step::new(at(micros), Some(Stage::FirstWrite), who("sh", None), what));
        }
        let pod = "pod 1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11, container 0123456789ab";
        let what = "opens the new content (inode 12345678901)".to_owned();
        let step =
            step::Step::new(at(700), Some(Stage::Opened), who("a-long-name-xyz", Some(pod)), what);
        update.add(step);
        let told = told(&update);
        let (_, told) = told.split_once('\n').unwrap();
        let expected = "  it did not come to an end
  [1] is pod 1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11, container 0123456789ab
     0.0 us            first write  sh (4194303): write of a file (2 times)
   500.0 us +500.0 us< last write   sh (4194303): the last of it
   700.0 us +200.0 us  opened       a-long-name-xyz (4194303) [1]: opens the new
                                    content (inode 12345678901)
  did not happen within 700.0 us: closed, swapped, settled, noticed,
    signalled, delivered, new children, old ended

";
        assert_eq!(told, expected);
    }
}
