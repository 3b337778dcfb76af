//! The image that others start from, also where no registry can be reached: there it is made of the
//! packages of the Debian mirror that apt uses.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{
    docker::Docker,
    exec,
    package::{self, apt_update},
    place::{as_root, printed},
    setup::provide as install,
    show,
};

/// The image, as the Dockerfiles name it and a registry has it.
pub(super) const DEBIAN: &str = "debian:bookworm-slim";

/// The one that is made here. It has this machine's mirrors in it, so it must not pass for Debian's
/// with those who use the same engine.
const OWN: &str = "reload-agent-base:bookworm";

/// How long a registry is given, in seconds. Where one is out of reach, some networks say nothing.
const PULL_TIMEOUT: &str = "120";

/// Makes sure that the engine has the image, and gives its name.
///
/// # Errors
///
/// Fails where it can neither be pulled nor made.
pub(super) fn provide(docker: &Docker) -> Result<&'static str> {
    let is_here = |name: &&str| docker.inspect(name, "{{.Id}}").is_some();
    if let Some(name) = [DEBIAN, OWN].into_iter().find(is_here) {
        return Ok(name);
    }
    println!("{DEBIAN} is not here: pulling it.");
    let mut pull = docker.command();
    pull.args(["pull", "--quiet", DEBIAN]);
    if limited(&pull).status().is_ok_and(|status| status.success()) {
        return Ok(DEBIAN);
    }
    println!("No registry gives {DEBIAN}: {OWN} is made of the packages of Debian's mirror.");
    make(docker).with_context(|| format!("cannot make {OWN}"))?;
    Ok(OWN)
}

/// The same command, ended when it takes too long.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(PULL_TIMEOUT).arg(command.get_program()).args(command.get_args());
    limited
}

fn make(docker: &Docker) -> Result<()> {
    install(&[package::BOOTSTRAP])?;
    let mirrors = Mirrors::find()?;
    let folder = Folder::new()?;
    let root = folder.path();
    let mut bootstrap = as_root("debootstrap");
    bootstrap.args(["--variant=minbase", "bookworm"]).arg(root).arg(&mirrors.main);
    let log = bootstrap.output().context("cannot run debootstrap")?;
    ensure!(
        log.status.success(),
        "`{}` failed: {}\n{}",
        show(&bootstrap),
        log.status,
        String::from_utf8_lossy(&log.stdout),
    );
    let sources = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    fs::write(sources.path(), mirrors.sources()).context("cannot write a temporary file")?;
    let target = root.join("etc/apt/sources.list");
    exec(as_root("install").args(["-m", "0644"]).arg(sources.path()).arg(target))?;
    import(docker, root)
}

/// Makes an image of a folder.
fn import(docker: &Docker, root: &Path) -> Result<()> {
    let mut tar = as_root("tar");
    tar.arg("-C").arg(root).arg("--numeric-owner");
    // What apt has downloaded is of no use any more.
    tar.args(["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*_*"]);
    tar.args(["-c", "."]).stdout(Stdio::piped());
    let mut child = tar.spawn().context("cannot run tar")?;
    let archive = child.stdout.take().context("tar has no output")?;
    let mut import = docker.command();
    import.args(["import", "--change", r#"CMD ["bash"]"#, "-", OWN]).stdin(archive);
    let imported = exec(&mut import);
    drop(import);
    let status = child.wait().context("cannot wait for tar")?;
    imported?;
    ensure!(status.success(), "`{}` failed: {status}", show(&tar));
    Ok(())
}

/// A temporary folder whose content root owns.
#[derive(Debug)]
struct Folder(TempDir);

impl Folder {
    fn new() -> Result<Self> {
        tempfile::tempdir().map(Self).context("cannot make a temporary folder")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // One file system only: where debootstrap was interrupted, the kernel's may be mounted there.
        let mut remove = as_root("rm");
        remove.args(["-rf", "--one-file-system"]).arg(self.path());
        // What is left lies among temporary files, and nobody can do more about it.
        drop(remove.status());
    }
}

/// Where this machine's apt gets Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn find() -> Result<Self> {
        // What has not been read yet, apt does not list.
        Self::listed().or_else(|_| {
            apt_update()?;
            Self::listed()
        })
    }

    fn listed() -> Result<Self> {
        let mut list = Command::new("apt-get");
        list.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
        list.arg("Origin: Debian");
        Self::parse(&printed(&mut list).unwrap_or_default())
            .context("apt on this machine knows no mirror of Debian and its security updates")
    }

    fn parse(list: &str) -> Option<Self> {
        let lines: BTreeSet<_> = list.lines().filter_map(|line| line.split_once(' ')).collect();
        let of = |label: &str| {
            let found = lines.iter().find(|(known, _)| *known == label);
            found.map(|(_, uri)| (*uri).to_owned())
        };
        Some(Self { main: of("Debian")?, security: of("Debian-Security")? })
    }

    /// What apt in the image shall read: it holds this machine's mirrors, so it is not for others.
    fn sources(&self) -> String {
        let Self { main, security } = self;
        format!(
            "deb {main} bookworm main\n\
             deb {main} bookworm-updates main\n\
             deb {security} bookworm-security main\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_are_those_of_apt() {
        let list = "Debian http://a.test/debian/\nDebian http://a.test/debian/\n\
                    Debian-Security http://b.test/security/\n";
        let mirrors = Mirrors::parse(list).unwrap();
        assert_eq!(
            mirrors.sources(),
            "deb http://a.test/debian/ bookworm main\n\
             deb http://a.test/debian/ bookworm-updates main\n\
             deb http://b.test/security/ bookworm-security main\n"
        );
        assert_eq!(Mirrors::parse("Debian http://a.test/debian/\n"), None);
        assert_eq!(Mirrors::parse(""), None);
    }

    #[test]
    fn a_command_is_not_waited_for_for_ever() {
        let mut pull = Command::new("docker");
        pull.args(["pull", "x"]);
        assert_eq!(show(&limited(&pull)), "timeout 120 docker pull x");
    }
}
