//! Decisions as sentences for people.

use std::time::Duration;

use humantime::format_duration;

use super::{ActionName, Awaited, Change, Decision, Failure, Paths};
use crate::{confirm::Evidence, event::Actor};

/// What the lines that follow the first begin with: whoever reads sees that they are quoted, and none
/// of them passes for a decision.
const QUOTED: &str = "\n    | ";

/// A decision in words, on one line whatever the names in it. What a command has written in several
/// lines follows below.
#[must_use]
pub fn sentence(decision: &Decision) -> String {
    match decision {
        Decision::Refused { detail: Some(said), .. } | Decision::Failed { reason: said, .. }
            if said.contains('\n') =>
        {
            let lines = said.lines().map(|line| format!("{QUOTED}{}", one_line(line)));
            lines.fold(one_line(&words(&quoting(decision))), |text, line| text + &line)
        }
        _ => one_line(&words(decision)),
    }
}

/// A decision without what is to be quoted below it.
fn quoting(decision: &Decision) -> Decision {
    let mut quoting = decision.clone();
    match &mut quoting {
        Decision::Refused { detail, .. } => *detail = None,
        Decision::Failed { reason, .. } => reason.clear(),
        _ => {}
    }
    quoting
}

fn words(decision: &Decision) -> String {
    match decision {
        Decision::Ready { source, strategy, rules, watches, missing, targets, listen, after } => {
            format!(
                "ready after {} ms: source {source}{}, rules {}, {watches} watched{}, {targets} to \
                 reload{}",
                after.as_millis(),
                strategy.map(|strategy| format!(" ({strategy})")).unwrap_or_default(),
                rules.join(", "),
                yet(*missing),
                listen.map(|address| format!(", metrics at {address}")).unwrap_or_default()
            )
        }
        Decision::Changed { rule, when: Change::Away, .. } => {
            format!("{rule}: changed while the agent was away")
        }
        Decision::Changed { rule, paths, by, when: Change::Now } => {
            let Paths { paths, others } = paths;
            let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
            let others = if *others == 0 { String::new() } else { format!(" and {others} others") };
            format!("{rule}: changed {}{others}{}", paths.join(", "), last(by.as_ref()))
        }
        Decision::Unchanged { rule, by } => {
            format!("{rule}: the content is what it was{}", last(by.as_ref()))
        }
        Decision::Reloaded { rule, action, pid, signal, object, change_to_signal, dry_run } => {
            let deed = deed(*action, *pid, signal.as_deref(), object.as_deref(), *dry_run);
            let would = if *dry_run { "would have " } else { "" };
            let after =
                |it: Duration| format!(", {:.1} ms after the change", it.as_secs_f64() * 1000.0);
            format!("{rule}: {would}{deed}{}", change_to_signal.map(after).unwrap_or_default())
        }
        Decision::Confirmed { rule, pid, evidence, after } => {
            format!("{rule}: confirmed after {} ms: {}", after.as_millis(), proof(*pid, *evidence))
        }
        Decision::Unconfirmed { rule, pid, reason, after } => {
            format!("{rule}: not confirmed{} in {} ms: {reason}", by(*pid), after.as_millis())
        }
        Decision::Refused { rule, pid, signal, reason, remedy, detail } => {
            let what =
                signal.as_ref().map_or("nothing".to_owned(), |signal| format!("no {signal}"));
            let to = pid.map(|pid| format!("sent {what} to pid {pid}"));
            let to = to.as_deref().unwrap_or("did nothing");
            format!("{rule}: {to}: {reason}{}; {remedy}", said(detail.as_deref()))
        }
        Decision::Waiting { rule, what: Awaited::Path, object, .. } => {
            format!("{rule}: waiting for {object} to exist")
        }
        Decision::Waiting { rule, what: Awaited::Target, object, detail } => {
            format!("{rule}: waiting for {}{}", process(object), said(detail.as_deref()))
        }
        Decision::Found { rule, object, pids, .. } => {
            let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
            format!("{rule}: there is {} again: pid {}", process(object), pids.join(", "))
        }
        Decision::Failed { rule, pid, what, reason, retry } => {
            let reason = said(Some(reason.as_str()).filter(|it| !it.is_empty()));
            let pid = pid.map(|pid| format!("pid {pid}"));
            let failure = match what {
                Failure::NotReloaded => {
                    format!("cannot reload{}", pid.map(|pid| format!(" {pid}")).unwrap_or_default())
                }
                Failure::Ended => {
                    let it = pid.as_deref().unwrap_or("the process");
                    format!("{it} had been reloaded, and is gone")
                }
            };
            format!("{rule}: {failure}{reason}; {}", again(*retry))
        }
        Decision::Adopted { rule, process, watches } => {
            format!("{rule}: adopted: reloads {process} when these change: {}", watches.join(", "))
        }
        Decision::Released { rule } => format!("{rule}: released"),
        Decision::Degraded { source, reason } => format!("source {source}: {reason}"),
        Decision::Lost { source, reason, hook, count } => format!(
            "source {source}: {count} events lost at {hook}: {reason}; looking at everything again"
        ),
        Decision::Warning { rule: Some(rule), reason } => format!("{rule}: {reason}"),
        Decision::Warning { rule: None, reason } => reason.clone(),
        Decision::Rules { path: Some(path), error: Some(error), .. } => {
            format!("{path} is not heeded, and the rules stay as they are: {error}")
        }
        Decision::Rules { path: Some(path), rules, error: None } => {
            format!("{path}: the rules are now {}", rules.join(", "))
        }
        Decision::Rules { path: None, rules, .. } => format!(
            "there is no rules file to read again; looking at everything again for {}",
            rules.join(", ")
        ),
        Decision::Stopped { reason } => format!("stopped: {reason}"),
    }
}

