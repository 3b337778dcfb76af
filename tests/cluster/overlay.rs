//! What `deploy/daemonset` and the chart have is what a real API server takes, and the chart works.

use std::fs;

use serde_json::json;

use crate::support::{
    chart::render,
    cluster::{Namespace, Pod, try_feed},
    daemon::{Daemon, manifests},
    listener::{Listener, config, heard, wait_until_it_listens},
};

/// Has the server judge manifests, without doing what they say.
#[track_caller]
fn check(name: &str, manifests: &str) {
    let arguments = ["apply", "--dry-run=server", "--filename=-"];
    let said = try_feed(&arguments, manifests).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains(&format!("daemonset.apps/{name} ")), "{said}");
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn every_overlay_is_taken_by_the_server() {
    // With its namespace, without which the server refuses the rest even to try.
    let _daemon = Daemon::install("base");
    for overlay in ["nudge", "checks", "no-ebpf", "all"] {
        check("reload-agent", &manifests(&format!("overlays/{overlay}")));
    }
}

/// The capabilities that the agent in a pod has, effective and permitted.
#[track_caller]
fn capabilities(pod: &Pod) -> [u64; 2] {
    let of_pod = |file: &str| {
        let groups = fs::read_to_string(format!("/proc/{file}/cgroup")).ok()?;
        groups.contains(pod.uid()).then(|| format!("/proc/{file}"))
    };
    let processes = fs::read_dir("/proc").unwrap();
    let processes = processes.filter_map(|it| of_pod(it.unwrap().file_name().to_str()?));
    let is_agent = |process: &String| {
        fs::read_to_string(format!("{process}/comm")).is_ok_and(|it| it == "reload-agent\n")
    };
    let agents: Vec<_> = processes.filter(is_agent).collect();
    let [agent] = agents.as_slice() else { panic!("{agents:?} are of {}", pod.uid()) };
    let status = fs::read_to_string(format!("{agent}/status")).unwrap();
    ["CapEff:\t", "CapPrm:\t"].map(|set| {
        let set = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        u64::from_str_radix(set, 16).unwrap()
    })
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn an_agent_keeps_what_it_works_with_and_no_more() {
    /// `CAP_DAC_READ_SEARCH`, `CAP_KILL`, `CAP_SYS_PTRACE` (`linux/capability.h`).
    const READ_AND_SIGNAL: u64 = 1 << 2 | 1 << 5 | 1 << 19;
    /// `CAP_SETGID`, `CAP_SETUID`, `CAP_SYS_CHROOT`, `CAP_SYS_ADMIN`.
    const TO_CHECK: u64 = 1 << 6 | 1 << 7 | 1 << 18 | 1 << 21;
    let daemon = Daemon::install("base");
    assert_eq!(capabilities(&daemon.pod()), [READ_AND_SIGNAL; 2]);
    drop(daemon);
    let daemon = Daemon::install("overlays/checks");
    assert_eq!(capabilities(&daemon.pod()), [READ_AND_SIGNAL, READ_AND_SIGNAL | TO_CHECK]);
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn the_chart_is_taken_by_the_server() {
    let _daemon = Daemon::install("base");
    check("chart", &render("chart", &[]).unwrap());
    let config = r#"config={"rules":[{"pods":{"namespace":"shop"},"process":"nginx"}]}"#;
    let all = [
        "--set-json",
        config,
        "--set=nudge.enabled=true",
        "--set=checks.enabled=true",
        "--set=networkPolicy.enabled=true",
    ];
    check("chart", &render("chart", &all).unwrap());
}

/// With a rule of the chart's values, and so for a pod that has no annotation.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_release_of_the_chart_reloads_a_pod() {
    let namespace = Namespace::new();
    let rules = json!({"rules": [
        {"pods": {"namespace": namespace.name(), "labels": {"app": "meant"}}, "process": "meant"},
    ]});
    let daemon = Daemon::install_release("chart", &["--set-json", &format!("config={rules}")]);
    let [meant, other] = ["meant", "other"]
        .map(|name| Listener { process: "meant".to_owned(), ..Listener::plain(name, "shared") });
    namespace.apply_all(&[config("shared", &json!({"key": "1"})), meant.pod(), other.pod()]);
    let [meant, other] = ["app=meant", "app=other"].map(|label| namespace.ready_pod(label));
    wait_until_it_listens(&meant);
    wait_until_it_listens(&other);
    daemon.wait_for_rules_of(&meant);
    for value in ["2", "3"] {
        namespace.apply_all(&[config("shared", &json!({"key": value}))]);
        let line = format!("config/key={value}");
        namespace.touch_until(&line, || heard(&meant).contains(&line).then_some(()));
    }
    assert_eq!(heard(&meant), ["config/key=2", "config/key=3"]);
    assert_eq!(heard(&other), [""; 0]);
}
