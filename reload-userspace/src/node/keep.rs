//! Keeps what is known of the pods, and says what the rules are.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use kube::{Client, runtime::watcher};

use super::{
    GATHER, Known, MOST_TOLD, Node,
    notice::Notice,
    objects::{Changed, Kind, News, Unwatched},
    pod::{Object, Pod},
    rules::{Made, chain},
    spec,
    tell::watch_words,
};
use crate::{
    agent::Reread,
    clock,
    report::Decision,
    rule::{NodeFile, Rule, parse_node_file},
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
                    let mut listed = self.pods.iter();
                    let is_news = listed.any(|(uid, it)| it.is_news_after(before.get(uid)))
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
                let Some(known) = self.know(&pod) else {
                    self.forget(pod.metadata.uid);
                    return;
                };
                let uid = known.pod.api_uid.clone();
                if known.is_news_after(self.pods.get(&uid)) {
                    self.expect_feed();
                }
                self.pods.insert(uid, known);
            }
            Ok(watcher::Event::Delete(pod)) => {
                self.works("pods");
                self.forget(pod.metadata.uid);
            }
            Err(error) => {
                self.listed = None;
                let sentence = "cannot watch the pods of the node, and known rules stay";
                self.fails("pods", sentence, &watch_words(&error));
            }
        }
    }

    /// Notes that a pod is gone, or over.
    fn forget(&mut self, uid: Option<String>) {
        let gone = uid.and_then(|uid| self.pods.remove(&uid));
        if gone.is_some_and(|gone| !gone.made.rules.is_empty()) {
            self.expect_feed();
        }
    }

    /// Makes rules of a pod.
    fn know(&self, pod: &spec::Pod) -> Option<Known> {
        let mut pod = Pod::of(pod)?;
        if self.question.file.is_none() {
            // Nothing else goes by them.
            pod.labels.clear();
        }
        let before = self.pods.get(&pod.api_uid);
        let made = match before {
            Some(known) if known.pod == pod => known.made.clone(),
            _ => self.basis.rules(&pod),
        };
        if self.question.file.is_none() && made == Made::default() {
            // Most pods say nothing, and who fills their specs is anybody.
            (pod.volumes, pod.containers) = (Vec::new(), BTreeMap::new());
        }
        Some(Known { pod, made, told: before.map(|it| it.told.clone()).unwrap_or_default() })
    }

    pub(super) fn expect_feed(&mut self) {
        self.feed_at.get_or_insert(clock::now().after(GATHER));
    }

    /// Says what the rules are.
    pub(super) fn feed(&mut self, client: &Client) {
        self.owners.clear();
        let mut rules: Vec<Rule> = Vec::new();
        for (uid, known) in &self.pods {
            for rule in &known.made.rules {
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

    /// Tells of what is wrong with what pods say.
    fn complain(&mut self, client: &Client) {
        for (uid, word, reason) in self.complaints() {
            self.publish(client, &uid, Notice::warning(word, &reason));
            let rule = self.pods.get(&uid).map(|known| known.pod.called());
            self.teller.tell(&Decision::Warning { rule, reason });
        }
    }

    /// What is wrong with what pods say, each thing once for each pod.
    fn complaints(&mut self) -> Vec<(String, &'static str, String)> {
        let mut complaints = Vec::new();
        for (uid, known) in &mut self.pods {
            let untold: Vec<_> = known.untold().map(|(word, it)| (word, it.clone())).collect();
            for (word, reason) in untold {
                known.told.insert(digest(&reason));
                complaints.push((uid.clone(), word, reason));
                if known.told.len() == MOST_TOLD {
                    let reason = "what else is wrong with it is not told any more".to_owned();
                    complaints.push((uid.clone(), word, reason));
                    break;
                }
            }
        }
        complaints
    }

    /// The namespaces in which anything changes that a rule is about, and the kinds of it.
    pub(super) fn namespaces(&self) -> BTreeSet<(String, Kind)> {
        let pods = self.pods.values().filter(|it| !it.made.rules.is_empty());
        let objects = pods.flat_map(|known| {
            let namespace = &known.pod.namespace;
            known.objects().map(move |object| (namespace.clone(), object.kind()))
        });
        objects.collect()
    }

    /// Something has changed that pods may mount.
    pub(super) fn object_changed(&mut self, news: News) {
        match news {
            Ok(Changed { namespace, object }) => {
                self.works(&format!("{} of {namespace}", object.kind().plural()));
                let now = clock::now();
                let concerned = self.pods.iter().filter(|(_, known)| {
                    known.pod.namespace == namespace && known.objects().any(|it| *it == object)
                });
                for (uid, _) in concerned {
                    self.nudges.want(uid.clone(), now);
                }
            }
            Err(Unwatched { namespace, kind, error }) => {
                let what = format!("{} of {namespace}", kind.plural());
                let sentence = format!("cannot watch the {what} to nudge their pods");
                self.fails(&what, &sentence, &watch_words(&error));
            }
        }
    }

    /// Heeds what the file says now for pods without annotations.
    pub(super) fn heed_file(&mut self, reread: Reread) {
        let Some(path) = self.question.file.clone() else { return };
        let Reread { text, is_asked } = reread;
        let read = text.and_then(|text| parse_node_file(&text, &path));
        let is_other = read.as_ref().is_ok_and(|file| *file != self.basis.file);
        let error = match read {
            Ok(file) if is_other => {
                self.use_file(file);
                None
            }
            Ok(_) => None,
            Err(error) => Some(chain(error)),
        };
        let is_news = is_asked || is_other || self.file_fault != error;
        self.file_fault.clone_from(&error);
        if !is_news {
            return;
        }
        let rules = self.pods.values().flat_map(|known| &known.made.rules);
        let rules = rules.map(|rule| rule.name().to_owned()).collect();
        let path = Some(path.to_string_lossy().into_owned());
        self.teller.tell(&Decision::Rules { path, rules, error });
    }

    pub(super) fn use_file(&mut self, file: NodeFile) {
        self.basis.file = file;
        for known in self.pods.values_mut() {
            known.made = self.basis.rules(&known.pod);
        }
        if self.is_synced {
            self.expect_feed();
        }
    }
}

/// What tells one complaint from the others.
fn digest(reason: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    reason.hash(&mut hasher);
    hasher.finish()
}

impl Known {
    /// Whether there is anything to do or to tell that there was not before.
    fn is_news_after(&self, before: Option<&Self>) -> bool {
        let has_had = before.map_or(&[][..], |before| &before.made.rules);
        self.made.rules != has_had || self.untold().next().is_some()
    }

    /// What is wrong and has not been told, each with the word for it.
    fn untold(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let faults = self.made.faults.iter().map(|it| ("ReloadRuleInvalid", it));
        let warnings = self.made.warnings.iter().map(|it| ("ReloadNeverUpdates", it));
        let is_heard = self.told.len() < MOST_TOLD;
        let all = faults.chain(warnings).filter(move |_| is_heard);
        all.filter(|(_, it)| !self.told.contains(&digest(it)))
    }

    /// What the volumes are made of that its rules are about.
    fn objects(&self) -> impl Iterator<Item = &Object> {
        let watched = self.pod.volumes.iter();
        let watched = watched.filter(|volume| self.made.volumes.contains(&volume.name));
        watched.flat_map(|volume| &volume.objects)
    }
}
