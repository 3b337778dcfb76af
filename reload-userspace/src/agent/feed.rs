//! Rules that come and go while the agent runs: those of a node's pods, which others know.

use std::{future, sync::Arc};

use tokio::sync::{Notify, watch};

use crate::rule::Rule;

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
    asked: Arc<Notify>,
}

/// The other end: who says what the rules are.
#[derive(Debug)]
pub struct Feeder {
    rules: watch::Sender<Option<Arc<Vec<Rule>>>>,
    asked: Arc<Notify>,
}

/// A feed and its other end.
#[must_use]
pub fn feed() -> (Feeder, Feed) {
    let (rules, received) = watch::channel(None);
    let asked = Arc::new(Notify::new());
    let feed = Feed { rules: Some(received), is_awaited: true, asked: Arc::clone(&asked) };
    (Feeder { rules, asked }, feed)
}

impl Feeder {
    /// From now on these are the rules.
    pub fn feed(&self, rules: Vec<Rule>) {
        self.rules.send_replace(Some(Arc::new(rules)));
    }

    /// Waits until the agent asks to look anew at what the rules are made of.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl Feed {
    /// Nothing ever comes.
    pub(super) fn none() -> Self {
        Self { rules: None, is_awaited: false, asked: Arc::new(Notify::new()) }
    }

    /// Whether nobody has said yet what the rules are.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Asks whoever feeds to look anew at what they are made of.
    pub(super) fn ask_anew(&self) {
        self.asked.notify_one();
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
