//! What each decision moves, and that the names stay what they are.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::*;
use crate::{
    content::Content,
    event::LossReason,
    report::{Awaited, Change, Failure},
    telemetry::text::Exposition,
};

const RULE: &str = "nginx";

fn metrics(confirms: Confirms) -> Metrics {
    let metrics = Metrics::new();
    metrics.add_rule(RULE, confirms);
    metrics
}

fn text(metrics: &Metrics) -> String {
    Exposition::Prometheus.write(metrics).unwrap()
}

/// The value of a series, or `None` where it is not there.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = text(metrics);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("reload_agent_{series} ")));
    line.map(str::to_owned)
}

#[track_caller]
fn check(metrics: &Metrics, series: &str, expected: impl Into<Option<&'static str>>) {
    assert_eq!(value(metrics, series).as_deref(), expected.into(), "for {series}");
}

fn changed() -> Decision {
    Decision::Changed {
        rule: RULE.to_owned(),
        paths: Vec::<PathBuf>::new().into(),
        by: None,
        when: Change::Now,
    }
}

fn reloaded(action: ActionName, dry_run: bool) -> Decision {
    Decision::Reloaded {
        rule: RULE.to_owned(),
        action,
        pid: Some(7),
        signal: None,
        object: None,
        change_to_signal: Some(Duration::from_micros(312)),
        dry_run,
    }
}

fn confirmed(pid: i32, evidence: Evidence) -> Decision {
    let after = Duration::from_millis(40);
    Decision::Confirmed { rule: RULE.to_owned(), pid: Some(pid), evidence, after }
}

fn unconfirmed() -> Decision {
    let (reason, after) = (String::new(), Duration::from_secs(5));
    Decision::Unconfirmed { rule: RULE.to_owned(), pid: Some(7), reason, after }
}

fn refused(reason: Refusal) -> Decision {
    let signal = Some("HUP".to_owned());
    let (rule, remedy) = (RULE.to_owned(), reason.remedy());
    Decision::Refused { rule, pid: Some(7), signal, reason, remedy, detail: None }
}

fn failed(pid: i32) -> Decision {
    let what = Failure::NotReloaded;
    Decision::Failed {
        rule: RULE.to_owned(),
        pid: Some(pid),
        what,
        reason: String::new(),
        retry: None,
    }
}

fn lost() -> Decision {
    let (source, reason) = (SourceName::Ebpf, LossReason::RingFull);
    Decision::Lost { source, reason, hook: "x", count: 3 }
}

fn rules(error: Option<&str>) -> Decision {
    let error = error.map(str::to_owned);
    Decision::Rules { path: Some("/x".to_owned()), rules: Vec::new(), error }
}

fn ready(source: SourceName, strategy: Option<&'static str>) -> Decision {
    let after = Duration::ZERO;
    let (rules, listen) = (Vec::new(), None);
    Decision::Ready { source, strategy, rules, watches: 1, missing: 0, targets: 1, listen, after }
}

/// Metrics of which every series is there that there can be.
fn everything() -> Metrics {
    let metrics = metrics(Confirms::Yes);
    for decision in [
        ready(SourceName::Ebpf, Some("tracepoint")),
        changed(),
        reloaded(ActionName::Signal, false),
        refused(Refusal::CheckFailed),
        confirmed(7, Evidence::Reopened),
        Decision::Degraded { source: SourceName::Poll, reason: String::new() },
        lost(),
        rules(None),
    ] {
        metrics.observe(&decision);
    }
    metrics.event(SourceName::Ebpf, "changed");
    metrics.set_targets(RULE, 2);
    metrics.set_watches(RULE, 3);
    metrics.set_content(RULE, &Content::digest(&[]));
    metrics
}

