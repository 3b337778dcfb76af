//! From a pod to its rules, and to what is wrong with what it says; pure.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::pod::{Pod, Volume};
use crate::{
    cli::{RuleArgs, Texts},
    rule::{NodeFile, PodRule, Rule, RuleError, discreet},
    target::Scope,
};

/// What the rules of pods are made from, besides the pods.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    /// Where the kubelet has its volumes.
    pub(super) kubelet_dir: PathBuf,
    /// What counts for rules that do not say otherwise.
    pub(super) defaults: RuleArgs,
    /// What is said for pods without annotations.
    pub(super) file: NodeFile,
}

/// What came of a pod's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Those that can be put to work.
    pub(super) rules: Vec<Rule>,
    /// What is wrong with the others, in a sentence each.
    pub(super) faults: Vec<String>,
    /// What will not work although nothing is wrong with what was said.
    pub(super) warnings: Vec<String>,
    /// The names of the volumes that are watched.
    pub(super) volumes: BTreeSet<String>,
}

impl Outcome {
    /// Whether there is anything to do or to tell that there was not before.
    pub(super) fn is_news_after(&self, before: Option<&Self>) -> bool {
        let has_had = before.map_or(&[][..], |before| &before.rules);
        self.rules != has_had || !self.faults.is_empty() || !self.warnings.is_empty()
    }
}

impl Basis {
    /// The rules of a pod: what its annotations say or, if they say nothing, the file.
    pub(super) fn rules(&self, pod: &Pod) -> Outcome {
        let mut outcome = Outcome::default();
        if !pod.is_alive {
            return outcome;
        }
        let said = match PodRule::of_annotations(&pod.annotations) {
            Ok(said) if said.is_empty() => {
                let means = |it: &&(_, PodRule)| means(it, pod);
                self.file.rules.iter().filter(means).map(|(_, rule)| rule.clone()).collect()
            }
            Ok(said) => said,
            Err(error) => {
                outcome.faults.push(chain(error));
                return outcome;
            }
        };
        let is_one = said.len() == 1;
        for (index, rule) in said.iter().enumerate() {
            match self.rule(pod, rule, &mut outcome) {
                Ok(made) => outcome.rules.push(made),
                Err(error) if is_one => outcome.faults.push(chain(error)),
                Err(source) => {
                    let called = rule.said.name.as_ref().or(rule.said.process.as_ref());
                    let called = called.map_or_else(|| (index + 1).to_string(), |it| discreet(it));
                    let source = Box::new(source);
                    outcome.faults.push(chain(RuleError::RuleOfPod { rule: called, source }));
                }
            }
        }
        outcome
    }

    fn rule(&self, pod: &Pod, rule: &PodRule, outcome: &mut Outcome) -> Result<Rule, RuleError> {
        let volumes = volumes(pod, rule)?;
        let containers = rule.said.container.as_ref().map(|name| {
            let known = pod.containers.get(name);
            // Until it runs nobody is meant.
            known.map(|id| id.iter().copied().collect()).ok_or_else(|| {
                let names: Vec<_> = pod.containers.keys().map(String::as_str).collect();
                stranger(rule, "container", name, "container", &names)
            })
        });
        let containers = containers.transpose()?;
        let scope = Scope::Pod { uid: pod.uid, containers };
        let directories = volumes.iter().map(|volume| self.directory(pod, volume)).collect();
        let made = Rule::of_pod(&pod.called(), rule, directories, scope, &self.defaults)?;
        for volume in volumes {
            for container in &volume.sub_paths {
                outcome.warnings.push(format!(
                    "the volume {} is mounted into the container {container} with subPath, and the \
                     kubelet never updates that: mount the whole volume",
                    volume.name
                ));
            }
            outcome.volumes.insert(volume.name.clone());
        }
        outcome.warnings.dedup();
        Ok(made)
    }

    fn directory(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        let pods = self.kubelet_dir.join("pods").join(pod.uid.to_string());
        pods.join("volumes").join(format!("kubernetes.io~{}", volume.plugin)).join(&volume.name)
    }
}

