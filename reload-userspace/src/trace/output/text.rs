//! For people: a timeline for each update, and a table of all. Eighty columns are enough.

use std::io::{self, Write};

use crate::{
    report::one_line,
    trace::{
        record::Record,
        step::{Stage, Who},
        summary::Told,
    },
};

/// How much of a line there is for what happened.
const ROOM: usize = 46;

/// Makes what follows stand out, and ends that.
const COLOUR: (&str, &str) = ("\x1b[1;33m", "\x1b[0m");

pub(super) fn tell(to: &mut dyn Write, record: &Record, has_colour: bool) -> io::Result<()> {
    let what = match record.paths.as_slice() {
        [] if record.unchanged => "the content is what it was".to_owned(),
        [] => "it did not come to an end".to_owned(),
        [path] => path.clone(),
        [path, others @ ..] => format!("{path} and {} more", others.len()),
    };
    writeln!(to, "update {}  {}  {}", record.update, record.began, took(record.total_us))?;
    writeln!(to, "  {}", one_line(&what))?;
    for step in &record.steps {
        // The stage stands at the step that it is.
        let passed = record.stages.iter().find(|it| {
            Some(it.stage) == step.stage.map(|stage| last_of(stage, it.stage))
                && (it.at_us.to_bits() == step.at_us.to_bits()
                    || it.at_us.to_bits() == step.until_us.to_bits())
        });
        let after = passed.and_then(|it| it.took_us).map(|it| format!("+{}", took(it)));
        let (mark, colour) = match passed {
            Some(it) if it.is_slowest => ("<", if has_colour { COLOUR } else { ("", "") }),
            _ => (" ", ("", "")),
        };
        let stage = passed.map_or("", |it| it.stage.words());
        let times = if step.count > 1 { format!(" ({} times)", step.count) } else { String::new() };
        let told = cut(&format!("{}{}{times}", by(&step.who), step.what), ROOM);
        writeln!(
            to,
            "  {}{:>9} {:>9}{mark} {stage:<12}{} {told}",
            colour.0,
            took(step.at_us),
            after.unwrap_or_default(),
            colour.1,
        )?;
    }
    if record.more_steps > 0 {
        writeln!(to, "  and {} steps more", record.more_steps)?;
    }
    for gap in &record.lost {
        writeln!(to, "  {:>9} GAP: {} records lost: {}", took(gap.at_us), gap.count, gap.reason)?;
    }
    if !record.absent.is_empty() {
        let absent: Vec<_> = record.absent.iter().map(|stage| stage.words()).collect();
        writeln!(to, "  did not happen: {}", absent.join(", "))?;
    }
    if !record.not_visible.is_empty() {
        let hidden: Vec<_> = record.not_visible.iter().map(|it| it.stage.words()).collect();
        writeln!(to, "  not visible: {}", hidden.join(", "))?;
    }
    writeln!(to)
}

/// A step of writing is the first or the last.
fn last_of(stage: Stage, passed: Stage) -> Stage {
    if stage == Stage::FirstWrite && passed == Stage::LastWrite { passed } else { stage }
}

pub(super) fn end(to: &mut dyn Write, told: &Told) -> io::Result<()> {
    writeln!(
        to,
        "{} updates, {} unchanged, {} records lost",
        told.updates, told.unchanged, told.lost
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

/// Somebody, in words.
fn by(who: &Who) -> String {
    let Who { pid, comm, container } = who;
    let container = container.as_ref().map(|it| format!(" in {it}")).unwrap_or_default();
    match (comm, pid) {
        (Some(comm), Some(pid)) => format!("{comm} ({pid}){container}: "),
        (Some(comm), None) => format!("{comm}{container}: "),
        (None, Some(pid)) => format!("pid {pid}{container}: "),
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

/// One line of at most so many characters.
fn cut(text: &str, most: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= most {
        return text;
    }
    let cut: String = text.chars().take(most - 1).collect();
    format!("{cut}…")
}
