//! What becomes of a pod's wish is an Event of the pod, for `kubectl describe` to show.

use serde_json::json;

use crate::support::{
    cluster::Namespace,
    daemon::Daemon,
    listener::{Listener, config, heard, wait_until_it_listens},
};

/// Starts a listener whose `ConfigMap` is called as it is, and waits until the agent knows it.
#[track_caller]
fn start(
    daemon: &Daemon,
    namespace: &Namespace,
    listener: &Listener,
) -> crate::support::cluster::Pod {
    namespace.apply_all(&[config(&listener.name, &json!({"key": "1"})), listener.pod()]);
    let pod = namespace.ready_pod(&format!("app={}", listener.name));
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);
    pod
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_reload_is_told() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let pod = start(&daemon, &namespace, &Listener::annotated("told", "told"));
    namespace.apply_all(&[config("told", &json!({"key": "2"}))]);
    namespace.touch_until("a reload", || heard(&pod).first().cloned());
    let note = namespace.event("told", "Reloaded");
    assert!(note.starts_with("sent HUP to pid "), "{note}");
}

/// It would die of the signal, and so it is left alone.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_refusal_is_told_with_its_reason() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let program = "echo began; sleep infinity & wait";
    let listener = Listener { program: program.to_owned(), ..Listener::annotated("deaf", "deaf") };
    let pod = start(&daemon, &namespace, &listener);
    namespace.apply_all(&[config("deaf", &json!({"key": "2"}))]);
    namespace.touch_until("a refusal", || {
        let events = namespace.events("deaf");
        events.into_iter().find(|(reason, _)| reason == "ReloadRefused")
    });
    let note = namespace.event("deaf", "ReloadRefused");
    assert!(note.starts_with("sent no HUP to pid "), "{note}");
    assert!(note.contains("has no handler for the signal"), "{note}");
    assert_eq!(pod.renewed().restarts(), 0);
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_process_that_dies_of_it_is_told() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let program = "trap 'exit 3' HUP; echo began; while :; do sleep 1 & wait $!; done";
    let listener =
        Listener { program: program.to_owned(), ..Listener::annotated("frail", "frail") };
    start(&daemon, &namespace, &listener);
    namespace.apply_all(&[config("frail", &json!({"key": "2"}))]);
    namespace.touch_until("a failure", || {
        let events = namespace.events("frail");
        events.into_iter().find(|(reason, _)| reason == "ReloadFailed")
    });
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_mistake_in_an_annotation_is_told() {
    let _daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let listener = Listener {
        annotations: json!({"reload-agent.dev/process": "a", "reload-agent.dev/signal": "HUPP"}),
        ..Listener::plain("mistaken", "mistaken")
    };
    namespace.apply_all(&[config("mistaken", &json!({"key": "1"})), listener.pod()]);
    let note = namespace.event("mistaken", "ReloadRuleInvalid");
    assert!(note.contains("reload-agent.dev/signal") && note.contains("HUPP"), "{note}");
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_mount_that_never_changes_is_told() {
    let _daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let mut pod = Listener::annotated("partial", "partial").pod();
    let mount = &mut pod["spec"]["containers"][0]["volumeMounts"][0];
    mount["mountPath"] = json!("/etc/app/config/key");
    mount["subPath"] = json!("key");
    namespace.apply_all(&[config("partial", &json!({"key": "1"})), pod]);
    let note = namespace.event("partial", "ReloadNeverUpdates");
    assert!(note.contains("subPath"), "{note}");
}
