//! Runs the tests that need a Kubernetes cluster, on a real one that is brought up for them.
//!
//! The cluster is a kit of scripts beside the checkout, for its binaries are in no registry.

mod cluster;
mod kit;

use std::{
    env,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::cluster::Cluster;
pub(crate) use self::kit::{Kit, LACK};
use crate::{
    build::build_object,
    child::{Ask, Child},
    docker::Docker,
    helm, image,
    patience::Patience,
    place::Place,
    setup::{Extent, setup},
    show,
    test::{ensure_hangup_is_heard, tester},
};

/// Run the tests of the cluster, on a real Kubernetes of one node
///
/// Brings it up, loads the images, runs the tests and brings it down, also when it is interrupted. Needs
/// ../shared/k8s beside the checkout, or a folder like it in `RELOAD_K8S`, and root. The cluster lives in
/// target/k8s, or where `RELOAD_K8S_DIR` says. `cargo xtask test` does it too.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster up, for the next run and to look at it by hand
    #[arg(long)]
    keep: bool,

    /// Take the images that are there, and build none: quicker, where only tests have changed
    #[arg(long)]
    keep_images: bool,

    /// Passed on to the tests: a part of the names of those to run, or options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// What the names of tests of the cluster begin with.
pub(crate) const PREFIX: &str = "cluster::";

/// What becomes of the cluster after the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It is brought down.
    Down,
    /// It stays up for some hours.
    Kept,
}

/// How long the tests may take. It is for what hangs: they take a fraction of it.
const LIMIT: Duration = Duration::from_mins(40);

/// How often they are looked after.
const PACE: Duration = Duration::from_millis(100);

/// How many seconds a test waits for what must come: the machine has a cluster to carry.
const TEST_PATIENCE: (&str, &str) = ("RELOAD_TEST_PATIENCE", "120");

/// Runs the tests.
///
/// # Errors
///
/// Fails where there is no kit, where the cluster does not come up, and where a test fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure_hangup_is_heard()?;
    let place = Place::find()?;
    let Some(kit) = Kit::find(&place)? else { bail!("{LACK}") };
    let toolchain = setup(&place, Extent::Tests)?;
    let object = build_object(&place, &toolchain)?;
    if !options.keep_images {
        image::build_for_tests(&place)?;
    }
    let afterwards = if options.keep { Afterwards::Kept } else { Afterwards::Down };
    carry_out(&place, &kit, &object, afterwards, &options.filter)
}

/// Brings a cluster up, runs its tests, and sees to what becomes of it.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn carry_out(
    place: &Place,
    kit: &Kit,
    object: &Path,
    afterwards: Afterwards,
    filter: &[String],
) -> Result<()> {
    let helm = helm::provide(place)?;
    let patience = Patience::new()?;
    let tests = || -> Result<Command> {
        let mut cargo = tester(place, object)?;
        cargo.args(["--package=reload-userspace", "--test=cluster"]);
        Ok(cargo)
    };
    // Compiled first, for the cluster lives for a while only.
    wait_for(&patience, tests()?.arg("--no-run"), LIMIT)?;

    let begin = Instant::now();
    let cluster = Cluster::up(kit, place, afterwards, &patience)?;
    cluster.load(&Docker::find(place)?, place, &patience)?;
    println!("The cluster is up, with its images, after {} s.", begin.elapsed().as_secs());

    let begin = Instant::now();
    let mut cargo = tests()?;
    // One at a time: some of them stop what all others need.
    cargo.args(["--", "--include-ignored", "--test-threads=1"]).args(filter);
    cargo.envs(cluster.environment()).env(helm::VARIABLE, helm);
    if env::var_os(TEST_PATIENCE.0).is_none() {
        cargo.env(TEST_PATIENCE.0, TEST_PATIENCE.1);
    }
    let done = wait_for(&patience, &mut cargo, LIMIT);
    println!("The tests of the cluster took {} s.", begin.elapsed().as_secs());
    // It may have failed for want of a cluster, so that goes first.
    let ended = cluster.end(afterwards);
    done.and(ended)
}

/// Runs `command` to its end, and ends it where we are asked to stop.
///
/// # Errors
///
/// Fails where it does, where it takes longer than `limit`, and where we are interrupted.
fn wait_for(patience: &Patience, command: &mut Command, limit: Duration) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let mut child = Child::spawn(command, Ask::Signal)?;
    let ended = patience.until(PACE, limit, || child.ended())?;
    let status = ended.with_context(|| format!("`{shown}` is not done after {limit:?}"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}
