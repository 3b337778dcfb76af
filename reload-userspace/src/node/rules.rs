//! From a pod to its rules, and to what is wrong with what it says; pure.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Nudging,
    notice::cut,
    pod::{Pod, Volume},
};
use crate::{
    cli::{RuleArgs, Texts},
    rule::{NodeFile, PodRule, Rule, RuleError, discreet},
    target::Scope,
};

/// How many volumes the rules of a pod may watch, all together; each takes 13 KiB of memory.
const MOST_WATCHES: usize = 32;

/// What the rules of pods are made from, besides the pods.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    /// Where the kubelet has its volumes.
    pub(super) kubelet_dir: PathBuf,
    /// What counts for rules that do not say otherwise.
    pub(super) defaults: RuleArgs,
    /// What is said for pods without annotations.
    pub(super) file: NodeFile,
    /// Whether the agent itself changes an annotation of pods.
    pub(super) nudging: Nudging,
}

/// What came of a pod's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// Those that can be put to work.
    pub(super) rules: Vec<Rule>,
    /// What is wrong with the others, in a sentence each.
    pub(super) faults: Vec<String>,
    /// What will not work although nothing is wrong with what was said.
    pub(super) warnings: BTreeSet<String>,
    /// The names of the volumes that are watched.
    pub(super) volumes: BTreeSet<String>,
}

impl Basis {
    /// The rules of a pod: what its annotations say or, if they say nothing, the file.
    pub(super) fn rules(&self, pod: &Pod) -> Made {
        let mut made = Made::default();
        if !pod.is_alive {
            return made;
        }
        let said = match PodRule::of_annotations(&pod.annotations) {
            Ok(said) if said.is_empty() => {
                let means = |it: &&(_, PodRule)| means(it, pod);
                self.file.rules.iter().filter(means).map(|(_, rule)| rule.clone()).collect()
            }
            Ok(said) => said,
            Err(error) => {
                made.faults.push(fault(error));
                return made;
            }
        };
        let is_one = said.len() == 1;
        for (index, rule) in said.iter().enumerate() {
            match self.rule(pod, rule, &mut made) {
                Ok(rule) if made.rules.iter().any(|other| other.name() == rule.name()) => {
                    let name = rule.name().to_owned();
                    made.faults.push(fault(RuleError::SameNameInPod { name }));
                }
                Ok(rule) => made.rules.push(rule),
                Err(error) if is_one => made.faults.push(fault(error)),
                Err(source) => {
                    let called = rule.said.name.as_ref().or(rule.said.process.as_ref());
                    let called = called.map_or_else(|| (index + 1).to_string(), |it| discreet(it));
                    let source = Box::new(source);
                    made.faults.push(fault(RuleError::RuleOfPod { rule: called, source }));
                }
            }
        }
        // One, mostly.
        made.rules.shrink_to_fit();
        made
    }

    fn rule(&self, pod: &Pod, rule: &PodRule, made: &mut Made) -> Result<Rule, RuleError> {
        let volumes = self.volumes(pod, rule)?;
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
        let valid = Rule::of_pod(&pod.called(), rule, directories, scope, &self.defaults)?;
        let others = made.rules.iter().map(|it| it.watches().len()).sum::<usize>();
        if others + valid.watches().len() > MOST_WATCHES {
            return Err(RuleError::TooManyVolumes { most: MOST_WATCHES });
        }
        let is_concerned =
            |container: &&String| rule.said.container.as_ref().is_none_or(|it| it == *container);
        for volume in volumes {
            for container in volume.sub_paths.iter().filter(is_concerned) {
                made.warnings.insert(format!(
                    "the volume {} is mounted into the container {container} with subPath, and the \
                     kubelet never updates that: mount the whole volume",
                    volume.name
                ));
            }
            made.volumes.insert(volume.name.clone());
        }
        Ok(valid)
    }

