//! Builds both halves: the eBPF object, then the agent that carries it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{
    exec,
    place::{Place, host_cargo},
    toolchain::{TARGET, Toolchain},
};

/// Build the agent with its eBPF program
///
/// A plain `cargo build` also works, without any eBPF toolchain, and makes an agent that has no
/// eBPF program in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Optimise the agent; its eBPF program always is
    #[arg(long)]
    release: bool,
}

/// How the agent is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Fast to build.
    Debug,
    /// Fast to run.
    Release,
}

/// What was built.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    /// The agent, with the object in it.
    pub(crate) agent: PathBuf,
    /// The eBPF object.
    pub(crate) object: PathBuf,
}

/// Tells the agent's build script which object to embed.
pub(crate) const OBJECT_VARIABLE: &str = "RELOAD_EBPF_OBJECT";

/// Builds, and says where the agent is.
///
/// # Errors
///
/// As [`build`]; also where no toolchain is complete, with the way to one.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = Place::find()?;
    let toolchain = Toolchain::find(&place)
        .map_err(|error| error.context("`cargo xtask setup` installs what is missing"))?;
    let profile = if options.release { Profile::Release } else { Profile::Debug };
    let Built { agent, .. } = build(&place, &toolchain, profile)?;
    println!("The agent is {}.", agent.display());
    Ok(())
}

/// Builds both halves.
///
/// # Errors
///
/// Fails where one of them does not compile; cargo has then said why.
pub(crate) fn build(place: &Place, toolchain: &Toolchain, profile: Profile) -> Result<Built> {
    let object = build_object(place, toolchain)?;
    let agent = build_agent(place, profile, &object)?;
    Ok(Built { agent, object })
}

fn build_object(place: &Place, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = ebpf_target(place);
    let mut cargo = toolchain.cargo();
    cargo.arg("build").args(EBPF_OPTIONS).args(toolchain.target_options());
    exec(cargo.arg("--target-dir").arg(&target).current_dir(&place.root))?;
    there(target.join(TARGET).join("ebpf/reload-ebpf"))
}

fn build_agent(place: &Place, profile: Profile, object: &Path) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(["build", "--locked", "--package=reload-userspace", "--bin=reload-agent"]);
    cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root);
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    exec(&mut cargo)?;
    there(place.target.join(folder).join("reload-agent"))
}

/// The package that is the eBPF program, for every subcommand of cargo that compiles it.
pub(crate) const EBPF_OPTIONS: [&str; 5] = [
    "--locked",
    "--package=reload-ebpf",
    "--bin=reload-ebpf",
    "--features=program",
    "--profile=ebpf",
];

/// The eBPF half has a folder of its own, for its compiler is another, and each would discard what
/// the other has built.
pub(crate) fn ebpf_target(place: &Place) -> PathBuf {
    place.target.join("ebpf")
}

fn there(file: PathBuf) -> Result<PathBuf> {
    let name = file.file_name().unwrap_or(OsStr::new("the file"));
    ensure!(
        file.is_file(),
        "cargo built {} and it is not at {}; does a configuration of cargo set `build.target`?",
        name.display(),
        file.display(),
    );
    Ok(file)
}
