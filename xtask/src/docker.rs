//! The Docker engine, and a client that builds with it.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    exec,
    patience::Patience,
    place::{Place, as_root, is_root, printed},
};

/// How long an engine may take to start.
const START: Duration = Duration::from_secs(30);

/// How often it is asked meanwhile.
const PACE: Duration = Duration::from_millis(200);

/// A client whose engine answers.
#[derive(Clone, Debug)]
pub(crate) struct Docker {
    client: PathBuf,
    through_sudo: bool,
}

impl Docker {
    /// Finds a client, and starts the engine where none answers.
    ///
    /// The engine is the machine's and not the chore's: it goes on when the chore has ended.
    ///
    /// # Errors
    ///
    /// Fails where no client has `BuildKit`, and where the engine does not start.
    pub(crate) fn find(place: &Place) -> Result<Self> {
        let direct = Self { client: client(place)?, through_sudo: false };
        if direct.answers() {
            return Ok(direct);
        }
        // Those who are in no group `docker` reach it as root.
        let docker = Self { through_sudo: !is_root(), ..direct };
        if !docker.answers() {
            docker.start(place)?;
        }
        Ok(docker)
    }

    /// A command of the client's; its subcommand is the caller's to add.
    pub(crate) fn command(&self) -> Command {
        let mut command = if self.through_sudo {
            let mut sudo = Command::new("sudo");
            sudo.arg("--preserve-env").arg(&self.client);
            sudo
        } else {
            Command::new(&self.client)
        };
        // Engines before 23 build without it where nobody asks.
        command.env("DOCKER_BUILDKIT", "1");
        // It may run beside others, whose lines it would redraw.
        command.env("BUILDKIT_PROGRESS", "plain");
        command
    }

    /// What the engine knows of an image, through a template of Go's; `None` where it has none of
    /// that name.
    pub(crate) fn inspect(&self, image: &str, template: &str) -> Option<String> {
        let mut inspect = self.command();
        inspect.args(["image", "inspect", "--format", template, image]);
        printed(&mut inspect).map(|text| text.trim_end().to_owned())
    }

    fn answers(&self) -> bool {
        printed(self.command().arg("version")).is_some()
    }

    fn start(&self, place: &Place) -> Result<()> {
        let elsewhere = env::var_os("DOCKER_HOST").unwrap_or_default();
        ensure!(
            elsewhere.is_empty(),
            "no Docker engine answers at DOCKER_HOST={}; start it, or unset DOCKER_HOST",
            elsewhere.display(),
        );
        let log = place.target.join("dockerd.log");
        if Path::new("/run/systemd/system").is_dir() {
            exec(as_root("systemctl").args(["start", "docker"]))?;
        } else {
            println!(
                "No Docker engine answers: one is started, and goes on. It writes {}.",
                log.display()
            );
            let file =
                File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
            let errors = file.try_clone().context("cannot share the log of the engine")?;
            let mut engine = as_root("setsid");
            engine.args(["--fork", "dockerd"]).stdout(file).stderr(errors).current_dir("/");
            exec(&mut engine)?;
        }
        let answer = Patience::new()?.until(PACE, START, || Ok(self.answers().then_some(())))?;
        if answer.is_none() {
            bail!("the Docker engine does not answer after {START:?}; see {}", log.display());
        }
        Ok(())
    }
}

/// The first client that has `BuildKit`, which since Docker 23 is a package of its own.
fn client(place: &Place) -> Result<PathBuf> {
    let clients = place.programs("docker").into_iter().chain([PathBuf::from("/usr/bin/docker")]);
    let with_secrets = |client: &PathBuf| {
        let mut help = Command::new(client);
        help.args(["build", "--help"]).env("DOCKER_BUILDKIT", "1");
        printed(&mut help).is_some_and(|text| text.contains("--secret"))
    };
    clients.filter(|client| client.is_file()).find(with_secrets).context(
        "no docker here has BuildKit; install the package docker.io, or docker-buildx beside yours",
    )
}
