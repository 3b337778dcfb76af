//! The metrics: their names are a contract, docs/metrics.md says when each moves.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;

use super::series::{By, CHECK, Confirms, Families, Outcome, Series};
use crate::{
    confirm::Evidence,
    content::Digest,
    event::SourceName,
    preflight::Refusal,
    report::{ActionName, Decision},
};

/// What is counted, for whoever asks.
///
/// Most of it follows from what the agent tells: see [`Metrics::observe`]. Labels have values of
/// ours, or are names of rules that have been added, so there are never more series than rules
/// justify.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    rules: Mutex<HashMap<String, Series>>,
    events: By<2, Counter>,
    lost: By<2, Counter>,
    degraded: By<1, Counter>,
    source_info: By<2, Gauge>,
    loads: By<1, Counter>,
    last_load: By<0, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of which nothing has moved yet.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("reload_agent"),
            families: Families::default(),
            rules: Mutex::default(),
            events: By::default(),
            lost: By::default(),
            degraded: By::default(),
            source_info: By::default(),
            loads: By::default(),
            last_load: By::default(),
        };
        for result in LOADS {
            drop(metrics.loads.get_or_create(&[("result", result.into())]));
        }
        metrics.registered()
    }

    /// Gives each metric its name and says what it means. The library appends `_total` to counters.
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let Families {
            successful,
            success_at,
            reloads,
            refusals,
            check_failures,
            change_to_signal,
            signal_to_reopen,
            content_hash,
            targets,
            watches,
        } = self.families.clone();
        registry.register(
            "last_reload_successful",
            "Whether everybody has the last content, as far as could be found out",
            successful,
        );
        registry.register(
            "last_reload_success_timestamp_seconds",
            "When everybody last had the last content, in seconds since 1970",
            success_at,
        );
        registry.register("reloads", "Actions, by what became of each in the end", reloads);
        registry.register("refusals", "Actions that were withheld, by reason", refusals);
        registry.register("check_failures", "Content that did not pass the check", check_failures);
        registry.register(
            "change_to_signal_seconds",
            "From the last event of a change to the action",
            change_to_signal,
        );
        registry.register(
            "signal_to_reopen_seconds",
            "From the action until the target has opened the new content",
            signal_to_reopen,
        );
        registry.register(
            "content_hash",
            "The first 48 bits of the digest of the content that was confirmed last",
            content_hash,
        );
        registry.register("targets", "Processes that there are to reload", targets);
        registry.register("watches", "Paths that are watched", watches);
        registry.register("events", "What the sources told", self.events.clone());
        registry.register("events_lost", "Events that are known to be missing", self.lost.clone());
        registry.register(
            "degraded",
            "How often it was told that something works less well than it should",
            self.degraded.clone(),
        );
        registry.register("source_info", "Where events come from: 1", self.source_info.clone());
        registry.register("rules_loads", "How often the rules file was read", self.loads.clone());
        registry.register(
            "rules_last_load_successful",
            "Whether the rules in force are those of the rules file",
            self.last_load.clone(),
        );
        let build = By::<2, Gauge>::default();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("commit", env!("RELOAD_COMMIT").into()),
        ];
        build.get_or_create(&labels).set(1);
        registry.register("build_info", "Which agent this is: 1", build);
        self
    }

    /// Counts for a rule from here on, under its name; one that is there already is left as it is.
    pub fn add_rule(&self, rule: &str, confirms: Confirms) {
        let mut rules = self.rules();
        if let Some(series) = rules.get_mut(rule) {
            series.confirms = confirms;
        } else {
            rules.insert(rule.to_owned(), Series::new(&self.families, rule, confirms));
        }
    }

    /// Drops the series of a rule that is gone.
    pub fn forget_rule(&self, rule: &str) {
        self.rules().remove(rule);
    }

    /// Counts what was decided.
    ///
    /// What is about a rule that has not been added, or is gone, is not counted: a name that comes
    /// late must not bring its series back.
    pub fn observe(&self, decision: &Decision) {
        match decision {
            Decision::Ready { source, strategy, .. } => self.set_source(*source, *strategy),
            Decision::Changed { rule, .. } => self.with(rule, Series::begin),
            Decision::Reloaded { rule, action, pid, change_to_signal, dry_run, .. } => {
                self.with(rule, |series| {
                    if *dry_run {
                        return series.count(Outcome::DryRun, *pid);
                    }
                    if let Some(after) = change_to_signal {
                        series.change_to_signal.observe(after.as_secs_f64());
                    }
                    // A command and a server always say what became of it.
                    let is_signal = matches!(action, ActionName::Signal | ActionName::Restart);
                    if is_signal && series.confirms == Confirms::No {
                        series.count(Outcome::Sent, *pid);
                    }
                });
            }
            Decision::Confirmed { rule, pid, evidence, after } => self.with(rule, |series| {
                series.count(Outcome::Confirmed, *pid);
                if *evidence == Evidence::Reopened {
                    series.signal_to_reopen.observe(after.as_secs_f64());
                }
            }),
            Decision::Unconfirmed { rule, pid, .. } => {
                self.with(rule, |series| series.count(Outcome::Unconfirmed, *pid));
            }
            Decision::Refused { rule, pid, reason, .. } => self.with(rule, |series| {
                let is_check = matches!(reason, Refusal::CheckFailed | Refusal::Unchecked);
                let is_check = is_check && pid.is_none();
                series.count(Outcome::Refused, if is_check { CHECK } else { *pid });
                series.count_refusal(word(reason));
                if *reason == Refusal::CheckFailed {
                    series.check_failures.inc();
                }
            }),
            Decision::Failed { rule, pid, .. } => {
                self.with(rule, |series| series.count(Outcome::Failed, *pid));
            }
            Decision::Degraded { source, .. } => {
                self.degraded.get_or_create(&[("source", name(*source))]).inc();
            }
            Decision::Lost { source, reason, count, .. } => {
                let labels = [("source", name(*source)), ("reason", word(reason))];
                self.lost.get_or_create(&labels).inc_by(*count);
            }
            Decision::Rules { path: Some(_), error, .. } => {
                let [good, bad] = LOADS;
                let result = if error.is_some() { bad } else { good };
                self.loads.get_or_create(&[("result", result.into())]).inc();
                self.last_load.get_or_create(&[]).set(i64::from(error.is_none()));
            }
            // Without a file there is nothing to read.
            Decision::Rules { path: None, .. }
            | Decision::Unchanged { .. }
            | Decision::Waiting { .. }
            | Decision::Found { .. }
            | Decision::Adopted { .. }
            | Decision::Released { .. }
            | Decision::Warning { .. }
            | Decision::Stopped { .. } => {}
        }
    }

    /// Counts an event of a source; its kind is [`Event::kind`](crate::event::Event::kind).
    pub fn event(&self, source: SourceName, kind: &'static str) {
        self.events.get_or_create(&[("source", name(source)), ("kind", kind.into())]).inc();
    }

    /// Says where events come from; [`Decision::Ready`] does so as well.
    pub fn set_source(&self, source: SourceName, strategy: Option<&'static str>) {
        self.source_info.clear();
        let strategy = strategy.unwrap_or_default().into();
        self.source_info.get_or_create(&[("source", name(source)), ("strategy", strategy)]).set(1);
    }

    /// Says how many processes there are to reload; not to be called for a rule that is about none.
    pub fn set_targets(&self, rule: &str, count: usize) {
        self.with(rule, |series| series.set_targets(number(count)));
    }

    /// Says how many paths are watched: those that do not exist are not.
    pub fn set_watches(&self, rule: &str, count: usize) {
        self.with(rule, |series| {
            series.watches.set(number(count));
        });
    }

    /// Says that everybody has the content of a rule, though nothing was done: it was rolled back.
    pub fn set_settled(&self, rule: &str) {
        self.with(rule, Series::settle);
    }

    /// Says which content everybody has: to be called when it has been confirmed, and not before.
    pub fn set_content(&self, rule: &str, digest: &Digest) {
        let hash = i64::try_from(digest.prefix()).unwrap_or(i64::MAX);
        self.with(rule, |series| series.set_content(hash));
    }

    /// All of it.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    fn with(&self, rule: &str, act: impl FnOnce(&mut Series)) {
        if let Some(series) = self.rules().get_mut(rule) {
            act(series);
        }
    }

    fn rules(&self) -> MutexGuard<'_, HashMap<String, Series>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How reading the rules file can end.
const LOADS: [&str; 2] = ["applied", "refused"];

/// The name of a source, without asking for memory: events are many.
fn name(source: SourceName) -> Cow<'static, str> {
    Cow::Borrowed(match source {
        SourceName::Ebpf => "ebpf",
        SourceName::Fanotify => "fanotify",
        SourceName::Inotify => "inotify",
        SourceName::Poll => "poll",
    })
}

/// The name of a reason, as it is in the log.
fn word(reason: &impl Serialize) -> Cow<'static, str> {
    let word = serde_json::to_value(reason).ok();
    let word = word.as_ref().and_then(serde_json::Value::as_str).unwrap_or("unknown");
    Cow::Owned(word.to_owned())
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
