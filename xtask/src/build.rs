//! Builds both halves: the eBPF object, then the agent that carries it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec,
    place::{Place, host, host_cargo, printed},
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

    /// Link the C library in, so that the agent runs where there is none, as in an empty image
    #[arg(long = "static")]
    is_static: bool,
}

/// How the agent is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// To the C library of the machine that runs it.
    Dynamic,
    /// With a C library of its own.
    Static,
}

/// How the agent is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Fast to build.
    Debug,
    /// Fast to run.
    Release,
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
    let linkage = if options.is_static { Linkage::Static } else { Linkage::Dynamic };
    let agent = build(&place, &toolchain, profile, linkage)?;
    println!("The agent is {}.", agent.display());
    Ok(())
}

/// Builds both halves, and gives the agent.
///
/// # Errors
///
/// Fails where one of them does not compile; cargo has then said why.
pub(crate) fn build(
    place: &Place,
    toolchain: &Toolchain,
    profile: Profile,
    linkage: Linkage,
) -> Result<PathBuf> {
    let object = build_object(place, toolchain)?;
    build_agent(place, profile, linkage, &object)
}

/// Builds the eBPF object, and gives it.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn build_object(place: &Place, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = ebpf_target(place);
    let mut cargo = toolchain.cargo();
    cargo.arg("build").args(EBPF_OPTIONS).args(toolchain.target_options());
    exec(cargo.arg("--target-dir").arg(&target).current_dir(&place.root))?;
    strip(&there(target.join(TARGET).join("ebpf/reload-ebpf"))?)
}

/// Gives the object without the debug information, nine tenths of it, which nothing reads at run time: the BTF
/// has been made of it by then. Where LLVM's tools are not to be found it stays, and the agent is larger.
fn strip(object: &Path) -> Result<PathBuf> {
    let tools = ["/usr/lib/llvm-22/bin/llvm-strip", "llvm-strip"];
    let is_there = |tool: &&&str| printed(Command::new(**tool).arg("--version")).is_some();
    let Some(tool) = tools.iter().find(is_there) else { return Ok(object.to_owned()) };
    let (stripped, new) = (object.with_extension("stripped"), object.with_extension("new"));
    exec(Command::new(tool).arg("--strip-debug").arg("-o").arg(&new).arg(object))?;
    // The agent is compiled anew where its time has changed.
    let is_same = fs::read(&stripped).is_ok_and(|it| fs::read(&new).is_ok_and(|new| it == new));
    let kept = if is_same { fs::remove_file(&new) } else { fs::rename(&new, &stripped) };
    kept.with_context(|| format!("cannot write {}", stripped.display()))?;
    Ok(stripped)
}

fn build_agent(
    place: &Place,
    profile: Profile,
    linkage: Linkage,
    object: &Path,
) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(["build", "--locked", "--package=reload-userspace", "--bin=reload-agent"]);
    cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root);
    let mut folder = place.target.clone();
    if linkage == Linkage::Static {
        let host = host()?;
        // With `--target`, even the host's own, the flags reach neither build scripts nor macros,
        // which cannot be static.
        cargo.args(["--target", &host]).env("CARGO_ENCODED_RUSTFLAGS", STATIC_FLAGS);
        folder.push(host);
    }
    match profile {
        Profile::Debug => folder.push("debug"),
        Profile::Release => {
            cargo.arg("--release");
            folder.push("release");
        }
    }
    exec(&mut cargo)?;
    there(folder.join("reload-agent"))
}

/// Makes rustc link glibc itself in: Debian has no Rust library for another C library.
const STATIC_FLAGS: &str = "-Ctarget-feature=+crt-static";

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

/// Compiles every test, and gives the agent that they start.
///
/// # Errors
///
/// Fails where one does not compile; cargo has then said why.
pub(crate) fn build_tests(place: &Place, object: &Path) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(["test", "--locked", "--workspace", "--no-run"]);
    exec(cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root))?;
    there(place.target.join("debug/reload-agent"))
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
