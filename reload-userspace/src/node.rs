//! From the pods of a node to rules, and from decisions to what Kubernetes is told of them.
//!
//! It has a thread of its own, so that no answer of the API server, however long or late, delays a
//! reload. What it says to the agent is what the rules are; what it hears from it is what was decided.
//!
//! **Invariant:** while the API server is away nothing is forgotten: the pods that were known stay.

mod call;
mod notice;
mod nudge;
mod objects;
mod pod;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1 as api;
use kube::{
    Api, Client, Config,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{sync::Semaphore, task::JoinSet};

use self::{
    call::Outcome as Called,
    notice::{Budget, Notice},
    nudge::Nudges,
    objects::{Objects, Renewed},
    pod::Pod,
    rules::{Basis, Outcome},
};
use crate::{
    agent::Feeder,
    cli::RuleArgs,
    clock::{self, Boot},
    report::Decision,
    rule::{NodeFile, Rule, read_node_file},
    telemetry::{Heard, Teller},
};

/// How long after a change of a pod the rules are told: they change in bursts.
const GATHER: Duration = Duration::from_millis(20);

/// How many pods are listed at a time: the answer is in memory as a whole.
const PAGE: u32 = 50;

/// How many calls of the API server are under way at a time, besides those that watch.
const MOST_CALLS: usize = 4;

/// How many may wait for their turn.
const MOST_WAITING: usize = 256;

/// What to look after.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name of the node.
    pub name: String,
    /// Where the kubelet has its volumes.
    pub kubelet_dir: PathBuf,
    /// Whether the kubelet is to be told at once when something changes that a pod mounts.
    pub nudge: Nudging,
    /// What is said for pods without annotations.
    pub file: Option<PathBuf>,
    /// What counts for rules that do not say otherwise.
    pub defaults: RuleArgs,
}

/// Whether pods are nudged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nudging {
    /// They are.
    On,
    /// The kubelet looks when it looks.
    Off,
}

/// A pod, and what came of it.
struct Known {
    pod: Pod,
    outcome: Outcome,
}

/// The pods of a node.
pub struct Node {
    question: Question,
    basis: Basis,
    feeder: Feeder,
    heard: Heard,
    teller: Teller,
    /// The pods that are or may be about something, by what the API calls them.
    pods: BTreeMap<String, Known>,
    /// Those that were listed anew, while that is under way.
    listed: Option<BTreeMap<String, Known>>,
    /// Whether all pods have been listed at least once.
    is_synced: bool,
    /// When to say what the rules are, if they have changed.
    feed_at: Option<Boot>,
    /// Which pod a rule is of, by its name.
    owners: HashMap<String, String>,
    budget: Budget<String>,
    nudges: Nudges<String>,
    calls: JoinSet<Called>,
    turns: Arc<Semaphore>,
    /// What has been told of what does not work, until it does.
    told: HashSet<&'static str>,
}

impl Node {
    /// Reads what is said for pods without annotations.
    ///
    /// # Errors
    ///
    /// Fails where that is wrong, or there is nothing that looks like a kubelet's directory.
    pub fn new(question: Question, feeder: Feeder, heard: Heard, teller: Teller) -> Result<Self> {
        let dir = &question.kubelet_dir;
        if !rules::is_kubelet_dir(dir) {
            bail!(
                "there is no {}; give --kubelet-dir the directory of the kubelet, and mount it into \
                 the agent's pod at the same path",
                dir.join("pods").display()
            );
        }
        let file = question.file.as_deref().map(read_node_file).transpose()?;
        let basis = Basis {
            kubelet_dir: dir.clone(),
            defaults: question.defaults.clone(),
            file: file.unwrap_or_default(),
        };
        Ok(Self {
            question,
            basis,
            feeder,
            heard,
            teller,
            pods: BTreeMap::new(),
            listed: None,
            is_synced: false,
            feed_at: None,
            owners: HashMap::new(),
            budget: Budget::default(),
            nudges: Nudges::new(clock::now()),
            calls: JoinSet::new(),
            turns: Arc::new(Semaphore::new(MOST_CALLS)),
            told: HashSet::new(),
        })
    }

