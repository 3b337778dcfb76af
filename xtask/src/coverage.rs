//! Writes docs/coverage.md: how each way to change a file is seen, on every filesystem, by every source.
//!
//! What stands in it is measured by `tests/coverage.rs`, which also knows the reasons for the gaps; here
//! it becomes tables.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    build::build_object,
    exec,
    place::Place,
    setup::{Extent, setup},
    test::{ensure_hangup_is_heard, tester},
    vm::{self, Line},
};

/// Write docs/coverage.md: how every way to change a file is seen, by filesystem and source
///
/// Each cell is from a test that runs now, as root, and in virtual machines with other kernels. `cargo
/// xtask test` runs it too, and fails where the committed table is another.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only say whether the committed table is what is measured
    #[arg(long)]
    check: bool,
}

/// Measures, and writes the table or compares it.
///
/// # Errors
///
/// Fails where something is seen otherwise than the test expects, and says what; with `--check` also
/// where the table is out of date.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure_hangup_is_heard()?;
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Tests)?;
    let object = build_object(&place, &toolchain)?;
    let mut cells = Cells::new()?;
    let mut cargo = tester(&place, &object)?;
    cargo.args(["--package=reload-userspace", "--test=coverage", "--", "--include-ignored"]);
    exec(cargo.env(VARIABLE, cells.path()))?;
    cells.add(&vm::measure(&place, &object, None, &Line::ALL, vm::Extent::Coverage, &[])?)?;
    if options.check {
        return cells.check(&place);
    }
    let path = document(&place);
    let page = render(&cells.read()?)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("The table is in {}.", path.display());
    Ok(())
}

/// Tells the test where to write what it measures.
pub(crate) const VARIABLE: &str = "RELOAD_COVERAGE";

/// What one table is about.
struct Table {
    title: &'static str,
    source: &'static str,
    /// The virtual machine that its cells are from, if they are not from this one.
    line: Option<Line>,
}

/// The tables, in this order.
const TABLES: [Table; 6] = [
    Table {
        title: "ebpf, strategy `trampoline`, Linux 6.1",
        source: "ebpf",
        line: Some(Line::V6_1),
    },
    Table {
        title: "ebpf, strategy `trampoline`, Linux 6.12",
        source: "ebpf",
        line: Some(Line::V6_12),
    },
    Table { title: "ebpf, strategy `tracepoint`", source: "ebpf", line: None },
    Table { title: "fanotify", source: "fanotify", line: None },
    Table { title: "inotify", source: "inotify", line: None },
    Table { title: "poll", source: "poll", line: None },
];

/// The strategy that the source ebpf takes on the machine that the page is written on.
const STRATEGY: &str = "tracepoint";

/// Their columns.
const FILESYSTEMS: [&str; 6] = ["ext4", "tmpfs", "overlayfs", "xfs", "btrfs", "btrfs subvolume"];

/// What stands in a cell of a filesystem that the kernel here cannot mount.
const NOT_RUN: &str = "not run";

const INTRODUCTION: &str = "\
# Coverage

How every way to change a file is seen, on every filesystem, by every source.
This page is written by `cargo xtask coverage`; each cell is the result of a test that ran, in a virtual machine where a version of Linux is named.

| cell | meaning |
| --- | --- |
| at once | the source tells of the change and of its end |
| by poll | found within a second, and complete after `--settle` |
| at settle | the source tells of the change; its end is guessed, by `--settle` or `--settle-max` |
| reconcile | the source tells nothing; the slow look finds it, after `--reconcile` at most |
| no | not seen |
| — | cannot be done there |
| refused | the kernel does not let the source watch it; `--source auto` takes the next one |
| not run | the kernel that this page was written on cannot mount that filesystem |

A number is that of the reason, at the end of the page.
";

fn document(place: &Place) -> PathBuf {
    place.root.join("docs/coverage.md")
}

/// Where the test writes what it measures, one JSON object a line.
#[derive(Debug)]
pub(crate) struct Cells {
    folder: TempDir,
    others: Vec<Cell>,
}

