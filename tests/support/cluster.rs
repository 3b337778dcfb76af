//! The cluster of `cargo xtask k8s`: kubectl, namespaces that go away, pods and what they serve and say.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Display,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    agent::{Event, events_of},
    checkout::{objects, text},
    target::unique_name,
    time::{PATIENCE, pause},
};

/// How long before the same is asked again: both who asks and who is asked want the processor.
const PACE: Duration = Duration::from_millis(50);

/// After how many questions the kubelet is told once more to look at a pod.
const REMINDER: u32 = 40;

/// The image of the agent, as a container is called that runs it.
pub(crate) const AGENT: &str = "reload-agent";

/// The image of the servers, which also has a shell.
pub(crate) const SERVERS: &str = super::docker::SERVERS;

/// What `cargo xtask k8s` says in the environment.
#[track_caller]
fn said(name: &str) -> PathBuf {
    env::var_os(name).map(PathBuf::from).expect("`cargo xtask k8s` runs this, with a cluster")
}

/// Where the cluster lives.
#[track_caller]
fn home() -> PathBuf {
    said("RELOAD_K8S_DIR")
}

/// A file of the node, as far as it lies on a disk: below its /var.
pub(crate) fn of_node(path: &str) -> PathBuf {
    let path = path.strip_prefix("/var/").expect("a path below /var");
    match path.strip_prefix("lib/kubelet/") {
        Some(path) => home().join("state/kubelet").join(path),
        None => home().join("state/var-up").join(path),
    }
}

/// The first process of the node.
#[track_caller]
pub(crate) fn init() -> i32 {
    fs::read_to_string(home().join("run/init.pid")).unwrap().trim().parse().unwrap()
}