    /// Looks after the pods on a thread of its own, for as long as the process lives.
    ///
    /// # Errors
    ///
    /// Fails where the machine allows no thread.
    pub fn start(self) -> io::Result<()> {
        let name = "kubernetes".to_owned();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let teller = self.teller.clone();
            let ended = runtime.context("it has no runtime").and_then(|it| it.block_on(self.run()));
            if let Err(error) = ended {
                let reason =
                    format!("pods are not looked after any more, known rules stay: {error:#}");
                teller.tell(&Decision::Warning { rule: None, reason });
            }
        };
        thread::Builder::new().name(name).spawn(run).map(drop)
    }

    async fn run(mut self) -> Result<()> {
        let config = Config::infer()
            .await
            .context("there is no way to the API server; run it in a pod, or set KUBECONFIG")?;
        let client = Client::try_from(config).context("cannot make a client for the API server")?;
        let field = format!("spec.nodeName={}", self.question.name);
        let which = watcher::Config::default().fields(&field).page_size(PAGE);
        let pods = watcher(Api::<api::Pod>::all(client.clone()), which).default_backoff();
        let mut pods = std::pin::pin!(pods);
        let mut objects = Objects::new(client.clone());
        loop {
            let due = [self.feed_at, self.nudges.next_at()].into_iter().flatten().min();
            let pause = due.map_or(Duration::MAX, |due| due.since(clock::now()));
            tokio::select! {
                event = pods.next() => match event {
                    Some(event) => self.take(event),
                    None => bail!("the watch of the pods has ended"),
                },
                renewed = objects.next() => self.renewed(renewed),
                decision = self.heard.next() => match decision {
                    Some(decision) => self.decided(&decision, &client),
                    // The agent has ended.
                    None => return Ok(()),
                },
                () = self.feeder.asked() => self.read_file_again(),
                Some(called) = self.calls.join_next() => self.called(called.ok()),
                () = tokio::time::sleep(pause) => {}
            }
            self.do_what_is_due(&client, &mut objects);
        }
    }

    fn do_what_is_due(&mut self, client: &Client, objects: &mut Objects) {
        let now = clock::now();
        if self.feed_at.is_some_and(|at| at <= now) {
            self.feed_at = None;
            self.feed(client);
            if self.question.nudge == Nudging::On {
                objects.watch(&self.namespaces());
            }
        }
        for uid in self.nudges.due(now) {
            if let Some(known) = self.pods.get(&uid).filter(|it| !it.pod.is_static()) {
                let call = call::nudge(client.clone(), known.pod.clone());
                self.call(call);
            }
        }
    }

    /// Notes what has become of a pod.
    fn take(&mut self, event: Result<watcher::Event<api::Pod>, watcher::Error>) {
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
    fn know(&self, pod: &api::Pod) -> Option<Known> {
        let pod = Pod::of(pod)?;
        let outcome = match self.pods.get(&pod.api_uid) {
            Some(known) if known.pod == pod => known.outcome.clone(),
            _ => self.basis.rules(&pod),
        };
        Some(Known { pod, outcome })
    }

    fn expect_feed(&mut self) {
        self.feed_at.get_or_insert(clock::now().after(GATHER));
    }

    /// Says what the rules are.
    fn feed(&mut self, client: &Client) {
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
    fn complain(&mut self, client: &Client) {
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
    fn namespaces(&self) -> BTreeSet<(String, objects::Kind)> {
        let pods = self.pods.values().filter(|it| !it.outcome.rules.is_empty());
        let objects = pods.flat_map(|known| {
            let namespace = &known.pod.namespace;
            known.objects().map(move |object| (namespace.clone(), object.kind()))
        });
        objects.collect()
    }

    /// Something has changed that pods may mount.
    fn renewed(&mut self, renewed: Result<Renewed, (objects::Kind, watcher::Error)>) {
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
                    objects::Kind::ConfigMap => "cannot watch ConfigMaps to nudge their pods",
                    objects::Kind::Secret => "cannot watch Secrets to nudge their pods",
                };
                self.fails(kind.plural(), what, &watch_words(&error));
            }
        }
    }

    /// Tells of a decision whoever is concerned.
    fn decided(&mut self, decision: &Decision, client: &Client) {
        let dropped = self.heard.take_dropped();
        if dropped > 0 {
            let reason =
                format!("{dropped} decisions were not told as Events, for there were too many");
            self.teller.tell(&Decision::Warning { rule: None, reason });
        }
        if let Decision::Changed { rule, .. } | Decision::Unchanged { rule, .. } = decision
            && let Some(uid) = self.owners.get(rule)
        {
            self.nudges.came(uid);
        }
        let Some((rule, notice)) = Notice::of(decision) else { return };
        if let Some(uid) = self.owners.get(rule).cloned() {
            self.publish(client, &uid, notice);
        }
    }

    fn publish(&mut self, client: &Client, uid: &str, mut notice: Notice) {
        let Some(known) = self.pods.get(uid) else { return };
        let Some(withheld) = self.budget.spend(uid.to_owned(), clock::now()) else { return };
        if withheld > 0 {
            notice.note = format!("{} ({withheld} others were not told)", notice.note);
        }
        let node = self.question.name.clone();
        let call = call::publish(client.clone(), known.pod.reference(), node, notice);
        self.call(call);
    }

    /// Has a call made when it is its turn; what is too much is told of and not made.
    fn call(&mut self, call: impl Future<Output = Called> + Send + 'static) {
        if self.calls.len() == MOST_WAITING {
            self.says(
                "calls",
                "the API server answers too slowly for all that there is to say to it",
            );
            return;
        }
        let turns = Arc::clone(&self.turns);
        self.calls.spawn(async move {
            let _turn = turns.acquire_owned().await;
            call.await
        });
    }

    fn called(&mut self, called: Option<Called>) {
        match called {
            Some(Called { what, fault: None, .. }) => self.works(what),
            Some(Called { what, sentence, fault: Some(fault) }) => {
                self.fails(what, sentence, &fault)
            }
            None => {}
        }
    }

    fn read_file_again(&mut self) {
        let Some(path) = self.question.file.clone() else { return };
        let read = read_node_file(&path);
        let error = read.as_ref().err().map(|error| error.to_string());
        if let Ok(file) = read
            && file != self.basis.file
        {
            self.use_file(file);
        }
        let rules = self.owners.keys().cloned().collect();
        let path = Some(path.to_string_lossy().into_owned());
        self.teller.tell(&Decision::Rules { path, rules, error });
    }

    fn use_file(&mut self, file: NodeFile) {
        self.basis.file = file;
        for known in self.pods.values_mut() {
            known.outcome = self.basis.rules(&known.pod);
        }
        if self.is_synced {
            self.expect_feed();
        }
    }

    fn works(&mut self, what: &'static str) {
        self.told.remove(what);
    }

    /// Tells that something does not work, until it has worked again.
    fn fails(&mut self, what: &'static str, sentence: &str, fault: &str) {
        self.says(what, &format!("{sentence}: {fault}"));
    }

    fn says(&mut self, what: &'static str, sentence: &str) {
        if self.told.insert(what) {
            let reason = sentence.to_owned();
            self.teller.tell(&Decision::Warning { rule: None, reason });
        }
    }
}

/// What is wrong with a watch, in the server's own words where it has answered.
fn watch_words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => call::words(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

impl Known {
    /// What the volumes are made of that its rules are about.
    fn objects(&self) -> impl Iterator<Item = &pod::Object> {
        let watched = self.pod.volumes.iter();
        let watched = watched.filter(|volume| self.outcome.volumes.contains(&volume.name));
        watched.flat_map(|volume| &volume.objects)
    }
}
