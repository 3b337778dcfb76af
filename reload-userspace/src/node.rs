//! From the pods of a node to rules, and from decisions to what Kubernetes is told of them.
//!
//! It has a thread of its own, so that no answer of the API server, however long or late, delays a
//! reload. What it says to the agent is what the rules are; what it hears from it is what was decided.
//!
//! **Invariant:** while the API server is away nothing is forgotten: the pods that were known stay.

mod call;
mod client;
mod keep;
mod notice;
mod nudge;
mod objects;
mod pod;
mod rules;
mod spec;
mod tell;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{sync::Semaphore, task::JoinSet};

use self::{
    call::Answer,
    notice::{Budget, Notice},
    nudge::Nudges,
    objects::Objects,
    pod::Pod,
    rules::{Basis, Made},
};
use crate::{
    agent::Feeder,
    cli::RuleArgs,
    clock::{self, Boot},
    report::Decision,
    rule::read_node_file,
    telemetry::{Heard, Teller},
};

/// How long after a change of a pod the rules are told: they change in bursts.
const GATHER: Duration = Duration::from_millis(20);

/// How many pods are listed at a time: the answer is in memory as a whole, and each has up to 1.5 MiB.
const PAGE: u32 = 8;

/// How many different things that are wrong with a pod are told.
const MOST_TOLD: usize = 64;

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
    made: Made,
    /// What has been told of what is wrong with it, by digest: a pod may be wrong in ever new words.
    told: BTreeSet<u64>,
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
    /// Why the rules of the file are not heeded, if so.
    file_fault: Option<String>,
    /// Whether all pods have been listed at least once.
    is_synced: bool,
    /// When to say what the rules are, if they have changed.
    feed_at: Option<Boot>,
    /// Which pod a rule is of, by its name.
    owners: HashMap<String, String>,
    budget: Budget<String>,
    nudges: Nudges<String>,
    calls: JoinSet<Answer>,
    turns: Arc<Semaphore>,
    /// What has been told of what does not work, until it does.
    told: HashSet<String>,
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
            nudging: question.nudge,
        };
        Ok(Self {
            question,
            basis,
            feeder,
            heard,
            teller,
            pods: BTreeMap::new(),
            listed: None,
            file_fault: None,
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
    /// Fails where the machine allows no thread, or nobody has said where the API server is.
    pub fn start(self) -> Result<()> {
        let (ready, is_ready) = mpsc::channel();
        let run = move || {
            let teller = self.teller.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime.context("it has no runtime") {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async move {
                let client = match client::client().await {
                    Ok(client) => client,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                // When it ends nobody says any more what the rules are, and so the agent ends.
                if let Err(error) = self.run(client).await {
                    let reason = format!("pods are not looked after any more: {error:#}");
                    teller.tell(&Decision::Warning { rule: None, reason });
                }
            });
        };
        let thread = thread::Builder::new().name("kubernetes".to_owned()).spawn(run);
        thread.context("cannot start the thread that looks after the pods")?;
        is_ready.recv().context("the thread that looks after the pods has ended")?
    }

    async fn run(mut self, client: Client) -> Result<()> {
        let field = format!("spec.nodeName={}", self.question.name);
        let which = watcher::Config::default().fields(&field).page_size(PAGE);
        let pods = watcher(Api::<spec::Pod>::all(client.clone()), which).default_backoff();
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
                news = objects.next() => self.object_changed(news),
                decision = self.heard.next() => match decision {
                    Some(decision) => self.decided(&decision, &client),
                    // The agent has ended.
                    None => return Ok(()),
                },
                reread = self.feeder.reread() => self.heed_file(reread),
                Some(answer) = self.calls.join_next() => self.answered(answer.ok()),
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
            if let Some(known) = self.pods.get(&uid) {
                let call = call::nudge(client.clone(), known.pod.clone());
                self.call(call);
            }
        }
    }
}

/// Whether a decision is told to Kubernetes, or says that a volume was renewed.
#[must_use]
pub fn wants(decision: &Decision) -> bool {
    matches!(decision, Decision::Changed { .. } | Decision::Unchanged { .. })
        || Notice::of(decision).is_some()
}
