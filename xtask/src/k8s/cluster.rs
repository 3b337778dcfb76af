//! A cluster that is up: what it was told at its start, its images, its end.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Afterwards, Kit, PACE, kit, wait_for};
use crate::{
    child::{Ask, Child},
    docker::Docker,
    exec, image,
    patience::Patience,
    place::{Place, as_root},
    show,
};

/// The variable that says where the cluster lives.
const DIR: &str = "RELOAD_K8S_DIR";

/// How often the kubelet looks at its pods: its default. What a test changes it announces to the kubelet
/// itself, unless that is what it is about.
const SYNC: &str = "1m";

/// How many seconds it lives: a run takes a part of the first, a person some hours.
const LIFE: u32 = 3600;
const LIFE_KEPT: u32 = 4 * 3600;

/// How long it may take to come up, and to take an image.
const START: Duration = Duration::from_mins(5);

/// How long it may take until there is something to bring down.
const BEGIN: Duration = Duration::from_secs(15);

/// How often it is tried to remove what is left of its cgroups.
const TRIES: u32 = 20;

/// What the manifests of `deploy/` call the images that the tests have under one name.
const NAMES: [&str; 3] = ["nginxinc/nginx-unprivileged:1.28", "haproxy:3.2", "gunicorn:latest"];

/// A cluster, which is brought down when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    kit: Kit,
    dir: PathBuf,
    cgroups: Cgroups,
    /// Whether it is down by now, or is to stay up.
    is_left: bool,
}

impl Cluster {
    /// Brings one up, or takes the one that was kept.
    ///
    /// # Errors
    ///
    /// Fails where it does not come up, and where we are interrupted; then it is down.
    pub(super) fn up(
        kit: &Kit,
        place: &Place,
        afterwards: Afterwards,
        patience: &Patience,
    ) -> Result<Self> {
        let dir = env::var_os(DIR).filter(|dir| !dir.is_empty());
        let dir = dir.map_or_else(|| place.target.join("k8s"), PathBuf::from);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let cgroups = Cgroups::of(&dir);
        let cluster = Self { kit: kit.clone(), dir, cgroups, is_left: false };
        if cluster.init().is_some() {
            println!("The cluster in {} is taken as it is.", cluster.dir.display());
            return Ok(cluster);
        }
        cluster.cgroups.make()?;
        let life = if afterwards == Afterwards::Kept { LIFE_KEPT } else { LIFE };
        let mut up = cluster.script(
            "up.sh",
            &[
                ("SYNC", SYNC.to_owned()),
                ("MAXLIFE", life.to_string()),
                ("KEXTRA", cluster.cgroups.argument()),
            ],
        );
        println!("$ {}", show(&up));
        let mut child = Child::spawn(&mut up, Ask::Signal)?;
        match patience.until(PACE, START, || child.ended()) {
            Ok(Some(status)) => ensure!(status.success(), "the cluster did not come up: {status}"),
            Ok(None) => bail!("the cluster was not up within {START:?}"),
            Err(error) => {
                // What it has begun can only be ended once it has said what that is.
                let begun =
                    || Ok((cluster.init().is_some() || child.ended()?.is_some()).then_some(()));
                patience.until(PACE, BEGIN, begun)?;
                return Err(error);
            }
        }
        Ok(cluster)
    }

    /// Puts the images of the tests into it, unless it has them.
    ///
    /// # Errors
    ///
    /// Fails where there are none, and where we are interrupted.
    pub(super) fn load(&self, docker: &Docker, place: &Place, patience: &Patience) -> Result<()> {
        let images = [image::IMAGE, image::SERVERS];
        let ids = images.map(|name| {
            let id = docker.inspect(name, "{{.Id}}");
            id.with_context(|| format!("there is no image {name}; leave out --keep-images"))
        });
        let [agent, servers] = ids;
        let ids = [agent?, servers?].join(" ");
        // In its state, which goes with it.
        let note = self.dir.join("state/images");
        if fs::read_to_string(&note).is_ok_and(|known| known == ids) {
            return Ok(());
        }
        let archive = tempfile::Builder::new().suffix(".tar").tempfile_in(&place.target);
        let archive = archive.context("cannot make a file for the images")?;
        let mut save = docker.command();
        save.args(["save", "--output"]).arg(archive.path()).args(images);
        wait_for(patience, &mut save, START)?;
        let mut load = self.script("load", &[]);
        wait_for(patience, load.arg(archive.path()), START)?;
        for name in NAMES {
            let mut tag = self.ctr()?;
            tag.args(["images", "tag", "--force", &full(image::SERVERS), &full(name)]);
            wait_for(patience, &mut tag, START)?;
        }
        fs::write(&note, ids).with_context(|| format!("cannot write {}", note.display()))
    }

