//! The series of one rule, at hand: to count for a rule that is known, nothing is allocated.

use std::{borrow::Cow, collections::BTreeSet, sync::atomic::AtomicU64, time::SystemTime};

use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};

/// The labels of a series: names that are ours, and values that are ours or [escaped](escape).
pub(super) type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// A metric, by its labels.
pub(super) type By<const N: usize, M> = Family<Labels<N>, M>;

/// Seconds since 1970, or for how long.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// From 50 µs, less than any reload takes, to a minute, more than any should.
const BUCKETS: [f64; 19] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Whether the agent looks for evidence that a rule's signals took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirms {
    /// Each is followed by a decision that says whether there was any.
    Yes,
    /// The signal is the last that is told of it.
    No,
}

/// Stands among those to whom the content could not be given for its check: nobody has that pid.
pub(super) const CHECK: Option<i32> = Some(0);

/// What became of an action in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Confirmed,
    Sent,
    Unconfirmed,
    Refused,
    Failed,
    DryRun,
}

impl Outcome {
    pub(super) const ALL: [Self; 6] =
        [Self::Confirmed, Self::Sent, Self::Unconfirmed, Self::Refused, Self::Failed, Self::DryRun];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Sent => "sent",
            Self::Unconfirmed => "unconfirmed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::DryRun => "dry_run",
        }
    }

    /// Whether the target has the new content, as far as one wanted to know; `None` where nothing
    /// was done that could have succeeded.
    fn is_success(self) -> Option<bool> {
        match self {
            Self::Confirmed | Self::Sent => Some(true),
            Self::Unconfirmed | Self::Refused | Self::Failed => Some(false),
            Self::DryRun => None,
        }
    }
}

/// The metrics that have a series for each rule.
#[derive(Clone, Debug)]
pub(super) struct Families {
    pub(super) successful: By<1, Gauge>,
    pub(super) success_at: By<1, Seconds>,
    pub(super) reloads: By<2, Counter>,
    pub(super) refusals: By<2, Counter>,
    pub(super) check_failures: By<1, Counter>,
    pub(super) change_to_signal: By<1, Histogram>,
    pub(super) signal_to_reopen: By<1, Histogram>,
    pub(super) content_hash: By<1, Gauge>,
    pub(super) targets: By<1, Gauge>,
    pub(super) watches: By<1, Gauge>,
}

impl Default for Families {
    fn default() -> Self {
        let durations = || By::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> _);
        Self {
            successful: By::default(),
            success_at: By::default(),
            reloads: By::default(),
            refusals: By::default(),
            check_failures: By::default(),
            change_to_signal: durations(),
            signal_to_reopen: durations(),
            content_hash: By::default(),
            targets: By::default(),
            watches: By::default(),
        }
    }
}

/// The series of one rule.
#[derive(Debug)]
pub(super) struct Series {
    families: Families,
    rule: Cow<'static, str>,
    pub(super) confirms: Confirms,
    /// To whom the content that is wanted could not be given, as far as it is known.
    failing: BTreeSet<Option<i32>>,
    reasons: BTreeSet<Cow<'static, str>>,
    reloads: [Counter; Outcome::ALL.len()],
    pub(super) check_failures: Counter,
    pub(super) change_to_signal: Histogram,
    pub(super) signal_to_reopen: Histogram,
    pub(super) watches: Gauge,
}

impl Series {
    /// Those of a rule of which nothing is known: counters start at 0, so that the first that they
    /// count is an increase. What a reload alone can tell is not there before the first.
    pub(super) fn new(families: &Families, rule: &str, confirms: Confirms) -> Self {
        let rule: Cow<'static, str> = Cow::Owned(escape(rule));
        let labels = [("rule", rule.clone())];
        let reloads = Outcome::ALL
            .map(|outcome| families.reloads.get_or_create_owned(&by_result(&rule, outcome)));
        Self {
            confirms,
            failing: BTreeSet::new(),
            reasons: BTreeSet::new(),
            reloads,
            check_failures: families.check_failures.get_or_create_owned(&labels),
            change_to_signal: families.change_to_signal.get_or_create_owned(&labels),
            signal_to_reopen: families.signal_to_reopen.get_or_create_owned(&labels),
            watches: families.watches.get_or_create_owned(&labels),
            families: families.clone(),
            rule,
        }
    }

    /// There is other content, and so what became of the last is history.
    pub(super) fn begin(&mut self) {
        self.failing.clear();
    }

    /// Counts what became of an action, to whom it was. The rule has succeeded once nobody is left
    /// to whom the content could not be given.
    pub(super) fn count(&mut self, outcome: Outcome, pid: Option<i32>) {
        if let Some(counter) = self.reloads.get(outcome as usize) {
            counter.inc();
        }
        let Some(is_success) = outcome.is_success() else { return };
        if is_success {
            self.failing.remove(&pid);
            // What is carried out has passed its check.
            self.failing.remove(&CHECK);
        } else {
            self.failing.insert(pid);
        }
        let is_well = self.failing.is_empty();
        let labels = self.labels();
        self.families.successful.get_or_create(&labels).set(i64::from(is_well));
        if is_well {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            self.families.success_at.get_or_create(&labels).set(now.as_secs_f64());
        }
    }

    /// Everybody has the content that there is, for what could not be given was rolled back.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.failing).is_empty() {
            self.families.successful.get_or_create(&self.labels()).set(1);
        }
    }

    pub(super) fn count_refusal(&mut self, reason: Cow<'static, str>) {
        let labels = [("rule", self.rule.clone()), ("reason", reason.clone())];
        self.families.refusals.get_or_create(&labels).inc();
        self.reasons.insert(reason);
    }

    pub(super) fn set_content(&self, hash: i64) {
        self.families.content_hash.get_or_create(&self.labels()).set(hash);
    }

    /// A rule that is about no process never has this series, so that 0 always means that somebody is
    /// missing.
    pub(super) fn set_targets(&self, count: i64) {
        self.families.targets.get_or_create(&self.labels()).set(count);
    }

    fn labels(&self) -> Labels<1> {
        [("rule", self.rule.clone())]
    }
}

impl Drop for Series {
    /// A rule that goes takes its series with it.
    fn drop(&mut self) {
        let Self { families, rule, reasons, .. } = self;
        let labels = [("rule", rule.clone())];
        families.successful.remove(&labels);
        families.success_at.remove(&labels);
        families.check_failures.remove(&labels);
        families.change_to_signal.remove(&labels);
        families.signal_to_reopen.remove(&labels);
        families.content_hash.remove(&labels);
        families.targets.remove(&labels);
        families.watches.remove(&labels);
        for outcome in Outcome::ALL {
            families.reloads.remove(&by_result(rule, outcome));
        }
        for reason in reasons.iter() {
            families.refusals.remove(&[("rule", rule.clone()), ("reason", reason.clone())]);
        }
    }
}

fn by_result(rule: &str, outcome: Outcome) -> Labels<2> {
    [("rule", rule.to_owned().into()), ("result", outcome.name().into())]
}

/// A text as it may stand between the quotes of a label's value: the library leaves that to us.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
