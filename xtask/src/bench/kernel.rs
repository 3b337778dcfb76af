//! What the agent's eBPF programs take, as the kernel counts it (`BPF_ENABLE_STATS`, Linux 5.8).
//!
//! To count costs time itself, so nothing else is measured meanwhile.

use std::{collections::BTreeMap, fs, ops::Sub, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};

/// That the kernel counts: as long as somebody has this open, and no longer, however he ends.
#[derive(Debug)]
pub(crate) struct Counting {
    _descriptor: OwnedFd,
}

impl Counting {
    /// Has it count.
    ///
    /// # Errors
    ///
    /// Fails where the kernel cannot or may not.
    pub(crate) fn start() -> Result<Self> {
        let counting = enable_stats(Stats::RunTime);
        let descriptor = counting.context("the kernel does not count what eBPF programs take")?;
        Ok(Self { _descriptor: descriptor })
    }
}

/// How often programs have run, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Runs {
    pub(crate) count: f64,
    pub(crate) nanos: f64,
}

impl Sub for Runs {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { count: self.count - before.count, nanos: self.nanos - before.nanos }
    }
}

/// The sum over the programs that a process has open, whoever made them run.
///
/// # Errors
///
/// Fails where the process is gone.
pub(crate) fn runs(pid: u32) -> Result<Runs> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
    let mut programs = BTreeMap::new();
    for entry in entries.flatten() {
        // One that is closed meanwhile is none of ours: the agent keeps its programs.
        programs.extend(read(&entry.path()).as_deref().and_then(parse));
    }
    Ok(programs.values().fold(Runs::default(), |sum, runs| Runs {
        count: sum.count + runs.count,
        nanos: sum.nanos + runs.nanos,
    }))
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number of a program and its runs, if that is what the descriptor is.
fn parse(info: &str) -> Option<(String, Runs)> {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let number = |name: &str| field(name)?.parse().ok();
    let id = field("prog_id")?.to_owned();
    Some((id, Runs { count: number("run_cnt")?, nanos: number("run_time_ns")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_from_what_else_is_open() {
        let program = "pos:\t0\nprog_type:\t26\nprog_id:\t7\nrun_time_ns:\t920\nrun_cnt:\t20\n";
        let runs = Runs { count: 20.0, nanos: 920.0 };
        assert_eq!(parse(program), Some(("7".to_owned(), runs)));
        assert_eq!(parse("pos:\t0\nlink_type:\traw_tracepoint\nprog_id:\t7\n"), None);
        assert_eq!(parse("pos:\t0\nflags:\t02000000\n"), None);
    }
}