    /// The volumes that a rule names or, if it names none, all that anybody has asked for: not the token
    /// of the service account, and not one that shows what the agent itself sets.
    fn volumes<'a>(&self, pod: &'a Pod, rule: &PodRule) -> Result<Vec<&'a Volume>, RuleError> {
        let is_own =
            |it: &Volume| it.is_token || self.nudging == Nudging::On && it.shows_annotations;
        let wanted = match &rule.said.volumes {
            None => return Ok(pod.volumes.iter().filter(|it| !is_own(it)).collect()),
            Some(Texts::One(name)) => std::slice::from_ref(name),
            Some(Texts::Many(names)) => names,
        };
        let missing = wanted.iter().find(|name| !pod.volumes.iter().any(|it| it.name == **name));
        if let Some(name) = missing {
            let shown = pod.volumes.iter().filter(|it| !it.is_token);
            let names: Vec<_> = shown.map(|volume| volume.name.as_str()).collect();
            let what = "configMap, secret, projected or downwardAPI volume";
            return Err(stranger(rule, "volumes", name, what, &names));
        }
        Ok(pod.volumes.iter().filter(|it| wanted.contains(&it.name)).collect())
    }

    /// Whether a path lies in a volume of the pod that is made of something that changes in the API.
    pub(super) fn is_of_object(&self, pod: &Pod, path: &Path) -> bool {
        let mut volumes = pod.volumes.iter().filter(|volume| !volume.objects.is_empty());
        volumes.any(|volume| path.starts_with(self.directory(pod, volume)))
    }

    fn directory(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        let pods = self.kubelet_dir.join("pods").join(pod.uid.to_string());
        pods.join("volumes").join(format!("kubernetes.io~{}", volume.plugin)).join(&volume.name)
    }
}

fn means((selector, _): &(crate::rule::PodSelector, PodRule), pod: &Pod) -> bool {
    selector.means(&pod.namespace, &pod.name, &pod.labels)
}

fn stranger(rule: &PodRule, id: &str, name: &str, what: &'static str, names: &[&str]) -> RuleError {
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    RuleError::NotOfPod { option: rule.calls(id), name: discreet(name), what, has }
}

/// What is wrong, as long as is told of it: whoever has said it decides how long it is.
fn fault(error: RuleError) -> String {
    cut(&chain(error))
}

