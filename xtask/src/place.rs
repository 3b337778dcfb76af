//! Where things are: the checkout, cargo's output, the tools that the project installs for itself.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The folders that chores work in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's output: `target/`, or what `CARGO_TARGET_DIR` and the configuration files say.
    pub(crate) target: PathBuf,
}

impl Place {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// Fails where cargo does not run or a manifest cannot be read; cargo has then said why.
    pub(crate) fn find() -> Result<Self> {
        let mut cargo = host_cargo();
        cargo.args(["metadata", "--no-deps", "--format-version=1"]).stderr(Stdio::inherit());
        let output = cargo.output().context("cannot run `cargo metadata`")?;
        ensure!(output.status.success(), "`cargo metadata` failed: {}", output.status);
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .context("`cargo metadata` printed something that is not JSON")?;
        let folder = |key: &str| {
            let path = metadata[key].as_str().map(PathBuf::from);
            path.with_context(|| format!("`cargo metadata` does not tell the {key}"))
        };
        Ok(Self { root: folder("workspace_root")?, target: folder("target_directory")? })
    }

    /// Where `cargo install --root` puts the project's own tools, away from the user's.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Every program of this name: the project's own first, then those on PATH.
    pub(crate) fn programs(&self, name: &str) -> Vec<PathBuf> {
        let own = self.tools().join("bin");
        let path = env::var_os("PATH").unwrap_or_default();
        std::iter::once(own)
            .chain(env::split_paths(&path))
            .map(|folder| folder.join(name))
            .filter(|file| file.is_file())
            .collect()
    }
}

/// Whether `name` is a program on PATH or, where it is absolute, a file.
pub(crate) fn is_program(name: &str) -> bool {
    program(name).is_some()
}

/// The file of a program on PATH or, where `name` is absolute, that file.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A server's program is of use to root alone, so Debian keeps it off the PATH of others.
    let mut folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}

/// The cargo that runs this chore, for everything that is built for the host.
pub(crate) fn host_cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// What rustc calls this machine.
///
/// # Errors
///
/// Fails where rustc does not run or does not tell.
pub(crate) fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let version = printed(Command::new(rustc).arg("-vV")).context("cannot run `rustc -vV`")?;
    parse_host(&version).map(str::to_owned).context("`rustc -vV` does not tell its host")
}

fn parse_host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

/// Reads what `command` prints; `None` where it is missing or fails, which is a normal answer.
pub(crate) fn printed(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this process may do everything: it runs as root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;

    // The owner of a process's folder in procfs is its effective user, `proc(5)`.
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// A command that runs as root, through sudo where this process does not.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
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
