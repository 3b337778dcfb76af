//! The manifests of `deploy/sidecar`, applied unchanged: the server serves what its `ConfigMap` says.

use crate::support::{
    checkout::text,
    cluster::{Namespace, revised, until},
};

/// Where the agent of a sidecar serves its metrics.
const METRICS: u16 = 9533;

/// Applies a manifest, changes its `ConfigMap` twice, and looks at what is served.
#[track_caller]
fn check(name: &str, app: &str, source: &str) {
    let manifests = text(&format!("deploy/sidecar/{name}.yaml"));
    let namespace = Namespace::new();
    namespace.apply(&manifests);
    // Which the readiness probe of the agent has part in.
    let pod = namespace.ready_pod(&format!("app={app}"));
    let metrics = || pod.get(METRICS, "/metrics").map(|(_, text)| text);
    let info = format!("reload_agent_source_info{{source=\"{source}\"");
    let is_used =
        |text: &str| text.lines().any(|line| line.starts_with(&info) && line.ends_with(" 1"));
    until(&info, || metrics().filter(|text| is_used(text)));
    until("revision 1", || pod.serves().filter(|text| text == "revision 1"));
    assert_eq!(pod.get(METRICS, "/healthz").unwrap().0, 200);

    for revision in 2..=3 {
        namespace.apply(&revised(&manifests, revision));
        let wanted = format!("revision {revision}");
        namespace.touch_until(&wanted, || pod.serves().filter(|text| *text == wanted));
        let confirmed = format!("result=\"confirmed\"}} {}\n", revision - 1);
        until(&confirmed, || metrics().filter(|text| text.contains(&confirmed)));
    }
    assert_eq!(pod.renewed().restarts(), 0);
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn nginx_serves_what_its_configmap_says() {
    check("nginx", "nginx", "inotify");
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn nginx_does_so_with_ebpf() {
    check("nginx-ebpf", "nginx", "ebpf");
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn haproxy_serves_what_its_configmap_says() {
    check("haproxy", "haproxy", "inotify");
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn gunicorn_serves_what_its_configmap_says() {
    check("gunicorn", "gunicorn", "inotify");
}
