//! The manifests of `deploy/sidecar` do what they say: servers serve their new configuration.
//!
//! The engine is Docker's and the kubelet is ours; uids, capabilities, limits and volumes are those of
//! the manifests.

#![cfg(test)]

mod support;

use std::process::Stdio;

use crate::support::{lines::Lines, manifest::Manifest, pod::Pod, process::Process, time::poll};

/// The manifests, the signal that each sends, and the source that its agent has.
const MANIFESTS: &[(&str, &str, &str)] = &[
    ("gunicorn", "HUP", "source inotify"),
    ("haproxy", "USR2", "source inotify"),
    ("nginx", "HUP", "source inotify"),
    ("nginx-ebpf", "HUP", "source ebpf (tracepoint)"),
];

/// Runs a pod, agent and all, and changes its `ConfigMap` twice.
fn check(name: &str) {
    let (_, signal, source) = MANIFESTS.iter().find(|(known, ..)| *known == name).unwrap();
    let mut pod = Pod::start(name);
    let (mut command, _container) = pod.declared_agent();
    let mut agent = Process::spawn(command.stderr(Stdio::piped()));
    let mut lines = Lines::of("agent", agent.stderr.take().unwrap());
    let ready = lines.until("ready", |line| line.contains("ready after").then(|| line.to_owned()));
    assert!(ready.contains(source) && ready.contains("1 to reload"), "{ready}");

    pod.wait_for_probes();
    for revision in 2..=3 {
        pod.update(revision);
        let sent = format!("sent {signal} to pid");
        lines.until(&sent, |line| line.contains(&sent).then_some(()));
        pod.wait_for(revision);
        let reloads = format!("result=\"confirmed\"}} {}", revision - 1);
        poll(&reloads, || pod.metrics().filter(|text| text.contains(&reloads)));
    }
    let metrics = pod.metrics().unwrap();
    let is_successful = |line: &str| {
        line.starts_with("reload_agent_last_reload_successful{") && line.ends_with("} 1")
    };
    assert!(metrics.lines().any(is_successful), "{metrics}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn nginx_serves_what_its_configmap_says() {
    check("nginx");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn nginx_does_so_with_ebpf() {
    check("nginx-ebpf");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn haproxy_serves_what_its_configmap_says() {
    check("haproxy");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn gunicorn_serves_what_its_configmap_says() {
    check("gunicorn");
}

#[test]
fn every_manifest_is_tested() {
    let tested: Vec<_> = MANIFESTS.iter().map(|(name, ..)| *name).collect();
    let mut expected = Manifest::names();
    expected.sort_unstable();
    assert_eq!(tested, expected);
}

/// What nobody would miss before it is too late.
#[test]
fn every_container_gives_up_what_it_does_not_need() {
    for name in Manifest::names() {
        let manifest = Manifest::read(&name);
        let pod = &manifest.pod;
        assert!(pod.share_process_namespace, "{name}");
        assert_eq!(pod.security_context.seccomp_profile.kind, "RuntimeDefault", "{name}");
        assert_eq!(pod.containers.len(), 2, "{name}");
        for container in &pod.containers {
            let what = format!("{name}: {}", container.name);
            let own = &container.security_context;
            assert!(!own.allow_privilege_escalation, "{what}");
            assert!(own.read_only_root_filesystem, "{what}");
            assert_eq!(own.capabilities.drop, ["ALL"], "{what}");
            let is_granted_ebpf = what == "nginx-ebpf: reload-agent";
            let granted: &[&str] = if is_granted_ebpf { &["BPF", "PERFMON", "KILL"] } else { &[] };
            assert_eq!(own.capabilities.add, granted, "{what}");
            let uid = own.run_as_user.or(pod.security_context.run_as_user);
            let is_no_root = own.run_as_non_root.or(pod.security_context.run_as_non_root);
            assert_eq!(uid != Some(0) && is_no_root == Some(true), !is_granted_ebpf, "{what}");
            let config = container.volume_mounts.iter().find(|mount| mount.name == "config");
            assert!(config.unwrap().read_only, "{what}");
        }
        let agent = &pod.containers[1];
        assert_eq!(agent.image, format!("reload-agent:{}", env!("CARGO_PKG_VERSION")), "{name}");
        assert_eq!(agent.command, [] as [String; 0], "{name}: the image needs no argument");
        let volumes = |name: &str| pod.volumes.iter().find(|volume| volume.name == name).unwrap();
        let state = agent.volume_mounts.iter().find(|mount| mount.name == "state").unwrap();
        assert!(volumes("state").empty_dir.is_some(), "{name}: it outlives the container");
        let set = |name: &str| &agent.env.iter().find(|set| set.name == name).unwrap().value;
        assert_eq!(*set("RELOAD_STATE_DIR"), state.path, "{name}");
        let port = set("RELOAD_LISTEN");
        assert_eq!(manifest.annotations["prometheus.io/port"], *port, "{name}");
        assert_eq!(agent.ports[0].container_port.to_string(), *port, "{name}");
        let resources = &agent.resources;
        assert!(resources.requests.contains_key("memory"), "{name}");
        assert!(resources.limits.contains_key("memory"), "{name}");
    }
}