/// An error and all that led to it, in one sentence.
pub(super) fn chain(error: RuleError) -> String {
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
        let nudging = Nudging::Off;
        Basis { kubelet_dir: "/k".into(), defaults: RuleArgs::default(), file, nudging }
    }

    fn made(annotations: &Value) -> Made {
        basis(NodeFile::default()).rules(&Pod::of(&pod(annotations)).unwrap())
    }

    #[test]
    fn a_pod_is_watched_in_all_its_volumes_but_that_of_its_token() {
        let made = made(&json!({ "reload-agent.dev/process": "nginx", "other.dev/x": "" }));
        assert_eq!(made.faults, [""; 0]);
        let rule = &made.rules[0];
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
            Vec::from_iter(&made.warnings),
            [
                "the volume one is mounted into the container nginx with subPath, and the kubelet never \
              updates that: mount the whole volume"
            ]
        );
    }

    #[test]
    fn volumes_and_a_container_can_be_named() {
        let made = made(&json!({
            "reload-agent.dev/process": "nginx",
            "reload-agent.dev/volumes": "conf, kube-api-access-x",
            "reload-agent.dev/container": "nginx",
        }));
        let rule = &made.rules[0];
        assert_eq!(rule.watches().len(), 2);
        let Scope::Pod { containers: Some(containers), .. } = &rule.selector().unwrap().scope
        else {
            panic!("not within a container: {rule:?}");
        };
        assert_eq!(containers.len(), 1);
        // One that does not run yet: until it does nobody is meant.
        let made = self::made(&json!({
            "reload-agent.dev/process": "nginx", "reload-agent.dev/container": "other",
        }));
        let Scope::Pod { containers, .. } = &made.rules[0].selector().unwrap().scope else {
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
            let made = made(&said);
            assert_eq!((made.rules.len(), made.faults), (0, vec![expected.to_owned()]));
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
    fn what_the_agent_itself_sets_is_no_reason_to_reload() {
        let item = json!({ "path": "all", "fieldRef": { "fieldPath": "metadata.annotations" } });
        let mut pod = serde_json::to_value(json!({})).unwrap();
        pod["metadata"] = json!({
            "name": "web", "namespace": "shop", "uid": UID,
            "annotations": { "reload-agent.dev/process": "nginx" },
        });
        pod["spec"] = json!({ "volumes": [
            { "name": "conf", "configMap": { "name": "web" } },
            { "name": "self", "downwardAPI": { "items": [item] } },
            { "name": "both", "projected": { "sources": [{ "downwardAPI": { "items": [item] } }] } },
        ] });
        let pod = Pod::of(&serde_json::from_value(pod).unwrap()).unwrap();
        let watched = |nudging| {
            let basis = Basis { nudging, ..basis(NodeFile::default()) };
            Vec::from_iter(basis.rules(&pod).volumes)
        };
        assert_eq!(watched(Nudging::On), ["conf"]);
        assert_eq!(watched(Nudging::Off), ["both", "conf", "self"]);
    }

    #[test]
    fn two_rules_of_the_file_for_one_pod_have_a_name_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let text = "rules:\n- {pods: {namespace: shop}, process: nginx}\n\
                    - {pods: {labels: {app: web}}, process: nginx, signal: USR1}";
        std::fs::write(&path, text).unwrap();
        let basis = basis(crate::rule::read_node_file(&path).unwrap());
        let made = basis.rules(&Pod::of(&pod(&json!({}))).unwrap());
        assert_eq!(made.rules.len(), 1);
        let fault =
            "two rules of the pod are called \"shop/web/nginx\"; give each its own with `name:`";
        assert_eq!(made.faults, [fault]);
    }

    #[test]
    fn one_bad_rule_of_a_list_leaves_the_others() {
        let list = "[{process: nginx}, {process: a/b}, {name: c, process: c, volumes: [nope]}]";
        let made = made(&json!({ "reload-agent.dev/rules": list }));
        let names: Vec<_> = made.rules.iter().map(Rule::name).collect();
        assert_eq!(names, ["shop/web/nginx"]);
        assert_eq!(made.faults.len(), 2);
        assert!(made.faults[0].starts_with("rule a/b: process \"a/b\" has a slash"), "{made:?}");
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
        let mut over = pod(&json!({ "reload-agent.dev/process": "nginx" }));
        over.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        assert_eq!(Pod::of(&over), None);
    }

    /// Else it would be taken for the other, whose processes and volumes it would reach.
    #[test]
    fn nothing_that_a_pod_says_makes_it_another() {
        let said = |others: Value| {
            let mut annotations = json!({ "reload-agent.dev/process": "nginx" });
            annotations.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
            Pod::of(&pod(&annotations))
        };
        let itself = said(json!({})).unwrap();
        for hash in ["0123456789abcdef0123456789abcdef", "5f3f9a63-1111-4c8e-9d3c-0f5a3e3a9b11"] {
            assert_eq!(said(json!({ "kubernetes.io/config.hash": hash })).unwrap(), itself);
            let mirror = json!({
                "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
            });
            assert_eq!(said(mirror), None);
        }
    }

    #[test]
    fn the_rules_of_a_pod_watch_so_many_volumes_together() {
        let each = (0..MOST_WATCHES).map(|n| format!("{{process: p{n}, volumes: [conf]}}"));
        let most = each.collect::<Vec<_>>().join(", ");
        let of_list = |list: &str| made(&json!({ "reload-agent.dev/rules": format!("[{list}]") }));
        let all = of_list(&most);
        assert_eq!((all.rules.len(), all.faults.len()), (MOST_WATCHES, 0));
        let two = most.replacen("[conf]", "[conf, all]", 1);
        let made = of_list(&two);
        assert_eq!((made.rules.len(), made.faults.len()), (MOST_WATCHES - 1, 1));
        assert!(
            made.faults[0].starts_with("rule p31: the rules of the pod watch more than 32"),
            "{made:?}"
        );
    }

    #[test]
    fn what_is_too_long_is_refused_in_few_words() {
        let check = |annotations: Value, expected: &str| {
            let made = made(&annotations);
            assert!(made.rules.is_empty(), "{made:?}");
            let [fault] = made.faults.as_slice() else { panic!("{made:?}") };
            assert!(fault.contains(expected) && fault.len() <= 1000, "{fault}");
        };
        check(json!({ "reload-agent.dev/process": "a".repeat(64) }), "1 to 63 characters");
        check(json!({ "reload-agent.dev/process": "a\nb" }), "control character");
        check(json!({ "reload-agent.dev/signal": "a".repeat(250_000) }), "more than 4096 bytes");
        // Not cut in the middle of a character, and then taken for a short one.
        let wide = "a".repeat(4095) + &"\u{1f600}".repeat(9);
        check(
            json!({ "reload-agent.dev/check": wide, "reload-agent.dev/process": "a" }),
            "4096 bytes",
        );
        let unnamed = format!("[{{process: {}}}]", "a".repeat(1950));
        check(json!({ "reload-agent.dev/rules": unnamed }), "1 to 63 characters");
        let list = (0..33).map(|n| format!("{{process: p{n}}}")).collect::<Vec<_>>().join(", ");
        check(json!({ "reload-agent.dev/rules": format!("[{list}]") }), "more than 32 rules");
    }
}
