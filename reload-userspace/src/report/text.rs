//! Decisions as sentences for people.

use super::{ActionName, Awaited, Decision};
use crate::{confirm::Evidence, event::Actor};

/// A decision in words, on one line whatever the names in it.
pub(super) fn sentence(decision: &Decision) -> String {
    let text = match decision {
        Decision::Ready { source, strategy, rules, watches, targets, listen, after } => format!(
            "ready after {} ms: source {source}{}, rules {}, {watches} watched, {targets} to reload{}",
            after.as_millis(),
            strategy.map(|strategy| format!(" ({strategy})")).unwrap_or_default(),
            rules.join(", "),
            listen.map(|address| format!(", metrics at {address}")).unwrap_or_default()
        ),
        Decision::Changed { rule, paths, by } => {
            let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
            format!("{rule}: changed {}{}", paths.join(", "), last(by.as_ref()))
        }
        Decision::Unchanged { rule, by } => {
            format!("{rule}: the content is what it was{}", last(by.as_ref()))
        }
        Decision::Reloaded { rule, action, pid, signal, object, change_to_signal, dry_run } => {
            let deed = deed(*action, *pid, signal.as_deref(), object.as_deref(), *dry_run);
            let would = if *dry_run { "would have " } else { "" };
            let millis = change_to_signal.as_secs_f64() * 1000.0;
            format!("{rule}: {would}{deed}, {millis:.1} ms after the change")
        }
        Decision::Confirmed { rule, pid, evidence, after } => {
            format!("{rule}: confirmed after {} ms: {}", after.as_millis(), proof(*pid, *evidence))
        }
        Decision::Unconfirmed { rule, pid, reason, after } => {
            format!("{rule}: not confirmed{} in {} ms: {reason}", by(*pid), after.as_millis())
        }
        Decision::Refused { rule, pid, reason, remedy, detail } => {
            let to = pid.map(|pid| format!("sent nothing to pid {pid}")).unwrap_or_default();
            let to = if to.is_empty() { "did nothing" } else { &to };
            let detail = detail.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
            format!("{rule}: {to}: {reason}{detail}; {remedy}")
        }
        Decision::Waiting { rule, what: Awaited::Path, object } => {
            format!("{rule}: waiting for {object} to exist")
        }
        Decision::Waiting { rule, what: Awaited::Target, object } => {
            let by = if object.starts_with('/') { "of" } else { "named" };
            format!("{rule}: waiting for a process {by} {object}")
        }
        Decision::Failed { rule, pid: Some(pid), reason } => {
            format!("{rule}: cannot reload pid {pid}: {reason}")
        }
        Decision::Failed { rule, pid: None, reason } => format!("{rule}: cannot reload: {reason}"),
        Decision::Degraded { source, reason } => format!("source {source}: {reason}"),
        Decision::Lost { source, reason, hook, count } => format!(
            "source {source}: {count} events lost at {hook}: {reason}; looking at everything again"
        ),
        Decision::Rules { path, error: Some(error), .. } => {
            format!("{path} is not heeded, and the rules stay as they are: {error}")
        }
        Decision::Rules { path, rules, error: None } => {
            format!("{path}: the rules are now {}", rules.join(", "))
        }
        Decision::Stopped { reason } => format!("stopped: {reason}"),
    };
    one_line(&text)
}

/// What was done to whom.
fn deed(
    action: ActionName,
    pid: Option<i32>,
    signal: Option<&str>,
    object: Option<&str>,
    dry_run: bool,
) -> String {
    let pid = pid.map_or_else(|| "nobody".to_owned(), |pid| format!("pid {pid}"));
    let object = object.unwrap_or_default();
    match action {
        ActionName::Signal => format!("sent {} to {pid}", signal.unwrap_or("a signal")),
        ActionName::Restart => format!("asked {pid} to end, to be started anew"),
        ActionName::Exec if dry_run => format!("run {object}"),
        ActionName::Exec => format!("ran {object}"),
        ActionName::Post => format!("posted to {object}"),
    }
}

/// What speaks for it that a reload took.
fn proof(pid: Option<i32>, evidence: Evidence) -> String {
    let pid = pid.map_or_else(|| "it".to_owned(), |pid| format!("pid {pid}"));
    match evidence {
        Evidence::Reopened => format!("{pid} has opened the new content"),
        Evidence::Workers => format!("{pid} has new children"),
        Evidence::Restarted => format!("{pid} runs in place of the one that was ended"),
        Evidence::Accepted => "it was accepted".to_owned(),
        Evidence::Alive => format!("{pid} still runs"),
    }
}

fn by(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" by pid {pid}")).unwrap_or_default()
}

fn last(by: Option<&Actor>) -> String {
    by.map(|by| format!(", last: {by}")).unwrap_or_default()
}

/// Whether a character ends a line, or turns the direction of what follows, without being a control
/// character.
fn is_unseen(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes what would end the line or speak to the terminal: names of files and processes may hold it.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, char| {
        if char.is_control() || is_unseen(char) {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{event::Operation, preflight::Refusal};

    #[track_caller]
    fn check(decision: &Decision, expected: &str) {
        assert_eq!(sentence(decision), expected);
    }

    #[test]
    fn decisions_are_sentences() {
        let rule = "nginx".to_owned();
        let by = Actor { pid: Some(7), comm: Some("mv".to_owned()), operation: Operation::Rename };
        check(
            &Decision::Changed {
                rule: rule.clone(),
                paths: vec!["/a".into(), "/b".into()],
                by: Some(by),
            },
            "nginx: changed /a, /b, last: rename by mv (pid 7)",
        );
        check(
            &Decision::Reloaded {
                rule: rule.clone(),
                action: ActionName::Signal,
                pid: Some(9),
                signal: Some("HUP".to_owned()),
                object: None,
                change_to_signal: Duration::from_micros(312),
                dry_run: false,
            },
            "nginx: sent HUP to pid 9, 0.3 ms after the change",
        );
        check(
            &Decision::Refused {
                rule,
                pid: Some(9),
                reason: Refusal::Ignored,
                remedy: Refusal::Ignored.remedy(),
                detail: None,
            },
            "nginx: sent nothing to pid 9: the process ignores the signal; \
             it would be lost; set --signal to one that the program reloads on",
        );
    }

    #[test]
    fn a_name_cannot_end_the_line() {
        let paths = vec!["/a\nnginx: sent HUP\u{1b}[2J".into()];
        let decision = Decision::Changed { rule: "x".to_owned(), paths, by: None };
        check(&decision, "x: changed /a\\nnginx: sent HUP\\u{1b}[2J");
    }
}