fn means((selector, _): &(crate::rule::PodSelector, PodRule), pod: &Pod) -> bool {
    selector.means(&pod.namespace, &pod.name, &pod.labels)
}

/// The volumes that a rule names or, if it names none, all but the token of the service account.
fn volumes<'a>(pod: &'a Pod, rule: &PodRule) -> Result<Vec<&'a Volume>, RuleError> {
    let wanted = match &rule.said.volumes {
        None => return Ok(pod.volumes.iter().filter(|it| !it.is_token).collect()),
        Some(Texts::One(name)) => std::slice::from_ref(name),
        Some(Texts::Many(names)) => names,
    };
    let find = |name: &String| {
        let known = pod.volumes.iter().find(|volume| volume.name == *name);
        known.ok_or_else(|| {
            let shown = pod.volumes.iter().filter(|it| !it.is_token);
            let names: Vec<_> = shown.map(|volume| volume.name.as_str()).collect();
            let what = "configMap, secret, projected or downwardAPI volume";
            stranger(rule, "volumes", name, what, &names)
        })
    };
    let mut found: Vec<&Volume> = wanted.iter().map(find).collect::<Result<_, _>>()?;
    found.dedup();
    Ok(found)
}

fn stranger(rule: &PodRule, id: &str, name: &str, what: &'static str, names: &[&str]) -> RuleError {
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    RuleError::NotOfPod { option: rule.calls(id), name: discreet(name), what, has }
}