impl Cells {
    /// Makes room for them.
    ///
    /// # Errors
    ///
    /// Fails where there is no temporary folder.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(Self { folder, others: Vec::new() })
    }

    /// Adds what was measured in virtual machines.
    ///
    /// # Errors
    ///
    /// Fails where that is not what the test writes.
    pub(crate) fn add(&mut self, machines: &[(Line, vm::Report)]) -> Result<()> {
        for (line, report) in machines {
            for text in report.get(vm::COVERAGE).into_iter().flat_map(|text| text.lines()) {
                self.others.push(Cell { line: Some(*line), ..Cell::parse(text)? });
            }
        }
        Ok(())
    }

    /// The file that the test is told of.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("cells")
    }

    /// Compares the committed table with what was measured.
    ///
    /// # Errors
    ///
    /// Fails where they differ, and says where. What could not be run here may be anything there.
    pub(crate) fn check(&self, place: &Place) -> Result<()> {
        let cells = self.read()?;
        if let Some(strategy) = other_strategy(&cells) {
            // The test has compared all cells with what it expects, on this kernel too.
            println!(
                "docs/coverage.md is not compared: it was written where ebpf takes the strategy \
                 {STRATEGY}, and takes {strategy} here."
            );
            return Ok(());
        }
        let path = document(place);
        let committed =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let differences = differences(&committed, &render(&cells)?);
        for difference in &differences {
            println!("{difference}");
        }
        ensure!(
            differences.is_empty(),
            "{} is not what was measured; write it anew with `cargo xtask coverage`",
            path.display(),
        );
        Ok(())
    }

    fn read(&self) -> Result<Vec<Cell>> {
        let path = self.path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let others = self.others.iter().cloned().map(Ok);
        text.lines().map(Cell::parse).chain(others).collect()
    }
}

/// The strategy that the source ebpf takes on this machine, where it is not the one of the page.
fn other_strategy(cells: &[Cell]) -> Option<&str> {
    let mut here = cells.iter().filter(|cell| cell.line.is_none() && cell.source == "ebpf");
    here.find_map(|cell| cell.strategy.as_deref().filter(|strategy| *strategy != STRATEGY))
}

/// How one way to change a file was seen on one filesystem by one source.
#[derive(Clone, Debug)]
struct Cell {
    row: u64,
    way: String,
    source: String,
    strategy: Option<String>,
    /// The virtual machine that it is from.
    line: Option<Line>,
    filesystem: String,
    seen: String,
    reason: Option<String>,
}

impl Cell {
    fn parse(line: &str) -> Result<Self> {
        let fields: Value = serde_json::from_str(line)
            .with_context(|| format!("the test wrote something that is not JSON: {line}"))?;
        let text = |name: &str| {
            let text = fields[name].as_str().map(str::to_owned);
            text.with_context(|| format!("a cell has no {name}: {line}"))
        };
        Ok(Self {
            row: fields["row"].as_u64().with_context(|| format!("a cell has no row: {line}"))?,
            way: text("way")?,
            source: text("source")?,
            strategy: fields["strategy"].as_str().map(str::to_owned),
            line: None,
            filesystem: text("filesystem")?,
            seen: text("seen")?,
            reason: fields["reason"].as_str().map(str::to_owned),
        })
    }

    fn is_at(&self, row: u64, table: &Table, filesystem: &str) -> bool {
        self.row == row
            && self.source == table.source
            && self.line == table.line
            && self.filesystem == filesystem
    }

    /// What stands in the cell, with the number that its reason has among those so far.
    fn shown<'a>(&'a self, reasons: &mut Vec<&'a str>) -> String {
        let Some(reason) = self.reason.as_deref() else { return self.seen.clone() };
        let known = reasons.iter().position(|known| *known == reason);
        let index = known.unwrap_or(reasons.len());
        if known.is_none() {
            reasons.push(reason);
        }
        if self.seen == NOT_RUN {
            self.seen.clone()
        } else {
            format!("{} ({})", self.seen, index + 1)
        }
    }
}

