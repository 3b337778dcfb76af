//! Runs every test: those of the workspace, and the end-to-end ones, which need root and an agent
//! with its eBPF program.

use std::{fs, num::NonZero, path::Path, process::Command, thread};

use anyhow::{Context as _, Error, Result, bail, ensure};

use crate::{
    build::{OBJECT_VARIABLE, build_object, build_tests},
    coverage::{self, Cells},
    exec, helm, image,
    k8s::{self, Afterwards, Kit},
    place::{Place, host, host_cargo, is_program, is_root},
    setup::{Extent, setup},
    soak,
    verifier::{self, Here, Measured},
    vm,
};

/// Run every test, those that need root too
///
/// Installs what is missing and builds first, the images of the containers too. Tests run as root:
/// where you are not, sudo runs the compiled tests, and apt and Docker if need be, and nothing else.
/// Without a filter those of the cluster run as by `cargo xtask k8s`, where it has what it needs, and
/// those that other kernels may break run again in virtual machines, as by `cargo xtask vm`; and an agent
/// is soaked for five minutes beside them, as by `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Take the images that are there, and build none: quicker, where other tests matter
    #[arg(long)]
    keep_images: bool,

    /// Passed on to the tests: a part of the names of those to run, or options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// A file of tests that takes two minutes, and so runs beside the others; and what its only test is called.
const LONG: &str = "--test=trace_memory";
const LONG_NAME: &str = "ten_thousand_updates_take_no_more_memory";

/// Sets up, builds and tests.
///
/// # Errors
///
/// Fails where a test does, where what it takes to run them is missing, or where all have passed and
/// docs/coverage.md or docs/verifier.md is not what they have measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure_hangup_is_heard()?;
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Tests)?;
    let object = build_object(&place, &toolchain)?;
    if !options.keep_images {
        // It may ask for a password.
        image::prepare(&place)?;
    }
    // The image is optimised as a whole in the end, by one thread.
    let images = || if options.keep_images { Ok(()) } else { image::build_for_tests(&place) };
    let ((), agent) = side_by_side(images, || build_tests(&place, &object))?;

    let mut cells = Cells::new()?;
    let here = Here::new()?;
    let mut cargo = tester(&place, &object)?;
    // Whoever waits for them wants to know of all that fail.
    cargo.args(["--workspace", "--no-fail-fast", "--", "--include-ignored", "--skip", k8s::PREFIX]);
    cargo.args(&options.filter);
    cargo.env(coverage::VARIABLE, cells.path()).env(verifier::VARIABLE, here.path());
    cargo.env(helm::VARIABLE, helm::provide(&place)?);
    // With a filter nobody has asked for what takes long.
    let is_whole = options.filter.is_empty();
    let is_soaked = is_root() && is_whole;
    let mut long = tester(&place, &object)?;
    long.args(["--package=reload-userspace", LONG, "--", "--include-ignored"]);
    let beside = || {
        if is_soaked {
            soak::in_tests(&place, agent)?;
        }
        if is_whole { exec(&mut long) } else { Ok(()) }
    };
    if is_whole {
        cargo.args(["--skip", LONG_NAME]);
    }
    // Both wait most of the time.
    side_by_side(beside, || exec(&mut cargo))?;
    // With a filter not all of it has been measured.
    if !is_whole {
        println!(
            "The cluster and the virtual machines are left out; `cargo xtask k8s -- FILTER` and \
             `cargo xtask vm -- FILTER` ask them."
        );
        return Ok(());
    }
    let kit = Kit::find(&place)?;
    if let Some(kit) = &kit {
        k8s::carry_out(&place, kit, &object, Afterwards::Down, &[])?;
    }
    // An image that was kept may be of another source.
    let shipped = (!options.keep_images).then(|| image::take_agent(&place)).transpose()?;
    let (shipped, kernels) = (shipped.as_deref(), &vm::Line::ALL);
    // Beside nothing: they compute all the time, and what waits for a processor takes one change for two.
    let machines = vm::measure(&place, &object, shipped, kernels, vm::Extent::All, &[])?;
    cells.add(&machines)?;
    let measured = Measured::new(&toolchain, &object, &here, &machines)?;
    // Both say what they find, whichever fails.
    let checked = [cells.check(&place), measured.check(&place)];
    if !is_soaked {
        println!("The soak was NOT run: it needs root; `sudo cargo xtask soak` runs it.");
    }
    if kit.is_none() {
        println!("The tests of the cluster were NOT run: {}.", k8s::LACK);
    }
    checked.into_iter().collect()
}

/// Does two things at the same time, both to their ends, and fails where one of them does.
fn side_by_side<A: Send, B>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    // What the other one says until its end would hide it.
    let tell = |error: &Error| eprintln!("error: {error:#}; what runs beside it is waited for");
    thread::scope(|scope| {
        let one = scope.spawn(|| one().inspect_err(tell));
        let other = other().inspect_err(tell);
        let one = one.join().unwrap_or_else(|_panic| bail!("a thread has panicked"));
        Ok((one?, other?))
    })
}

/// Makes sure that what the tests reload hears of it, which inherits what is ignored here.
///
/// # Errors
///
/// Fails where SIGHUP is ignored.
pub(crate) fn ensure_hangup_is_heard() -> Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    ensure!(
        !ignores_hangup(&status),
        "SIGHUP is ignored here, as nohup has it, and what the tests reload would inherit that; start \
         it with `setsid` instead",
    );
    Ok(())
}

/// The command that runs tests as root, with an agent that has its eBPF program.
///
/// # Errors
///
/// Fails where nothing here can make it root.
pub(crate) fn tester(place: &Place, object: &Path) -> Result<Command> {
    let mut cargo = host_cargo();
    cargo.args(["test", "--locked"]).env(OBJECT_VARIABLE, object).current_dir(&place.root);
    // More than there are processors, for most of a test is waiting.
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    cargo.env("RUST_TEST_THREADS", (2 * processors).to_string());
    if !is_root() {
        cargo.args(["--config", &run_with_sudo()?]);
    }
    Ok(cargo)
}

/// Whether a process with this `status` ignores SIGHUP (`SigIgn`, `proc_pid_status(5)`).
fn ignores_hangup(status: &str) -> bool {
    const HANGUP: u64 = 1;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & HANGUP != 0)
}

/// The setting that makes cargo run compiled tests with sudo.
fn run_with_sudo() -> Result<String> {
    ensure!(
        is_program("sudo"),
        "the tests need root, and there is no sudo; run `cargo xtask test` as root",
    );
    Ok(format!("target.{}.runner = ['sudo', '--preserve-env']", host()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_seen() {
        assert!(ignores_hangup("Name:\tcargo\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("Name:\tcargo\n"));
    }
}
