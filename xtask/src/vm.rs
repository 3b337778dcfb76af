//! Runs the end-to-end tests on other kernels than this machine's, each in a virtual machine.
//!
//! A kernel that is locked down, as this machine's may be, refuses the eBPF program that older ones need.

mod archive;
mod disk;
mod kernel;
mod machine;
mod suite;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

pub(crate) use self::{
    disk::Load,
    kernel::Line,
    machine::Processor,
    suite::{COVERAGE, Extent, VERIFIER},
};
use self::{kernel::Kernel, machine::Machine, suite::Suite};
use crate::{
    build::{OBJECT_VARIABLE, build_object},
    exec, package,
    patience::Patience,
    place::{Place, host_cargo},
    setup,
    test::ensure_hangup_is_heard,
    verifier::{Here, Measured},
};

/// Run the tests on Debian's kernels 6.1 and 6.12, in virtual machines
///
/// Each machine has a kernel of Debian's, the compiled tests and what they run, and nothing of this
/// machine. Needs no root and no KVM: the processor is emulated. `cargo xtask test` does it too.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which line of kernels to take: 6.1, 6.12 or all
    #[arg(long, value_name = "LINE", default_value = "all", value_parser = lines)]
    kernel: Lines,

    /// Only write docs/verifier.md anew
    #[arg(long, conflicts_with = "filter")]
    write: bool,

    /// Passed on to the tests: a part of the names of those to run, or options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Some lines of kernels.
#[derive(Clone, Debug)]
struct Lines(Vec<Line>);

fn lines(text: &str) -> Result<Lines, String> {
    if text == "all" {
        return Ok(Lines(Line::ALL.to_vec()));
    }
    let line = Line::from_str(text, false).ok();
    line.map(|line| Lines(vec![line])).ok_or_else(|| "give 6.1, 6.12 or all".to_owned())
}

/// What the tests have measured in a machine: texts by name.
pub(crate) type Report = BTreeMap<String, String>;

/// How long the tests may take. It is for what hangs: they take a fraction of it.
const LIMIT: Duration = Duration::from_mins(30);

/// How often the machines are looked after.
const PACE: Duration = Duration::from_millis(100);

/// Runs the tests.
///
/// # Errors
///
/// Fails where one fails, where something is missing here, where they take too long, and where
/// docs/verifier.md is not what they have measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure_hangup_is_heard()?;
    let place = Place::find()?;
    let toolchain = setup::setup(&place, setup::Extent::Tests)?;
    let object = build_object(&place, &toolchain)?;
    let Lines(kernels) = &options.kernel;
    let extent = if options.write { Extent::Verifier } else { Extent::All };
    let measured = measure(&place, &object, None, kernels, extent, &options.filter)?;
    if *kernels != Line::ALL || !options.filter.is_empty() {
        return Ok(());
    }
    let here = Here::new()?;
    here.measure(&place, &object)?;
    let measured = Measured::new(&toolchain, &object, &here, &measured)?;
    if options.write { measured.write(&place) } else { measured.check(&place) }
}

/// Runs tests on kernels, side by side, and gives what they have measured: with this agent, or where there is
/// none with one that is built for that, with this object.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn measure(
    place: &Place,
    object: &Path,
    agent: Option<&Path>,
    kernels: &[Line],
    extent: Extent,
    filter: &[String],
) -> Result<Vec<(Line, Report)>> {
    // Whoever is asked to stop while it compiles stops then.
    let patience = Patience::new()?;
    compile_programs(place, object)?;
    let suite = Suite::compile(place, object, agent, extent, filter)?;
    carry_out(place, kernels, Processor::Fast, &suite.load(), &patience)
}

/// Does the same on kernels, side by side, and gives what has been reported.
///
/// # Errors
///
/// Fails where it fails, where something is missing here, and where it takes too long.
pub(crate) fn carry_out(
    place: &Place,
    kernels: &[Line],
    processor: Processor,
    load: &Load,
    patience: &Patience,
) -> Result<Vec<(Line, Report)>> {
    setup::provide(&[package::MACHINES])?;
    let logs = place.target.join("vm");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let folder = tempfile::tempdir_in(&logs).context("cannot make a temporary folder")?;

    let begin = Instant::now();
    let mut machines = Vec::new();
    for &line in kernels {
        let kernel = Kernel::provide(place, line)?;
        let archive = folder.path().join(format!("archive-{line}"));
        disk::pack(place, &kernel, load, &archive)?;
        let log = logs.join(format!("{line}.log"));
        let machine = Machine::start(line, &kernel, processor, &archive, folder.path(), log)?;
        machines.push((line, machine));
    }
    let ended = patience.until(PACE, LIMIT, || {
        let mut running = 0;
        for (_, machine) in &mut machines {
            running += usize::from(!machine.look()?);
        }
        Ok((running == 0).then_some(()))
    })?;
    if ended.is_none() {
        bail!("it was not over within {} minutes; the machines are killed", LIMIT.as_secs() / 60);
    }
    println!("The virtual machines took {} s.", begin.elapsed().as_secs());
    let mut results = Vec::new();
    let mut failures = Vec::new();
    for (line, machine) in machines {
        match machine.result() {
            Ok(files) => results.push((line, files)),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(results)
}

/// Has the C programs that tests run compiled here: there is no compiler there.
fn compile_programs(place: &Place, object: &Path) -> Result<()> {
    let mut cargo = host_cargo();
    cargo.args(["test", "--locked", "--quiet", "--package=reload-userspace", "--test=programs"]);
    exec(cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root))
}