/// Writes the page. What is not there is an error: it would look as if it had been measured.
fn render(cells: &[Cell]) -> Result<String> {
    let rows = cells.iter().map(|cell| cell.row).max().map_or(0, |last| last + 1);
    let mut reasons = Vec::new();
    let mut lines = vec![INTRODUCTION.to_owned()];
    for table in &TABLES {
        let title = table.title;
        lines.push(format!("## {title}\n\n| way | {} |", FILESYSTEMS.join(" | ")));
        lines.push(format!("| --- |{}", " --- |".repeat(FILESYSTEMS.len())));
        for row in 0..rows {
            let mut way = "";
            let mut seen = Vec::new();
            for filesystem in FILESYSTEMS {
                let cell = cells.iter().find(|cell| cell.is_at(row, table, filesystem));
                let cell = cell.with_context(|| {
                    format!("row {row} was not measured on {filesystem} by {title}")
                })?;
                way = &cell.way;
                seen.push(cell.shown(&mut reasons));
            }
            lines.push(format!("| {way} | {} |", seen.join(" | ")));
        }
        lines.push(String::new());
    }
    lines.push("## Reasons\n".to_owned());
    lines.extend((1..).zip(reasons).map(|(number, reason)| format!("{number}. {reason}")));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// Lists where two pages differ, in words.
fn differences(committed: &str, measured: &str) -> Vec<String> {
    let (mut committed, mut measured) = (committed.lines(), measured.lines());
    let mut differences = Vec::new();
    loop {
        match (committed.next(), measured.next()) {
            (None, None) => return differences,
            (old, new) if is_alike(old, new) => {}
            (old, new) => differences.push(format!(
                "committed: {}\n measured: {}",
                old.unwrap_or("nothing"),
                new.unwrap_or("nothing"),
            )),
        }
    }
}

fn is_alike(committed: Option<&str>, measured: Option<&str>) -> bool {
    let (Some(committed), Some(measured)) = (committed, measured) else {
        return committed == measured;
    };
    let (old, new): (Vec<_>, Vec<_>) =
        (committed.split('|').collect(), measured.split('|').collect());
    let is_same = |(old, new): (&&str, &&str)| old == new || new.trim() == NOT_RUN;
    old.len() == new.len() && old.iter().zip(&new).all(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of two rows, the second of which is as it is given.
    fn page(seen: impl Fn(&str, &str) -> (&'static str, Option<&'static str>)) -> String {
        let mut cells = Vec::new();
        for table in &TABLES {
            for filesystem in FILESYSTEMS {
                let (second, reason) = seen(table.title, filesystem);
                for (row, seen, reason) in [(1, second, reason), (0, "at once", None)] {
                    cells.push(Cell {
                        row,
                        way: format!("way {row}"),
                        source: table.source.to_owned(),
                        strategy: None,
                        line: table.line,
                        filesystem: filesystem.to_owned(),
                        seen: seen.to_owned(),
                        reason: reason.map(str::to_owned),
                    });
                }
            }
        }
        render(&cells).unwrap()
    }

    #[test]
    fn a_gap_bears_the_number_of_its_reason() {
        let page = page(|source, filesystem| match (source, filesystem) {
            ("ebpf, strategy `tracepoint`", "xfs") => ("reconcile", Some("It is late.")),
            ("inotify", _) => ("at settle", Some("It is quiet.")),
            ("poll", "ext4") => ("no", Some("It is late.")),
            _ => ("at once", None),
        });
        assert!(page.contains(
            "\n## ebpf, strategy `tracepoint`\n\n\
             | way | ext4 | tmpfs | overlayfs | xfs | btrfs | btrfs subvolume |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n\
             | way 0 | at once | at once | at once | at once | at once | at once |\n\
             | way 1 | at once | at once | at once | reconcile (1) | at once | at once |\n"
        ));
        assert!(page.contains("| way 1 | at settle (2) | at settle (2) |"));
        assert!(page.contains("| way 1 | no (1) | at once |"));
        assert!(page.ends_with("\n## Reasons\n\n1. It is late.\n2. It is quiet.\n"));
    }

    #[test]
    fn a_page_of_another_strategy_is_told_from_this_one() {
        let cell = |strategy: &str, line| {
            let text = format!(
                r#"{{"row":0,"way":"w","source":"ebpf","strategy":"{strategy}","filesystem":"ext4","seen":"no"}}"#
            );
            Cell { line, ..Cell::parse(&text).unwrap() }
        };
        let there = cell("trampoline", Some(Line::V6_1));
        assert_eq!(other_strategy(&[there.clone(), cell(STRATEGY, None)]), None);
        assert_eq!(other_strategy(&[there, cell("trampoline", None)]), Some("trampoline"));
    }

    #[test]
    fn what_was_not_measured_is_not_written() {
        let cell = r#"{"row":0,"way":"w","source":"ebpf","filesystem":"ext4","seen":"no"}"#;
        let error = render(&[Cell::parse(cell).unwrap()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 0 was not measured on ext4 by ebpf, strategy `trampoline`, Linux 6.1"
        );
        let error = Cell::parse(r#"{"row":0}"#).unwrap_err();
        assert_eq!(error.to_string(), r#"a cell has no way: {"row":0}"#);
    }

    #[test]
    fn a_table_that_is_out_of_date_is_told_from_one_that_could_not_be_run() {
        let reason = Some("It is late.");
        let committed = page(|_, _| ("reconcile", reason));
        let here = page(|_, filesystem| match filesystem {
            "xfs" => (NOT_RUN, reason),
            _ => ("reconcile", reason),
        });
        assert_eq!(differences(&committed, &committed), [] as [String; 0]);
        assert_eq!(differences(&committed, &here), [] as [String; 0]);
        assert_eq!(differences(&here, &committed).len(), TABLES.len());
        let better = page(|_, _| ("at once", None));
        let expected = "committed: | way 1 | reconcile (1) |";
        assert!(differences(&committed, &better)[0].starts_with(expected));
        assert_eq!(differences("a\n", "a\nb\n"), ["committed: nothing\n measured: b"]);
    }
}
