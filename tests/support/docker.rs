//! Containers of the machine's Docker engine.
//!
//! `cargo xtask test` starts the engine and builds the images.

use std::{
    fmt,
    process::{Command, Stdio},
};

use super::{target::unique_name, time::poll};

/// The agent's image.
pub(crate) const IMAGE: &str = concat!("reload-agent:", env!("CARGO_PKG_VERSION"));

/// The image of `tests/servers.Dockerfile`.
pub(crate) const SERVERS: &str = "reload-agent-tests:servers";

/// A command of Docker's client.
pub(crate) fn docker(arguments: &[impl AsRef<str>]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments.iter().map(AsRef::as_ref)).stdin(Stdio::null());
    command
}

/// What a command of Docker's client prints.
#[track_caller]
pub(crate) fn ask(arguments: &[impl AsRef<str> + fmt::Debug]) -> String {
    let output = docker(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}; `cargo xtask test` starts the engine and builds the images",
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A container, which goes away when this is dropped, whether or not it was ever started.
#[derive(Debug)]
pub(crate) struct Container {
    name: String,
}

impl Container {
    /// A name for a container that a command is yet to start.
    pub(crate) fn new() -> Self {
        Self { name: format!("reload-agent-{}", unique_name()) }
    }

    /// Starts one in the background, with these arguments of `docker run`.
    #[track_caller]
    pub(crate) fn start(arguments: &[impl AsRef<str>]) -> Self {
        Self::by(&["run", "--detach"], arguments)
    }

    /// Makes one that is not started.
    #[track_caller]
    pub(crate) fn create(arguments: &[impl AsRef<str>]) -> Self {
        Self::by(&["create"], arguments)
    }

    #[track_caller]
    fn by(command: &[&str], arguments: &[impl AsRef<str>]) -> Self {
        let container = Self::new();
        let mut all = [command, &["--name", &container.name]].concat();
        all.extend(arguments.iter().map(AsRef::as_ref));
        ask(&all);
        container
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the engine knows of it, through a template of Go's.
    #[track_caller]
    pub(crate) fn inspect(&self, template: &str) -> String {
        ask(&["inspect", "--format", template, &self.name])
    }

    /// Waits until the health check says this, and gives all that it has said lately.
    #[track_caller]
    pub(crate) fn wait_for_health(&self, wanted: &str) -> String {
        let template = "{{.State.Health.Status}} {{json .State.Health.Log}}";
        poll(wanted, || {
            // It fails as long as there is no such container.
            let output = docker(&["inspect", "--format", template, &self.name]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let (status, log) = said.split_once(' ')?;
            // Until the engine has set the checks up, it calls the container unhealthy unchecked.
            let checked = log.trim_end() != "[]";
            (checked && status == wanted).then(|| log.to_owned())
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It fails where there is none, and then nothing is left to do.
        drop(docker(&["rm", "--force", "--volumes", &self.name]).output());
    }
}
