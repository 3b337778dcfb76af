//! Decisions as sentences for people.

use super::{Awaited, Decision};
use crate::event::Actor;

/// A decision in words, on one line whatever the names in it.
pub(super) fn sentence(decision: &Decision) -> String {
    let text = match decision {
        Decision::Ready { source, strategy, rules, watches, targets, after } => format!(
            "ready after {} ms: source {source}{}, rules {}, {watches} watched, {targets} to reload",
            after.as_millis(),
            strategy.map(|strategy| format!(" ({strategy})")).unwrap_or_default(),
            rules.join(", ")
        ),
        Decision::Changed { rule, paths, by } => {
            let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
            format!("{rule}: changed {}{}", paths.join(", "), last(by.as_ref()))
        }
        Decision::Unchanged { rule, by } => {
            format!("{rule}: the content is what it was{}", last(by.as_ref()))
        }
        Decision::Reloaded { rule, pid, signal, change_to_signal, dry_run } => format!(
            "{rule}: {} {signal} to pid {pid}, {:.1} ms after the change",
            if *dry_run { "would send" } else { "sent" },
            change_to_signal.as_secs_f64() * 1000.0
        ),
        Decision::Refused { rule, pid, reason, remedy } => {
            format!("{rule}: sent nothing to pid {pid}: {reason}; {remedy}")
        }
        Decision::Waiting { rule, what: Awaited::Path, object } => {
            format!("{rule}: waiting for {object} to exist")
        }
        Decision::Waiting { rule, what: Awaited::Target, object } => {
            format!("{rule}: waiting for a process named {object}")
        }
        Decision::Failed { rule, pid: Some(pid), reason } => {
            format!("{rule}: cannot reload pid {pid}: {reason}")
        }
        Decision::Failed { rule, pid: None, reason } => format!("{rule}: cannot reload: {reason}"),
        Decision::Degraded { source, reason } => format!("source {source}: {reason}"),
        Decision::Lost { source, reason, hook, count } => format!(
            "source {source}: {count} events lost at {hook}: {reason}; looking at everything again"
        ),
        Decision::Stopped { reason } => format!("stopped: {reason}"),
    };
    one_line(&text)
}

fn last(by: Option<&Actor>) -> String {
    by.map(|by| format!(", last: {by}")).unwrap_or_default()
}

/// Escapes what would end the line or speak to the terminal: names of files and processes may hold it.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, char| {
        if char.is_control() {
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
                pid: 9,
                signal: "HUP".to_owned(),
                change_to_signal: Duration::from_micros(312),
                dry_run: false,
            },
            "nginx: sent HUP to pid 9, 0.3 ms after the change",
        );
        check(
            &Decision::Refused {
                rule,
                pid: 9,
                reason: Refusal::Ignored,
                remedy: Refusal::Ignored.remedy(),
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
