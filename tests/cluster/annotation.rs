//! A pod is reloaded that has asked for it, and no other: whatever its processes are called.

use serde_json::json;

use crate::support::{
    cluster::{Namespace, ask, until},
    daemon::{Daemon, decided_of},
    listener::{Listener, config, heard, wait_until_it_listens},
};

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn of_two_pods_with_the_same_process_only_the_annotated_one_is_reloaded() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let asked = Listener::annotated("asked", "shared");
    let other = Listener { process: asked.process.clone(), ..Listener::plain("other", "shared") };
    namespace.apply_all(&[config("shared", &json!({"key": "1"})), asked.pod(), other.pod()]);
    let [asked, other] = ["app=asked", "app=other"].map(|label| namespace.ready_pod(label));
    wait_until_it_listens(&asked);
    wait_until_it_listens(&other);
    daemon.wait_for_rules_of(&asked);

    for value in ["2", "3"] {
        namespace.apply_all(&[config("shared", &json!({"key": value}))]);
        let line = format!("config/key={value}");
        namespace.touch_until(&line, || heard(&asked).contains(&line).then_some(()));
    }
    assert_eq!(heard(&asked), ["config/key=2", "config/key=3"]);
    assert_eq!(heard(&other), [""; 0]);

    // And it is from the moment on at which it asks.
    ask(&[
        "--namespace",
        namespace.name(),
        "annotate",
        "pod",
        "other",
        "reload-agent.dev/process=asked",
    ]);
    daemon.wait_for_rules_of(&other);
    namespace.apply_all(&[config("shared", &json!({"key": "4"}))]);
    let line = "config/key=4".to_owned();
    for pod in [&asked, &other] {
        namespace.touch_until(&line, || heard(pod).contains(&line).then_some(()));
    }
    assert_eq!(heard(&other), [&*line]);
    assert_eq!(heard(&asked), ["config/key=2", "config/key=3", "config/key=4"]);
}

/// Whoever has no annotation may be meant by nobody: the agent knows nothing of it at all.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_pod_that_is_gone_is_forgotten_and_the_others_go_on() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let [stays, goes] = ["stays", "goes"].map(|name| Listener::annotated(name, "shared"));
    namespace.apply_all(&[config("shared", &json!({"key": "1"})), stays.pod(), goes.pod()]);
    let [stays, goes] = ["app=stays", "app=goes"].map(|label| namespace.ready_pod(label));
    for pod in [&stays, &goes] {
        wait_until_it_listens(pod);
        daemon.wait_for_rules_of(pod);
    }
    namespace.ask(&["delete", "pod", "goes"]);
    namespace.apply_all(&[config("shared", &json!({"key": "2"}))]);
    let line = "config/key=2".to_owned();
    namespace.touch_until(&line, || heard(&stays).contains(&line).then_some(()));
    assert_eq!(heard(&stays), [&*line]);
    let agent = daemon.pod();
    let rule = format!("rule=\"{}/goes\"", namespace.name());
    until("metrics without the pod", || {
        let (_, metrics) = agent.get(crate::support::daemon::PORT, "/metrics")?;
        (!metrics.contains(&rule)).then_some(())
    });
    let reloads = decided_of(&agent, &goes).into_iter().filter(|it| it.name() == "reloaded");
    assert_eq!(reloads.count(), 0);
}