/// A command of kubectl's, as the administrator.
pub(crate) fn kubectl(arguments: &[&str]) -> Command {
    let mut command = Command::new(said("RELOAD_K8S").join("kubectl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What kubectl prints, or what it complains of.
pub(crate) fn try_ask(arguments: &[&str]) -> Result<String, String> {
    printed(kubectl(arguments).output().unwrap())
}

/// What kubectl prints.
#[track_caller]
pub(crate) fn ask(arguments: &[&str]) -> String {
    try_ask(arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
}

/// What kubectl prints that is fed with `text`, or what it complains of.
pub(crate) fn try_feed(arguments: &[&str], text: &str) -> Result<String, String> {
    let mut command = kubectl(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    printed(child.wait_with_output().unwrap())
}

fn printed(output: Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

/// Asks until the answer is `Some`.
#[track_caller]
pub(crate) fn until<T>(what: impl Display, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + *PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        if Instant::now() >= deadline {
            let pods = try_ask(&["get", "pods", "--all-namespaces", "--output=wide"]);
            let pods = pods.unwrap_or_else(|error| error);
            panic!("not within {:?}: {what}\n{pods}\n{}", *PATIENCE, said_by_agents());
        }
        pause(PACE);
    }
}

/// The last lines of all agents of the node that are there, for a test that has failed.
fn said_by_agents() -> String {
    const MOST: usize = 40;
    let pods = fs::read_dir(of_node("/var/log/pods")).into_iter().flatten().flatten();
    let containers = pods.map(|pod| pod.path().join(AGENT)).filter(|it| it.is_dir());
    let logs = containers.map(|container| {
        let log = log_in(&container);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(MOST)..].join("\n")
    });
    logs.collect::<Vec<_>>().join("\n--\n")
}

/// What a container has printed through all its starts, whose logs are in a folder.
fn log_in(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files: BTreeMap<_, _> = files
        .filter_map(|entry| {
            let path = entry.path();
            let number: u32 = path.file_stem()?.to_str()?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    let lines = files.values().map(|file| fs::read_to_string(file).unwrap_or_default());
    let mut log = String::new();
    for line in lines.collect::<String>().lines() {
        // A time, the stream, F for a whole line, and the line.
        let mut fields = line.splitn(4, ' ').skip(2);
        let (Some(whole), Some(text)) = (fields.next(), fields.next()) else { continue };
        log.push_str(text);
        if whole == "F" {
            log.push('\n');
        }
    }
    log
}

/// A namespace, which goes away with everything in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let namespace = Self { name: unique_name() };
        ask(&["create", "namespace", namespace.name()]);
        // No pod is admitted before that.
        until("a service account", || {
            namespace.try_ask(&["get", "serviceaccount", "default"]).ok()
        });
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What kubectl prints of this namespace, or what it complains of.
    pub(crate) fn try_ask(&self, arguments: &[&str]) -> Result<String, String> {
        try_ask(&[&["--namespace", &self.name], arguments].concat())
    }

    /// What kubectl prints of this namespace.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        ask(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies manifests.
    #[track_caller]
    pub(crate) fn apply(&self, manifests: &str) {
        let arguments = ["--namespace", &self.name, "apply", "--filename=-"];
        if let Err(error) = try_feed(&arguments, manifests) {
            panic!("kubectl apply: {error}\n{manifests}");
        }
    }

    /// Applies objects.
    #[track_caller]
    pub(crate) fn apply_all(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.apply(&list.to_string());
    }

    /// Puts an object in the place of the one that is there.
    #[track_caller]
    pub(crate) fn replace(&self, object: &Value) {
        let arguments = ["--namespace", &self.name, "replace", "--filename=-"];
        if let Err(error) = try_feed(&arguments, &object.to_string()) {
            panic!("kubectl replace: {error}\n{object}");
        }
    }

    /// Has the kubelet look at its pods, as it would some time within a minute.
    pub(crate) fn touch(&self) {
        let mark = format!("test/touched={}", unique_name());
        // A pod may be gone by now, or the API server not there.
        drop(self.try_ask(&["annotate", "pods", "--all", "--overwrite", &mark]));
    }

    /// The same until something is so: the kubelet may look before it has heard of what has changed.
    #[track_caller]
    pub(crate) fn touch_until<T>(
        &self,
        what: impl Display,
        mut ask: impl FnMut() -> Option<T>,
    ) -> T {
        let mut asked = 0;
        until(what, || {
            if asked % REMINDER == 0 {
                self.touch();
            }
            asked += 1;
            ask()
        })
    }

    /// Waits until a pod with this label is ready, and the only one, and gives it.
    #[track_caller]
    pub(crate) fn ready_pod(&self, label: &str) -> Pod {
        Self::ready_pod_in(&self.name, label)
    }

    /// The same in any namespace.
    #[track_caller]
    pub(crate) fn ready_pod_in(namespace: &str, label: &str) -> Pod {
        until(format!("a pod {label} that is ready"), || {
            let which = ["--namespace", namespace, "--selector", label];
            let get = [&["get", "pods", "--output=json"], &which[..]].concat();
            let found: Value = serde_json::from_str(&try_ask(&get).ok()?).unwrap();
            let [pod] = found["items"].as_array()?.as_slice() else { return None };
            let pod = Pod(pod.clone());
            (pod.is("Ready") && !pod.is_leaving()).then_some(pod)
        })
    }

    /// The Events of a pod: reasons and notes.
    #[track_caller]
    pub(crate) fn events(&self, pod: &str) -> Vec<(String, String)> {
        let field = format!("regarding.name={pod}");
        let events =
            self.ask(&["get", "events.events.k8s.io", "--output=json", "--field-selector", &field]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let ours = |event: &&Value| {
            event["reportingController"].as_str().is_some_and(|it| it.contains("reload-agent"))
        };
        let text =
            |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let events = events["items"].as_array().unwrap().iter().filter(ours);
        events.map(|event| (text(event, "reason"), text(event, "note"))).collect()
    }

    /// Waits until an Event of a pod has this reason, and gives its note.
    #[track_caller]
    pub(crate) fn event(&self, pod: &str, reason: &str) -> String {
        until(format!("an Event {reason} of {pod}"), || {
            self.events(pod).into_iter().find(|(it, _)| it == reason).map(|(_, note)| note)
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody waits: the next test has a namespace of its own.
        drop(try_ask(&["delete", "namespace", &self.name, "--wait=false"]));
    }
}

/// A pod, as the API server described it.
#[derive(Clone, Debug)]
pub(crate) struct Pod(pub(crate) Value);

impl Pod {
    pub(crate) fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap()
    }

    pub(crate) fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.0["metadata"]["namespace"].as_str().unwrap()
    }

    /// Whether a condition is met.
    pub(crate) fn is(&self, condition: &str) -> bool {
        let conditions = self.0["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|it| it["type"] == condition && it["status"] == "True")
    }

    pub(crate) fn is_leaving(&self) -> bool {
        !self.0["metadata"]["deletionTimestamp"].is_null()
    }

    /// How often its containers were started anew.
    pub(crate) fn restarts(&self) -> i64 {
        let containers = self.0["status"]["containerStatuses"].as_array();
        containers.into_iter().flatten().map(|it| it["restartCount"].as_i64().unwrap()).sum()
    }

    /// The same pod, as it is now.
    #[track_caller]
    pub(crate) fn renewed(&self) -> Self {
        let pod =
            ask(&["--namespace", self.namespace(), "get", "pod", self.name(), "--output=json"]);
        Self(serde_json::from_str(&pod).unwrap())
    }

    /// The folder of one of its volumes, on the node's disk.
    pub(crate) fn volume(&self, kind: &str, name: &str) -> PathBuf {
        let uid = self.uid();
        of_node(&format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~{kind}/{name}"))
    }

    /// What is answered at a port: the status and the text.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let address: IpAddr = self.0["status"]["podIP"].as_str()?.parse().unwrap();
        let mut stream = connect(SocketAddr::from((address, port)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// What it serves.
    pub(crate) fn serves(&self) -> Option<String> {
        let (status, body) = self.get(8080, "/")?;
        (status == 200).then(|| body.trim_end().to_owned())
    }

    /// What a container has printed so far, through all its starts, from the node's disk: the API server
    /// may be away.
    pub(crate) fn log(&self, container: &str) -> String {
        let (namespace, name, uid) = (self.namespace(), self.name(), self.uid());
        log_in(&of_node(&format!("/var/log/pods/{namespace}_{name}_{uid}/{container}")))
    }

    /// The decisions of the agent in it.
    pub(crate) fn decisions(&self) -> Vec<Event> {
        // Its last line may not be whole yet.
        let log = self.log(AGENT);
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        events_of(whole)
    }
}

/// A process of the node that does nothing until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen(Pid);

impl Frozen {
    /// The one that is called so.
    #[track_caller]
    pub(crate) fn process(name: &str) -> Self {
        let pid = process_of_node(name);
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It fails where it has ended, and then nothing is left to do.
        let _gone = kill_process(self.0, Signal::CONT);
        wait_for_api_server();
    }
}

/// The API server, which is not there until this is dropped.
#[derive(Debug)]
pub(crate) struct Killed {
    command: Vec<OsString>,
}

impl Killed {
    #[track_caller]
    pub(crate) fn api_server() -> Self {
        let pid = process_of_node(API_SERVER);
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
        let words = command.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        let command = words.map(|word| OsString::from_vec(word.to_owned())).collect();
        kill_process(pid, Signal::KILL).unwrap();
        until("the end of the API server", || try_ask(&["get", "--raw=/livez"]).err());
        Self { command }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let init = init().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &init, "--mount", "--net", "--pid", "--uts", "--ipc"]);
        command.args(["setsid", "--fork"]).args(&self.command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(command.status());
        wait_for_api_server();
    }
}

pub(crate) const API_SERVER: &str = "kube-apiserver";

/// Waits for it, unless a test has failed already.
fn wait_for_api_server() {
    if !thread::panicking() {
        until("the API server", || try_ask(&["get", "--raw=/readyz"]).ok());
    }
}

/// The one process of the node's own that is called so.
#[track_caller]
fn process_of_node(name: &str) -> Pid {
    let node = fs::read_link(format!("/proc/{}/ns/pid", init())).unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| {
        let path = entry.path();
        let is_it = fs::read_to_string(path.join("comm")).ok()?.trim_end() == name
            && fs::read_link(path.join("ns/pid")).ok()? == node;
        Pid::from_raw(entry.file_name().to_str()?.parse().ok()?).filter(|_| is_it)
    });
    pids.next().unwrap_or_else(|| panic!("the node has no process {name}"))
}

/// Connects to an address of the cluster.
fn connect(address: SocketAddr) -> Option<TcpStream> {
    const LIMIT: Duration = Duration::from_secs(5);
    let network = File::open(format!("/proc/{}/ns/net", init())).unwrap();
    // A thread of its own, for it is in that network from then on. So is the connection.
    let connected = thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        TcpStream::connect_timeout(&address, LIMIT).ok()
    });
    let stream = connected.join().unwrap()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Some(stream)
}

/// The `ConfigMap` and the `Deployment` of a server of `deploy/sidecar`, without its sidecar: a pod that
/// knows nothing of the agent but these annotations.
#[track_caller]
pub(crate) fn server(name: &str, annotations: &Value) -> Vec<Value> {
    let mut objects = objects(&text(&format!("deploy/sidecar/{name}.yaml")));
    let template = &mut objects[1]["spec"]["template"];
    template["metadata"]["annotations"] = annotations.clone();
    let pod = &mut template["spec"];
    pod["shareProcessNamespace"] = json!(false);
    pod["terminationGracePeriodSeconds"] = json!(1);
    pod["containers"].as_array_mut().unwrap().retain(|it| it["name"] != AGENT);
    pod["volumes"].as_array_mut().unwrap().retain(|it| it["name"] != "state");
    objects
}

/// The same text in another revision.
pub(crate) fn revised(manifests: &str, revision: u32) -> String {
    manifests.replace("revision 1", &format!("revision {revision}"))
}
