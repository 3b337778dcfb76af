//! Where decisions go: to the log, and into the metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::Metrics;
use crate::report::{Decision, Log};

/// Where decisions go: to the log, and into the metrics if anybody may ask for them.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The log.
    pub log: Log,
    /// The metrics, if they are served.
    pub metrics: Option<Arc<Metrics>>,
    /// Whoever tells others than the operator, if there is one.
    pub herald: Option<Herald>,
}

/// The way to somebody who tells of decisions elsewhere, and is not waited for.
#[derive(Clone, Debug)]
pub struct Herald {
    decisions: mpsc::Sender<Decision>,
    dropped: Arc<AtomicU64>,
    wants: fn(&Decision) -> bool,
}

/// The other end of it.
#[derive(Debug)]
pub struct Heard {
    decisions: mpsc::Receiver<Decision>,
    dropped: Arc<AtomicU64>,
}

/// How many decisions may wait to be told elsewhere.
const MOST_WAITING: usize = 1024;

/// A herald of the decisions that are wanted, and whom he tells.
#[must_use]
pub fn herald(wants: fn(&Decision) -> bool) -> (Herald, Heard) {
    let (decisions, heard) = mpsc::channel(MOST_WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    (
        Herald { decisions, dropped: Arc::clone(&dropped), wants },
        Heard { decisions: heard, dropped },
    )
}

impl Herald {
    fn tell(&self, decision: &Decision) {
        if (self.wants)(decision) && self.decisions.try_send(decision.clone()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Heard {
    /// Waits for the next decision; `None` where nobody decides any more.
    pub async fn next(&mut self) -> Option<Decision> {
        self.decisions.recv().await
    }

    /// How many there was no room for since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Teller {
    /// Tells of a decision.
    pub fn tell(&self, decision: &Decision) {
        // Whoever reads the line and then asks finds it counted.
        self.count(decision);
        self.log.tell(decision);
        if let Some(herald) = &self.herald {
            herald.tell(decision);
        }
    }

    /// Only counts a decision, for it has been told of.
    pub fn count(&self, decision: &Decision) {
        self.measure(|metrics| metrics.observe(decision));
    }

    /// Does something with the metrics, if there are any.
    pub fn measure(&self, act: impl FnOnce(&Metrics)) {
        if let Some(metrics) = &self.metrics {
            act(metrics);
        }
    }
}
