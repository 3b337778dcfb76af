//! `ConfigMap`s, Secrets, projected volumes and those of the downward API: one change of one is one
//! reload, with all keys as they are to be.

use serde_json::{Value, json};

use crate::support::{
    cluster::Namespace,
    daemon::Daemon,
    listener::{Listener, config, heard, wait_until_it_listens},
};

fn secret(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
    })
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn each_kind_of_volume_is_watched() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let volumes = json!([
        {"name": "a", "configMap": {"name": "plain"}},
        {"name": "b", "secret": {"secretName": "secret"}},
        {"name": "c", "projected": {"sources": [
            {"configMap": {"name": "projected"}},
            {"secret": {"name": "projected"}},
        ]}},
        {"name": "d", "downwardAPI": {"items": [
            {"path": "color", "fieldRef": {"fieldPath": "metadata.labels['color']"}},
        ]}},
    ]);
    let listener = Listener {
        volumes: volumes.as_array().unwrap().clone(),
        labels: json!({"app": "all", "color": "blue"}),
        ..Listener::annotated("all", "none")
    };
    let one = json!({"key": "1"});
    namespace.apply_all(&[
        config("plain", &one),
        secret("secret", &one),
        config("projected", &json!({"open": "1"})),
        secret("projected", &json!({"closed": "1"})),
        listener.pod(),
    ]);
    let pod = namespace.ready_pod("app=all");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);

    let two = json!({"key": "2"});
    let mut expected = Vec::new();
    let mut check = |line: &str| {
        expected.push(line.to_owned());
        namespace.touch_until(line, || (heard(&pod).last()? == line).then_some(()));
    };
    namespace.apply_all(&[config("plain", &two)]);
    check("a/key=2 b/key=1 c/closed=1 c/open=1 d/color=blue");
    namespace.apply_all(&[secret("secret", &two)]);
    check("a/key=2 b/key=2 c/closed=1 c/open=1 d/color=blue");
    namespace.apply_all(&[config("projected", &json!({"open": "2"}))]);
    check("a/key=2 b/key=2 c/closed=1 c/open=2 d/color=blue");
    namespace.apply_all(&[secret("projected", &json!({"closed": "2"}))]);
    check("a/key=2 b/key=2 c/closed=2 c/open=2 d/color=blue");
    namespace.ask(&["label", "pod", pod.name(), "--overwrite", "color=red"]);
    check("a/key=2 b/key=2 c/closed=2 c/open=2 d/color=red");
    assert_eq!(heard(&pod), expected);
}

/// The kubelet adds and removes names after the swap; whoever is signalled too early sees them dangle.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn keys_are_added_and_removed() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let listener = Listener::annotated("keys", "keys");
    namespace.apply_all(&[config("keys", &json!({"a": "1"})), listener.pod()]);
    let pod = namespace.ready_pod("app=keys");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);

    let steps = [
        (json!({"a": "1", "b": "1"}), "config/a=1 config/b=1"),
        (json!({"b": "1"}), "config/b=1"),
        (json!({"b": "2", "c": "2", "d": "2"}), "config/b=2 config/c=2 config/d=2"),
        (json!({"e": "3"}), "config/e=3"),
    ];
    for (data, line) in &steps {
        // Replaced, and not applied, so that no key is left.
        namespace.replace(&config("keys", data));
        namespace.touch_until(line, || (heard(&pod).last()? == line).then_some(()));
    }
    assert_eq!(heard(&pod), steps.map(|(_, line)| line));
}
