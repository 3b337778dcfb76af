//! The compilers that can build the eBPF program, and which of them is complete here.
//!
//! Two can. Debian's own packages bring a stable compiler and a `core` that is compiled for eBPF
//! already; rustup brings a nightly one that compiles `core` itself. Both hand over to bpf-linker,
//! whose LLVM must read what theirs wrote.
//!
//! **Invariant:** a [`Toolchain`] works: its compiler and its linker have just met in a trial. No
//! version number decides that.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    package::{self, missing},
    place::{Place, printed},
};

/// The target of the eBPF program: little-endian, as all machines are that the agent runs on.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The bpf-linker that the project builds where there is none, and the line of versions to accept.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
const LINKER_LINE: &str = "0.13.";

/// A compiler that can build the eBPF program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/usr/bin/rustc` of Debian's `rustc-web`.
    Debian,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) kind: Kind,
    /// The bpf-linker.
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds the best toolchain that is complete.
    ///
    /// # Errors
    ///
    /// Fails where none is, saying what each of them lacks.
    pub(crate) fn find(place: &Place) -> Result<Self> {
        let mut lacks = Vec::new();
        for kind in [Kind::Debian, Kind::Nightly] {
            match kind.complete(place) {
                Ok(linker) => return Ok(Self { kind, linker }),
                Err(lack) => lacks.push(format!("{} lacks {lack}", kind.name())),
            }
        }
        bail!("no toolchain for the eBPF program is complete: {}", lacks.join("; "))
    }

    /// A cargo that builds for [`TARGET`]; its subcommand and options are the caller's to add.
    pub(crate) fn cargo(&self) -> Command {
        self.prepared(self.kind.cargo())
    }

    /// The same for `cargo clippy`.
    pub(crate) fn clippy(&self) -> Command {
        self.prepared(self.kind.clippy())
    }

    fn prepared(&self, mut cargo: Command) -> Command {
        // The encoded form takes a path with spaces. These flags reach the target only: where
        // `--target` is given, cargo keeps them from build scripts and macros.
        let linker = format!("linker={}", self.linker.display());
        let flags = ["-C", &linker, "-C", "link-arg=--btf", "-C", "debuginfo=2"];
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        // aya-ebpf uses one unstable feature, which a stable compiler grants only so.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo
    }

    /// The options that make cargo build for [`TARGET`].
    pub(crate) fn target_options(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Debian => &["--target", TARGET],
            Kind::Nightly => &["--target", TARGET, "-Z", "build-std=core"],
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.kind.name(), self.linker.display())
    }
}

impl Kind {
    /// What to call it to a person.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian's rustc-web",
            Self::Nightly => "rustup's nightly",
        }
    }

    /// Whether the compiler is there, with or without a linker; if not, what it lacks.
    pub(crate) fn lack(self) -> Option<String> {
        match self {
            Self::Debian => {
                let names: Vec<_> =
                    missing(package::COMPILER).iter().map(|package| package.name).collect();
                (!names.is_empty()).then(|| names.join(", "))
            }
            Self::Nightly => match self.sysroot() {
                None => Some("itself".to_owned()),
                Some(root) if !root.join("lib/rustlib/src/rust/library/core").is_dir() => {
                    Some("rust-src".to_owned())
                }
                Some(_) => None,
            },
        }
    }

    /// Gives the linker that fits, or what is lacking.
    fn complete(self, place: &Place) -> Result<PathBuf, String> {
        if let Some(lack) = self.lack() {
            return Err(lack);
        }
        let linkers = place.programs("bpf-linker");
        linkers.into_iter().find(|linker| is_accepted(linker) && self.fits(linker)).ok_or_else(
            || format!("a bpf-linker {LINKER_VERSION} that reads what its compiler writes"),
        )
    }

    /// Lets the compiler write a little bitcode and `linker` read it.
    ///
    /// A linker whose LLVM is older than the compiler's fails here, in a fifth of a second, and not
    /// in the middle of a build.
    fn fits(self, linker: &Path) -> bool {
        self.trial(linker).is_ok()
    }

    fn trial(self, linker: &Path) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let [source, bitcode, object] =
            ["trial.rs", "trial.bc", "trial.o"].map(|name| folder.path().join(name));
        fs::write(&source, TRIAL).context("cannot write the trial program")?;
        let mut rustc = self.rustc();
        rustc.args(["--edition=2024", "--crate-type=lib", "--emit=llvm-bc", "-O", "-o"]);
        rustc.args([&bitcode, &source]);
        if self == Self::Debian {
            // The nightly one has no `core` for the target before cargo builds it, so that its
            // bitcode is the host's. What is tried is whether LLVM reads it.
            rustc.args(["--target", TARGET]);
        }
        printed(&mut rustc).context("the compiler fails")?;
        let mut link = Command::new(linker);
        link.args(["--target", "bpfel", "--output"]).args([&object, &bitcode]);
        printed(&mut link).context("the linker fails")?;
        Ok(())
    }

    /// Its rustc, free of what the calling cargo has left in the environment.
    fn rustc(self) -> Command {
        self.command("rustc")
    }

    /// Its cargo, free of what the calling cargo has left in the environment.
    pub(crate) fn cargo(self) -> Command {
        let mut cargo = self.command("cargo");
        if self == Self::Debian {
            cargo.env("RUSTC", "/usr/bin/rustc");
        }
        cargo
    }

    /// Its `cargo clippy`. Cargo would take rustup's from PATH, so it is called by its own name.
    pub(crate) fn clippy(self) -> Command {
        let mut clippy = self.command("cargo-clippy");
        if self == Self::Debian {
            clippy.envs([("CARGO", "/usr/bin/cargo"), ("RUSTC", "/usr/bin/rustc")]);
        }
        clippy.arg("clippy");
        clippy
    }

    fn command(self, program: &str) -> Command {
        let mut command = match self {
            // By path, for on PATH the name is often rustup's proxy.
            Self::Debian => Command::new(Path::new("/usr/bin").join(program)),
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                // Looking for a compiler must not download one.
                rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", program]);
                rustup
            }
        };
        for (name, _) in env::vars_os().filter(|(name, _)| leaks(name)) {
            command.env_remove(name);
        }
        command
    }

    fn sysroot(self) -> Option<PathBuf> {
        let text = printed(self.rustc().args(["--print", "sysroot"]))?;
        Some(PathBuf::from(text.trim_end()))
    }

    /// The major version of its LLVM.
    pub(crate) fn llvm(self) -> Option<String> {
        parse_llvm(&printed(self.rustc().arg("-vV"))?).map(str::to_owned)
    }
}

