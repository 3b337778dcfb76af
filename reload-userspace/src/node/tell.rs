//! What is told of the pods: to the log, and to Kubernetes.

use std::{future::Future, sync::Arc, time::Duration};

use kube::{Client, runtime::watcher};
use tokio::time::timeout;

use super::{
    MOST_WAITING, Node,
    call::{self, Answer},
    notice::Notice,
};
use crate::{clock, report::Decision};

/// How long a call may take. The client has no deadline of its own, and a server that has gone without a
/// word would keep its turn for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// What does not work where the server does not answer, or too slowly.
const CALLS: &str = "calls";

impl Node {
    /// Tells of a decision whoever is concerned.
    pub(super) fn decided(&mut self, decision: &Decision, client: &Client) {
        let dropped = self.heard.take_dropped();
        if dropped > 0 {
            let reason =
                format!("{dropped} decisions were not told as Events, for there were too many");
            self.teller.tell(&Decision::Warning { rule: None, reason });
        }
        if let Some(uid) = self.renewed(decision) {
            self.nudges.came(&uid);
        }
        let Some((rule, notice)) = Notice::of(decision) else { return };
        if let Some(uid) = self.owners.get(rule).cloned() {
            self.publish(client, &uid, notice);
        }
    }

    pub(super) fn publish(&mut self, client: &Client, uid: &str, mut notice: Notice) {
        let Some(known) = self.pods.get(uid) else { return };
        let Some(withheld) = self.budget.spend(uid.to_owned(), clock::now()) else { return };
        if withheld > 0 {
            notice.note = format!("{} ({withheld} others were not told)", notice.note);
        }
        let node = self.question.name.clone();
        let call = call::publish(client.clone(), known.pod.clone(), node, notice);
        self.call(call);
    }

    /// The pod of which a volume was renewed, if that is what was decided: not one that only shows what the
    /// agent itself has set.
    fn renewed(&self, decision: &Decision) -> Option<String> {
        match decision {
            Decision::Unchanged { rule, .. } => self.owners.get(rule).cloned(),
            Decision::Changed { rule, paths, .. } => {
                let uid = self.owners.get(rule)?;
                let pod = &self.pods.get(uid)?.pod;
                let mut paths = paths.told();
                paths.any(|path| self.basis.is_of_object(pod, path)).then(|| uid.clone())
            }
            _ => None,
        }
    }

    /// Has a call made when it is its turn; what is too much is told of and not made.
    pub(super) fn call(&mut self, call: impl Future<Output = Answer> + Send + 'static) {
        if self.calls.len() == MOST_WAITING {
            let sentence = "the API server answers too slowly for all that there is to say to it";
            self.says(CALLS, sentence);
            return;
        }
        let turns = Arc::clone(&self.turns);
        self.calls.spawn(async move {
            let _turn = turns.acquire_owned().await;
            timeout(PATIENCE, call).await.unwrap_or_else(|_| Answer {
                what: CALLS,
                sentence: "the API server does not answer",
                fault: Some(format!("nothing within {} s", PATIENCE.as_secs())),
            })
        });
    }

    pub(super) fn answered(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Answer { what, fault: None, .. }) => {
                self.works(CALLS);
                self.works(what);
            }
            Some(Answer { what, sentence, fault: Some(fault) }) => {
                self.fails(what, sentence, &fault);
            }
            None => {}
        }
    }

    pub(super) fn works(&mut self, what: &str) {
        self.told.remove(what);
    }

    /// Tells that something does not work, until it has worked again.
    pub(super) fn fails(&mut self, what: &str, sentence: &str, fault: &str) {
        self.says(what, &format!("{sentence}: {fault}"));
    }

    pub(super) fn says(&mut self, what: &str, sentence: &str) {
        if self.told.insert(what.to_owned()) {
            let reason = sentence.to_owned();
            self.teller.tell(&Decision::Warning { rule: None, reason });
        }
    }
}

/// What is wrong with a watch, in the server's own words where it has answered.
pub(super) fn watch_words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => call::words(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}