#[test]
fn an_action_counts_once_by_what_became_of_it() {
    #[track_caller]
    fn check(confirms: Confirms, decisions: &[Decision], result: &str, successful: Option<&str>) {
        let metrics = metrics(confirms);
        for decision in decisions {
            metrics.observe(decision);
        }
        for outcome in Outcome::ALL {
            let count = if outcome.name() == result { "1" } else { "0" };
            let series = format!("reloads_total{{rule=\"nginx\",result=\"{}\"}}", outcome.name());
            assert_eq!(value(&metrics, &series).as_deref(), Some(count), "for {series}");
        }
        let last = value(&metrics, "last_reload_successful{rule=\"nginx\"}");
        assert_eq!(last.as_deref(), successful, "for {decisions:?}");
        let time = value(&metrics, "last_reload_success_timestamp_seconds{rule=\"nginx\"}");
        assert_eq!(time.is_some(), successful == Some("1"), "for {decisions:?}");
    }
    use ActionName::{Post, Signal};
    let sent = || reloaded(Signal, false);
    check(Confirms::Yes, &[changed()], "", None);
    check(Confirms::Yes, &[changed(), sent()], "", None);
    check(Confirms::Yes, &[sent(), confirmed(7, Evidence::Alive)], "confirmed", Some("1"));
    check(Confirms::Yes, &[sent(), unconfirmed()], "unconfirmed", Some("0"));
    check(Confirms::Yes, &[sent(), failed(7)], "failed", Some("0"));
    check(Confirms::Yes, &[refused(Refusal::NotCaught)], "refused", Some("0"));
    check(Confirms::Yes, &[reloaded(Signal, true)], "dry_run", None);
    check(Confirms::No, &[sent()], "sent", Some("1"));
    check(Confirms::No, &[reloaded(Signal, true)], "dry_run", None);
    let accepted = confirmed(7, Evidence::Accepted);
    check(Confirms::No, &[reloaded(Post, false), accepted], "confirmed", Some("1"));
}

#[test]
fn a_rule_is_well_when_everybody_has_the_last_content() {
    let metrics = metrics(Confirms::Yes);
    let well = "last_reload_successful{rule=\"nginx\"}";
    metrics.observe(&failed(1));
    metrics.observe(&confirmed(2, Evidence::Alive));
    check(&metrics, well, "0");
    metrics.observe(&confirmed(1, Evidence::Alive));
    check(&metrics, well, "1");
    metrics.observe(&failed(1));
    metrics.observe(&changed());
    check(&metrics, well, "0");
    // It may have another pid by now.
    metrics.observe(&confirmed(3, Evidence::Alive));
    check(&metrics, well, "1");
}

#[test]
fn decisions_move_what_they_are_about() {
    let metrics = everything();
    check(&metrics, "refusals_total{rule=\"nginx\",reason=\"check_failed\"}", "1");
    check(&metrics, "check_failures_total{rule=\"nginx\"}", "1");
    check(&metrics, "change_to_signal_seconds_count{rule=\"nginx\"}", "1");
    check(&metrics, "change_to_signal_seconds_bucket{le=\"0.00025\",rule=\"nginx\"}", "0");
    check(&metrics, "change_to_signal_seconds_bucket{le=\"0.0005\",rule=\"nginx\"}", "1");
    check(&metrics, "signal_to_reopen_seconds_sum{rule=\"nginx\"}", "0.04");
    check(&metrics, "degraded_total{source=\"poll\"}", "1");
    check(&metrics, "events_lost_total{source=\"ebpf\",reason=\"ring_full\"}", "3");
    check(&metrics, "events_total{source=\"ebpf\",kind=\"changed\"}", "1");
    check(&metrics, "targets{rule=\"nginx\"}", "2");
    check(&metrics, "watches{rule=\"nginx\"}", "3");
    check(&metrics, "source_info{source=\"ebpf\",strategy=\"tracepoint\"}", "1");
    check(&metrics, "rules_last_load_successful{}", "1");
    check(&metrics, "rules_loads_total{result=\"refused\"}", "0");
    // SHA-256 of nothing begins with e3b0c44298fc.
    check(&metrics, "content_hash{rule=\"nginx\"}", "250348346448124");

    metrics.observe(&ready(SourceName::Inotify, None));
    check(&metrics, "source_info{source=\"ebpf\",strategy=\"tracepoint\"}", None);
    check(&metrics, "source_info{source=\"inotify\",strategy=\"\"}", "1");
    metrics.observe(&rules(Some("bad")));
    check(&metrics, "rules_last_load_successful{}", "0");
    check(&metrics, "rules_loads_total{result=\"refused\"}", "1");
}

#[test]
fn what_changes_nothing_moves_nothing() {
    let metrics = everything();
    let before = text(&metrics);
    let rule = RULE.to_owned();
    metrics.observe(&Decision::Unchanged { rule: rule.clone(), by: None });
    let (what, object) = (Awaited::Target, String::new());
    metrics.observe(&Decision::Waiting { rule, what, object, detail: None });
    let (object, pids) = (String::new(), vec![7]);
    let rule = RULE.to_owned();
    metrics.observe(&Decision::Found { rule, what: Awaited::Target, object, pids });
    metrics.observe(&Decision::Warning { rule: None, reason: String::new() });
    metrics.observe(&Decision::Rules { path: None, rules: Vec::new(), error: None });
    metrics.observe(&Decision::Stopped { reason: "x" });
    assert_eq!(sorted(&text(&metrics)), sorted(&before));
}