    /// What tells the tests of it.
    pub(super) fn environment(&self) -> [(&'static str, &Path); 2] {
        [(kit::VARIABLE, self.kit.folder()), (DIR, &self.dir)]
    }

    /// Brings it down, or says how it can be used.
    ///
    /// # Errors
    ///
    /// Fails where that fails.
    pub(super) fn end(mut self, afterwards: Afterwards) -> Result<()> {
        self.is_left = true;
        if afterwards == Afterwards::Kept {
            let scripts = self.kit.folder().display();
            println!(
                "The cluster is up for some hours: `{DIR}={} {scripts}/kubectl get pods --all-namespaces`, \
                 and {scripts}/down.sh ends it.",
                self.dir.display(),
            );
            return Ok(());
        }
        self.down()
    }

    fn down(&self) -> Result<()> {
        // In a group of its own: who presses Ctrl-C once more does not stop it.
        let status = self.script("down.sh", &[]).process_group(0).status();
        let status = status.context("cannot run down.sh")?;
        ensure!(status.success(), "the cluster in {} did not end: {status}", self.dir.display());
        self.cgroups.remove()
    }

    /// The pid of its first process, if it has one.
    fn init(&self) -> Option<String> {
        let pid = fs::read_to_string(self.dir.join("run/init.pid")).ok()?;
        let pid = pid.trim();
        let is_ours = fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|program| program == self.dir.join("bin/node-init"));
        is_ours.then(|| pid.to_owned())
    }

    fn script(&self, name: &str, variables: &[(&str, String)]) -> Command {
        let dir = (DIR, self.dir.display().to_string());
        self.kit.command(name, &[&[dir], variables].concat())
    }

    /// A client of its container engine.
    fn ctr(&self) -> Result<Command> {
        let pid = self.init().context("the cluster has ended")?;
        let mut command = as_root("nsenter");
        command.args(["--target", &pid, "--mount", "--pid", "--net", "ctr"]);
        command.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]);
        Ok(command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody waits for the result: what failed before is what is told.
        if !self.is_left {
            drop(self.down());
        }
    }
}

/// The name of an image of Docker's as others spell it.
fn full(name: &str) -> String {
    let library = if name.contains('/') { "" } else { "library/" };
    format!("docker.io/{library}{name}")
}

/// The cgroups of one cluster, so that the kubelets of two do not take each other's for left over.
///
/// Empty where the machine has the second version of cgroups alone.
#[derive(Debug)]
struct Cgroups {
    name: String,
    paths: Vec<PathBuf>,
}

impl Cgroups {
    fn of(dir: &Path) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = dir.to_string_lossy().chars().map(plain).collect();
        let name = format!("k8s{name}");
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let hierarchies = hierarchies.map(|entry| entry.path()).filter(|path| {
            // Only the first version has this, in the topmost group of each hierarchy.
            path.join("release_agent").is_file() && !path.is_symlink()
        });
        Self { paths: hierarchies.map(|path| path.join(&name)).collect(), name }
    }

    /// What the kubelet is told.
    fn argument(&self) -> String {
        if self.paths.is_empty() { String::new() } else { format!("--cgroup-root=/{}", self.name) }
    }

    fn make(&self) -> Result<()> {
        if self.paths.is_empty() {
            return Ok(());
        }
        exec(as_root("mkdir").arg("-p").args(&self.paths))
    }

    fn remove(&self) -> Result<()> {
        for _ in 0..TRIES {
            let left: Vec<_> = self.paths.iter().filter(|path| path.is_dir()).collect();
            if left.is_empty() {
                return Ok(());
            }
            let mut find = as_root("find");
            find.args(left).args(["-depth", "-type", "d", "-delete"]);
            find.stderr(Stdio::null());
            find.status().context("cannot run find")?;
        }
        bail!("the cgroups {} of the cluster cannot be removed", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_full_name() {
        assert_eq!(full("haproxy:3.2"), "docker.io/library/haproxy:3.2");
        assert_eq!(full("nginxinc/a:1"), "docker.io/nginxinc/a:1");
    }

    #[test]
    fn each_cluster_has_cgroups_of_its_own() {
        let [first, second] =
            ["/a/target/k8s", "/b/target/k8s"].map(|dir| Cgroups::of(Path::new(dir)));
        assert_eq!((&*first.name, &*second.name), ("k8s-a-target-k8s", "k8s-b-target-k8s"));
        let expected = if first.paths.is_empty() { "" } else { "--cgroup-root=/k8s-a-target-k8s" };
        assert_eq!(first.argument(), expected);
    }
}
