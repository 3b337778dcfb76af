//! A pod of a manifest, run by the Docker engine: containers that share a pid namespace and a network,
//! and a `ConfigMap` that is written as the kubelet writes it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    agent::Agent,
    docker::{Container, IMAGE, SERVERS, docker},
    kubelet::{Order, Volume},
    manifest::{self, HttpGet, Manifest},
    time::poll,
};

/// What the agent's container is called in a manifest.
const AGENT: &str = "reload-agent";

/// A pod whose server runs.
#[derive(Debug)]
pub(crate) struct Pod {
    recipe: Recipe,
    volume: Volume,
    address: SocketAddr,
    // In the order in which they may go: the one that has the namespaces after those that use them.
    _server: Container,
    pause: Container,
    _home: TempDir,
}

impl Pod {
    /// Starts the pod of `deploy/sidecar/<name>.yaml` without its agent, and waits until it serves.
    #[track_caller]
    pub(crate) fn start(name: &str) -> Self {
        Self::of(Manifest::read(name))
    }

    /// The same for a manifest at hand.
    #[track_caller]
    pub(crate) fn of(manifest: Manifest) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("volume");
        fs::create_dir(&dir).unwrap();
        let volume = Volume::mount(&dir, Order::NamesLast, manifest.keys.clone());
        let recipe = Recipe { manifest, dir };

        let pause = Container::start(&[SERVERS, "sleep", "infinity"]);
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address: Ipv4Addr = pause.inspect(address).parse().unwrap();
        let address = SocketAddr::from((address, recipe.server().ports[0].container_port));
        let server = recipe.as_declared(recipe.server(), SERVERS);
        let server = Container::start(&[shared(&pause), server].concat());
        let pod = Self { recipe, volume, address, _server: server, pause, _home: home };
        pod.wait_for(1);
        pod
    }

    /// What it serves, or `None` where it does not.
    pub(crate) fn get(&self) -> Option<String> {
        let answer = self.ask(self.address.port(), "/")?;
        let (_head, body) = answer.split_once("\r\n\r\n")?;
        Some(body.trim_end().to_owned())
    }

    /// Waits until the agent's probes are content, as the kubelet would.
    #[track_caller]
    pub(crate) fn wait_for_probes(&self) {
        let agent = self.recipe.agent();
        for probe in [&agent.liveness_probe, &agent.readiness_probe] {
            let HttpGet { path, port } = &probe.as_ref().expect("a probe").http_get;
            let is_well = |answer: &String| answer.split(' ').nth(1) == Some("200");
            poll(path, || self.ask(*port, path).filter(is_well));
        }
    }

    /// The agent's metrics, from where the annotations say that they are.
    pub(crate) fn metrics(&self) -> Option<String> {
        let annotations = &self.recipe.manifest.annotations;
        assert_eq!(annotations["prometheus.io/scrape"], "true");
        self.ask(annotations["prometheus.io/port"].parse().unwrap(), "/metrics")
    }

    /// What is answered on a port of the pod, head and all.
    fn ask(&self, port: u16, path: &str) -> Option<String> {
        const LIMIT: Duration = Duration::from_secs(2);
        let address = SocketAddr::new(self.address.ip(), port);
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Syncs its `ConfigMap`: the manifest's, with this revision in it.
    pub(crate) fn update(&mut self, revision: u32) {
        let renew = |text: &str| text.replace("revision 1", &format!("revision {revision}"));
        let keys = self.recipe.manifest.keys.iter();
        let keys = keys.map(|(key, value)| (key.clone(), renew(value))).collect();
        self.volume.update(keys);
    }

    /// Waits until it serves this revision.
    #[track_caller]
    pub(crate) fn wait_for(&self, revision: u32) {
        let wanted = format!("revision {revision}");
        poll(&wanted, || self.get().filter(|body| *body == wanted));
    }

    /// A command that runs the agent's container as the manifest says, and the container.
    pub(crate) fn declared_agent(&self) -> (Command, Container) {
        let agent = self.recipe.agent();
        self.attached(&self.recipe.as_declared(agent, &agent.image))
    }

    /// A command that runs the usual sidecar: of the manifest's agent it has the environment and the
    /// volume, and else what the engine and the image give. `options` are Docker's.
    pub(crate) fn usual_agent(&self, options: &[&str], arguments: &[&str]) -> (Command, Container) {
        let agent = self.recipe.agent();
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let parts: [Vec<String>; 5] = [
            owned(options),
            environment(agent),
            self.recipe.mounts(agent),
            owned(&[IMAGE]),
            owned(arguments),
        ];
        self.attached(&parts.concat())
    }

    /// The same, started, with a log in JSON, and in a hurry.
    pub(crate) fn sidecar(&self, options: &[&str], arguments: &[&str]) -> Sidecar {
        let usual = [
            "--env=RELOAD_LOG_FORMAT=json",
            "--env=RELOAD_MIN_INTERVAL=0s",
            "--env=RELOAD_CONFIRM_TIMEOUT=0s",
        ];
        let (mut command, container) = self.usual_agent(&[&usual, options].concat(), arguments);
        Sidecar { agent: Agent::spawn(&mut command), container }
    }

    /// A command that runs a container in this pod and passes on what it says, and the container.
    fn attached(&self, arguments: &[String]) -> (Command, Container) {
        let container = Container::new();
        let run = ["run", "--name", container.name()].map(str::to_owned);
        (docker(&[&run, &*shared(&self.pause), arguments].concat()), container)
    }
}