#[test]
fn a_time_that_nobody_knows_is_not_counted() {
    let metrics = metrics(Confirms::No);
    let mut decision = reloaded(ActionName::Signal, false);
    metrics.observe(&decision);
    let Decision::Reloaded { change_to_signal, .. } = &mut decision else { unreachable!() };
    *change_to_signal = None;
    metrics.observe(&decision);
    check(&metrics, "change_to_signal_seconds_count{rule=\"nginx\"}", "1");
    check(&metrics, "reloads_total{rule=\"nginx\",result=\"sent\"}", "2");
}

#[test]
fn a_rule_that_goes_takes_its_series_with_it_for_good() {
    let metrics = everything();
    assert!(text(&metrics).contains("nginx"));
    metrics.forget_rule(RULE);
    metrics.observe(&confirmed(7, Evidence::Alive));
    metrics.set_targets(RULE, 1);
    let text = text(&metrics);
    assert!(!text.contains("nginx"), "{text}");
}

#[test]
fn a_rule_that_is_added_again_keeps_its_counts() {
    let metrics = everything();
    metrics.add_rule(RULE, Confirms::No);
    check(&metrics, "reloads_total{rule=\"nginx\",result=\"confirmed\"}", "1");
    metrics.observe(&reloaded(ActionName::Signal, false));
    check(&metrics, "reloads_total{rule=\"nginx\",result=\"sent\"}", "1");
}

#[test]
fn a_name_cannot_make_series_of_its_own() {
    let metrics = Metrics::new();
    let name = "a\"} 1\nreload_agent_targets{rule=\"b\\";
    metrics.add_rule(name, Confirms::Yes);
    metrics.set_targets(name, 4);
    check(&metrics, "targets{rule=\"a\\\"} 1\\nreload_agent_targets{rule=\\\"b\\\\\"}", "4");
    assert_well_formed(&text(&metrics));
    metrics.forget_rule(name);
    assert!(!text(&metrics).contains("rule="));
}

#[test]
fn names_labels_and_types_are_a_contract() {
    let expected = "\
build_info gauge commit,version
change_to_signal_seconds histogram le,rule
check_failures_total counter rule
content_hash gauge rule
degraded_total counter source
events_lost_total counter reason,source
events_total counter kind,source
last_reload_success_timestamp_seconds gauge rule
last_reload_successful gauge rule
refusals_total counter reason,rule
reloads_total counter result,rule
rules_last_load_successful gauge 
rules_loads_total counter result
signal_to_reopen_seconds histogram le,rule
source_info gauge source,strategy
targets gauge rule
watches gauge rule
";
    assert_eq!(contract(&everything()), expected);
}

#[test]
fn the_text_is_well_formed_in_both_ways() {
    let metrics = everything();
    assert_well_formed(&text(&metrics));
    let open = Exposition::OpenMetrics.write(&metrics).unwrap();
    let body = open.strip_suffix("# EOF\n").unwrap();
    assert!(!body.contains("EOF"));
    assert!(body.contains("# TYPE reload_agent_reloads counter\n"), "{body}");
    assert!(body.contains("\nreload_agent_reloads_total{"), "{body}");
    // What is counted is the same.
    let samples = |text: &str| sorted(text).into_iter().filter(|line| !line.starts_with('#'));
    assert!(samples(body).eq(samples(&text(&metrics))));
}