/// How many of the watched paths are not there.
fn yet(missing: usize) -> String {
    match missing {
        0 => String::new(),
        1 => " (1 of them is yet to exist)".to_owned(),
        _ => format!(" ({missing} of them are yet to exist)"),
    }
}

/// A process by what it is waited for.
fn process(object: &str) -> String {
    let by = if object.starts_with('/') { "of" } else { "named" };
    format!("a process {by} {object}")
}

/// What was said besides, if anything.
fn said(detail: Option<&str>) -> String {
    detail.map(|it| format!(": {it}")).unwrap_or_default()
}

/// Whether something is tried again.
fn again(retry: Option<Duration>) -> String {
    match retry {
        Some(retry) => {
            let millis = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
            let retry = format_duration(Duration::from_millis(millis));
            format!("it is tried again in {retry}")
        }
        None => "it is not tried again".to_owned(),
    }
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
        Evidence::Restarted => format!("another has been started in place of {pid}"),
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
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character may do something to the line or the terminal, instead of being shown.
pub(crate) fn speaks(char: char) -> bool {
    char.is_control() || is_unseen(char)
}

/// Escapes what would end the line or speak to the terminal: names of files and processes may hold it.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, char| {
        if speaks(char) {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
        line
    })
}

#[cfg(test)]
mod tests {
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
                paths: vec!["/a".into(), "/b".into()].into(),
                by: Some(by),
                when: Change::Now,
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
                change_to_signal: Some(Duration::from_micros(312)),
                dry_run: false,
            },
            "nginx: sent HUP to pid 9, 0.3 ms after the change",
        );
        check(
            &Decision::Refused {
                rule: rule.clone(),
                pid: Some(9),
                signal: None,
                reason: Refusal::OtherCheckFailed,
                remedy: Refusal::OtherCheckFailed.remedy(),
                detail: Some("rule tls".to_owned()),
            },
            "nginx: sent nothing to pid 9: the content of another rule about the process has not \
             passed its check: rule tls; mend the content of that rule: the signal would have the \
             process read it",
        );
        check(
            &Decision::Refused {
                rule,
                pid: Some(9),
                signal: Some("USR1".to_owned()),
                reason: Refusal::Ignored,
                remedy: Refusal::Ignored.remedy(),
                detail: None,
            },
            "nginx: sent no USR1 to pid 9: the process ignores the signal; \
             it would be lost; set --signal to one that the program reloads on",
        );
    }

    fn rule() -> String {
        "nginx".to_owned()
    }

    #[test]
    fn what_was_changed_while_nobody_looked_has_no_number() {
        let paths = Vec::new().into();
        check(
            &Decision::Changed { rule: rule(), paths, by: None, when: Change::Away },
            "nginx: changed while the agent was away",
        );
        check(
            &Decision::Reloaded {
                rule: rule(),
                action: ActionName::Signal,
                pid: Some(9),
                signal: Some("HUP".to_owned()),
                object: None,
                change_to_signal: None,
                dry_run: false,
            },
            "nginx: sent HUP to pid 9",
        );
    }

    #[test]
    fn a_failure_says_what_has_failed_and_whether_it_is_tried_again() {
        let failed = |pid, what, reason: &str, retry| Decision::Failed {
            rule: rule(),
            pid,
            what,
            reason: reason.to_owned(),
            retry,
        };
        check(
            &failed(
                Some(9),
                Failure::NotReloaded,
                "not allowed",
                Some(Duration::from_micros(499_900)),
            ),
            "nginx: cannot reload pid 9: not allowed; it is tried again in 499ms",
        );
        check(
            &failed(None, Failure::NotReloaded, "not found", Some(Duration::from_secs(30))),
            "nginx: cannot reload: not found; it is tried again in 30s",
        );
        check(
            &failed(Some(9), Failure::Ended, "after the reload it was killed by SIGKILL", None),
            "nginx: pid 9 had been reloaded, and is gone: after the reload it was killed by SIGKILL; \
             it is not tried again",
        );
    }

    #[test]
    fn who_is_waited_for_is_named_with_what_is_known_of_him() {
        let waiting = |object: &str, detail: Option<&str>| Decision::Waiting {
            rule: rule(),
            what: Awaited::Target,
            object: object.to_owned(),
            detail: detail.map(str::to_owned),
        };
        check(&waiting("nginx", None), "nginx: waiting for a process named nginx");
        check(
            &waiting("/run/x.pid", Some("there is no such file")),
            "nginx: waiting for a process of /run/x.pid: there is no such file",
        );
    }

    #[test]
    fn who_is_there_again_is_named() {
        let found = |object: &str, pids| Decision::Found {
            rule: rule(),
            what: Awaited::Target,
            object: object.to_owned(),
            pids,
        };
        check(&found("nginx", vec![9]), "nginx: there is a process named nginx again: pid 9");
        check(&found("/bin/x", vec![8, 9]), "nginx: there is a process of /bin/x again: pid 8, 9");
    }

    #[test]
    fn what_a_command_has_written_is_quoted_line_by_line() {
        let said = "nginx -t ended with exit status 1: a \u{1b}[2J\r\n\nnginx: sent HUP\n";
        check(
            &Decision::Refused {
                rule: rule(),
                pid: None,
                signal: None,
                reason: Refusal::CheckFailed,
                remedy: Refusal::CheckFailed.remedy(),
                detail: Some(said.to_owned()),
            },
            "nginx: did nothing: the content did not pass the check; mend the content: good content \
             goes through at once\n    | nginx -t ended with exit status 1: a \\u{1b}[2J\n    | \n    \
             | nginx: sent HUP",
        );
        check(
            &Decision::Failed {
                rule: "a\nb".to_owned(),
                pid: None,
                what: Failure::NotReloaded,
                reason: "render ended with exit status 1: a\nb".to_owned(),
                retry: None,
            },
            "a\\nb: cannot reload; it is not tried again\n    | render ended with exit status 1: a\n    | b",
        );
    }

    #[test]
    fn a_name_cannot_end_the_line() {
        let paths = vec!["/a\nnginx: sent HUP\u{1b}[2J".into()].into();
        let decision =
            Decision::Changed { rule: "x".to_owned(), paths, by: None, when: Change::Now };
        check(&decision, "x: changed /a\\nnginx: sent HUP\\u{1b}[2J");
    }
}
