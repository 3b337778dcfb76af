//! Where decisions go: to the log, and into the metrics.

use std::sync::Arc;

use super::Metrics;
use crate::report::{Decision, Log};

/// Where decisions go: to the log, and into the metrics if anybody may ask for them.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The log.
    pub log: Log,
    /// The metrics, if they are served.
    pub metrics: Option<Arc<Metrics>>,
}

impl Teller {
    /// Tells of a decision.
    pub fn tell(&self, decision: &Decision) {
        // Whoever reads the line and then asks finds it counted.
        self.count(decision);
        self.log.tell(decision);
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
