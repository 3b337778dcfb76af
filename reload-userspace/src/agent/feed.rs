//! Rules that come and go while the agent runs: those of a node's pods, which others know.

use std::{future, sync::Arc};

use tokio::sync::watch;

use crate::rule::{Rule, RulesText};

/// The rules to put to work at the start.
#[derive(Debug)]
pub enum Rules {
    /// These, which the settings know the origin of.
    Given(Vec<Rule>),
    /// Whatever comes from here, as soon as there is anything.
    Fed(Feed),
}

/// Where rules come from. Of several states of them only the last counts.
#[derive(Debug)]
pub struct Feed {
    rules: Option<watch::Receiver<Option<Arc<Vec<Rule>>>>>,
    /// Whether none has come yet.
    is_awaited: bool,
    file: watch::Sender<Option<Arc<RulesText>>>,
}

/// The other end: who says what the rules are.
#[derive(Debug)]
pub struct Feeder {
    rules: watch::Sender<Option<Arc<Vec<Rule>>>>,
    file: watch::Receiver<Option<Arc<RulesText>>>,
}

/// A feed and its other end.
#[must_use]
pub fn feed() -> (Feeder, Feed) {
    let (rules, received) = watch::channel(None);
    let (file, has_read) = watch::channel(None);
    let feed = Feed { rules: Some(received), is_awaited: true, file };
    (Feeder { rules, file: has_read }, feed)
}

impl Feeder {
    /// From now on these are the rules.
    pub fn feed(&self, rules: Vec<Rule>) {
        self.rules.send_replace(Some(Arc::new(rules)));
    }

    /// Waits until the file that says rules besides is to be heeded anew, and gives what it contains; never
    /// where the agent has ended. Of several states of it only the last counts. Dropping the future loses
    /// none.
    pub async fn file(&mut self) -> Arc<RulesText> {
        loop {
            if self.file.changed().await.is_err() {
                return future::pending().await;
            }
            if let Some(text) = self.file.borrow_and_update().clone() {
                return text;
            }
        }
    }
}

impl Feed {
    /// Nothing ever comes.
    pub(super) fn none() -> Self {
        Self { rules: None, is_awaited: false, file: watch::Sender::new(None) }
    }

    /// Whether nobody has said yet what the rules are.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Passes on to whoever feeds what the file contains that says rules besides.
    pub(super) fn pass_on(&self, text: RulesText) {
        self.file.send_replace(Some(Arc::new(text)));
    }

    /// Waits for other rules; `None` where nobody says any more what they are. Dropping the future loses
    /// none.
    pub(super) async fn next(&mut self) -> Option<Arc<Vec<Rule>>> {
        let Some(rules) = &mut self.rules else { return future::pending().await };
        loop {
            rules.changed().await.ok()?;
            if let Some(rules) = rules.borrow_and_update().clone() {
                self.is_awaited = false;
                return Some(rules);
            }
        }
    }
}
