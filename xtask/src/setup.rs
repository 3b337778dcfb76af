//! Installs what is missing for building, testing and linting, and nothing twice.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    exec, helm,
    package::{self, Package, missing},
    place::{Place, as_root, host_cargo, is_program, printed},
    toolchain::{Kind, LINKER_VERSION, Toolchain},
};

/// Install what is missing to build and test
///
/// Takes whichever toolchain for the eBPF program is complete: Debian's rustc-web, or rustup's
/// nightly with rust-src. Where neither is, installs Debian's if apt offers it, else rustup's. Also
/// installs what the tests run: a C compiler, nginx, Docker, Helm, and what makes filesystems. Tools that
/// are in no package of the system go into the target folder, not among yours. It is safe to repeat; the second time
/// there is nothing to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Also install what .ci/run wants: a clippy for the eBPF program, and cargo-deny
    #[arg(long)]
    ci: bool,
}

/// How much to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What building takes.
    Build,
    /// That, and a server to reload.
    Demo,
    /// That, and what the tests run.
    Tests,
    /// That, and what `.ci/run` wants.
    Ci,
}

const DENY_VERSION: &str = "0.20.2";

/// Installs, and says what it did.
///
/// # Errors
///
/// Fails where something is still missing, and names it with a remedy.
pub(crate) fn run(options: &Options) -> Result<()> {
    let extent = if options.ci { Extent::Ci } else { Extent::Tests };
    setup(&Place::find()?, extent).map(drop)
}

/// Makes the machine ready and gives the toolchain that it found or installed.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn setup(place: &Place, extent: Extent) -> Result<Toolchain> {
    let found = Toolchain::find(place);
    let mut tasks = Tasks { packages: missing(package::BUILD), ..Tasks::default() };
    if extent != Extent::Build {
        tasks.packages.extend(missing(package::SERVER));
    }
    if matches!(extent, Extent::Tests | Extent::Ci) {
        let tables = [package::TESTS, package::MACHINES, package::DOCKER, package::BOOTSTRAP];
        tasks.packages.extend(tables.iter().flat_map(|table| missing(table)));
        tasks.helm = helm::find(place).is_none();
        if tasks.helm {
            tasks.packages.extend(missing(package::PIP));
        }
    }
    let kind = match &found {
        Ok(toolchain) => toolchain.kind,
        Err(error) => {
            println!("{error}.");
            let kind = choose();
            tasks.toolchain = Some(kind);
            if kind == Kind::Debian {
                tasks.packages.extend(missing(package::COMPILER));
                tasks.packages.extend(missing(package::LINKER));
            }
            kind
        }
    };
    if extent == Extent::Ci {
        match kind {
            Kind::Debian => tasks.packages.extend(missing(package::CI)),
            Kind::Nightly => tasks.clippy = printed(kind.clippy().arg("--version")).is_none(),
        }
        tasks.deny = deny(place).is_none();
    }
    if let (Ok(toolchain), true) = (found, tasks.is_empty()) {
        println!("Setup has nothing to do: {toolchain} builds the eBPF program.");
        return Ok(toolchain);
    }
    tasks.carry_out(place)?;
    let toolchain = Toolchain::find(place).context("setup did all it could")?;
    println!("Setup is done: {toolchain} builds the eBPF program.");
    Ok(toolchain)
}

