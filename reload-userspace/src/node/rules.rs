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
        let containers = match &rule.said.container {
            None => None,
            Some(name) => match pod.containers.get(name) {
                // Until it runs nobody is meant.
                Some(id) => Some(id.iter().cloned().collect()),
                None => {
                    let names: Vec<_> = pod.containers.keys().map(String::as_str).collect();
                    return Err(stranger(rule, "container", name, "container", &names));
                }
            },
        };
        let scope = Scope::Pod { uid: pod.uid.clone(), containers };
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
    let named = match &rule.said.volumes {
        None => return Ok(pod.volumes.iter().filter(|it| !it.is_token).collect()),
        Some(Texts::One(name)) => std::slice::from_ref(name),
        Some(Texts::Many(names)) => names,
    };
    let find = |name: &String| {
        let known = pod.volumes.iter().find(|volume| volume.name == *name);
        known.ok_or_else(|| {
            let names: Vec<_> = pod.volumes.iter().map(|volume| volume.name.as_str()).collect();
            let what = "configMap, secret, projected or downwardAPI volume";
            stranger(rule, "volumes", name, what, &names)
        })
    };
    let mut found: Vec<&Volume> = named.iter().map(find).collect::<Result<_, _>>()?;
    found.dedup();
    Ok(found)
}

fn stranger(
    rule: &PodRule,
    id: &str,
    name: &str,
    what: &'static str,
    names: &[&str],
) -> RuleError {
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
