//! Keeps what is known of the pods, and says what the rules are.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Client, runtime::watcher};

use super::{
    GATHER, Known, Node,
    notice::Notice,
    objects::{Kind, Renewed},
    pod::{Object, Pod},
    spec,
    tell::watch_words,
};
use crate::{
    clock,
    report::Decision,
    rule::{NodeFile, Rule, read_node_file},
};

impl Node {
    /// Notes what has become of a pod.
    pub(super) fn take(&mut self, event: Result<watcher::Event<spec::Pod>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.listed = Some(BTreeMap::new()),
            Ok(watcher::Event::InitApply(pod)) => {
                let Some(known) = self.know(&pod) else { return };
                if let Some(listed) = &mut self.listed {
                    listed.insert(known.pod.api_uid.clone(), known);
                }
            }
            Ok(watcher::Event::InitDone) => {
                self.works("pods");
                if let Some(listed) = self.listed.take() {
                    let before = std::mem::replace(&mut self.pods, listed);
                    let outcome = |uid| before.get(uid).map(|it| &it.outcome);
                    let mut listed = self.pods.iter();
                    let is_news = listed.any(|(uid, it)| it.outcome.is_news_after(outcome(uid)))
                        || before.keys().any(|uid| !self.pods.contains_key(uid));
                    if is_news || !self.is_synced {
                        self.expect_feed();
                    }
                }
                if !self.is_synced && self.pods.is_empty() {
                    let reason = format!(
                        "there are no pods on the node {:?}; is that what --node-name should be?",
                        self.question.name
                    );
                    self.teller.tell(&Decision::Warning { rule: None, reason });
                }
                self.is_synced = true;
            }
            Ok(watcher::Event::Apply(pod)) => {
                self.works("pods");
                let Some(known) = self.know(&pod) else { return };
                let uid = known.pod.api_uid.clone();
                let before = self.pods.get(&uid).map(|it| &it.outcome);
                if known.outcome.is_news_after(before) {
                    self.expect_feed();
                }
                self.pods.insert(uid, known);
            }
            Ok(watcher::Event::Delete(pod)) => {
                self.works("pods");
                let gone = pod.metadata.uid.and_then(|uid| self.pods.remove(&uid));
                if gone.is_some_and(|gone| !gone.outcome.rules.is_empty()) {
                    self.expect_feed();
                }
            }
            Err(error) => {
                self.listed = None;
                let sentence = "cannot watch the pods of the node, and known rules stay";
                self.fails("pods", sentence, &watch_words(&error));
            }
        }
    }

    /// Makes rules of a pod; what is wrong with it is told as soon as it has been looked at.
    pub(super) fn know(&self, pod: &spec::Pod) -> Option<Known> {
        let pod = Pod::of(pod)?;
        let outcome = match self.pods.get(&pod.api_uid) {
            Some(known) if known.pod == pod => known.outcome.clone(),
            _ => self.basis.rules(&pod),
        };
        Some(Known { pod, outcome })
    }

    pub(super) fn expect_feed(&mut self) {
        self.feed_at.get_or_insert(clock::now().after(GATHER));
    }

    /// Says what the rules are.
    pub(super) fn feed(&mut self, client: &Client) {
        self.owners.clear();
        let mut rules: Vec<Rule> = Vec::new();
        for (uid, known) in &self.pods {
            for rule in &known.outcome.rules {
                self.owners.insert(rule.name().to_owned(), uid.clone());
                rules.push(rule.clone());
            }
        }
        self.feeder.feed(rules);
        let pods = &self.pods;
        self.budget.retain(|uid| pods.contains_key(uid));
        self.nudges.retain(|uid| pods.contains_key(uid));
        self.complain(client);
    }

    /// Tells of what is wrong with what pods say, once.
    pub(super) fn complain(&mut self, client: &Client) {
        let mut notices = Vec::new();
        for (uid, known) in &mut self.pods {
            let rule = known.pod.called();
            for fault in std::mem::take(&mut known.outcome.faults) {
                notices.push((uid.clone(), rule.clone(), "ReloadRuleInvalid", fault));
            }
            for warning in std::mem::take(&mut known.outcome.warnings) {
                notices.push((uid.clone(), rule.clone(), "ReloadNeverUpdates", warning));
            }
        }
        for (uid, rule, word, reason) in notices {
            self.publish(client, &uid, Notice::warning(word, &reason));
            self.teller.tell(&Decision::Warning { rule: Some(rule), reason });
        }
    }

    /// The namespaces in which anything changes that a rule is about, and the kinds of it.
    pub(super) fn namespaces(&self) -> BTreeSet<(String, Kind)> {
        let pods = self.pods.values().filter(|it| !it.outcome.rules.is_empty());
        let objects = pods.flat_map(|known| {
            let namespace = &known.pod.namespace;
            known.objects().map(move |object| (namespace.clone(), object.kind()))
        });
        objects.collect()
    }

    /// Something has changed that pods may mount.
    pub(super) fn renewed(&mut self, renewed: Result<Renewed, (Kind, watcher::Error)>) {
        match renewed {
            Ok(Renewed { namespace, object }) => {
                self.works(object.kind().plural());
                let now = clock::now();
                let concerned = self.pods.iter().filter(|(_, known)| {
                    known.pod.namespace == namespace && known.objects().any(|it| *it == object)
                });
                for (uid, _) in concerned {
                    self.nudges.want(uid.clone(), now);
                }
            }
            Err((kind, error)) => {
                let what = match kind {
                    Kind::ConfigMap => "cannot watch ConfigMaps to nudge their pods",
                    Kind::Secret => "cannot watch Secrets to nudge their pods",
                };
                self.fails(kind.plural(), what, &watch_words(&error));
            }
        }
    }

    pub(super) fn read_file_again(&mut self) {
        let Some(path) = self.question.file.clone() else { return };
        let read = read_node_file(&path);
        let error = read.as_ref().err().map(ToString::to_string);
        if let Ok(file) = read
            && file != self.basis.file
        {
            self.use_file(file);
        }
        let rules = self.owners.keys().cloned().collect();
        let path = Some(path.to_string_lossy().into_owned());
        self.teller.tell(&Decision::Rules { path, rules, error });
    }

    pub(super) fn use_file(&mut self, file: NodeFile) {
        self.basis.file = file;
        for known in self.pods.values_mut() {
            known.outcome = self.basis.rules(&known.pod);
        }
        if self.is_synced {
            self.expect_feed();
        }
    }
}

impl Known {
    /// What the volumes are made of that its rules are about.
    fn objects(&self) -> impl Iterator<Item = &Object> {
        let watched = self.pod.volumes.iter();
        let watched = watched.filter(|volume| self.outcome.volumes.contains(&volume.name));
        watched.flat_map(|volume| &volume.objects)
    }
}
