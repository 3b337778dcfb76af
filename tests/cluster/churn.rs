//! Pods come and go by the dozen: each is reloaded once for a change, and who stays is not disturbed.

use serde_json::{Value, json};

use crate::support::{
    cluster::{Namespace, Pod, until},
    daemon::Daemon,
    listener::{Listener, config, heard, wait_until_it_listens},
};

/// How many pods there are at a time, and how often all of them are replaced: 60 pods altogether.
const HERD: usize = 20;
const WAVES: u32 = 2;

/// The pods of the herd that are ready and stay.
fn herd(namespace: &Namespace) -> Vec<Pod> {
    let pods = namespace.ask(&["get", "pods", "--selector=app=herd", "--output=json"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let pods = pods["items"].as_array().unwrap().iter().map(|pod| Pod(pod.clone()));
    pods.filter(|pod| pod.is("Ready") && !pod.is_leaving()).collect()
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn sixty_pods_come_and_go() {
    let daemon = Daemon::install("base");
    let agent = daemon.pod();
    let namespace = Namespace::new();
    let stays = Listener::annotated("stays", "stays");
    let one = Listener::annotated("herd", "herd");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "herd"},
        "spec": {
            "replicas": HERD,
            "selector": {"matchLabels": one.labels},
            "template": one.template(),
        },
    });
    namespace.apply_all(&[
        config("stays", &json!({"key": "0"})),
        config("herd", &json!({"key": "0"})),
        stays.pod(),
        deployment,
    ]);
    let stays = namespace.ready_pod("app=stays");
    wait_until_it_listens(&stays);
    daemon.wait_for_rules_of(&stays);

    let mut expected = Vec::new();
    for wave in 1..=WAVES {
        until("the whole herd", || (herd(&namespace).len() == HERD).then_some(()));
        namespace.ask(&["delete", "pods", "--selector=app=herd", "--wait=false"]);
        // In the middle of it.
        namespace.apply_all(&[config("stays", &json!({"key": wave.to_string()}))]);
        let line = format!("config/key={wave}");
        namespace.touch_until(&line, || heard(&stays).contains(&line).then_some(()));
        expected.push(line);
    }
    let pods = until("the whole herd", || Some(herd(&namespace)).filter(|it| it.len() == HERD));
    for pod in &pods {
        wait_until_it_listens(pod);
        daemon.wait_for_rules_of(pod);
    }
    namespace.apply_all(&[config("herd", &json!({"key": "1"}))]);
    let line = "config/key=1".to_owned();
    for pod in &pods {
        namespace.touch_until(&line, || heard(pod).contains(&line).then_some(()));
    }
    for pod in &pods {
        assert_eq!(heard(pod), [&*line], "{}", pod.name());
    }
    assert_eq!(heard(&stays), expected);
    assert_eq!(agent.renewed().restarts(), 0);
}