/// An error and all that led to it, in one sentence.
fn chain(error: RuleError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// Whether a path is one of the kubelet's directories of pods: what else would all be waited for.
pub(super) fn is_kubelet_dir(path: &Path) -> bool {
    path.join("pods").is_dir()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::node::spec;

    const UID: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";

    fn pod(annotations: &Value) -> spec::Pod {
        let mounts = json!([
            { "name": "conf", "mountPath": "/etc/nginx" },
            { "name": "one", "mountPath": "/etc/one.conf", "subPath": "one.conf" },
            { "name": "old-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" },
        ]);
        let id = format!("containerd://{}", "ab".repeat(32));
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": UID, "annotations": annotations,
                "labels": { "app": "web" },
            },
            "spec": {
                "containers": [
                    { "name": "nginx", "volumeMounts": mounts },
                    { "name": "other" },
                ],
                "volumes": [
                    { "name": "conf", "configMap": { "name": "web" } },
                    { "name": "one", "secret": { "secretName": "one" } },
                    { "name": "all", "projected": { "sources": [
                        { "configMap": { "name": "a" } }, { "secret": { "name": "b" } },
                    ] } },
                    { "name": "labels", "downwardAPI": {} },
                    { "name": "scratch", "emptyDir": {} },
                    { "name": "kube-api-access-x", "projected": { "sources": [
                        { "serviceAccountToken": { "path": "token" } },
                    ] } },
                    { "name": "old-token", "secret": { "secretName": "default-token-x" } },
                ],
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [{
                    "name": "nginx", "containerID": id, "image": "", "imageID": "",
                    "ready": true, "restartCount": 0,
                }],
            },
        }))
        .unwrap()
    }

    fn basis(file: NodeFile) -> Basis {
        Basis { kubelet_dir: "/k".into(), defaults: RuleArgs::default(), file }
    }

    fn outcome(annotations: &Value) -> Outcome {
        basis(NodeFile::default()).rules(&Pod::of(&pod(annotations)).unwrap())
    }

    #[test]
    fn a_pod_is_watched_in_all_its_volumes_but_that_of_its_token() {
        let outcome = outcome(&json!({ "reload-agent.dev/process": "nginx", "other.dev/x": "" }));
        assert_eq!(outcome.faults, [""; 0]);
        let rule = &outcome.rules[0];
        let volumes = PathBuf::from(format!("/k/pods/{UID}/volumes"));
        let expected = [
            "kubernetes.io~configmap/conf",
            "kubernetes.io~secret/one",
            "kubernetes.io~projected/all",
            "kubernetes.io~downward-api/labels",
        ];
        assert_eq!(rule.watches(), expected.map(|volume| volumes.join(volume)));
        let scope = Scope::Pod { uid: UID.parse().unwrap(), containers: None };
        assert_eq!(rule.selector().unwrap().scope, scope);
        assert_eq!(
            outcome.warnings,
            [
                "the volume one is mounted into the container nginx with subPath, and the kubelet never \
              updates that: mount the whole volume"
            ]
        );
    }

    #[test]
    fn volumes_and_a_container_can_be_named() {
        let outcome = outcome(&json!({
            "reload-agent.dev/process": "nginx",
            "reload-agent.dev/volumes": "conf, kube-api-access-x",
            "reload-agent.dev/container": "nginx",
        }));
        let rule = &outcome.rules[0];
        assert_eq!(rule.watches().len(), 2);
        let Scope::Pod { containers: Some(containers), .. } = &rule.selector().unwrap().scope
        else {
            panic!("not within a container: {rule:?}");
        };
        assert_eq!(containers.len(), 1);
        // One that does not run yet: until it does nobody is meant.
        let outcome = self::outcome(&json!({
            "reload-agent.dev/process": "nginx", "reload-agent.dev/container": "other",
        }));
        let Scope::Pod { containers, .. } = &outcome.rules[0].selector().unwrap().scope else {
            panic!("not within a pod");
        };
        assert_eq!(containers.as_ref().map(BTreeSet::len), Some(0));
    }

    #[test]
    fn what_the_pod_has_not_got_is_refused_by_name() {
        fn check(annotation: &str, expected: &str) {
            let mut said = json!({ "reload-agent.dev/process": "nginx" });
            let (name, value) = annotation.split_once('=').unwrap();
            said[format!("reload-agent.dev/{name}")] = value.into();
            let outcome = outcome(&said);
            assert_eq!((outcome.rules.len(), outcome.faults), (0, vec![expected.to_owned()]));
        }
        check(
            "volumes=conf,scratch",
            "reload-agent.dev/volumes \"scratch\": the pod has no such configMap, secret, projected or \
             downwardAPI volume; it has conf, one, all, labels",
        );
        check(
            "container=ngnix",
            "reload-agent.dev/container \"ngnix\": the pod has no such container; it has nginx, other",
        );
    }

    #[test]
    fn one_bad_rule_of_a_list_leaves_the_others() {
        let list = "[{process: nginx}, {process: a/b}, {name: c, process: c, volumes: [nope]}]";
        let outcome = outcome(&json!({ "reload-agent.dev/rules": list }));
        let names: Vec<_> = outcome.rules.iter().map(Rule::name).collect();
        assert_eq!(names, ["shop/web/nginx"]);
        assert_eq!(outcome.faults.len(), 2);
        assert!(
            outcome.faults[0].starts_with("rule a/b: process \"a/b\" has a slash"),
            "{outcome:?}"
        );
    }

    #[test]
    fn a_pod_that_says_nothing_is_what_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let text = "rules: [{pods: {labels: {app: web}}, process: nginx, volumes: conf}]";
        std::fs::write(&path, text).unwrap();
        let basis = basis(crate::rule::read_node_file(&path).unwrap());
        let rules = |annotations| basis.rules(&Pod::of(&pod(&annotations)).unwrap()).rules;
        assert_eq!(rules(json!({}))[0].name(), "shop/web/nginx");
        let own = rules(json!({ "reload-agent.dev/process": "other" }));
        assert_eq!((own.len(), own[0].name()), (1, "shop/web"));
    }

    #[test]
    fn a_pod_that_ends_has_no_rules() {
        let mut ending = pod(&json!({ "reload-agent.dev/process": "nginx" }));
        ending.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        let outcome = basis(NodeFile::default()).rules(&Pod::of(&ending).unwrap());
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn the_pod_of_a_file_on_the_node_is_called_after_the_file() {
        let hash = "0123456789abcdef0123456789abcdef";
        let pod = pod(&json!({
            "reload-agent.dev/process": "nginx", "kubernetes.io/config.hash": hash,
        }));
        let pod = Pod::of(&pod).unwrap();
        assert!(pod.is_static());
        let outcome = basis(NodeFile::default()).rules(&pod);
        assert!(outcome.rules[0].watches()[0].starts_with(format!("/k/pods/{hash}")));
    }
}
