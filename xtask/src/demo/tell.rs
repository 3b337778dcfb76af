//! The agent's decisions as rows.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    screen::{Screen, Tone, millis},
    stage::Outcome,
};
use crate::agent::Event;

/// Whom the agent's decisions are about.
pub(super) struct Cast<'a> {
    pub(super) home: &'a Path,
    pub(super) master: &'a str,
    pub(super) pid: u32,
}

/// Writes a decision of the agent as a row, and notes what it means.
pub(super) fn tell(
    screen: Screen,
    zero: SystemTime,
    cast: &Cast<'_>,
    event: &Event,
    outcome: &mut Outcome,
) {
    let at = since(zero, event.at);
    let seen = match event.text("/by/comm") {
        "" => "seen, not by whom".to_owned(),
        comm => format!("{} by {comm}", event.text("/by/operation")),
    };
    let pid = event.number("/by/pid").map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let target = event.number("/pid").unwrap_or_default();
    match event.name() {
        "changed" => {
            let home = format!("{}/", cast.home.display());
            let paths = event.texts("/paths").join(" ").replace(&home, "");
            screen.row(at, Tone::Kernel, "kernel", &format!("{seen}{pid}: {paths}"));
            outcome.seen.get_or_insert(seen);
        }
        "unchanged" => {
            screen.row(at, Tone::Kernel, "kernel", &format!("{seen}{pid}"));
            screen.row(at, Tone::Signal, "agent", "the content is what it was: no signal");
            outcome.seen.get_or_insert(seen);
        }
        "reloaded" => {
            let micros = event.number("/change_to_signal_us").unwrap_or_default();
            let took = Duration::from_micros(micros);
            let signal = event.text("/signal");
            let whom = format!("{} {target}", cast.master);
            let text = format!("{signal} to {whom}, {} after the change", millis(took));
            screen.row(at, Tone::Signal, "signal", &text);
            outcome.signals.push(took);
            if target != u64::from(cast.pid) {
                outcome.faults.push(format!("the signal went to pid {target}, not {}", cast.pid));
            }
        }
        "confirmed" => {
            let what = match event.text("/evidence") {
                "reopened" => "it has opened the new content",
                "workers" => "it has new workers",
                other => other,
            };
            screen.row(at, Tone::Good, "agent", &format!("confirmed: {what}"));
            outcome.is_confirmed = true;
        }
        "refused" if event.text("/reason") == "check_failed" => {
            let detail = event.text("/detail").replace(&format!("{}/", cast.home.display()), "");
            // What the server says, and not how it was asked.
            let (_, said) = detail.split_once("exit status 1: ").unwrap_or(("", &detail));
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            screen.row(at, Tone::Signal, "agent", &format!("withheld: {said}"));
            outcome.is_refused = true;
        }
        "refused" => {
            let reason = event.text("/reason");
            let text = format!("refused ({reason}): no signal sent to {} {target}", cast.master);
            screen.row(at, Tone::Signal, "agent", &text);
            outcome.is_refused = reason == "not_caught";
        }
        _ => {
            let text = format!("the agent says {}", event.fields());
            outcome.faults.push(text);
        }
    }
}

/// How long after the beginning something was.
pub(super) fn since(zero: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(zero).unwrap_or_default()
}