#[test]
fn the_dashboard_and_the_alerts_ask_only_for_what_there_is() {
    let contract = contract(&everything());
    let names = contract.lines().flat_map(|line| {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let suffixes: &[&str] =
            if kind == "histogram" { &["_bucket", "_count", "_sum"] } else { &[""] };
        suffixes.iter().map(move |suffix| format!("reload_agent_{name}{suffix}"))
    });
    let names: BTreeSet<_> = names.collect();
    // Those of ours, those that Prometheus adds, and those of the dashboard's own making.
    let mut labels: BTreeSet<_> =
        contract.lines().flat_map(|line| line.rsplit(' ').next().unwrap().split(',')).collect();
    labels.extend(["job", "instance", "namespace", "pod", "hash"]);

    let dashboard = include_str!("../../../../deploy/monitoring/dashboard.json");
    let alerts = include_str!("../../../../deploy/monitoring/alerts.yaml");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let rules: serde_json::Value = serde_saphyr::from_str(alerts).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, "", &mut queries);
    collect(&rules, "", &mut queries);
    assert!(queries.len() > 25, "only {} queries were found", queries.len());
    let mut asked = BTreeSet::new();
    for query in &queries {
        for word in words(query).filter(|word| word.starts_with("reload_agent_")) {
            assert!(names.contains(word), "there is no {word}, for {query}");
            asked.insert(word.to_owned());
        }
        for label in labels_in(query) {
            assert!(labels.contains(label.as_str()), "there is no label {label}, for {query}");
        }
    }
    // And each metric answers some question; the others are for whoever has another one.
    let unasked: Vec<_> = names.difference(&asked).filter(|name| !name.ends_with("_sum")).collect();
    assert_eq!(unasked, Vec::<&String>::new());
}

#[test]
fn docs_name_every_metric_and_no_other() {
    let docs = include_str!("../../../../docs/metrics.md");
    let contract = contract(&everything());
    let names: BTreeSet<_> =
        contract.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let described = docs.lines().filter_map(|line| line.strip_prefix("| `reload_agent_"));
    let described: BTreeSet<_> =
        described.map(|line| line.split(['`', '{']).next().unwrap().to_owned()).collect();
    assert_eq!(described, names);
}

/// The queries in a dashboard or a file of rules: what is under `expr`, and what variables ask.
fn collect(value: &serde_json::Value, key: &str, queries: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) if ["expr", "definition"].contains(&key) => {
            queries.push(text.clone());
        }
        serde_json::Value::Array(values) => values.iter().for_each(|it| collect(it, key, queries)),
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, it)| collect(it, key, queries));
        }
        _ => {}
    }
}

fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|char: char| !char.is_alphanumeric() && char != '_')
}

/// The labels that a query names: in braces before an operator, and after `by`, `on` and their kin.
fn labels_in(query: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for group in query.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        labels.extend(group.split(',').filter_map(|one| one.split(['=', '!']).next()));
    }
    for keyword in ["by (", "on (", "group_left (", "without ("] {
        for rest in query.split(keyword).skip(1) {
            labels.extend(rest.split(')').next().unwrap_or_default().split(','));
        }
    }
    labels.iter().map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
}

/// Each metric with its type and its labels, sorted.
fn contract(metrics: &Metrics) -> String {
    let text = text(metrics);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE reload_agent_"));
    let lines = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| line.strip_prefix("reload_agent_"));
        let series = series.filter_map(|line| line.strip_prefix(name));
        let mut labels = BTreeSet::new();
        for rest in series {
            let Some((_, rest)) = rest.split_once('{') else { continue };
            let inside = rest.rsplit_once('}').unwrap().0;
            labels.extend(inside.split(',').map(|pair| pair.split('=').next().unwrap().to_owned()));
        }
        let labels: Vec<_> = labels.into_iter().collect();
        format!("{name} {kind} {}\n", labels.join(","))
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines.concat()
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Refuses what the text format 0.0.4 does not allow.
#[track_caller]
fn assert_well_formed(text: &str) {
    let mut kinds = HashMap::new();
    let mut seen = BTreeSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "twice: {line}");
            continue;
        }
        let (series, number) = line.rsplit_once(' ').unwrap();
        number.parse::<f64>().unwrap();
        assert!(seen.insert(series), "twice: {line}");
        let name = series.split('{').next().unwrap();
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let kind = kinds.get(name).or_else(|| base.and_then(|base| kinds.get(base)));
        assert!(kind.is_some(), "no type before {line}");
        assert!(name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let inside = labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
            assert_labels(inside);
        }
    }
}

/// `a="b",c="d"`, with what is in a value escaped.
#[track_caller]
fn assert_labels(mut rest: &str) {
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(name.chars().all(|char| char.is_ascii_lowercase() || char == '_'), "{name}");
        let mut is_escaped = false;
        let end = value.find(|char| {
            let is_end = char == '"' && !is_escaped;
            assert!(!is_escaped || ['\\', '"', 'n'].contains(&char), "{value}");
            is_escaped = char == '\\' && !is_escaped;
            is_end
        });
        rest = &value[end.unwrap() + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}
