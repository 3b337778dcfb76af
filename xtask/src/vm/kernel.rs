//! Debian's kernels: fetched once, unpacked, and kept in the target folder.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    exec, package,
    place::{Place, printed},
};

/// A line of kernels that the tests are run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Line {
    /// That of Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// That of Debian 13, and of Debian 12's backports.
    #[value(name = "6.12")]
    V6_12,
}

impl Line {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The number of an image of this line, by which the newest is known; `None` where the package is
    /// another.
    ///
    /// Debian counts the binary interfaces of 6.1 and the stable releases of 6.12. The flavour is that for
    /// clouds: the smallest, and what many nodes run. Some are on offer signed, some are not, and to an
    /// emulator without Secure Boot they are the same.
    fn number(self, package: &str) -> Option<u32> {
        let rest = package.strip_prefix("linux-image-")?;
        let rest = rest.strip_suffix("-unsigned").unwrap_or(rest).strip_suffix("-cloud-amd64")?;
        match self {
            Self::V6_1 => rest.strip_prefix("6.1.0-")?.parse().ok(),
            Self::V6_12 => rest.strip_prefix("6.12.")?.strip_suffix("+deb12")?.parse().ok(),
        }
    }

    /// The newest image of this line among these packages.
    fn newest(self, packages: &str) -> Option<&str> {
        let names = packages.lines().filter_map(|line| line.split_ascii_whitespace().next());
        names.filter_map(|name| Some((self.number(name)?, name))).max().map(|(_, name)| name)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

/// A kernel, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Where its package is unpacked.
    root: PathBuf,
    /// What `uname -r` says there.
    pub(crate) release: String,
}

impl Kernel {
    /// Gives the kernel of a line: the one that is there, or the newest that apt offers.
    ///
    /// # Errors
    ///
    /// Fails where there is none and apt has none either, and says what would help.
    pub(crate) fn provide(place: &Place, line: Line) -> Result<Self> {
        ensure!(
            std::env::consts::ARCH == "x86_64",
            "the virtual machines have Debian's kernels for amd64, and this machine is another",
        );
        let root = place.target.join("vm/kernel").join(line.to_string());
        if let Ok(kernel) = Self::at(root.clone()) {
            return Ok(kernel);
        }
        fetch(line, &root).with_context(|| format!("cannot get a Linux {line}"))?;
        Self::at(root)
    }

    fn at(root: PathBuf) -> Result<Self> {
        let modules = root.join("lib/modules");
        let release = fs::read_dir(&modules)
            .with_context(|| format!("cannot list {}", modules.display()))?
            .find_map(|entry| entry.ok()?.file_name().into_string().ok())
            .with_context(|| format!("there is no kernel in {}", modules.display()))?;
        let kernel = Self { root, release };
        // The last that is made: without it the others may be half there.
        let last = kernel.modules().join("modules.dep");
        ensure!(last.is_file(), "there is no {}", last.display());
        Ok(kernel)
    }

    /// The compressed kernel itself.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder with its modules, which is `/lib/modules/<release>` there.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The files of a module and of all that it needs, in the order in which they are loaded. None where it
    /// is built in.
    ///
    /// # Errors
    ///
    /// Fails where the kernel has no such module.
    pub(crate) fn files_of(&self, module: &str) -> Result<Vec<PathBuf>> {
        let mut modprobe = Command::new("modprobe");
        modprobe.args(["--show-depends", "--set-version", &self.release, "--dirname"]);
        let listed = printed(modprobe.arg(&self.root).arg(module))
            .with_context(|| format!("Linux {} has no module {module}", self.release))?;
        let file = |line: &str| Some(PathBuf::from(line.strip_prefix("insmod ")?.trim()));
        Ok(listed.lines().filter_map(file).collect())
    }
}

/// Downloads the newest of a line and unpacks it.
fn fetch(line: Line, root: &Path) -> Result<()> {
    ensure!(
        package::has_apt(),
        "there is no apt here, and no {}; unpack Debian's linux-image-{line}…-cloud-amd64 into it and \
         run depmod",
        root.display(),
    );
    let offered = || {
        printed(Command::new("apt-cache").args(["search", "--names-only", "^linux-image-6"]))
            .unwrap_or_default()
    };
    let mut names = offered();
    if line.newest(&names).is_none() {
        package::apt_update()?;
        names = offered();
    }
    let Some(name) = line.newest(&names) else {
        bail!(
            "apt offers no linux-image-{line}…-cloud-amd64; add bookworm and bookworm-security of \
             Debian to its sources"
        );
    };
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let download = || exec(Command::new("apt-get").args(["download", name]).current_dir(&folder));
    // The lists may tell of a version that has been replaced since.
    download().or_else(|_| package::apt_update().and_then(|()| download()))?;
    let mut entries = fs::read_dir(folder.path()).context("cannot list the temporary folder")?;
    let archive = entries
        .find_map(|entry| {
            Some(entry.ok()?.path()).filter(|path| path.extension() == Some("deb".as_ref()))
        })
        .with_context(|| format!("apt downloaded no {name}"))?;
    exec(Command::new("dpkg").arg("--extract").arg(archive).arg(root))?;
    // Debian does that when it installs the package.
    let modules = root.join("lib/modules");
    let release = fs::read_dir(&modules)
        .with_context(|| format!("cannot list {}", modules.display()))?
        .find_map(|entry| entry.ok()?.file_name().into_string().ok())
        .with_context(|| format!("{name} has no modules"))?;
    exec(Command::new(depmod()).arg("--basedir").arg(root).arg(release))
}

/// Debian keeps it off the PATH of those who are not root.
fn depmod() -> &'static str {
    if Path::new("/usr/sbin/depmod").is_file() { "/usr/sbin/depmod" } else { "depmod" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_line_is_taken() {
        const OFFERED: &str = "\
linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-56-amd64-unsigned - Linux 6.1 for 64-bit PCs
linux-image-6.1.0-55-cloud-amd64-unsigned - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-55-cloud-amd64-dbg - Debug symbols for linux-image-6.1.0-55-cloud-amd64
linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)
linux-image-6.12.117+deb12-rt-amd64 - Linux 6.12 for 64-bit PCs (signed), PREEMPT_RT
linux-image-6.12.100+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.90+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud
";
        fn check(line: Line, expected: &str) {
            assert_eq!(line.newest(OFFERED), Some(expected));
        }
        check(Line::V6_1, "linux-image-6.1.0-55-cloud-amd64-unsigned");
        check(Line::V6_12, "linux-image-6.12.100+deb12-cloud-amd64");
        assert_eq!(Line::V6_1.newest("linux-image-6.10.0-3-cloud-amd64 - another\n"), None);
    }
}
