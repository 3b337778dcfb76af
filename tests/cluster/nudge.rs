//! With `--nudge` a change comes at once, and not when the kubelet looks next: within a minute or more.

use std::time::Instant;

use serde_json::json;

use crate::support::{
    cluster::{Namespace, until},
    daemon::Daemon,
    listener::{Listener, config, heard, wait_until_it_listens},
};

/// The annotation that the agent sets.
const NUDGED: &str = "reload-agent.dev/nudged";

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn the_kubelet_is_told_to_look() {
    let daemon = Daemon::install("overlays/nudge");
    let namespace = Namespace::new();
    let listener = Listener::annotated("nudged", "nudged");
    let other = Listener::plain("other", "nudged");
    namespace.apply_all(&[config("nudged", &json!({"key": "1"})), listener.pod(), other.pod()]);
    let pod = namespace.ready_pod("app=nudged");
    let other = namespace.ready_pod("app=other");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);

    for value in ["2", "3", "4"] {
        let begin = Instant::now();
        namespace.apply_all(&[config("nudged", &json!({"key": value}))]);
        let line = format!("config/key={value}");
        until(&line, || heard(&pod).contains(&line).then_some(()));
        println!("kubectl apply to reloaded: {:?}", begin.elapsed());
    }
    // Nobody else has touched it, and so it was this: the kubelet looks once a minute.
    let is_nudged = |pod: &crate::support::cluster::Pod| {
        !pod.renewed().0["metadata"]["annotations"][NUDGED].is_null()
    };
    assert!(is_nudged(&pod));
    // Who has not asked for anything is left alone.
    assert!(!is_nudged(&other));
    assert_eq!(heard(&pod), ["config/key=2", "config/key=3", "config/key=4"]);
}
