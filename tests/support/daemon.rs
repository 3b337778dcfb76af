//! The agent of the node, as `deploy/daemonset` installs it.

use super::{
    agent::Event,
    chart::render,
    checkout::file,
    cluster::{Namespace, Pod, ask, try_ask, try_feed, until},
};

/// Where it is installed.
pub(crate) const NAMESPACE: &str = "reload-agent";

/// Where it serves metrics and health.
pub(crate) const PORT: u16 = 9533;

/// The manifests of a folder of `deploy/daemonset`.
#[track_caller]
pub(crate) fn manifests(folder: &str) -> String {
    let path = file(&format!("deploy/daemonset/{folder}"));
    ask(&["kustomize", path.to_str().unwrap()])
}

/// What the kustomization calls it.
const NAME: &str = "reload-agent";

/// A daemon that is there.
///
/// That of `deploy/daemonset` stays when this is dropped, as it does on a node; the next test takes it or
/// installs another in its place. Whatever else was installed goes.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    label: String,
    /// What is to be removed.
    guest: Option<String>,
}

impl Daemon {
    /// Installs a folder of `deploy/daemonset`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn install(folder: &str) -> Self {
        // What only one overlay brings, the others must do without.
        for kind in ["clusterrolebinding", "clusterrole"] {
            ask(&["delete", kind, "reload-agent-nudge", "--ignore-not-found"]);
        }
        let label = format!("app.kubernetes.io/name={NAME}");
        Self { name: NAME.to_owned(), label, guest: None }.applied(&manifests(folder))
    }

    /// Installs a release of the chart in the place of that, and waits until it is ready.
    #[track_caller]
    pub(crate) fn install_release(release: &str, options: &[&str]) -> Self {
        remove(NAME, &format!("app.kubernetes.io/name={NAME}"));
        let manifests = render(release, options).unwrap();
        let label = format!("app.kubernetes.io/instance={release}");
        let guest = Some(manifests.clone());
        Self { name: release.to_owned(), label, guest }.applied(&manifests)
    }

    #[track_caller]
    fn applied(self, manifests: &str) -> Self {
        if let Err(error) = try_feed(&["apply", "--filename=-"], manifests) {
            panic!("kubectl apply: {error}\n{manifests}");
        }
        self.wait_for_rollout();
        self
    }

    /// Waits until the agent is the one that was applied, and ready.
    #[track_caller]
    pub(crate) fn wait_for_rollout(&self) {
        if let Err(error) = self.rollout(&["status", "--timeout=120s"]) {
            let pods = ask(&["--namespace", NAMESPACE, "describe", "pods"]);
            panic!("the daemon is not ready: {error}\n{pods}");
        }
    }

    /// Whether the agent is the one that was applied last, and ready.
    pub(crate) fn is_rolled_out(&self) -> bool {
        self.rollout(&["status", "--watch=false"])
            .is_ok_and(|said| said.contains("successfully rolled out"))
    }

    /// Has the agent replaced, as by a new version of it.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.rollout(&["restart"]).unwrap();
    }

    fn rollout(&self, arguments: &[&str]) -> Result<String, String> {
        let which = format!("daemonset/{}", self.name);
        try_ask(&[&["--namespace", NAMESPACE, "rollout"], arguments, &[&which]].concat())
    }

    /// Its pod.
    #[track_caller]
    pub(crate) fn pod(&self) -> Pod {
        Namespace::ready_pod_in(NAMESPACE, &self.label)
    }

    /// Waits until it watches what a rule of a pod names, and has found whom it names.
    #[track_caller]
    pub(crate) fn wait_for_rules_of(&self, pod: &Pod) {
        self.wait_for_series("reload_agent_targets", pod);
    }

    /// The same where nobody is to be found.
    #[track_caller]
    pub(crate) fn wait_for_watches_of(&self, pod: &Pod) {
        self.wait_for_series("reload_agent_watches", pod);
    }

    /// Waits until a number that it counts for a rule of a pod is not 0.
    #[track_caller]
    fn wait_for_series(&self, name: &str, pod: &Pod) {
        let agent = self.pod();
        let series = format!("{name}{{rule=\"{}", rule_of(pod));
        until(&series, || {
            let (_, metrics) = agent.get(PORT, "/metrics")?;
            let is_it = |line: &str| line.starts_with(&series) && !line.ends_with(" 0");
            metrics.lines().any(is_it).then_some(())
        });
    }

    /// Waits until it has decided so of the rule of a pod, and gives all that it has decided of it.
    #[track_caller]
    pub(crate) fn until(&self, pod: &Pod, event: &str) -> Vec<Event> {
        self.until_times(pod, event, 1)
    }

    /// The same until it has done so as often.
    #[track_caller]
    pub(crate) fn until_times(&self, pod: &Pod, event: &str, times: usize) -> Vec<Event> {
        let agent = self.pod();
        until(format!("{event} of {}", rule_of(pod)), || {
            let events = decided_of(&agent, pod);
            (events.iter().filter(|it| it.name() == event).count() >= times).then_some(events)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(manifests) = &self.guest {
            remove(&self.name, &self.label);
            drop(try_feed(&["delete", "--ignore-not-found", "--filename=-"], manifests));
        }
    }
}

/// Removes a `DaemonSet`, and waits until its agent has gone: two would do everything twice.
fn remove(name: &str, label: &str) {
    let space = ["--namespace", NAMESPACE];
    let delete = ["delete", "daemonset", name, "--ignore-not-found"];
    drop(try_ask(&[&space[..], &delete].concat()));
    let gone = ["wait", "pods", "--for=delete", "--timeout=60s", "--selector", label];
    drop(try_ask(&[&space[..], &gone].concat()));
}

/// What an agent has decided of the rules of a pod.
pub(crate) fn decided_of(agent: &Pod, pod: &Pod) -> Vec<Event> {
    let rule = rule_of(pod);
    let mut events = agent.decisions();
    events.retain(|event| event.field("rule").as_str().is_some_and(|it| it.starts_with(&rule)));
    events
}

/// What the rule of a pod is called.
pub(crate) fn rule_of(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}
