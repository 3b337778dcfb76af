//! Writes docs/verifier.md: what the kernel's verifier thinks of each eBPF program.
//!
//! What stands in it is measured by `tests/verifier.rs`, on this kernel and in virtual machines.

mod stack;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    exec,
    place::Place,
    test::tester,
    toolchain::Toolchain,
    vm::{self, Line},
};

/// Tells the test where to write what it measures.
pub(crate) const VARIABLE: &str = "RELOAD_VERIFIER";

const INTRODUCTION: &str = "\
# The verifier

How many instructions the kernel's verifier looks at until it accepts each program: each counts once for every way that leads to it, and the verifier gives up at 1,000,000.
A program that a kernel does not load has a dash there.
And how many bytes of stack it takes, of 512: that is read off the object's instructions, with all that a program calls, in pieces of 32 bytes as older kernels count.
This page is written by `cargo xtask vm --write`, and compared by `cargo xtask test`, which fails where a number is another: growth is to be seen in a diff.
A kernel that has no column here is not compared.
";

/// What the columns before those of kernels are called.
const FIXED: [&str; 2] = ["program", "stack"];

/// What stands in the cell of a program that is not loaded.
const ABSENT: &str = "—";

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    compiler: &'static str,
    stacks: BTreeMap<String, u32>,
    /// Kernels, and how many instructions were looked at there, by program.
    kernels: Vec<(String, BTreeMap<String, u64>)>,
}

impl Measured {
    /// Puts together what the tests have written here and in machines.
    ///
    /// # Errors
    ///
    /// Fails where that is not what the test writes, or where the object cannot be read.
    pub(crate) fn new(
        toolchain: &Toolchain,
        object: &Path,
        here: &Here,
        machines: &[(Line, vm::Report)],
    ) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut kernels = Vec::new();
        for (line, report) in machines {
            // A column of dashes would look as if it had been measured.
            let text = report.get(vm::VERIFIER);
            kernels.push(parse(
                text.with_context(|| format!("nothing was measured on Linux {line}"))?,
            )?);
        }
        let path = here.path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        kernels.push(parse(&text)?);
        Ok(Self { compiler: toolchain.kind.name(), stacks: stack::of_programs(&bytes)?, kernels })
    }

    /// Writes docs/verifier.md.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be written.
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let path = document(place);
        fs::write(&path, self.page())
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("The table is in {}.", path.display());
        Ok(())
    }

    /// Prints the table, and compares it with the committed one as far as that is about the same compiler
    /// and the same kernels.
    ///
    /// # Errors
    ///
    /// Fails where a number is another, and says which.
    pub(crate) fn check(&self, place: &Place) -> Result<()> {
        let path = document(place);
        let committed =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        println!("\n{}", self.table().join("\n"));
        if !committed.contains(&self.origin()) {
            println!("docs/verifier.md is not compared: it is of another compiler's programs.");
            return Ok(());
        }
        for (kernel, _) in self.kernels.iter().filter(|(kernel, _)| !committed.contains(kernel)) {
            println!("docs/verifier.md is not compared with {kernel}, for which it has no column.");
        }
        let differences = differences(&cells(&committed), &cells(&self.page()));
        for difference in &differences {
            println!("{difference}");
        }
        ensure!(
            differences.is_empty(),
            "{} is not what was measured; if that is as it should be, write it anew with `cargo xtask \
             vm --write`",
            path.display(),
        );
        Ok(())
    }

    fn origin(&self) -> String {
        format!("The programs are compiled with {}.", self.compiler)
    }

    fn page(&self) -> String {
        let table = self.table().join("\n");
        format!("{INTRODUCTION}{}\n\n{table}\n", self.origin())
    }

    fn table(&self) -> Vec<String> {
        let heads = FIXED.iter().copied().chain(self.kernels.iter().map(|(name, _)| name.as_str()));
        let heads: Vec<_> = heads.collect();
        let mut lines = vec![format!("| {} |", heads.join(" | "))];
        lines.push(format!("|{}", " --- |".repeat(heads.len())));
        for (program, stack) in &self.stacks {
            let mut cells = vec![format!("`{program}`"), stack.to_string()];
            for (_, verified) in &self.kernels {
                cells.push(verified.get(program).map_or(ABSENT.to_owned(), u64::to_string));
            }
            lines.push(format!("| {} |", cells.join(" | ")));
        }
        lines
    }
}

/// Where the test on this kernel writes what it measures.
#[derive(Debug)]
pub(crate) struct Here {
    folder: TempDir,
}

impl Here {
    /// Makes room for it.
    ///
    /// # Errors
    ///
    /// Fails where there is no temporary folder.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().context("cannot make a temporary folder")? })
    }

    /// The file that the test is told of.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("verifier")
    }

    /// Runs that test alone.
    ///
    /// # Errors
    ///
    /// Fails where it does.
    pub(crate) fn measure(&self, place: &Place, object: &Path) -> Result<()> {
        let mut cargo = tester(place, object)?;
        cargo.args(["--package=reload-userspace", "--test=verifier", "--", "--include-ignored"]);
        exec(cargo.env(VARIABLE, self.path()))
    }
}

