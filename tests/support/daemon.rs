//! The agent of the node, as `deploy/daemonset` installs it.

use super::{
    agent::Event,
    cluster::{Namespace, Pod, ask, checkout, try_ask, try_feed, until},
};

/// Where it is installed.
pub(crate) const NAMESPACE: &str = "reload-agent";

/// Where it serves metrics and health.
pub(crate) const PORT: u16 = 9533;

/// The manifests of a folder of `deploy/daemonset`.
#[track_caller]
pub(crate) fn manifests(folder: &str) -> String {
    let path = checkout("deploy/daemonset").join(folder);
    ask(&["kustomize", path.to_str().unwrap()])
}

/// A daemon that is there. It stays when this is dropped, as it does on a node; the next test takes it
/// or installs another in its place.
#[derive(Debug)]
pub(crate) struct Daemon(());

impl Daemon {
    /// Installs a folder of `deploy/daemonset`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn install(folder: &str) -> Self {
        Self::install_manifests(&manifests(folder))
    }

    /// The same for manifests at hand.
    #[track_caller]
    pub(crate) fn install_manifests(manifests: &str) -> Self {
        // What only one overlay brings, the others must do without.
        for kind in ["clusterrolebinding", "clusterrole"] {
            ask(&["delete", kind, "reload-agent-nudge", "--ignore-not-found"]);
        }
        if let Err(error) = try_feed(&["apply", "--filename=-"], manifests) {
            panic!("kubectl apply: {error}\n{manifests}");
        }
        let daemon = Self(());
        daemon.wait_for_rollout();
        daemon
    }

    /// Waits until the agent is the one that was applied, and ready.
    #[track_caller]
    pub(crate) fn wait_for_rollout(&self) {
        let rollout = ["rollout", "status", "daemonset/reload-agent", "--timeout=120s"];
        if let Err(error) = try_ask(&[&["--namespace", NAMESPACE], &rollout[..]].concat()) {
            let pods = ask(&["--namespace", NAMESPACE, "describe", "pods"]);
            panic!("the daemon is not ready: {error}\n{pods}");
        }
    }

    /// Whether the agent is the one that was applied last, and ready.
    pub(crate) fn is_rolled_out(&self) -> bool {
        let rollout = ["rollout", "status", "daemonset/reload-agent", "--watch=false"];
        try_ask(&[&["--namespace", NAMESPACE], &rollout[..]].concat())
            .is_ok_and(|said| said.contains("successfully rolled out"))
    }

    /// Has the agent replaced, as by a new version of it.
    #[track_caller]
    pub(crate) fn restart(&self) {
        ask(&["--namespace", NAMESPACE, "rollout", "restart", "daemonset/reload-agent"]);
    }

    /// Its pod.
    #[track_caller]
    pub(crate) fn pod(&self) -> Pod {
        Namespace::ready_pod_in(NAMESPACE, "app.kubernetes.io/name=reload-agent")
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
