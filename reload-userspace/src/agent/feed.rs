//! Rules that come and go while the agent runs: those of a node's pods, which others know.

use std::{future, sync::Arc};

use tokio::sync::{mpsc, watch};

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
    /// Where the text of a file with rules goes, if there is anybody who wants it.
    texts: Option<mpsc::UnboundedSender<Reread>>,
}

/// The other end: who says what the rules are.
#[derive(Debug)]
pub struct Feeder {
    rules: watch::Sender<Option<Arc<Vec<Rule>>>>,
    texts: mpsc::UnboundedReceiver<Reread>,
}

/// A file with rules that was read anew.
#[derive(Debug)]
pub struct Reread {
    /// What it contains, or why it cannot be read.
    pub text: RulesText,
    /// Whether the operator has asked for that, and is to be told what came of it.
    pub is_asked: bool,
}

/// A feed and its other end.
#[must_use]
pub fn feed() -> (Feeder, Feed) {
    let (rules, received) = watch::channel(None);
    let (sender, texts) = mpsc::unbounded_channel();
    let feed = Feed { rules: Some(received), is_awaited: true, texts: Some(sender) };
    (Feeder { rules, texts }, feed)
}

impl Feeder {
    /// From now on these are the rules.
    pub fn feed(&self, rules: Vec<Rule>) {
        self.rules.send_replace(Some(Arc::new(rules)));
    }

    /// Waits until a file with rules was read anew; for ever, where the agent has ended. Dropping
    /// the future loses none.
    pub async fn reread(&mut self) -> Reread {
        match self.texts.recv().await {
            Some(reread) => reread,
            None => future::pending().await,
        }
    }
}

impl Feed {
    /// Nothing ever comes.
    pub(super) fn none() -> Self {
        Self { rules: None, is_awaited: false, texts: None }
    }

    /// Whether nobody has said yet what the rules are.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Passes the text of a file with rules on to whoever feeds: there are rules in it for him as well.
    pub(super) fn pass_on(&self, reread: Reread) {
        if let Some(texts) = &self.texts {
            // Whoever feeds no more wants none.
            drop(texts.send(reread));
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_read_gets_to_whoever_feeds() {
        const EVER: Duration = Duration::from_hours(1);
        let (mut feeder, feed) = feed();
        assert!(timeout(EVER, feeder.reread()).await.is_err());
        let error = || RulesText::Err(crate::rule::RuleError::NoFile { path: "/x".into() });
        for (text, is_asked) in [(Ok("a".to_owned()), true), (error(), false)] {
            feed.pass_on(Reread { text, is_asked });
        }
        let first = feeder.reread().await;
        assert_eq!((first.text.unwrap().as_str(), first.is_asked), ("a", true));
        let second = feeder.reread().await;
        assert!(second.text.is_err() && !second.is_asked);
        drop(feed);
        assert!(timeout(EVER, feeder.reread()).await.is_err(), "there is nobody to read it");
    }

    #[test]
    fn whoever_feeds_no_more_is_told_nothing() {
        let (feeder, feed) = feed();
        drop(feeder);
        feed.pass_on(Reread { text: Ok(String::new()), is_asked: false });
        Feed::none().pass_on(Reread { text: Ok(String::new()), is_asked: false });
    }
}
