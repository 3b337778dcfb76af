//! Runs every test: those of the workspace, and the end-to-end ones, which need root and an agent
//! with its eBPF program.

use std::{num::NonZero, path::Path, process::Command, thread};

use anyhow::{Result, anyhow, ensure};

use crate::{
    build::{Built, Linkage, OBJECT_VARIABLE, Profile, build},
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

/// Sets up, builds and tests.
///
/// # Errors
///
/// Fails where a test does, where what it takes to run them is missing, or where all have passed and
/// docs/coverage.md or docs/verifier.md is not what they have measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Tests)?;
    let Built { object, agent, .. } = build(&place, &toolchain, Profile::Debug, Linkage::Dynamic)?;
    if !options.keep_images {
        image::build_for_tests(&place)?;
    }

    let mut cells = Cells::new()?;
    let here = Here::new()?;
    let mut cargo = tester(&place, &object)?;
    // Whoever waits for them wants to know of all that fail.
    cargo.args(["--workspace", "--no-fail-fast", "--", "--include-ignored", "--skip", k8s::PREFIX]);
    cargo.args(&options.filter);
    cargo.env(coverage::VARIABLE, cells.path()).env(verifier::VARIABLE, here.path());
    cargo.env(helm::VARIABLE, helm::provide(&place)?);
    // Beside the others, for it waits most of the time; with a filter nobody has asked for it.
    let is_soaked = is_root() && options.filter.is_empty();
    thread::scope(|scope| {
        let soak = is_soaked.then(|| scope.spawn(|| soak::in_tests(&place, agent)));
        let tested = exec(&mut cargo);
        let soaked = soak.map_or(Ok(()), |soak| {
            soak.join().unwrap_or_else(|_panic| Err(anyhow!("the soak has panicked")))
        });
        tested.and(soaked)
    })?;
    // With a filter not all of it has been measured.
    if !options.filter.is_empty() {
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

/// The setting that makes cargo run compiled tests with sudo.
fn run_with_sudo() -> Result<String> {
    ensure!(
        is_program("sudo"),
        "the tests need root, and there is no sudo; run `cargo xtask test` as root",
    );
    Ok(format!("target.{}.runner = ['sudo', '--preserve-env']", host()?))
}