fn document(place: &Place) -> PathBuf {
    place.root.join("docs/verifier.md")
}

/// What a kernel is called: its release without the flavour, `6.1.0-56` of `6.1.0-56-cloud-amd64`. Another
/// build may look at more.
fn kernel(release: &str) -> String {
    let is_number = |part: &&str| part.starts_with(|c: char| c.is_ascii_digit());
    let parts: Vec<_> = release.split('-').take_while(is_number).collect();
    format!("Linux {}", parts.join("-"))
}

/// Reads what the test writes: an object of JSON for each program. The agent tries a strategy and keeps
/// another only where the first is refused, so there is one number for each.
fn parse(text: &str) -> Result<(String, BTreeMap<String, u64>)> {
    let read = |line: &str| -> Option<(String, (String, u64))> {
        let fields: Value = serde_json::from_str(line).ok()?;
        let program = fields["program"].as_str()?.to_owned();
        Some((kernel(fields["release"].as_str()?), (program, fields["verified"].as_u64()?)))
    };
    let each = |line| read(line).with_context(|| format!("the test wrote {line:?}"));
    let lines: Vec<_> = text.lines().map(each).collect::<Result<_>>()?;
    let (kernel, _) = lines.first().context("the test wrote nothing")?.clone();
    Ok((kernel, lines.into_iter().map(|(_, number)| number).collect()))
}

/// The cells of a page, by program and column.
fn cells(page: &str) -> BTreeMap<(String, String), String> {
    let row = |line: &str| -> Option<Vec<String>> {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(inner.split(" | ").map(str::to_owned).collect())
    };
    let mut rows = page.lines().filter_map(row);
    let heads = rows.next().unwrap_or_default();
    let rows = rows.filter(|row| row.first().is_some_and(|name| name != "---"));
    let cells = rows.flat_map(|row| {
        let program = row[0].clone();
        let named = heads.iter().cloned().zip(row).skip(1);
        named.map(move |(head, cell)| ((program.clone(), head), cell)).collect::<Vec<_>>()
    });
    cells.collect()
}

/// Lists where two pages differ, in the columns that both have: another machine has another kernel.
fn differences(
    committed: &BTreeMap<(String, String), String>,
    measured: &BTreeMap<(String, String), String>,
) -> Vec<String> {
    let has = |page: &BTreeMap<(String, String), String>, head: &str| {
        page.keys().any(|(_, other)| other == head)
    };
    let both = |(_, head): &&(String, String)| has(committed, head) && has(measured, head);
    let mut keys: Vec<_> = committed.keys().chain(measured.keys()).filter(both).collect();
    keys.sort_unstable();
    keys.dedup();
    let differ = |key: &&(String, String)| committed.get(*key) != measured.get(*key);
    let say = |key: &(String, String)| {
        let [old, new] = [committed, measured]
            .map(|page| page.get(key).map_or("nothing", String::as_str).to_owned());
        format!("{}, {}: committed {old}, measured {new}", key.0, key.1)
    };
    keys.into_iter().filter(differ).map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(here: &str, learn: u64) -> Measured {
        let stacks = [("learn", 64), ("on_exec", 128)].map(|(name, size)| (name.to_owned(), size));
        let numbers = |line: &str| (line.to_owned(), BTreeMap::from([("learn".to_owned(), learn)]));
        Measured {
            compiler: "a compiler",
            stacks: stacks.into(),
            kernels: vec![numbers("Linux 6.1"), numbers(here)],
        }
    }

    #[test]
    fn a_row_is_a_program_and_a_column_a_kernel() {
        let expected = [
            "| program | stack | Linux 6.1 | Linux 7.0 |",
            "| --- | --- | --- | --- |",
            "| `learn` | 64 | 300 | 300 |",
            "| `on_exec` | 128 | — | — |",
        ];
        assert_eq!(measured("Linux 7.0", 300).table(), expected);
    }

    #[test]
    fn growth_is_told_of_and_a_kernel_that_only_one_has_is_not() {
        let committed = cells(&measured("Linux 7.0", 300).page());
        assert_eq!(committed.len(), 2 * 3);
        let same = cells(&measured("Linux 6.8", 300).page());
        assert_eq!(differences(&committed, &same), [] as [String; 0]);
        let grown = cells(&measured("Linux 6.8", 301).page());
        let expected = "`learn`, Linux 6.1: committed 300, measured 301";
        assert_eq!(differences(&committed, &grown), [expected]);
    }

    #[test]
    fn what_the_test_writes_is_read() {
        let line = r#"{"program":"learn","release":"6.1.0-56-cloud-amd64","verified":316}"#;
        let expected = ("Linux 6.1.0-56".to_owned(), BTreeMap::from([("learn".to_owned(), 316)]));
        assert_eq!(parse(line).unwrap(), expected);
        assert_eq!(kernel("6.12.117+deb12-cloud-amd64"), "Linux 6.12.117+deb12");
        let error = parse("nothing").unwrap_err();
        assert_eq!(error.to_string(), r#"the test wrote "nothing""#);
    }
}
