//! Lints the eBPF program, which `cargo clippy --workspace` cannot: it has another target.

use anyhow::{Result, ensure};

use crate::{
    build::{EBPF_OPTIONS, ebpf_target},
    exec,
    place::{Place, printed},
    toolchain::Toolchain,
};

/// Run clippy on the eBPF program
///
/// `cargo clippy --workspace --all-targets` does the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

/// Lints, and lets no warning pass.
///
/// # Errors
///
/// Fails on a warning, and where there is no toolchain or it has no clippy.
pub(crate) fn run(_: &Options) -> Result<()> {
    let place = Place::find()?;
    let toolchain = Toolchain::find(&place)
        .map_err(|error| error.context("`cargo xtask setup --ci` installs what is missing"))?;
    ensure!(
        printed(toolchain.kind.clippy().arg("--version")).is_some(),
        "{} has no clippy; `cargo xtask setup --ci` installs it",
        toolchain.kind.name(),
    );
    let mut clippy = toolchain.clippy();
    clippy.args(EBPF_OPTIONS).args(toolchain.target_options());
    clippy.arg("--target-dir").arg(ebpf_target(&place)).args(["--", "-D", "warnings"]);
    exec(clippy.current_dir(&place.root))
}