/// Needs `core`, loops and calls, and says nothing that the linker could drop.
const TRIAL: &str = "#![no_std]
#[unsafe(no_mangle)]
pub fn trial(numbers: &[u32]) -> u32 {
    numbers.iter().copied().fold(0, u32::wrapping_add)
}
";

fn is_accepted(linker: &Path) -> bool {
    let text = printed(Command::new(linker).arg("--version")).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).is_some_and(|version| version.starts_with(LINKER_LINE))
}

fn parse_llvm(text: &str) -> Option<&str> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()
}

/// Whether a variable of the environment is about the compiler that builds *us*.
///
/// `cargo xtask` is a `cargo run`, and it and rustup tell their children which compiler, flags and
/// libraries to use. Another compiler must not hear of it. What says how to reach a registry stays.
fn leaks(name: &OsStr) -> bool {
    const STAY: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let Some(name) = name.to_str() else {
        return false;
    };
    match name {
        "LD_LIBRARY_PATH" | "RUST_RECURSION_COUNT" | "RUSTFLAGS" => true,
        _ if name.starts_with("CARGO") => !STAY.iter().any(|start| name.starts_with(start)),
        _ => {
            name.starts_with("RUSTC")
                || name.starts_with("RUSTDOC")
                || name.starts_with("RUSTUP_TOOLCHAIN")
                || name.starts_with("CLIPPY_")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_and_rustup_tell_their_children_goes_no_further() {
        fn check(name: &str, expected: bool) {
            assert_eq!(leaks(OsStr::new(name)), expected, "for {name}");
        }
        check("CARGO", true);
        check("CARGO_BUILD_RUSTFLAGS", true);
        check("CARGO_ENCODED_RUSTFLAGS", true);
        check("CARGO_MANIFEST_DIR", true);
        check("CARGO_TARGET_DIR", true);
        check("CLIPPY_ARGS", true);
        check("LD_LIBRARY_PATH", true);
        check("RUSTC", true);
        check("RUSTC_WORKSPACE_WRAPPER", true);
        check("RUSTFLAGS", true);
        check("RUSTUP_TOOLCHAIN", true);

        check("CARGO_HOME", false);
        check("CARGO_HTTP_CAINFO", false);
        check("CARGO_REGISTRIES_OURS_INDEX", false);
        check("HTTPS_PROXY", false);
        check("PATH", false);
        check("RUSTUP_HOME", false);
        check("RUST_BACKTRACE", false);
    }

    #[test]
    fn the_llvm_of_a_compiler_is_known_by_its_major_version() {
        assert_eq!(parse_llvm("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some("22"));
        assert_eq!(parse_llvm("rustc 1.96.0\n"), None);
    }

    #[test]
    fn a_linker_that_is_none_does_not_fit() {
        // `true` takes every argument and says nothing; it has no version either.
        assert!(!is_accepted(Path::new("/bin/true")));
        assert!(!Kind::Debian.fits(Path::new("/bin/false")));
    }
}