/// Installs what is missing of some tables, for a chore that builds nothing on this machine.
///
/// # Errors
///
/// Fails where something is still missing, and names it.
pub(crate) fn provide(tables: &[&'static [Package]]) -> Result<()> {
    let absent: Vec<_> = tables.iter().flat_map(|table| missing(table)).collect();
    if absent.is_empty() { Ok(()) } else { install_packages(&absent) }
}

/// Finds the cargo-deny that the project uses.
pub(crate) fn deny(place: &Place) -> Option<PathBuf> {
    place.programs("cargo-deny").into_iter().find(|program| {
        printed(Command::new(program).arg("--version"))
            .is_some_and(|text| text.split_ascii_whitespace().nth(1) == Some(DENY_VERSION))
    })
}

/// Decides which toolchain to complete: what lacks only its linker first, then what apt offers.
fn choose() -> Kind {
    let begun = [Kind::Debian, Kind::Nightly].into_iter().find(|kind| kind.lack().is_none());
    match begun {
        Some(kind) if kind == Kind::Nightly || package::has_apt() => kind,
        _ if is_offered() => Kind::Debian,
        _ => Kind::Nightly,
    }
}

/// Whether apt offers Debian's compiler. The lists of a fresh machine are empty, so they are read
/// first.
fn is_offered() -> bool {
    // This package came with the first version that is new enough.
    const NEWEST: &str = "libstd-rust-web-dev-bpf";
    package::has_apt()
        && (package::apt_knows(NEWEST)
            || package::apt_update().is_ok() && package::apt_knows(NEWEST))
}

/// What is to be done. Empty where all is there.
#[derive(Debug, Default)]
struct Tasks {
    packages: Vec<&'static Package>,
    /// The toolchain to complete with a linker.
    toolchain: Option<Kind>,
    /// Whether to add clippy to rustup's nightly.
    clippy: bool,
    /// Whether to build cargo-deny.
    deny: bool,
    /// Whether to fetch Helm.
    helm: bool,
}

impl Tasks {
    fn is_empty(&self) -> bool {
        let Self { packages, toolchain, clippy, deny, helm } = self;
        packages.is_empty() && toolchain.is_none() && !clippy && !deny && !helm
    }

    fn carry_out(&self, place: &Place) -> Result<()> {
        if !self.packages.is_empty() {
            install_packages(&self.packages)?;
        }
        match self.toolchain {
            Some(Kind::Debian) => build_linker(place, Kind::Debian)?,
            Some(Kind::Nightly) => complete_nightly(place)?,
            None => {}
        }
        if self.clippy {
            exec(Command::new("rustup").args([
                "component",
                "add",
                "clippy",
                "--toolchain=nightly",
            ]))
            .context("cannot add clippy to rustup's nightly")?;
        }
        if self.deny {
            println!("cargo-deny {DENY_VERSION} is missing: checks licences, bans and sources.");
            let mut cargo = host_cargo();
            cargo.args(["install", "cargo-deny", "--version", DENY_VERSION]);
            install_tool(&mut cargo, place).context("cannot build cargo-deny")?;
        }
        if self.helm {
            helm::install(place)?;
        }
        Ok(())
    }
}

fn install_packages(packages: &[&'static Package]) -> Result<()> {
    for Package { name, why, .. } in packages {
        println!("{name} is missing: {why}.");
    }
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let names = names.join(", ");
    ensure!(
        package::has_apt(),
        "there is no apt here; install what this system calls {names}, then run this again",
    );
    package::apt_update()?;
    let quiet = Quiet::begin(packages)?;
    let installed = package::apt_install(packages);
    quiet.end()?;
    installed?;
    let absent: Vec<_> =
        packages.iter().filter(|package| !package.is_there()).map(|package| package.name).collect();
    ensure!(
        absent.is_empty(),
        "apt installed {} and what it should bring is not there; is another version preferred in \
         /etc/apt/preferences?",
        absent.join(", "),
    );
    Ok(())
}

/// Keeps systemd from starting the nginx that is about to be installed: the tests start their own.
///
/// `RUNLEVEL=1` does that for other inits. A mask under /run is the least that systemd heeds; a
/// `policy-rc.d`, which all heed, would outlive a setup that is interrupted.
#[derive(Debug)]
struct Quiet {
    masked: bool,
}

impl Quiet {
    fn begin(packages: &[&Package]) -> Result<Self> {
        let masked = Path::new("/run/systemd/system").is_dir()
            && packages.iter().any(|package| package.name == "nginx-light");
        if masked {
            systemctl(&["mask", "--runtime", "nginx.service"])?;
        }
        Ok(Self { masked })
    }

    fn end(self) -> Result<()> {
        if self.masked {
            systemctl(&["unmask", "--runtime", "nginx.service"])?;
            systemctl(&["disable", "nginx.service"])?;
        }
        Ok(())
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    exec(as_root("systemctl").args(arguments))
        .context("cannot keep nginx from being started as a service")
}

fn complete_nightly(place: &Place) -> Result<()> {
    ensure!(
        is_program("rustup"),
        "apt offers no rustc-web 1.96 here and there is no rustup; install one of the two",
    );
    if let Some(lack) = Kind::Nightly.lack() {
        println!("{} lacks {lack}: compiles the eBPF program.", Kind::Nightly.name());
        exec(Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile=minimal",
            "--component=rust-src",
        ]))
        .context("cannot install rustup's nightly")?;
    }
    if Toolchain::find(place).is_ok() {
        return Ok(());
    }
    build_linker(place, Kind::Nightly)
}

/// Builds bpf-linker on the LLVM that the compiler of this kind has.
fn build_linker(place: &Place, kind: Kind) -> Result<()> {
    println!("bpf-linker {LINKER_VERSION} is missing: links the eBPF program.");
    let Some(llvm) = kind.llvm() else {
        bail!("{} does not tell its LLVM version", kind.name());
    };
    let mut cargo = kind.cargo();
    let debian = format!("/usr/lib/llvm-{llvm}");
    if Path::new(&debian).is_dir() {
        cargo.env("LLVM_PREFIX", debian);
    }
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    install_tool(&mut cargo, place).with_context(|| {
        format!("cannot build bpf-linker; has this machine LLVM {llvm}'s headers?")
    })
}

/// Carries out a `cargo install`, into the project's own folder.
fn install_tool(cargo: &mut Command, place: &Place) -> Result<()> {
    // In a temporary folder, for a tool's build is of no use later.
    cargo.env_remove("CARGO_TARGET_DIR");
    // It runs for seconds, and its optimisation would take minutes.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
    // `--force`, for one that is there and does not work would be kept.
    exec(cargo.args(["--debug", "--locked", "--force", "--root"]).arg(place.tools()))
}
