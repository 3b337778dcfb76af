//! Runs every test: those of the workspace, and the end-to-end ones, which need root and an agent
//! with its eBPF program.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{Built, OBJECT_VARIABLE, Profile, build},
    exec,
    place::{Place, host_cargo, is_program, is_root, printed},
    setup::{Extent, setup},
};

/// Run every test, those that need root too
///
/// Installs what is missing and builds first. Tests run as root: where you are not, sudo runs the
/// compiled tests, and apt if need be, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Passed on to the tests: a part of the names of those to run, or options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Sets up, builds and tests.
///
/// # Errors
///
/// Fails where a test does, or where what it takes to run them is missing.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Tests)?;
    let Built { object, .. } = build(&place, &toolchain, Profile::Debug)?;

    let mut cargo = host_cargo();
    cargo.args(["test", "--workspace", "--locked"]);
    if !is_root() {
        cargo.args(["--config", &run_with_sudo()?]);
    }
    cargo.args(["--", "--include-ignored"]).args(&options.filter);
    exec(cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root))
}

/// The setting that makes cargo run compiled tests with sudo.
fn run_with_sudo() -> Result<String> {
    ensure!(
        is_program("sudo"),
        "the tests need root, and there is no sudo; run `cargo xtask test` as root",
    );
    let version = printed(Command::new("rustc").arg("-vV")).context("cannot run `rustc -vV`")?;
    let host = parse_host(&version).context("`rustc -vV` does not tell its host")?;
    Ok(format!("target.{host}.runner = ['sudo', '--preserve-env']"))
}

fn parse_host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_from_the_compiler() {
        let version = "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n";
        assert_eq!(parse_host(version), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(parse_host("rustc 1.95.0\n"), None);
    }
}
