//! A receiver, what it has, and when it may be handed something.

use std::time::Duration;

use super::Receiver;
use crate::{clock::Boot, content::Digest};

/// A receiver, and what it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) receiver: Receiver<K>,
    /// The content that it has, as far as we know.
    pub(super) has: Option<Digest>,
    /// The content that was refused to it.
    pub(super) denied: Option<Digest>,
    /// The content of which it has been told that it was refused or failed.
    pub(super) told: Option<Digest>,
    /// The content of which it has been told that others keep it from it.
    pub(super) told_kept: Option<Digest>,
    pub(super) phase: Phase,
    /// When it was last handed anything.
    pub(super) applied_at: Boot,
    /// Nothing before that, for the last reload was only just.
    pub(super) rests_until: Boot,
    /// No other attempt before that.
    pub(super) retry_at: Boot,
    pub(super) failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Rest,
    /// That content is being handed to it.
    Busy(Digest),
    /// It was handed over, and evidence that it took is awaited.
    Confirming,
}

impl<K> Entry<K> {
    pub(super) fn new(receiver: Receiver<K>, has: Option<Digest>) -> Self {
        Self {
            receiver,
            has,
            denied: None,
            told: None,
            told_kept: None,
            phase: Phase::Rest,
            applied_at: Boot::ZERO,
            rests_until: Boot::ZERO,
            retry_at: Boot::ZERO,
            failures: 0,
        }
    }

    pub(super) fn is_owed(&self, digest: Digest) -> bool {
        self.has != Some(digest) && self.denied != Some(digest)
    }

    pub(super) fn ready_at(&self) -> Boot {
        self.rests_until.max(self.retry_at)
    }
}

/// How long to wait after so many failures.
pub(super) fn backoff(first: Duration, last: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(last)
}
