//! What is told of the pods: to the log, and to Kubernetes.

use std::{future::Future, sync::Arc};

use kube::{Client, runtime::watcher};

use super::{
    MOST_WAITING, Node,
    call::{self, Outcome as Called},
    notice::Notice,
};
use crate::{clock, report::Decision};

impl Node {
    /// Tells of a decision whoever is concerned.
    pub(super) fn decided(&mut self, decision: &Decision, client: &Client) {
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

    /// Has a call made when it is its turn; what is too much is told of and not made.
    pub(super) fn call(&mut self, call: impl Future<Output = Called> + Send + 'static) {
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

    pub(super) fn called(&mut self, called: Option<Called>) {
        match called {
            Some(Called { what, fault: None, .. }) => self.works(what),
            Some(Called { what, sentence, fault: Some(fault) }) => {
                self.fails(what, sentence, &fault);
            }
            None => {}
        }
    }

    pub(super) fn works(&mut self, what: &'static str) {
        self.told.remove(what);
    }

    /// Tells that something does not work, until it has worked again.
    pub(super) fn fails(&mut self, what: &'static str, sentence: &str, fault: &str) {
        self.says(what, &format!("{sentence}: {fault}"));
    }

    pub(super) fn says(&mut self, what: &'static str, sentence: &str) {
        if self.told.insert(what) {
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
