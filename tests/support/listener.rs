//! A pod whose program says, at each HUP, what is in its volumes.

use serde_json::{Value, json};

use super::cluster::{Pod, SERVERS, until};

/// What it does: it says what it finds, then it says so again at each HUP.
const PROGRAM: &str = r#"
tell() {
    line=$1
    for file in /etc/app/*/*; do
        [ -f "$file" ] && line="$line ${file#/etc/app/}=$(cat "$file")"
    done
    echo "$line"
}
trap 'tell heard' HUP
trap 'exit 0' TERM
tell began
while :; do sleep 1 & wait $!; done
"#;

/// What is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// The name of the pod.
    pub(crate) name: String,
    /// What its process is called.
    pub(crate) process: String,
    pub(crate) annotations: Value,
    pub(crate) labels: Value,
    /// Its volumes: each is mounted where it is called so.
    pub(crate) volumes: Vec<Value>,
    /// The shell script that it runs.
    pub(crate) program: String,
}

impl Listener {
    /// One that asks to be reloaded, with a `ConfigMap` of this name.
    pub(crate) fn annotated(name: &str, config: &str) -> Self {
        Self { annotations: json!({"reload-agent.dev/process": name}), ..Self::plain(name, config) }
    }

    /// One that asks for nothing.
    pub(crate) fn plain(name: &str, config: &str) -> Self {
        Self {
            name: name.to_owned(),
            process: name.to_owned(),
            annotations: json!({}),
            labels: json!({"app": name}),
            volumes: vec![json!({"name": "config", "configMap": {"name": config}})],
            program: PROGRAM.to_owned(),
        }
    }

    /// What a pod is made from, for a `Deployment` or by itself.
    pub(crate) fn template(&self) -> Value {
        let mounts: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| {
                let path = format!("/etc/app/{}", volume["name"].as_str().unwrap());
                json!({"name": volume["name"], "mountPath": path, "readOnly": true})
            })
            .collect();
        // Under a name of its own: the kernel calls a process after the file that it was started from.
        let path = format!("/tmp/{}", self.process);
        let program = format!("ln -s /bin/bash {path} && exec {path} -c \"$0\"");
        json!({
            "metadata": {"annotations": self.annotations, "labels": self.labels},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
                "containers": [{
                    "name": "app",
                    "image": SERVERS,
                    "command": ["bash", "-c", program, self.program],
                    "volumeMounts": mounts,
                }],
                "volumes": self.volumes,
            },
        })
    }

    /// The pod.
    pub(crate) fn pod(&self) -> Value {
        let mut pod = self.template();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(self.name);
        pod
    }
}

/// A `ConfigMap`.
pub(crate) fn config(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data,
    })
}

/// What a listener has said at each HUP so far.
pub(crate) fn heard(pod: &Pod) -> Vec<String> {
    let log = pod.log("app");
    let heard = log.lines().filter_map(|line| line.strip_prefix("heard "));
    heard.map(str::to_owned).collect()
}

/// Waits until a listener listens.
#[track_caller]
pub(crate) fn wait_until_it_listens(pod: &Pod) {
    until(format!("{} listens", pod.name()), || {
        pod.log("app").lines().any(|line| line.starts_with("began")).then_some(())
    });
}
