//! docs/benchmarks.md: what was measured, for who does not measure himself.

use std::{fmt::Write as _, fs, time::SystemTime};

use anyhow::{Context as _, Result};

use super::{plot::Picture, report::Report};
use crate::place::Place;

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench --write`, in one run on one machine: compare the lines of a table with each other, and not with what another machine says.
Everybody takes his turn in each round, so that what drifts hits all alike; a number is the median of the rounds unless it says otherwise.
A change is dated before the system call that makes it visible, and a signal in the handler of the process that gets it, which reads the file then, as whoever reloads does.
Each reloader is set up as its documentation says (xtask/src/bench/contender.rs has the scripts), but the agent runs with `--min-interval 0s --reconcile 1h`, so that it reacts to each change: by default two reloads of a process are a second apart.
*Missed* are changes after which no signal came within a second, and *extra* are signals beyond one for each.
\"7 x 100 (30 of scripts)\" are seven rounds of a hundred changes, or of thirty for who takes long: all that is missed is out of 700, or of 210.
What these figures mean for a real server, and what they leave out, stands at the end.
";

/// What is written by hand: what was tried. It is kept when all else is written anew.
const NOTES: &str = "docs/benchmarks/notes.md";

/// What is written.
pub(super) struct Document<'a> {
    pub(super) machine: &'a str,
    pub(super) report: &'a Report,
    pub(super) pictures: &'a [Picture],
}

impl Document<'_> {
    /// Writes it, and its pictures beside it.
    ///
    /// # Errors
    ///
    /// Fails where that cannot be written.
    pub(super) fn write(&self, place: &Place) -> Result<()> {
        let folder = place.root.join("docs/benchmarks");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        for picture in self.pictures {
            picture.draw(&folder)?;
        }
        let notes = place.root.join(NOTES);
        let notes = fs::read_to_string(&notes)
            .with_context(|| format!("cannot read {}", notes.display()))?;
        let path = place.root.join("docs/benchmarks.md");
        let day = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let day = day.get(..10).unwrap_or(&day);
        fs::write(&path, self.text(day, &notes))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn text(&self, day: &str, notes: &str) -> String {
        let mut text = format!("{INTRODUCTION}\n{}, {day}.\n", self.machine);
        let mut add = |more: std::fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let (Ok(()) | Err(_)) = text.write_fmt(more);
        };
        for (title, rows) in self.report.tables() {
            add(format_args!("\n## {title}\n\n| what | measured | goal | met |\n"));
            add(format_args!("| --- | --- | --- | --- |\n"));
            for [what, shown, goal, met] in rows {
                add(format_args!("| {what} | {shown} | {goal} | {met} |\n"));
            }
        }
        add(format_args!("\n## Pictures\n"));
        for picture in self.pictures {
            add(format_args!("\n![{}](benchmarks/{}.svg)\n", picture.title, picture.file));
        }
        add(format_args!("\n{notes}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::report::{Bound, Row};

    #[test]
    fn a_page_has_tables_pictures_and_notes() {
        let mut report = Report::default();
        report
            .add("Start", vec![Row::new("a", "1 x", json!(1)).goal(1.0, Bound::AtMost(2.0, " x"))]);
        let pictures = [Picture {
            file: "p",
            title: "Title".to_owned(),
            across: "",
            up: "",
            is_log: false,
            lines: Vec::new(),
        }];
        let document = Document { machine: "here", report: &report, pictures: &pictures };
        let text = document.text("2026-01-01", "## Notes\n");
        let end = "\nhere, 2026-01-01.\n\n## Start\n\n| what | measured | goal | met |\n\
                   | --- | --- | --- | --- |\n| a | 1 x | <= 2 x | yes |\n\n## Pictures\n\n\
                   ![Title](benchmarks/p.svg)\n\n## Notes\n";
        assert!(text.ends_with(end), "{text}");
    }
}
