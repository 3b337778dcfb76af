//! Builds the container image, and the one that the tests reload; and takes the agent out of it.

mod base;
mod reach;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use self::reach::Reach;
use crate::{
    docker::Docker,
    exec, package,
    place::{Place, printed},
    setup,
};

/// Build the container image
///
/// Installs Docker where there is none, and starts it. Where no registry can be reached, the image
/// that it is built in is made of the packages of the Debian mirror that apt uses. Fails where the
/// image is larger than 10 MiB or runs as root.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Name of the image; repeat for more
    #[arg(long = "tag", value_name = "NAME", default_values = TAGS)]
    tags: Vec<String>,
}

/// What the image is called where nobody says.
const TAGS: [&str; 2] = [IMAGE, "reload-agent:latest"];

/// The image, with the version of all crates of the workspace.
pub(crate) const IMAGE: &str = concat!("reload-agent:", env!("CARGO_PKG_VERSION"));

/// The image of the servers that the tests reload.
pub(crate) const SERVERS: &str = "reload-agent-tests:servers";

/// Where the agent is in its image.
const AGENT: &str = "/usr/local/bin/reload-agent";

/// How large the image may be.
const MAX_BYTES: u64 = 10 << 20;

/// Builds, and says what came of it.
///
/// # Errors
///
/// Fails where Docker does, and where the image is not as it should be.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = Place::find()?;
    let (docker, base) = prepare(&place)?;
    build(&place, &docker, base, &options.tags)
}

/// Builds what the tests run in containers: the agent's image, under its own name, and the servers.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn build_for_tests(place: &Place) -> Result<()> {
    let (docker, base) = prepare(place)?;
    build(place, &docker, base, &[IMAGE.to_owned()])?;
    let mut command = docker.command();
    command.arg("build").arg("--build-arg").arg(format!("BASE={base}"));
    command.args(["--tag", SERVERS, "--file"]);
    command.arg(place.root.join("tests/servers.Dockerfile")).arg(place.root.join("tests/programs"));
    exec(&mut command)
}

/// Takes the agent out of its image, and gives its path.
///
/// # Errors
///
/// Fails where Docker does.
pub(crate) fn take_agent(place: &Place) -> Result<PathBuf> {
    let docker = Docker::find(place)?;
    let folder = place.target.join("image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let agent = folder.join("reload-agent");
    let output = docker.command().args(["create", IMAGE]).output().context("cannot run docker")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot make a container of {IMAGE}: {}", said.trim());
    let container = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut copy = docker.command();
    let copied = exec(copy.arg("cp").arg(format!("{container}:{AGENT}")).arg(&agent));
    copied.and(exec(docker.command().args(["rm", &container])))?;
    Ok(agent)
}

/// Gives the engine, and the name of the image that others start from.
///
/// # Errors
///
/// Fails where Docker does, and where that image can neither be pulled nor made.
pub(crate) fn prepare(place: &Place) -> Result<(Docker, &'static str)> {
    setup::provide(&[package::DOCKER])?;
    let docker = Docker::find(place)?;
    let base = base::provide(&docker)?;
    Ok((docker, base))
}

fn build(place: &Place, docker: &Docker, base: &str, tags: &[String]) -> Result<()> {
    let reach = Reach::find()?;
    let mut command = docker.command();
    command.arg("build");
    for tag in tags {
        command.args(["--tag", tag]);
    }
    command.arg("--build-arg").arg(format!("BASE={base}"));
    command.args(["--build-arg", concat!("VERSION=", env!("CARGO_PKG_VERSION"))]);
    if let Some(commit) = Commit::find(place) {
        command.arg("--build-arg").arg(format!("COMMIT={}", commit.name));
        if let Some(time) = commit.time {
            command.arg("--label").arg(format!("org.opencontainers.image.created={time}"));
        }
    }
    reach.tell(&mut command);
    exec(command.arg(&place.root))?;

    let image = tags.first().map_or(IMAGE, String::as_str);
    let asked = |template| {
        docker.inspect(image, template).with_context(|| format!("cannot inspect {image}"))
    };
    let size = asked("{{.Size}}")?.parse().context("the size of the image is no number")?;
    println!("{}", judge(&tags.join(", "), size, &asked("{{.Config.User}}")?)?);
    Ok(())
}

/// Says how large the image is and as whom it runs, or what is wrong with that.
fn judge(name: &str, size: u64, user: &str) -> Result<String> {
    let [large, most] = [size, MAX_BYTES].map(|bytes| {
        let tenths = (bytes * 10).div_ceil(1 << 20);
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    });
    ensure!(size <= MAX_BYTES, "{name}: {large}, more than {most}");
    let uid = user.split(':').next().unwrap_or_default();
    ensure!(
        uid.parse().is_ok_and(|uid: u32| uid != 0),
        "{name} runs as the user {user:?}, which is no number other than root's",
    );
    Ok(format!("The image is {name}: {large}, runs as {user}."))
}

/// What is built.
#[derive(Debug)]
struct Commit {
    /// The commit, marked where files differ from it.
    name: String,
    /// When it was made, in UTC, where nothing differs: the same for everybody who builds it.
    time: Option<String>,
}

impl Commit {
    /// Asks git, which is missing or knows nothing where the source was unpacked.
    fn find(place: &Place) -> Option<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.args(arguments).current_dir(&place.root).env("TZ", "UTC").stderr(Stdio::null());
            printed(&mut command).map(|text| text.trim_end().to_owned())
        };
        // It may have been unpacked in the middle of another repository.
        if git(&["rev-parse", "--show-toplevel"])?.as_str() != place.root.to_str()? {
            return None;
        }
        let commit = git(&["rev-parse", "HEAD"])?;
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            return Some(Self { name: format!("{commit}-dirty"), time: None });
        }
        let time =
            git(&["show", "--no-patch", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"]);
        Some(Self { name: commit, time })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::toolchain::LINKER_VERSION;

    #[test]
    fn an_image_is_small_and_nobody_s() {
        fn check(size: u64, user: &str, expected: Result<&str, &str>) {
            let judged = judge("x:1", size, user).map_err(|error| error.to_string());
            let judged = judged.as_deref().map_err(String::as_str);
            assert_eq!(judged, expected, "for {size} bytes and {user:?}");
        }
        check(3_447_816, "65532:65532", Ok("The image is x:1: 3.3 MiB, runs as 65532:65532."));
        check(MAX_BYTES, "7", Ok("The image is x:1: 10.0 MiB, runs as 7."));
        check(MAX_BYTES + 1, "7", Err("x:1: 10.1 MiB, more than 10.0 MiB"));
        let is_root = r"which is no number other than root's";
        check(1, "0", Err(&format!("x:1 runs as the user \"0\", {is_root}")));
        check(1, "", Err(&format!("x:1 runs as the user \"\", {is_root}")));
        check(1, "nobody", Err(&format!("x:1 runs as the user \"nobody\", {is_root}")));
    }

    /// The Dockerfile is read by others' tools as well, so it names all that it installs.
    #[test]
    fn the_dockerfile_installs_what_setup_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Dockerfile");
        let text = fs::read_to_string(path).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        for package in [package::COMPILER, package::LINKER, package::BUILD].into_iter().flatten() {
            assert!(words.contains(&package.name), "the Dockerfile lacks {}", package.name);
        }
        let base = format!("ARG BASE={}", base::DEBIAN);
        assert!(text.lines().any(|line| line == base), "the Dockerfile lacks `{base}`");
        let linker = format!("cargo install bpf-linker --version {LINKER_VERSION} --locked");
        assert!(text.contains(&linker), "the Dockerfile lacks `{linker}`");
    }
}