/// An agent in a container, which may be gone before its last words are read.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) agent: Agent,
    pub(crate) container: Container,
}

/// What makes a container one of the pod.
fn shared(pause: &Container) -> Vec<String> {
    ["pid", "network"].map(|what| format!("--{what}=container:{}", pause.name())).to_vec()
}

fn environment(container: &manifest::Container) -> Vec<String> {
    container.env.iter().map(|set| format!("--env={}={}", set.name, set.value)).collect()
}

/// What a pod is made of.
#[derive(Debug)]
struct Recipe {
    manifest: Manifest,
    /// The `ConfigMap`.
    dir: PathBuf,
}

impl Recipe {
    fn agent(&self) -> &manifest::Container {
        self.container(|name| name == AGENT)
    }

    fn server(&self) -> &manifest::Container {
        self.container(|name| name != AGENT)
    }

    fn container(&self, wanted: impl Fn(&str) -> bool) -> &manifest::Container {
        self.manifest.pod.containers.iter().find(|container| wanted(&container.name)).unwrap()
    }

    /// The arguments of `docker run` for a container that has what the manifest declares.
    fn as_declared(&self, container: &manifest::Container, image: &str) -> Vec<String> {
        let own = &container.security_context;
        let of_pod = &self.manifest.pod.security_context;
        let user = own.run_as_user.or(of_pod.run_as_user).expect("the manifest names a user");
        let group = own.run_as_group.or(of_pod.run_as_group).expect("the manifest names a group");
        let mut arguments = vec![format!("--user={user}:{group}")];
        arguments.extend(own.capabilities.drop.iter().map(|name| format!("--cap-drop={name}")));
        arguments.extend(added(&own.capabilities.add));
        if !own.allow_privilege_escalation {
            arguments.push("--security-opt=no-new-privileges".to_owned());
        }
        if own.read_only_root_filesystem {
            arguments.push("--read-only".to_owned());
        }
        let memory = container.resources.limits.get("memory");
        arguments.extend(memory.map(|limit| format!("--memory={}", limit.replace("Mi", "m"))));
        arguments.extend(environment(container));
        arguments.extend(self.mounts(container));
        let mut command = container.command.iter().cloned();
        arguments.extend(command.next().map(|program| format!("--entrypoint={program}")));
        arguments.push(image.to_owned());
        arguments.extend(command);
        arguments
    }

    fn mounts(&self, container: &manifest::Container) -> Vec<String> {
        container.volume_mounts.iter().map(|mount| self.mount(mount, &self.dir)).collect()
    }

    fn mount(&self, mount: &manifest::Mount, dir: &Path) -> String {
        let path = &mount.path;
        let mut volumes = self.manifest.pod.volumes.iter();
        let volume = volumes.find(|volume| volume.name == mount.name).expect("a declared volume");
        if volume.empty_dir.is_some() {
            // As the kubelet makes one: for everybody.
            return format!("--tmpfs={path}:mode=0777");
        }
        let mode = if mount.read_only { ":ro" } else { "" };
        format!("--volume={}:{path}{mode}", dir.display())
    }
}

/// The options that add capabilities.
///
/// Engines before 23 know neither BPF nor PERFMON; `SYS_ADMIN` is what includes them.
fn added(names: &[String]) -> Vec<String> {
    let known = |name: &String| match name.as_str() {
        "BPF" | "PERFMON" => "--cap-add=SYS_ADMIN".to_owned(),
        name => format!("--cap-add={name}"),
    };
    let mut options: Vec<_> = names.iter().map(known).collect();
    options.dedup();
    options
}
