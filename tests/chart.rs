//! The chart grants and sets what the kustomization does, and refuses values that it does not know.

#![cfg(test)]

mod support;

use serde_json::{Value, json};

use crate::support::{
    chart::{helm, render},
    checkout::{objects, only, text},
};

/// The release that is called as what the kustomization installs.
const RELEASE: &str = "reload-agent";

/// The objects of the chart with these values, each `name=value`.
#[track_caller]
fn chart(values: &[&str]) -> Vec<Value> {
    let options: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    objects(&render(RELEASE, &options).unwrap())
}

fn base() -> Vec<Value> {
    let files = ["namespace", "rbac", "daemonset"];
    let read = |name: &&str| objects(&text(&format!("deploy/daemonset/base/{name}.yaml")));
    files.iter().flat_map(read).collect()
}

/// What pods of a `DaemonSet` are made from.
fn pod(objects: &[Value]) -> Value {
    only(objects, "DaemonSet")["spec"]["template"]["spec"].clone()
}

fn capabilities(objects: &[Value]) -> Vec<String> {
    let pod = pod(objects);
    let added = &pod["containers"][0]["securityContext"]["capabilities"]["add"];
    serde_json::from_value(added.clone()).unwrap()
}

/// Takes an element with this name out of a list.
#[track_caller]
fn take(list: &mut Value, name: &str) -> Value {
    let list = list.as_array_mut().unwrap();
    let index = list.iter().position(|it| it["name"] == name).expect("an element of this name");
    list.remove(index)
}

#[test]
#[ignore = "needs Helm; `cargo xtask test` runs it"]
fn by_default_it_is_the_kustomization() {
    let (chart, base) = (chart(&[]), base());
    let mut ours = pod(&chart);
    // What has a value of its own in the chart, and the value that it has by default.
    let container = &mut ours["containers"][0];
    assert_eq!(take(&mut container["env"], "RELOAD_SOURCE")["value"], "auto");
    assert_eq!(take(&mut container["env"], "RELOAD_KUBELET_DIR")["value"], "/var/lib/kubelet");
    container.as_object_mut().unwrap().remove("imagePullPolicy");
    assert_eq!(ours, pod(&base));
    assert_eq!(only(&chart, "ClusterRole")["rules"], only(&base, "ClusterRole")["rules"]);
    let strategy = |objects| only(objects, "DaemonSet")["spec"]["updateStrategy"].clone();
    assert_eq!(strategy(&chart), strategy(&base));
}

#[test]
#[ignore = "needs Helm; `cargo xtask test` runs it"]
fn what_is_enabled_is_what_the_component_has() {
    let nudge = chart(&["nudge.enabled=true"]);
    let component = objects(&text("deploy/daemonset/components/nudge/rbac.yaml"));
    let rules = |objects| only(objects, "ClusterRole")["rules"].as_array().unwrap().clone();
    assert_eq!(rules(&nudge), [rules(&base()), rules(&component)].concat());
    assert_eq!(take(&mut pod(&nudge)["containers"][0]["env"], "RELOAD_NUDGE")["value"], "true");

    let own = capabilities(&base());
    let checks = ["SYS_ADMIN", "SYS_CHROOT", "SETUID", "SETGID"].map(str::to_owned);
    assert_eq!(capabilities(&chart(&["checks.enabled=true"])), [&own[..], &checks].concat());
    assert_eq!(capabilities(&chart(&["source=inotify"])), own[2..]);
    let fanotify = ["KILL", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"];
    assert_eq!(capabilities(&chart(&["source=fanotify"])), fanotify);

    let policy = objects(&text("deploy/daemonset/components/network-policy/networkpolicy.yaml"));
    let ours = chart(&["networkPolicy.enabled=true"]);
    let ingress = |objects| only(objects, "NetworkPolicy")["spec"]["ingress"].clone();
    assert_eq!(ingress(&ours), ingress(&policy));
    let monitor = objects(&text("deploy/daemonset/components/pod-monitor/podmonitor.yaml"));
    let ours = chart(&["podMonitor.enabled=true"]);
    let endpoints = |objects| only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"].clone();
    assert_eq!(endpoints(&ours), endpoints(&monitor));
}

/// They are a file, which the agent is told of, and other rules are another pod.
#[test]
#[ignore = "needs Helm; `cargo xtask test` runs it"]
fn rules_for_pods_without_annotations_are_mounted() {
    let rules = |process: &str| {
        let config = json!({"rules": [{"pods": {"namespace": "shop"}, "process": process}]});
        objects(&render(RELEASE, &["--set-json", &format!("config={config}")]).unwrap())
    };
    let nginx = rules("nginx");
    let data = &only(&nginx, "ConfigMap")["data"]["rules.yaml"];
    let data: Value = serde_saphyr::from_str(data.as_str().unwrap()).unwrap();
    assert_eq!(data["rules"][0]["process"], "nginx");
    let mut pod = pod(&nginx);
    let variable = take(&mut pod["containers"][0]["env"], "RELOAD_CONFIG");
    let mount = take(&mut pod["containers"][0]["volumeMounts"], "config");
    let path = format!("{}/rules.yaml", mount["mountPath"].as_str().unwrap());
    assert_eq!(variable["value"], path);
    let name = take(&mut pod["volumes"], "config")["configMap"]["name"].take();
    assert_eq!(name, only(&nginx, "ConfigMap")["metadata"]["name"]);
    let annotations = |objects: &[Value]| {
        only(objects, "DaemonSet")["spec"]["template"]["metadata"]["annotations"].clone()
    };
    assert_ne!(annotations(&nginx), annotations(&rules("haproxy")));
}

#[test]
#[ignore = "needs Helm; `cargo xtask test` runs it"]
fn a_value_that_is_not_known_is_refused() {
    #[track_caller]
    fn check(value: &str, expected: &str) {
        let error = render(RELEASE, &["--set", value]).unwrap_err();
        assert!(error.contains(expected), "{value}: {error}");
    }
    check("nugde.enabled=true", "'nugde' not allowed");
    check("nudge.enable=true", "'enable' not allowed");
    check("nudge.enabled=yes", "/nudge/enabled");
    check("source=epbf", "/source");
    check("kubeletDir=var/lib/kubelet", "/kubeletDir");
    check("args={node}", "/args/0");
    check("config.rules[0].process=nginx", "missing property 'pods'");
    check("image.pullPolicy=Sometimes", "/image/pullPolicy");
}

#[test]
#[ignore = "needs Helm; `cargo xtask test` runs it"]
fn helm_finds_nothing_wrong_with_it() {
    let said = helm(&["lint", "--strict"]).unwrap();
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
}
