//! A server in a pid namespace of its own, without a sidecar, serves what its `ConfigMap` says: an
//! annotation is enough.

use serde_json::{Value, json};

use crate::support::{
    agent::names,
    cluster::{Namespace, revised, server, until},
    daemon::Daemon,
};

#[track_caller]
fn check(name: &str, annotations: &Value) {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let objects = server(name, annotations);
    namespace.apply_all(&objects);
    let pod = namespace.ready_pod(&format!("app={name}"));
    until("revision 1", || pod.serves().filter(|text| text == "revision 1"));
    daemon.wait_for_rules_of(&pod);

    let config = objects[0].to_string();
    for revision in 2..=3 {
        namespace.apply(&revised(&config, revision));
        let wanted = format!("revision {revision}");
        namespace.touch_until(&wanted, || pod.serves().filter(|text| *text == wanted));
        daemon.until_times(&pod, "confirmed", revision as usize - 1);
    }
    let mut decided = daemon.until_times(&pod, "confirmed", 2);
    // Not for what there was when it started.
    decided.retain(|event| !["adopted", "waiting", "found", "changed"].contains(&event.name()));
    let expected = ["reloaded", "confirmed", "reloaded", "confirmed"];
    assert_eq!(names(&decided), expected, "{:#?}", daemon.until_times(&pod, "confirmed", 2));
    let signal = annotations["reload-agent.dev/signal"].as_str().unwrap_or("HUP");
    assert_eq!(decided[0].text("signal"), signal);
    let note = namespace.event(pod.name(), "Reloaded");
    assert!(note.contains(&format!("sent {signal} to pid")), "{note}");
    assert_eq!(pod.renewed().restarts(), 0);
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn nginx() {
    check("nginx", &json!({"reload-agent.dev/process": "nginx"}));
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn haproxy() {
    let annotations =
        json!({"reload-agent.dev/process": "haproxy", "reload-agent.dev/signal": "USR2"});
    check("haproxy", &annotations);
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn gunicorn() {
    let annotations =
        json!({"reload-agent.dev/process": "gunicorn", "reload-agent.dev/container": "gunicorn"});
    check("gunicorn", &annotations);
}
